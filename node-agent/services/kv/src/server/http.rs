//! HTTP/1.1 connections: bounded in number, in what they may send, and in how slow they may be.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use replication::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::listener::Listener;
use super::told::Tellings;
use super::{Context, features, http2, metrics};
use crate::access::{self, Grant, Level};
use crate::request::{self, Answer, Head, Refusal, Target};
use crate::state::{Change, Lifetime, Value};

/// For the head of a request, and for the pause between two requests on one connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// For both sides of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Browsers and proxies send thirty.
const HEADERS_MAX: usize = 100;
/// Of each connection, for heads and for pieces of bodies.
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// Of all large bodies together, in KiB.
pub(super) const BODIES_KIB_MAX: u32 = 256 << 10;
/// A smaller body does not count: as much is in a connection's buffers anyway.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Of a body that is too large, read and thrown away.
const SURPLUS_BYTES_MAX: usize = 4 << 20;
/// What a swap's JSON may add to its values: escapes make six bytes of one.
pub(super) const JSON_FACTOR: usize = 6;
/// Remembered writes that are listed to people.
const OUTBOX_ROWS_MAX: usize = 200;
/// After a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// At the end, for a request that crosses the end on its way: its answer tells the client to go elsewhere. A connection
/// that is silent for so long is closed.
const IDLE_LINGER: Duration = Duration::from_secs(1);
/// For answers that are still under way after that.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What the store serves, for programs; open to all.
const DESCRIPTION: &str = include_str!("../../../../../docs/openapi.json");

/// Frames of a stream that has no end of its own.
pub(super) type Events = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

pub(super) type Reply = Response<Either<Full<Bytes>, Events>>;

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

    /// Waits until clients have been told to go elsewhere, for a while.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        if tokio::time::timeout(IDLE_LINGER + DRAIN_TIMEOUT, self.tasks.wait())
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
    let Some(tls) = context.access.tls() else {
        return match tokio::time::timeout(HEADER_TIMEOUT, http2::is_spoken(&stream)).await {
            Ok(Ok(true)) => http2::conversation(stream, context, until).await,
            Ok(Ok(false)) => conversation(stream, context, until).await,
            // Gone, or silent for too long.
            Ok(Err(_)) | Err(_) => {}
        };
    };
    let handshake = TlsAcceptor::from(tls).accept(stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            http2::conversation(stream, context, until).await;
        }
        Ok(Ok(stream)) => conversation(stream, context, until).await,
        Ok(Err(error)) => debug!(%error, "a client did not agree on TLS"),
        Err(_) => debug!("a client did not finish its TLS handshake in time"),
    }
}

/// The requests of one connection of HTTP/1.1, one after the other.
async fn conversation(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    context: Arc<Context>,
    until: Shutdown,
) {
    let closing = until.clone();
    let service = service_fn(move |request| {
        let context = context.clone();
        let until = closing.clone();
        async move {
            let mut reply = answer(&context, request, until.clone()).await;
            if until.is_requested() {
                // RFC 9112 §9.6: so no client loses a request on a connection that is being closed.
                let headers = reply.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let silent = async {
        until.requested().await;
        tokio::time::sleep(IDLE_LINGER).await;
    };
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = silent => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "a client's connection broke");
    }
}

pub(super) async fn answer(context: &Arc<Context>, request: Request<Incoming>, until: Shutdown) -> Reply {
    let uri = request.uri();
    if uri.path() == "/v1/openapi.json" && request.method() == Method::GET {
        return reply(StatusCode::OK, DESCRIPTION.as_bytes());
    }
    let admitted = admit(
        context,
        request.method(),
        (uri.path(), uri.query()),
        request.headers(),
    );
    match perform(context, admitted, Source::Http(request), until).await {
        Ok(Content::Told(told)) => stream(told),
        Ok(Content::Answer(answer)) => {
            let status = if answer.remembered && answer.timeout {
                StatusCode::ACCEPTED
            } else if answer.timeout && answer.outcome.is_none() || answer.unknown {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::OK
            };
            reply(status, answer.to_json())
        }
        Ok(Content::Json(value)) => reply(StatusCode::OK, value.to_string().into_bytes()),
        Err(refusal) => reply(refusal.status, Answer::from(&refusal).to_json()),
    }
}

fn reply(status: StatusCode, json: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Either::Left(Full::new(json.into())));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 §11.6.1: a 401 names the scheme that would do.
        let scheme = HeaderValue::from_static(access::SCHEME);
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Server-sent events, until one of both ends has had enough.
fn stream(told: Tellings) -> Reply {
    let frames = told.map(|told| Ok(Frame::data(told.to_events())));
    let mut response = Response::new(Either::Right(StreamBody::new(frames.boxed())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a request is answered with.
#[expect(
    clippy::large_enum_variant,
    reason = "it is made once for a request, and taken apart at once"
)]
pub(super) enum Content {
    Told(Tellings),
    Answer(Answer),
    Json(serde_json::Value),
}

/// Where a body comes from.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost each request of HTTP an allocation"
)]
pub(super) enum Source {
    /// It may not have arrived yet.
    Http(Request<Incoming>),
    /// It is here, and within its limits.
    Ready(Bytes),
}

/// What is asked for, by somebody who may.
pub(super) struct Admitted {
    head: Head,
    grant: Grant,
}

/// Looks at a request before its body is read.
pub(super) fn admit(
    context: &Context,
    method: &Method,
    (path, query): (&str, Option<&str>),
    headers: &HeaderMap,
) -> Result<Admitted, Refusal> {
    let mut head = request::head(method, path, query)?;
    let grant = context.access.grant(headers)?;
    grant.check_target(&head.target)?;
    head.terms.owner = grant.owner();
    Ok(Admitted { head, grant })
}

/// Carries a request out, and counts it.
pub(super) async fn perform(
    context: &Arc<Context>,
    admitted: Result<Admitted, Refusal>,
    request: Source,
    until: Shutdown,
) -> Result<Content, Refusal> {
    let began = Instant::now();
    let (operation, outcome) = match admitted {
        Ok(Admitted { head, grant }) => {
            let operation = metrics::operation(&head.target);
            let outcome = match room(context, &request).await {
                Ok(_room) => carry_out(context, head, grant, request, until).await,
                Err(refusal) => Err(refusal),
            };
            (operation, outcome)
        }
        Err(refusal) => ("none", Err(refusal)),
    };
    let label = match &outcome {
        Ok(Content::Answer(answer)) => metrics::outcome(answer),
        Ok(_) => "ok",
        Err(_) => "refused",
    };
    context.metrics.answered(operation, label, began.elapsed());
    outcome
}

/// Room for a large body, which is in memory until its request is answered; none where the body is small.
async fn room<'a>(context: &'a Context, source: &Source) -> Result<Option<SemaphorePermit<'a>>, Refusal> {
    let Source::Http(request) = source else {
        return Ok(None);
    };
    let headers = request.headers();
    let largest = JSON_FACTOR * 2 * context.value_bytes_max;
    let bytes = match announced(headers) {
        Some(bytes) => bytes.min(largest),
        None if headers.contains_key(TRANSFER_ENCODING) => largest,
        None => 0,
    };
    if bytes <= SMALL_BODY_BYTES {
        return Ok(None);
    }
    let kib = u32::try_from(bytes >> 10)
        .unwrap_or(BODIES_KIB_MAX)
        .min(BODIES_KIB_MAX);
    match tokio::time::timeout(BODY_TIMEOUT, context.bodies.acquire_many(kib)).await {
        Ok(room) => Ok(Some(room.expect("nobody closes the semaphore"))),
        Err(_) => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this member is busy with other large requests: try again later, or ask another member",
        )),
    }
}

async fn carry_out(
    context: &Arc<Context>,
    Head { target, terms }: Head,
    grant: Grant,
    request: Source,
    until: Shutdown,
) -> Result<Content, Refusal> {
    let value_bytes_max = context.value_bytes_max;
    let answer = match target {
        Target::Get(key) => context.get(&key, &terms).await,
        Target::Set(key) => {
            let value = Value::from(&body(request, value_bytes_max).await?[..]);
            match terms.more.lifetime() {
                _ if terms.local => context.change_here(key, Some(value), &terms).await?,
                Lifetime::Forever => context.change(Change::Set { key, value }, &terms).await?,
                lifetime => {
                    let change = Change::SetFor { key, value, lifetime };
                    context.change(change, &terms).await?
                }
            }
        }
        Target::Delete(key) if terms.local => context.change_here(key, None, &terms).await?,
        Target::Delete(key) => context.change(Change::Delete { key }, &terms).await?,
        Target::Swap(key) => {
            let body = body(request, JSON_FACTOR * 2 * value_bytes_max).await?;
            let (old, new) = request::swap_values(&body)?;
            for value in [&old, &new] {
                check_size(value.as_ref().len(), value_bytes_max)?;
            }
            let change = match terms.more.lifetime() {
                Lifetime::Forever => Change::Swap { key, old, new },
                lifetime => Change::SwapFor {
                    key,
                    old,
                    new,
                    lifetime,
                },
            };
            context.change(change, &terms).await?
        }
        Target::OpenSession => context.open_session(&terms).await?,
        Target::Outcome => shown_to(&grant, context.outcome(&terms).await),
        Target::Cancel => shown_to(&grant, context.cancel(&terms).await?),
        Target::Outbox => return Ok(Content::Json(context.memory.describe(OUTBOX_ROWS_MAX))),
        other => return features::carry_out(context, &grant, other, &terms, request, until).await,
    };
    Ok(Content::Answer(answer))
}

/// A token may have lost what it could read when it made the request: the value is shown to those only who may read
/// everything.
fn shown_to(grant: &Grant, answer: Answer) -> Answer {
    if grant.allows(Level::Read, "") {
        return answer;
    }
    Answer {
        value: String::new(),
        encoding: None,
        results: None,
        ..answer
    }
}

/// The last event that a client got on an earlier connection (HTML Living Standard, 9.2.4).
pub(super) fn last_event_id(source: &Source) -> Result<Option<u64>, Refusal> {
    let Source::Http(request) = source else {
        return Ok(None);
    };
    let Some(id) = request.headers().get("last-event-id") else {
        return Ok(None);
    };
    let revision = id.to_str().ok().and_then(|id| id.parse().ok());
    revision
        .map(Some)
        .ok_or_else(|| Refusal::bad("`Last-Event-ID` is no revision"))
}

pub(super) fn check_size(bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    if bytes > bytes_max {
        return Err(request::too_large(bytes_max));
    }
    Ok(())
}

/// How long a body is, as its sender says.
fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The body, if it is not larger than allowed. A larger one is read on for a while, so that its sender gets to read why it
/// is refused.
pub(super) async fn body(source: Source, bytes_max: usize) -> Result<Bytes, Refusal> {
    let incoming = match source {
        Source::Http(request) => request,
        Source::Ready(body) => {
            check_size(body.len(), bytes_max)?;
            return Ok(body);
        }
    };
    let headers = incoming.headers();
    let is_announced = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if !is_announced && incoming.method() == Method::PUT {
        return Err(Refusal::new(
            StatusCode::LENGTH_REQUIRED,
            "the request has no body: send one, or `Content-Length: 0` for an empty value",
        ));
    }
    if announced(headers).is_some_and(|bytes| bytes > bytes_max.saturating_add(SURPLUS_BYTES_MAX)) {
        return Err(request::too_large(bytes_max));
    }
    let whole = read(incoming.into_body(), bytes_max);
    tokio::time::timeout(BODY_TIMEOUT, whole)
        .await
        .unwrap_or_else(|_| {
            Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
            ))
        })
}

async fn read(mut body: Incoming, bytes_max: usize) -> Result<Bytes, Refusal> {
    let (mut whole, mut bytes) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::bad(format!("the body cannot be read: {error}")))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        bytes += data.len();
        if bytes > bytes_max.saturating_add(SURPLUS_BYTES_MAX) {
            break;
        } else if bytes > bytes_max {
            whole = BytesMut::new();
        } else {
            whole.extend_from_slice(&data);
        }
    }
    check_size(bytes, bytes_max)?;
    Ok(whole.freeze())
}
