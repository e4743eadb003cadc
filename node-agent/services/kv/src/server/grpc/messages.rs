//! The store's answers, and what its streams tell, as messages of gRPC.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use tonic::{Code, Status};

use crate::proto::{Answer, Change, Entry, Message, Row, WatchResponse};
use crate::request;
use crate::server::told::Told;
use crate::state::{Event, Value};

/// In a refusal's metadata: the oldest that is still there of what was asked for.
const OLDEST: &str = "quorate-oldest";

impl From<request::Answer> for Answer {
    fn from(answer: request::Answer) -> Self {
        let rows = |rows: Option<Vec<request::Row>>| rows.into_iter().flatten().map(Row::from).collect();
        Self {
            items: rows(answer.items),
            results: rows(answer.results),
            more: answer.more,
            lease: answer.lease.unwrap_or_default(),
            ttl_ms: answer.ttl_ms.unwrap_or_default(),
            gap: answer.gap,
            start: answer.start.unwrap_or_default(),
            total: answer.total.unwrap_or_default(),
            valid: answer.valid,
            timeout: answer.timeout,
            value: bytes(answer.value, answer.encoding),
            revision: answer.revision.unwrap_or_default(),
            remembered: answer.remembered,
            unknown: answer.unknown,
            ticket: answer.ticket.unwrap_or_default(),
            session: answer.session.unwrap_or_default(),
            outcome: answer.outcome.unwrap_or_default().to_owned(),
            index: answer.index.unwrap_or_default(),
            entries: answer.entries.into_iter().flatten().map(Entry::from).collect(),
            delivered: answer.delivered.unwrap_or_default(),
            unreached: answer.unreached.unwrap_or_default(),
            error: answer.error.unwrap_or_default(),
        }
    }
}

impl From<request::Row> for Row {
    fn from(row: request::Row) -> Self {
        Self {
            key: row.key.map(|key| key.as_ref().to_owned()).unwrap_or_default(),
            valid: row.valid.unwrap_or(true),
            value: bytes(row.value, row.encoding),
            revision: row.revision.unwrap_or_default(),
            remembered: row.remembered,
            forgotten: row.forgotten,
        }
    }
}

/// A value that was made text for JSON.
fn bytes(value: String, encoding: Option<&str>) -> Bytes {
    match encoding {
        None => value.into_bytes().into(),
        // It was encoded right before.
        Some(_) => BASE64_STANDARD.decode(&value).unwrap_or_default().into(),
    }
}

impl From<request::Row> for Entry {
    fn from(row: request::Row) -> Self {
        Self {
            index: row.index.unwrap_or_default(),
            unix_ms: row.unix_ms.unwrap_or_default(),
            value: bytes(row.value, row.encoding),
        }
    }
}

impl From<Event> for Change {
    fn from(event: Event) -> Self {
        Self {
            key: event.key.as_ref().to_owned(),
            revision: event.revision,
            removed: event.value.is_none(),
            value: event.value.map_or_else(Bytes::new, |value| copied(&value)),
        }
    }
}

/// What a watch tells.
pub(super) fn watched(told: Told) -> Result<WatchResponse, Status> {
    match told {
        Told::Watching { next } => Ok(WatchResponse {
            next,
            changes: Vec::new(),
        }),
        Told::Changes(events) => Ok(WatchResponse {
            next: events.last().map_or(0, |event| event.revision + 1),
            changes: events.into_iter().map(Change::from).collect(),
        }),
        Told::Compacted { oldest } => Err(forgotten(
            "this watch was too slow: what comes next is forgotten; read the keys anew",
            oldest,
        )),
        Told::Subscribed | Told::Message(_) | Told::Overrun | Told::Beat => Err(another_shape()),
    }
}

/// What a subscription tells, if it is something.
pub(super) fn received(told: Told) -> Option<Result<Message, Status>> {
    match told {
        Told::Message(message) => Some(Ok(Message {
            value: copied(&message.value),
            token: message.token.map(|token| token.to_string()).unwrap_or_default(),
        })),
        Told::Overrun => Some(Err(Status::resource_exhausted(
            "this subscriber let too many messages wait: further ones are lost",
        ))),
        // HTTP/2 has its own signs of life, and the stream's head says that the subscriber is found.
        Told::Subscribed | Told::Beat => None,
        Told::Watching { .. } | Told::Changes(_) | Told::Compacted { .. } => Some(Err(another_shape())),
    }
}

fn copied(value: &Value) -> Bytes {
    Bytes::copy_from_slice(value.as_ref())
}

/// A refusal, as gRPC says it.
pub(super) fn refused(refusal: request::Refusal) -> Status {
    let mut status = Status::new(code(refusal.status), refusal.sentence);
    if let Some(oldest) = refusal.oldest {
        status.metadata_mut().insert(OLDEST, oldest.into());
    }
    status
}

fn forgotten(sentence: &str, oldest: u64) -> Status {
    let mut status = Status::failed_precondition(sentence);
    status.metadata_mut().insert(OLDEST, oldest.into());
    status
}

/// A bug of this program.
pub(super) fn another_shape() -> Status {
    Status::internal("the store answered in another shape than expected")
}

/// The code of gRPC that says the same.
fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::GONE | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Code::FailedPrecondition,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST | StatusCode::LENGTH_REQUIRED => {
            Code::InvalidArgument
        }
        StatusCode::INSUFFICIENT_STORAGE | StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}
