//! Watching: the changes of keys as server-sent events, in their order, from any revision that is still known.
//!
//! A watcher is a position in the history that every member holds. It needs no queue of its own: what its client does not
//! take stays in the history, until the history moves on; then it is told so, and ends.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use hyper::StatusCode;
use replication::Shutdown;
#[cfg(simulation)]
use replication::simulation::{Bug, is_planted};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Context;
use super::link::now;
use super::operations::TIMEOUT;
use super::told::{Tellings, Told};
use crate::request::{Refusal, Terms};
use crate::state::{Compacted, Event, KvState};

/// The position is told when there was nothing else for so long: both ends notice when the other has gone, and a client
/// whose keys never change does not resume from what is forgotten.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that are looked at under the state's lock at a time.
const LOOKED_AT_MAX: usize = 1024;
/// Bytes of one piece of the stream, beyond which no further event is added.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Which keys are watched.
struct Keys {
    prefix: Arc<str>,
    exact: bool,
}

struct Watcher {
    context: Arc<Context>,
    until: Shutdown,
    keys: Keys,
    /// The revision that is looked at next.
    next: u64,
    applied: watch::Receiver<u64>,
    beat_at: Instant,
    is_over: bool,
}

impl Context {
    /// The changes of the keys that begin with a prefix, from a revision on. `seen` is the last event that the client got
    /// on an earlier connection.
    pub(super) async fn watch(
        self: &Arc<Self>,
        prefix: Arc<str>,
        terms: &Terms,
        seen: Option<u64>,
        until: Shutdown,
    ) -> Result<Tellings, Refusal> {
        if !self.recovered(self.patience(terms, TIMEOUT)).await {
            return Err(Refusal {
                timeout: true,
                ..Refusal::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "this member does not know yet what it knew before it was started",
                )
            });
        }
        let replica = &self.link.replica;
        let mut applied = replica.applied();
        applied.mark_changed();
        let from = seen.map(|seen| seen.saturating_add(1)).or(terms.more.from);
        #[cfg(simulation)]
        let from = from.filter(|_| !is_planted(Bug::WatchFromNow));
        let next = match from {
            Some(from) => from.max(1),
            None => replica.local(KvState::revision) + 1,
        };
        replica.local(|state| match state.changes(next) {
            Ok(_) => Ok(()),
            Err(Compacted { oldest }) => Err(gone(next, oldest)),
        })?;
        let watcher = Watcher {
            context: self.clone(),
            until,
            keys: Keys {
                prefix,
                exact: terms.more.exact,
            },
            next,
            applied,
            beat_at: now() + HEARTBEAT,
            is_over: false,
        };
        let told = stream::unfold(watcher, |mut watcher| async move {
            watcher.next_told().await.map(|told| (told, watcher))
        });
        Ok(stream::once(async move { Told::Watching { next } })
            .chain(told)
            .boxed())
    }
}

fn gone(from: u64, oldest: u64) -> Refusal {
    Refusal {
        oldest: Some(oldest),
        ..Refusal::new(
            StatusCode::GONE,
            format!("revision {from} is forgotten, the oldest that is known is {oldest}: read the keys anew"),
        )
    }
}

impl Keys {
    fn have(&self, key: &str) -> bool {
        if self.exact {
            *key == *self.prefix
        } else {
            key.starts_with(&*self.prefix)
        }
    }
}

/// What was found in the history.
struct Found {
    events: Vec<Event>,
    /// Whether there may be further ones right now.
    is_cut: bool,
}

impl Watcher {
    async fn next_told(&mut self) -> Option<Told> {
        while !self.is_over {
            self.applied.mark_unchanged();
            match self.look() {
                Ok(Found { events, .. }) if !events.is_empty() => {
                    self.beat_at = now() + HEARTBEAT;
                    return Some(Told::Changes(events));
                }
                Ok(Found { is_cut: true, .. }) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(_) => {}
                Err(Compacted { oldest }) => {
                    self.is_over = true;
                    return Some(Told::Compacted { oldest });
                }
            }
            tokio::select! {
                changed = self.applied.changed() => self.is_over = changed.is_err(),
                () = sleep_until(self.beat_at) => {
                    self.beat_at = now() + HEARTBEAT;
                    return Some(Told::Watching { next: self.next });
                }
                () = self.until.requested() => self.is_over = true,
            }
        }
        None
    }

    fn look(&mut self) -> Result<Found, Compacted> {
        let (keys, mut next) = (&self.keys, self.next);
        let found = self.context.link.replica.local(|state| {
            let (mut events, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
            for event in state.changes(next)? {
                if looked_at == LOOKED_AT_MAX || bytes >= PIECE_BYTES_MAX {
                    return Ok(Found { events, is_cut: true });
                }
                looked_at += 1;
                next = event.revision + 1;
                if keys.have(&event.key) {
                    bytes += event.bytes();
                    events.push(event.clone());
                }
            }
            Ok(Found {
                events,
                is_cut: false,
            })
        })?;
        self.next = next;
        Ok(found)
    }
}
