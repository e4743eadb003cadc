//! The client of the admin API: what `status`, `files`, `members` and `local` speak to members with.

pub(crate) mod leader;

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use operator_api::admin::hub::{HubDone, HubOrder};
use operator_api::admin::{AddLearner, FileInfo, Identity, Initialize, MemberRef, Problem};
use operator_api::{AUTHORIZATION_SCHEME, MemberStatus};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One member's admin API. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub(crate) struct AdminClient {
    http: reqwest::Client,
    address: String,
    token: Option<String>,
}

/// Why a member did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// It could not be reached, or the connection broke: whether it acted is unknown.
    #[error("no answer from the member at {address}")]
    Unreachable {
        /// Its admin address.
        address: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// It does not lead its group.
    #[error("the member at {address} does not lead its group")]
    NotLeader {
        /// Its admin address.
        address: String,
        /// The admin address of the leader it knows.
        leader: Option<String>,
    },
    /// It refused.
    #[error("{error}")]
    Refused {
        /// The HTTP status of the answer.
        status: StatusCode,
        /// Its reason, for people.
        error: String,
    },
    /// The request cannot be built.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// Whether the same request may succeed a little later, perhaps at another member.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NotLeader { .. } => true,
            Self::Refused { status, .. } => {
                matches!(
                    *status,
                    StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                )
            }
            Self::Invalid(_) => false,
        }
    }

    /// Whether the member answered that the named thing does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }
        )
    }
}

impl AdminClient {
    /// A client of the member whose admin port is at `address` (`host:port`).
    pub(crate) fn new(address: impl Into<String>, token: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            // A redirect would carry the token elsewhere. The leader is found by status 421 instead.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            http,
            address: address.into(),
            token,
        })
    }

    /// The same client for another member of the group.
    #[must_use]
    pub(crate) fn at(&self, address: &str) -> Self {
        Self {
            address: address.to_owned(),
            ..self.clone()
        }
    }

    /// The admin address it speaks to.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// `GET /v1/status`.
    pub(crate) async fn status(&self) -> Result<MemberStatus, ClientError> {
        let request = self
            .request(Method::GET, &["v1", "status"])?
            .timeout(STATUS_TIMEOUT);
        self.json(self.send(request).await?).await
    }

    /// `POST /v1/membership/initialize`.
    pub(crate) async fn initialize(&self, body: &Initialize) -> Result<Identity, ClientError> {
        self.json(self.membership("initialize", body).await?).await
    }

    /// `POST /v1/membership/add-learner`, to the leader.
    pub(crate) async fn add_learner(&self, body: &AddLearner) -> Result<Identity, ClientError> {
        self.json(self.membership("add-learner", body).await?).await
    }

    /// `POST /v1/membership/join`, to the new member.
    pub(crate) async fn join(&self, body: &Identity) -> Result<(), ClientError> {
        self.membership("join", body).await.map(drop)
    }

    /// `POST /v1/membership/promote`, to the leader.
    pub(crate) async fn promote(&self, node_id: u64) -> Result<(), ClientError> {
        self.membership(
            "promote",
            &MemberRef {
                node_id: Some(node_id),
            },
        )
        .await
        .map(drop)
    }

    /// `POST /v1/membership/remove`, to the leader.
    pub(crate) async fn remove(&self, node_id: u64) -> Result<(), ClientError> {
        self.membership(
            "remove",
            &MemberRef {
                node_id: Some(node_id),
            },
        )
        .await
        .map(drop)
    }

    /// `POST /v1/membership/transfer`, to the leader. Without a node id the leader chooses.
    pub(crate) async fn transfer(&self, node_id: Option<u64>) -> Result<(), ClientError> {
        self.membership("transfer", &MemberRef { node_id })
            .await
            .map(drop)
    }

    /// `GET /v1/files`.
    pub(crate) async fn files(&self) -> Result<Vec<FileInfo>, ClientError> {
        let request = self.request(Method::GET, &["v1", "files"])?;
        self.json(self.send(request).await?).await
    }

    /// `PUT /v1/files/{name}` with a body of `length` bytes. Safe to repeat: the last body wins.
    pub(crate) async fn put_file(
        &self,
        name: &str,
        length: u64,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileInfo, ClientError> {
        let request = self
            .request(Method::PUT, &file_path(name)?)?
            .header(reqwest::header::CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(body));
        self.json(self.send(request).await?).await
    }

    /// `GET /v1/files/{name}`: the answer's body is the file, its `ETag` the file's version.
    pub(crate) async fn get_file(&self, name: &str) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, &file_path(name)?)?).await
    }

    /// `DELETE /v1/files/{name}`.
    pub(crate) async fn remove_file(&self, name: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &file_path(name)?)?)
            .await
            .map(drop)
    }

    /// `GET /v1/backup`, to any member: the answer's body is the file.
    pub(crate) async fn backup(&self, at_least: u64) -> Result<Response, ClientError> {
        let mut url = self.url(&["v1", "backup"])?;
        url.set_query(Some(&format!("atLeast={at_least}")));
        self.send(self.request_to(Method::GET, url)).await
    }

    /// `GET /v1/adc/{what}`: users, bans, accounts or audit.
    pub(crate) async fn hub_list<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>, ClientError> {
        let request = self.request(Method::GET, &["v1", "adc", what])?;
        self.json(self.send(request).await?).await
    }

    /// `POST /v1/adc/orders`, to the leader. Safe to repeat: at worst an order finds its work done.
    pub(crate) async fn hub_order(&self, order: &HubOrder) -> Result<HubDone, ClientError> {
        let request = self.request(Method::POST, &["v1", "adc", "orders"])?.json(order);
        self.json(self.send(request).await?).await
    }

    async fn membership(&self, step: &str, body: &impl Serialize) -> Result<Response, ClientError> {
        let request = self
            .request(Method::POST, &["v1", "membership", step])?
            .json(body);
        self.send(request.timeout(MEMBERSHIP_TIMEOUT)).await
    }

    fn request(&self, method: Method, segments: &[&str]) -> Result<RequestBuilder, ClientError> {
        Ok(self.request_to(method, self.url(segments)?))
    }

    fn url(&self, segments: &[&str]) -> Result<Url, ClientError> {
        let invalid = || {
            ClientError::Invalid(format!(
                "`{}` is not the host:port of an admin port",
                self.address
            ))
        };
        let mut url = Url::parse(&format!("http://{}/", self.address)).map_err(|_| invalid())?;
        url.path_segments_mut()
            .map_err(|()| invalid())?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    fn request_to(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.header(
                reqwest::header::AUTHORIZATION,
                format!("{AUTHORIZATION_SCHEME} {token}"),
            ),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = response.json::<Problem>().await.ok();
        if status == StatusCode::MISDIRECTED_REQUEST {
            let leader = problem.and_then(|problem| problem.leader_admin_address);
            return Err(ClientError::NotLeader {
                address: self.address.clone(),
                leader,
            });
        }
        let error = problem.map_or_else(
            || format!("the member at {} answered {status}", self.address),
            |problem| problem.error,
        );
        Err(ClientError::Refused { status, error })
    }

    async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        response.json().await.map_err(|source| self.unreachable(source))
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable {
            address: self.address.clone(),
            source: source.without_url(),
        }
    }
}

/// The path segments of a file's name. URLs give `.` and `..` a meaning, files do not have them.
fn file_path(name: &str) -> Result<Vec<&str>, ClientError> {
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() || name.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(ClientError::Invalid(format!(
            "`{}` cannot be the name of a file: no part of it may be empty, `.` or `..`",
            name.escape_debug()
        )));
    }
    Ok(["v1", "files"].into_iter().chain(name.split('/')).collect())
}

/// Members are near each other: one site, or one machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A status is computed at once; a member that takes longer hangs or is paused.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than the server's own limit on a membership step, so that its sentence arrives.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(70);

/// The longest silence in a running answer. Storing a large file on a majority happens before its answer.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Shorter than the server's patience with an idle connection: a request must not meet its end.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str, segments: &[&str]) -> String {
        let client = AdminClient::new(address, None).unwrap();
        client
            .request(Method::GET, segments)
            .unwrap()
            .build()
            .unwrap()
            .url()
            .to_string()
    }

    #[test]
    fn names_are_encoded_into_the_path() {
        assert_eq!(
            url("[::1]:9401", &file_path("boot/a b?#%.bin").unwrap()),
            "http://[::1]:9401/v1/files/boot/a%20b%3F%23%25.bin"
        );
    }

    #[test]
    fn names_with_dots_for_parts_are_refused() {
        for name in ["", "/", "..", "a/../b", "a//b", "./a"] {
            assert!(matches!(file_path(name), Err(ClientError::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn only_passing_errors_are_repeated() {
        let refused = |status| ClientError::Refused {
            status,
            error: String::new(),
        };
        assert!(refused(StatusCode::SERVICE_UNAVAILABLE).is_passing());
        assert!(!refused(StatusCode::UNAUTHORIZED).is_passing());
        assert!(
            ClientError::NotLeader {
                address: String::new(),
                leader: None
            }
            .is_passing()
        );
        assert!(refused(StatusCode::NOT_FOUND).is_not_found());
    }
}
