//! One request to one member, over HTTP/1.1 or HTTP/2, with TLS where the endpoint says `https`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::answer::Answer;
use crate::{Error, Options};

/// For opening a connection; members are on one site, or one network away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A machine that is gone is noticed after this and [`PROBES`] more silences of [`PROBE_EVERY`], also by a request that waits
/// as long as it takes.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBES: u32 = 3;
/// Of an answer: the largest value, escaped, and much room.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// What a request says.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Begins with `/`, escaped.
    pub(crate) path: String,
    /// `name=value` pairs.
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

/// What came of sending it to one member.
#[expect(
    clippy::large_enum_variant,
    reason = "it is made once for a request, and taken apart at once"
)]
pub(crate) enum Sent {
    /// It answered.
    Answer(Answer),
    /// It was not reached: it has seen nothing of the request.
    NotReached(String),
    /// It may have carried the request out.
    InDoubt(String),
    /// It refused.
    Refused(u16, String),
    /// What was asked for is forgotten; the oldest that is known, and a sentence.
    Forgotten(u64, String),
}

/// The connections to all members.
pub(crate) struct Transport {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoints: Vec<String>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    authorization: Option<HeaderValue>,
}

impl Transport {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Options(reason);
        if options.endpoints.is_empty() {
            return Err(wrong("no endpoint is given".to_owned()));
        }
        let mut endpoints = Vec::new();
        for endpoint in &options.endpoints {
            let endpoint = endpoint.trim_end_matches('/');
            let uri: Option<Uri> = endpoint.parse().ok();
            let is_whole = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some()
                    && uri.path() == "/"
            });
            if !is_whole {
                return Err(wrong(format!(
                    "the endpoint `{}` must be http://HOST:PORT or https://HOST:PORT",
                    endpoint.escape_debug()
                )));
            }
            endpoints.push(endpoint.to_owned());
        }
        let authorization = match &options.token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| wrong("the token must be visible ASCII characters".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            http: Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .build(connector(&options)?),
            endpoints,
            preferred: AtomicUsize::new(0),
            authorization,
        })
    }

    /// How many members there are to ask.
    pub(crate) fn members(&self) -> usize {
        self.endpoints.len()
    }

    /// Sends to the preferred member; where it is not reached, or does not answer, another one is preferred from then on.
    pub(crate) async fn send(&self, call: &Call) -> Sent {
        let number = self.preferred.load(Ordering::Relaxed);
        let sent = match self.stream(number, call).await {
            Ok(response) => answer(response).await,
            Err(sent) => sent,
        };
        if matches!(
            sent,
            Sent::NotReached(_) | Sent::InDoubt(_) | Sent::Refused(503, _)
        ) {
            self.prefer_another(number);
        }
        sent
    }

    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    pub(crate) fn prefer_another(&self, than: usize) {
        let next = (than + 1) % self.endpoints.len();
        // Fails when another request has found the same out before.
        let _ = self
            .preferred
            .compare_exchange(than, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends to one member; the body of its answer, if it is a success.
    pub(crate) async fn text(&self, number: usize, call: &Call) -> Result<String, Sent> {
        let response = self.stream(number, call).await?;
        if !response.status().is_success() {
            return Err(answer(response).await);
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| Sent::InDoubt(chain(&*error)))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends to one member; the answer's body may go on for ever.
    pub(crate) async fn stream(&self, number: usize, call: &Call) -> Result<Response<Incoming>, Sent> {
        let mut uri = format!("{}{}", self.endpoints[number], call.path);
        for (place, (name, value)) in call.query.iter().enumerate() {
            uri.push(if place == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            uri.push_str(value);
        }
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri
            .parse()
            .map_err(|error| Sent::Refused(400, format!("the request has no valid address: {error}")))?;
        if call.method == Method::PUT || call.method == Method::POST {
            // hyper says nothing of an empty body, and a server cannot tell that from a body whose length is missing.
            let length = HeaderValue::from(call.body.len());
            request.headers_mut().insert(CONTENT_LENGTH, length);
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        self.http.request(request).await.map_err(|error| {
            let words = chain(&error);
            if error.is_connect() {
                Sent::NotReached(words)
            } else {
                Sent::InDoubt(words)
            }
        })
    }
}

/// Reads an answer.
pub(crate) async fn answer(response: Response<Incoming>) -> Sent {
    let status = response.status().as_u16();
    let body = match Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) => return Sent::InDoubt(chain(&*error)),
    };
    match (status, serde_json::from_slice::<Answer>(&body)) {
        (200 | 202 | 504, Ok(answer)) if answer.error.is_none() => Sent::Answer(answer),
        // A message that somebody was given: only its sender can say what that means.
        (504, Ok(answer)) if answer.unknown => Sent::Answer(answer),
        (
            410,
            Ok(Answer {
                error: Some(error),
                oldest: Some(oldest),
                ..
            }),
        ) => Sent::Forgotten(oldest, error),
        (
            _,
            Ok(Answer {
                error: Some(error), ..
            }),
        ) => Sent::Refused(status, error),
        // A proxy in between, or another program.
        _ => Sent::Refused(
            status,
            format!("the answer has status {status}, and is not one of the store"),
        ),
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let words: Vec<_> = causes.map(ToString::to_string).collect();
    words.join(": ")
}

fn connector(options: &Options) -> Result<HttpsConnector<HttpConnector>, Error> {
    let provider = rustls::crypto::ring::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Options(error.to_string()))?
        .with_root_certificates(roots(options)?)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let builder = match &options.server_name {
        None => builder,
        Some(name) => {
            let name = ServerName::try_from(name.clone())
                .map_err(|_| Error::Options(format!("`{}` is no server name", name.escape_debug())))?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
    };
    Ok(builder.enable_http1().wrap_connector(tcp))
}

fn roots(options: &Options) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        let wrong = |error: String| Error::Options(format!("{}: {error}", file.display()));
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("it holds no certificate".to_owned()));
        }
    } else if options
        .endpoints
        .iter()
        .any(|endpoint| endpoint.starts_with("https:"))
    {
        // What cannot be read there is the system's affair: other certificates do as well.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    Ok(roots)
}
