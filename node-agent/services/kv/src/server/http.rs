//! HTTP/1.1 connections: bounded in number, in what they may send, and in how slow they may be.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use replication::Shutdown;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Context;
use super::listener::Listener;
use crate::request::{self, Answer, Refusal, Target};
use crate::state::{Change, Outcome, Value};

/// For the head of a request, and for the pause between two requests on one connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// For the whole body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Browsers and proxies send thirty.
const HEADERS_MAX: usize = 100;
/// Of each connection, for heads and for pieces of bodies.
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// What a swap's JSON may add to its values: escapes make six bytes of one.
const JSON_FACTOR: usize = 6;
/// After a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// For answers that are under way at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

type Reply = Response<Full<Bytes>>;

/// The connections of this member, on all its listeners.
pub(super) struct Connections {
    context: Arc<Context>,
    slots: Arc<Semaphore>,
    until: Shutdown,
    tasks: TaskTracker,
}

impl Connections {
    pub(super) fn new(context: Arc<Context>, slots: Arc<Semaphore>, until: Shutdown) -> Self {
        Self {
            context,
            slots,
            until,
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts from one listener; never ends by itself. Clients for whom there is no slot wait in the backlog.
    pub(super) async fn accept(&self, listener: &Listener) {
        loop {
            let slot = self.slots.clone().acquire_owned().await;
            let slot = slot.expect("nobody closes the semaphore");
            match listener.accept().await {
                Ok(stream) => {
                    let serve = connection(stream, self.context.clone(), self.until.clone(), slot);
                    self.tasks.spawn(serve);
                }
                Err(error) => {
                    // Out of file descriptors, or a client that was gone at once: neither is a reason to end.
                    warn!(%error, "accepting a client");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Waits for answers that are under way, for a while.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            debug!("clients were cut at the end");
        }
    }
}

async fn connection(stream: TcpStream, context: Arc<Context>, until: Shutdown, _slot: OwnedSemaphorePermit) {
    stream.set_nodelay(true).ok();
    // The kernel counts unacknowledged bytes and closed windows alike (tcp(7), TCP_USER_TIMEOUT).
    socket2::SockRef::from(&stream)
        .set_tcp_user_timeout(Some(WRITE_TIMEOUT))
        .ok();
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(&context, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = until.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "a client's connection broke");
    }
}

async fn answer(context: &Context, request: Request<Incoming>) -> Reply {
    let (status, answer) = match carry_out(context, request).await {
        Ok(answer) => (StatusCode::OK, answer),
        Err(refusal) => (refusal.status, Answer::from(&refusal)),
    };
    let mut response = Response::new(Full::new(answer.to_json().into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn carry_out(context: &Context, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let uri = request.uri();
    let target = request::target(request.method(), uri.path(), uri.query())?;
    let change = match target {
        Target::Get(key) => {
            let item = context.get(&key).await?;
            return Ok(match item {
                Some(item) => Answer {
                    valid: true,
                    revision: Some(item.revision),
                    ..Answer::default().with_value(&item.value)
                },
                None => Answer::default(),
            });
        }
        Target::Delete(key) => Change::Delete { key },
        Target::Set(key) => {
            let value = Value::from(&body(request, context.value_bytes_max).await?[..]);
            Change::Set { key, value }
        }
        Target::Swap(key) => {
            let body = body(request, JSON_FACTOR * 2 * context.value_bytes_max).await?;
            let (old, new) = request::swap_values(&body)?;
            for value in [&old, &new] {
                check_size(value.as_ref().len(), context.value_bytes_max)?;
            }
            Change::Swap { key, old, new }
        }
    };
    let new = match &change {
        Change::Swap { new, .. } => Some(new.clone()),
        Change::Set { .. } | Change::Delete { .. } => None,
    };
    Ok(match context.change(change).await? {
        Outcome::Done { revision } => {
            let answer = Answer {
                valid: true,
                revision: Some(revision),
                ..Answer::default()
            };
            match new {
                Some(value) => answer.with_value(&value),
                None => answer,
            }
        }
        Outcome::Differs { value, revision } => {
            let answer = Answer {
                revision: value.is_some().then_some(revision),
                ..Answer::default()
            };
            match value {
                Some(value) => answer.with_value(&value),
                None => answer,
            }
        }
    })
}

fn check_size(bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    if bytes > bytes_max {
        return Err(too_large(bytes_max));
    }
    Ok(())
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body or a value in it is larger than {bytes_max} bytes"),
    )
}

/// The body, if it is not larger than allowed.
async fn body(request: Request<Incoming>, bytes_max: usize) -> Result<Bytes, Refusal> {
    let headers = request.headers();
    let is_announced = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if !is_announced && request.method() == Method::PUT {
        return Err(Refusal::new(
            StatusCode::LENGTH_REQUIRED,
            "the request has no body: send one, or `Content-Length: 0` for an empty value",
        ));
    }
    let announced = request.body().size_hint().lower();
    check_size(usize::try_from(announced).unwrap_or(usize::MAX), bytes_max)?;
    let whole = Limited::new(request.into_body(), bytes_max).collect();
    match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(error)) => Err(Refusal::bad(format!("the body cannot be read: {error}"))),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}
