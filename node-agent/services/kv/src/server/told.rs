//! What streams tell their clients, and how HTTP says it: as server-sent events (HTML Living Standard, 9.2.5).

use std::fmt::Write as _;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::bus::Message;
use crate::request::Row;
use crate::state::Event;

/// A stream that has no end of its own.
pub(super) type Tellings = BoxStream<'static, Told>;

/// One thing that a stream tells.
pub(super) enum Told {
    /// Changes are told from this revision on. Comes first, and when there was nothing else for a while.
    Watching { next: u64 },
    /// Changes, in the order of their revisions.
    Changes(Vec<Event>),
    /// What comes next is forgotten, and this revision is the oldest that is known; the last that is told.
    Compacted { oldest: u64 },
    /// Messages are told from now on; comes first.
    Subscribed,
    /// A message.
    Message(Message),
    /// Too many messages waited to be taken; the last that is told.
    Overrun,
    /// There was nothing for a while.
    Beat,
}

impl Told {
    /// As server-sent events; JSON has no line ends of its own.
    pub(super) fn to_events(&self) -> Bytes {
        match self {
            // An id without data is no event, but a client that is cut now resumes from it.
            Self::Watching { next } => format!(
                ": watching from revision {next} on\nid: {}\n\n",
                next.saturating_sub(1)
            )
            .into(),
            Self::Changes(events) => changes(events),
            Self::Compacted { oldest } => {
                format!("event: compacted\ndata: {{\"oldest\":{oldest}}}\n\n").into()
            }
            Self::Subscribed => Bytes::from_static(b": subscribed\n\n"),
            Self::Message(message) => {
                let row = Row {
                    token: message.token,
                    ..Row::default().with_value(&message.value)
                };
                let name = if message.token.is_some() {
                    "request"
                } else {
                    "message"
                };
                format!("event: {name}\ndata: {}\n\n", json(&row)).into()
            }
            Self::Overrun => Bytes::from_static(b"event: overrun\ndata: {}\n\n"),
            Self::Beat => Bytes::from_static(b":\n\n"),
        }
    }
}

fn changes(events: &[Event]) -> Bytes {
    let mut text = String::new();
    for event in events {
        let row = Row {
            key: Some(event.key.clone()),
            revision: Some(event.revision),
            ..Row::default()
        };
        let (name, row) = match &event.value {
            Some(value) => ("put", row.with_value(value)),
            None => ("delete", row),
        };
        // Writing to a String cannot fail.
        write!(
            text,
            "id: {}\nevent: {name}\ndata: {}\n\n",
            event.revision,
            json(&row)
        )
        .ok();
    }
    text.into()
}

fn json(row: &Row) -> String {
    serde_json::to_string(row).expect("strings and numbers always serialise")
}
