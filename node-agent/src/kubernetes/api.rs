//! The API server, as far as one EndpointSlice: read it, replace it, watch it.
//!
//! Four requests, so a client of our own on the tree's hyper. It speaks HTTP/2, so that the watch keeps the connection
//! warm over which a new leader writes; the `kube` crate speaks HTTP/1, and would open one in that moment.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, unfold};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use operator_api::config::KubernetesConfig;
use operator_api::epoch::AGENT_FIELD_MANAGER;
use serde_json::Value;

use crate::https::{self, HttpsClient};

/// The EndpointSlices of one namespace.
pub(crate) struct ApiServer {
    /// `https://host:port/apis/.../endpointslices`.
    slices: String,
    service_account: PathBuf,
    client: RwLock<HttpsClient>,
}

/// A request that did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// There is no such slice.
    #[error("the slice does not exist")]
    NotFound,
    /// The slice has changed since it was read.
    #[error("the slice was changed by somebody else")]
    Conflict,
    /// The API server or an admission policy refused.
    #[error("the API server refused: {0}")]
    Refused(String),
    /// No answer, or none that says anything.
    #[error("no answer from the API server: {0}")]
    Unreachable(String),
}

/// A change of the watched slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// It is now this.
    Is(Value),
    /// It is gone.
    Gone,
}

impl ApiServer {
    /// The API server that a configuration names, or the one of the cluster.
    pub(crate) fn new(config: &KubernetesConfig) -> anyhow::Result<Self> {
        let url = match &config.api_server {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => in_cluster().context("field kubernetes.apiServer is not set")?,
        };
        let service_account = config.service_account_dir.clone();
        Ok(Self {
            slices: format!(
                "{url}/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
                config.namespace
            ),
            client: RwLock::new(connect(&service_account)?),
            service_account,
        })
    }

    /// Reads a slice.
    pub(crate) async fn get(&self, name: &str) -> Result<Value, ApiError> {
        self.body(Method::GET, &format!("/{name}"), Bytes::new()).await
    }

    /// Reads a slice, or that there is none, and the version from which it can be watched: that of the whole list. From
    /// its own it cannot, when it was written longer ago than the API server remembers.
    pub(crate) async fn list(&self, name: &str) -> Result<(Option<Value>, String), ApiError> {
        let path = format!("?fieldSelector=metadata.name%3D{name}");
        let mut list = self.body(Method::GET, &path, Bytes::new()).await?;
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let mut found = list["items"].get_mut(0).map(Value::take);
        if let Some(slice) = &mut found {
            // In a list they are left out.
            (slice["apiVersion"], slice["kind"]) = ("discovery.k8s.io/v1".into(), "EndpointSlice".into());
        }
        Ok((found, version))
    }

    /// Replaces a slice, if it is still of the version that `slice` says.
    pub(crate) async fn replace(&self, name: &str, slice: &Value) -> Result<Value, ApiError> {
        let path = format!("/{name}?fieldManager={AGENT_FIELD_MANAGER}");
        self.body(Method::PUT, &path, slice.to_string().into()).await
    }

    /// Every change of a slice after `version`; ends after a while, or with an error.
    pub(crate) async fn watch(
        &self,
        name: &str,
        version: &str,
        duration: Duration,
    ) -> Result<BoxStream<'static, Result<Change, ApiError>>, ApiError> {
        let path = format!(
            "?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}&timeoutSeconds={}",
            duration.as_secs()
        );
        let response = self
            .within(self.request(Method::GET, &path, Bytes::new()))
            .await?;
        let lines = Lines {
            body: response.into_body(),
            read: BytesMut::new(),
        };
        let changes = unfold(Some(lines), |lines| async {
            let mut lines = lines?;
            match lines.next_change().await {
                Ok(Some(change)) => Some((Ok(change), Some(lines))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(changes.boxed())
    }

    /// Connects anew, with the certificates that are there now.
    pub(crate) fn reconnect(&self) {
        match connect(&self.service_account) {
            Ok(client) => *self.client.write().unwrap_or_else(PoisonError::into_inner) = client,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the API server's certificate"),
        }
    }

    async fn body(&self, method: Method, path: &str, body: Bytes) -> Result<Value, ApiError> {
        self.within(async {
            let response = self.request(method, path, body).await?;
            read_json(response.into_body()).await
        })
        .await
    }

    /// Gives a request up after [`REQUEST_TIMEOUT`], and its connection with it.
    async fn within<T>(&self, request: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, request).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(ApiError::Unreachable(format!(
                "timed out after {REQUEST_TIMEOUT:?}"
            )))
        });
        if matches!(answer, Err(ApiError::Unreachable(_))) {
            self.reconnect();
        }
        answer
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.slices))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token()?))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|error| ApiError::Refused(format!("the request cannot be built: {error}")))?;
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let response = client
            .request(request)
            .await
            .map_err(|error| ApiError::Unreachable(format!("{:#}", anyhow::Error::new(error))))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let reason = match read_json(response.into_body()).await {
            Ok(answer) => answer["message"].as_str().unwrap_or_default().to_owned(),
            Err(_) => String::new(),
        };
        Err(match status {
            StatusCode::NOT_FOUND => ApiError::NotFound,
            StatusCode::CONFLICT => ApiError::Conflict,
            StatusCode::TOO_MANY_REQUESTS => ApiError::Unreachable(format!("{status}: {reason}")),
            status if status.is_server_error() => ApiError::Unreachable(format!("{status}: {reason}")),
            status => ApiError::Refused(format!("{status}: {reason}")),
        })
    }

    /// Read for each request: the kubelet replaces the file long before the token in it expires. It is in memory, so
    /// reading it does not block.
    fn token(&self) -> Result<String, ApiError> {
        let file = self.service_account.join(TOKEN_FILE);
        std::fs::read_to_string(&file)
            .map(|token| token.trim().to_owned())
            .map_err(|error| ApiError::Refused(format!("reading {}: {error}", file.display())))
    }
}

fn connect(service_account: &std::path::Path) -> anyhow::Result<HttpsClient> {
    https::client(https::roots(&service_account.join(CA_FILE))?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "Kubernetes tells every pod where its API server is in the environment"
)]
fn in_cluster() -> anyhow::Result<String> {
    let variable =
        |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: this is no pod"));
    let (host, port) = (
        variable("KUBERNETES_SERVICE_HOST")?,
        variable("KUBERNETES_SERVICE_PORT")?,
    );
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    Ok(format!("https://{host}:{port}"))
}

async fn read_json(body: Incoming) -> Result<Value, ApiError> {
    let broken =
        |error: &dyn std::fmt::Display| ApiError::Unreachable(format!("its answer broke off: {error}"));
    let bytes = Limited::new(body, OBJECT_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| broken(&error))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| broken(&error))
}

/// The answer to a watch: one JSON object a line.
struct Lines {
    body: Incoming,
    read: BytesMut,
}

impl Lines {
    async fn next_change(&mut self) -> Result<Option<Change>, ApiError> {
        loop {
            while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                if let Some(change) = change(&line)? {
                    return Ok(Some(change));
                }
            }
            if self.read.len() > OBJECT_BYTES_MAX {
                return Err(ApiError::Unreachable(
                    "a line of the watch is too long".to_owned(),
                ));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ApiError::Unreachable(format!("the watch broke: {error}"))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

fn change(line: &[u8]) -> Result<Option<Change>, ApiError> {
    let mut event: Value = serde_json::from_slice(line)
        .map_err(|error| ApiError::Unreachable(format!("the watch is unreadable: {error}")))?;
    match event["type"].as_str() {
        Some("ADDED" | "MODIFIED") => Ok(Some(Change::Is(event["object"].take()))),
        Some("DELETED") => Ok(Some(Change::Gone)),
        Some("ERROR") => Err(ApiError::Unreachable(format!(
            "the watch ended: {}",
            event["object"]["message"].as_str().unwrap_or_default()
        ))),
        _ => Ok(None),
    }
}

const TOKEN_FILE: &str = "token";
const CA_FILE: &str = "ca.crt";

/// An answer that takes longer is not waited for: the connection may be dead, and a new one is quick.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// etcd takes no object beyond 1.5 MiB.
const OBJECT_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_a_watch_are_changes() {
        let read = |line: &str| change(line.as_bytes());
        assert_eq!(
            read(r#"{"type":"ADDED","object":{"a":1}}"#),
            Ok(Some(Change::Is(json!({"a":1}))))
        );
        assert_eq!(
            read(r#"{"type":"MODIFIED","object":{}}"#),
            Ok(Some(Change::Is(json!({}))))
        );
        assert_eq!(read(r#"{"type":"DELETED","object":{}}"#), Ok(Some(Change::Gone)));
        assert_eq!(read(r#"{"type":"BOOKMARK","object":{}}"#), Ok(None));
        let gone = read(r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#).unwrap_err();
        assert!(gone.to_string().contains("too old"), "{gone}");
        assert!(read("{").is_err());
    }
}
