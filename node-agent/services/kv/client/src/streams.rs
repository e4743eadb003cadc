//! Streams: the changes of keys, and the messages to an address.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::answer::bytes;
use crate::requests::{PAUSE, call, path};
use crate::transport::{Call, Sent, answer};
use crate::{Client, Error};

/// How long members are tried, one after the other, before a stream is given up for the moment.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
/// How long one member may take to begin a stream.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A member says something every 15 s: one that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Of one event: the largest value, escaped, and much room.
const EVENT_BYTES_MAX: usize = 32 << 20;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: String,
    /// The revision that made the change.
    pub revision: u64,
    /// Whether the key was removed.
    #[serde(default)]
    pub removed: bool,
    /// The value, in base64 when `encoding` says so; see [`Change::bytes`].
    #[serde(default)]
    pub value: String,
    /// `base64` when the value is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

impl Change {
    /// The value's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.value, self.encoding.as_deref())
    }
}

/// The changes of keys, in the order of their revisions: none missing, none twice, also when members come and go.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    call: Call,
    /// The revision that is told next, once a member has said it.
    next: Option<u64>,
    events: Option<Events>,
}

/// A message to an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// What it says, in base64 when `encoding` says so; see [`Message::bytes`].
    pub value: String,
    /// `base64` when the value is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// For [`Client::reply`], where its sender waits for a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Message {
    /// The value's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.value, self.encoding.as_deref())
    }
}

/// The messages to an address, as long as this lives.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    call: Call,
    events: Option<Events>,
}

impl Client {
    /// Watches the keys that begin with a prefix, or with `exact` the one of that name: from a revision on, or without one
    /// what changes after this returns.
    ///
    /// # Errors
    /// [`Error::Compacted`] when the revision is forgotten; when no member answers within 30 s, or one refuses.
    pub async fn watch(&self, prefix: &str, exact: bool, from: Option<u64>) -> Result<Watch, Error> {
        let mut call = call(Method::GET, path("watch", prefix, ""), Bytes::new());
        if exact {
            call.query.push(("exact", "true".to_owned()));
        }
        let mut watch = Watch {
            client: self.clone(),
            call,
            next: from,
            events: None,
        };
        watch.begin().await?;
        Ok(watch)
    }

    /// Subscribes to an address: messages that are published after this returns arrive, wherever the publisher is connected.
    ///
    /// # Errors
    /// When no member answers within 30 s, or one refuses.
    pub async fn subscribe(&self, address: &str) -> Result<Subscription, Error> {
        let mut subscription = Subscription {
            client: self.clone(),
            call: call(Method::GET, path("bus", address, "/subscribe"), Bytes::new()),
            events: None,
        };
        subscription.begin().await?;
        Ok(subscription)
    }

    /// A stream that a member has begun.
    async fn open(&self, call: &Call) -> Result<Events, Error> {
        let until = Instant::now() + OPEN_PATIENCE;
        let mut failures = 0;
        loop {
            let member = self.0.transport.preferred();
            let words = match timeout(BEGIN_TIMEOUT, self.begin(member, call)).await {
                Ok(Ok(events)) => return Ok(events),
                Ok(Err(Sent::NotReached(words) | Sent::InDoubt(words) | Sent::Refused(503 | 504, words))) => {
                    words
                }
                Ok(Err(Sent::Refused(status, sentence))) => return Err(Error::Refused { status, sentence }),
                Ok(Err(Sent::Forgotten(oldest, sentence))) => {
                    return Err(Error::Compacted { oldest, sentence });
                }
                Ok(Err(Sent::Answer(_))) => "a stream is answered with something else".to_owned(),
                Err(_) => "the member did not answer".to_owned(),
            };
            self.0.transport.prefer_another(member);
            failures += 1;
            if Instant::now() >= until {
                return Err(Error::Unreachable(words));
            }
            self.pause(failures).await;
        }
    }

    /// Asks one member for a stream, and waits for its first words.
    async fn begin(&self, member: usize, call: &Call) -> Result<Events, Sent> {
        let response = self.0.transport.stream(member, call).await?;
        if !response.status().is_success() {
            return Err(answer(response).await);
        }
        let mut events = Events {
            member,
            body: response.into_body(),
            buffer: Vec::new(),
            first: None,
        };
        match events.next().await {
            Ok(first) => events.first = Some(first),
            Err(words) => return Err(Sent::InDoubt(words)),
        }
        Ok(events)
    }
}

impl Watch {
    async fn begin(&mut self) -> Result<(), Error> {
        let mut call = self.call.clone();
        if let Some(next) = self.next {
            call.query.push(("from", next.to_string()));
        }
        self.events = Some(self.client.open(&call).await?);
        Ok(())
    }

    /// The next change; waits for it. When a member ends, another one is asked for what comes next. May be cancelled: nothing
    /// is lost.
    ///
    /// # Errors
    /// [`Error::Compacted`] when what comes next is forgotten, because this was too slow or away for too long; when no member
    /// answers within 30 s (the next call tries again), or one refuses.
    pub async fn next(&mut self) -> Result<Change, Error> {
        loop {
            let Some(events) = &mut self.events else {
                self.begin().await?;
                continue;
            };
            match events.next_within(SILENCE_MAX).await {
                Ok(event) => {
                    if let Some(change) = self.take(&event)? {
                        return Ok(change);
                    }
                }
                Err(_) => {
                    let member = events.member;
                    self.events = None;
                    self.client.0.transport.prefer_another(member);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The revision that a new watch would have to begin with to tell what this one has not told.
    #[must_use]
    pub const fn position(&self) -> Option<u64> {
        self.next
    }

    fn take(&mut self, event: &Event) -> Result<Option<Change>, Error> {
        if let Some(id) = event.id {
            self.next = Some(id + 1);
        }
        match event.name.as_str() {
            "put" | "delete" => {
                let change: Change = parsed(&event.data)?;
                let removed = event.name == "delete";
                Ok(Some(Change { removed, ..change }))
            }
            "compacted" => {
                self.events = None;
                let Oldest { oldest } = parsed(&event.data)?;
                Err(Error::Compacted {
                    oldest,
                    sentence: format!("what comes next is forgotten, the oldest that is known is {oldest}"),
                })
            }
            _ => Ok(None),
        }
    }
}

impl Subscription {
    async fn begin(&mut self) -> Result<(), Error> {
        self.events = Some(self.client.open(&self.call).await?);
        Ok(())
    }

    /// The next message; waits for it. May be cancelled: nothing is lost.
    ///
    /// # Errors
    /// [`Error::Missed`] when the member ended, or this subscriber was too slow: messages may have been missed. The next call
    /// subscribes again, at the next member; it fails when none answers within 30 s, or one refuses.
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let Some(events) = &mut self.events else {
                self.begin().await?;
                continue;
            };
            let member = events.member;
            let words = match events.next_within(SILENCE_MAX).await {
                Ok(event) => match event.name.as_str() {
                    "message" | "request" => return parsed(&event.data),
                    "overrun" => "this subscriber let too many messages wait".to_owned(),
                    _ => continue,
                },
                Err(words) => {
                    self.client.0.transport.prefer_another(member);
                    words
                }
            };
            self.events = None;
            return Err(Error::Missed(words));
        }
    }
}

#[derive(Deserialize)]
struct Oldest {
    oldest: u64,
}

fn parsed<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, Error> {
    serde_json::from_str(data).map_err(|error| Error::Refused {
        status: 200,
        sentence: format!("an event is not one of the store: {error}"),
    })
}

/// Server-sent events (HTML Living Standard, 9.2.5), as the store writes them.
struct Events {
    /// Who sends them.
    member: usize,
    body: Incoming,
    buffer: Vec<u8>,
    /// The one that was waited for.
    first: Option<Event>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<u64>,
    /// Empty for a comment, or an id alone.
    name: String,
    data: String,
}

impl Events {
    async fn next_within(&mut self, silence_max: Duration) -> Result<Event, String> {
        let until = Instant::now() + silence_max;
        timeout_at(until, self.next())
            .await
            .unwrap_or_else(|_| Err("the member is silent".to_owned()))
    }

    /// The next one; why there is none.
    async fn next(&mut self) -> Result<Event, String> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let mut looked_at: usize = 0;
        loop {
            let end = self.buffer[looked_at..].windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.buffer.drain(..looked_at + end + 2).collect();
                return Ok(event(&String::from_utf8_lossy(&block)));
            }
            looked_at = self.buffer.len().saturating_sub(1);
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err("an event has no end".to_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the member ended the stream".to_owned()),
            }
        }
    }
}

fn event(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = id.parse().ok(),
            Some(("event", name)) => name.clone_into(&mut event.name),
            Some(("data", data)) => data.clone_into(&mut event.data),
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_comments_are_none() {
        assert_eq!(event(":\n\n"), Event::default());
        let position = event(": watching from revision 8 on\nid: 7\n\n");
        assert_eq!((position.id, position.name.as_str()), (Some(7), ""));
        assert_eq!(
            event("id: 8\nevent: put\ndata: {\"value\":\"a: b\"}\n\n"),
            Event {
                id: Some(8),
                name: "put".to_owned(),
                data: "{\"value\":\"a: b\"}".to_owned(),
            }
        );
    }
}
