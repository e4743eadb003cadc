//! The replicated store: keys in order, each with its value and the revision that wrote it.
//!
//! Pure: a command and the log's time in, an outcome out. Whether a swap takes place is decided here and nowhere else.

mod command;
mod history;
mod journal;
mod leases;
mod logs;
mod owner;
mod parts;
mod reading;
mod session;
mod transaction;
mod value;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

#[cfg(simulation)]
use replication::simulation::{Bug, is_planted};
use replication::{LogTime, NodeId, RestoreError, State};
use serde::{Deserialize, Serialize};

pub use command::{Change, Command, Outcome, Policy, Remembered, Request};
use history::History;
pub use history::{Compacted, Event};
pub use journal::Entry;
use journal::Journals;
use leases::Leases;
pub use leases::Lifetime;
use logs::Logs;
pub use owner::{Caller, Owner};
use session::{Admission, Asked, Sessions};
pub use transaction::{Comparison, Condition, Made, Operation, Transaction};
pub use value::Value;

/// The version of the snapshot's format that is written; the one before is read, too.
const SNAPSHOT_VERSION: u8 = 2;
/// Remembered writes of one member that lost a conflict and are told apart.
const DROPPED_MAX: usize = 1024;

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// The revision that wrote it.
    pub revision: u64,
    /// When it was written, in milliseconds since the Unix epoch: by the log's time, or by the clock of the member that
    /// remembered it.
    pub unix_ms: u64,
    /// The member that remembered it; 0 for what a quorum wrote.
    pub member: NodeId,
    /// Its number among those that the member remembered; 0 for what a quorum wrote.
    pub number: u64,
}

impl Item {
    /// Whether a remembered write would be stored over `present`.
    #[must_use]
    pub fn yields_to(present: Option<&Self>, member: NodeId, remembered: &Remembered) -> bool {
        // What the member itself remembered right before is no conflict.
        let follows = remembered.after != 0
            && present.is_some_and(|item| (item.member, item.number) == (member, remembered.after));
        match remembered.policy {
            Policy::Arrival => true,
            Policy::Base => follows || present.map_or(0, |item| item.revision) == remembered.base,
            Policy::Latest => {
                present.is_none_or(|item| (item.unix_ms, item.member) < (remembered.unix_ms, member))
            }
            Policy::KeepQuorum => follows || present.is_none(),
        }
    }
}

/// Who wrote a value, and when.
#[derive(Clone, Copy)]
struct Origin {
    unix_ms: u64,
    member: NodeId,
    number: u64,
}

impl Origin {
    /// Written by a quorum.
    const fn quorum(at: LogTime) -> Self {
        Self {
            unix_ms: at.unix_ms,
            member: 0,
            number: 0,
        }
    }
}

/// What every member holds.
#[derive(Debug, Default)]
pub struct KvState {
    items: BTreeMap<Arc<str>, Item>,
    /// Counts changes that were made.
    revision: u64,
    sessions: Sessions,
    /// By member, the number of the last remembered write that was merged.
    merged: BTreeMap<NodeId, u64>,
    /// Remembered writes that lost a conflict.
    dropped: u64,
    /// By member, the numbers of the last of these.
    dropped_last: BTreeMap<NodeId, VecDeque<u64>>,
    logs: Logs,
    leases: Leases,
    history: History,
    journals: Journals,
    /// Of all keys and values.
    bytes: u64,
}

impl KvState {
    fn request(&mut self, at: LogTime, request: Request) -> Outcome {
        let Request {
            session,
            seq,
            floor,
            change,
        } = request;
        let (caller, change) = change.caller();
        let owner = caller.owner;
        if session == 0 {
            return self.change(at, owner, change);
        }
        let asked = Asked {
            session,
            seq,
            floor,
            caller,
            cancels: matches!(change, Change::Cancel),
        };
        match self.sessions.admit(asked, at.unix_ms) {
            Admission::Answered(outcome) => outcome,
            Admission::New => {
                let outcome = self.change(at, owner, change);
                self.sessions.record(session, seq, owner, &outcome);
                outcome
            }
        }
    }

    fn change(&mut self, at: LogTime, owner: Owner, change: Change) -> Outcome {
        let by_quorum = Origin::quorum(at);
        match change {
            Change::Set { key, value } => self.set(key, value, by_quorum),
            Change::Delete { key } => self.delete(&key),
            Change::Swap { key, old, new } => self.swap(at, key, &old, new, Lifetime::Forever),
            Change::SwapFor {
                key,
                old,
                new,
                lifetime,
            } => self.swap(at, key, &old, new, lifetime),
            Change::SetFor { key, value, lifetime } => self.set_for(key, value, lifetime, by_quorum, at),
            Change::Transact(transaction) => self.transact(at, transaction),
            Change::Grant { ttl_ms } => match self.leases.grant(ttl_ms, at.unix_ms) {
                Some(lease) => Outcome::Leased { lease, ttl_ms },
                None => Outcome::Full,
            },
            Change::KeepAlive { lease } => match self.leases.keep_alive(lease, at.unix_ms) {
                Some(ttl_ms) => Outcome::Leased { lease, ttl_ms },
                None => Outcome::NoLease,
            },
            Change::Revoke { lease } => self.revoke(lease),
            Change::Append { journal, value } => {
                let entry = Entry {
                    unix_ms: at.unix_ms,
                    value,
                };
                self.journals.append(journal, entry)
            }
            Change::RemoveJournal { journal } => match self.journals.remove(&journal) {
                true => Outcome::Done {
                    revision: self.revision,
                },
                false => differs(None),
            },
            // It has been done.
            Change::Expire => Outcome::Done {
                revision: self.revision,
            },
            Change::Open { member } => Outcome::Opened {
                session: self.sessions.open(member, owner, at.unix_ms),
            },
            Change::Cancel => Outcome::Cancelled,
            Change::Merge { member, remembered } => {
                let nobodys = remembered.into_iter().map(|one| (Owner::NOBODY, one));
                self.merge(at, member, nobodys)
            }
            Change::MergeFor { member, remembered } => self.merge(at, member, remembered.into_iter()),
            // Nobody wraps a change twice.
            Change::By { caller, change } => self.change(at, caller.owner, *change),
            Change::Extract { server, digests } => self.logs.extract(&server, &digests),
        }
    }

    fn merge(
        &mut self,
        at: LogTime,
        member: NodeId,
        all: impl Iterator<Item = (Owner, Remembered)>,
    ) -> Outcome {
        let (mut stored, mut dropped) = (0, Vec::new());
        for (owner, remembered) in all {
            let last = self.merged.entry(member).or_default();
            let is_merged = remembered.number <= *last;
            #[cfg(simulation)]
            let is_merged = is_merged && !is_planted(Bug::OutboxReplayedTwice);
            if is_merged {
                continue;
            }
            *last = remembered.number;
            let (session, seq, number) = (remembered.session, remembered.seq, remembered.number);
            // The request may have been ordered before the member gave up waiting for it.
            let is_repeatable = session == 0;
            #[cfg(simulation)]
            let is_repeatable = is_repeatable || is_planted(Bug::OutboxReplayedTwice);
            let admission = if is_repeatable {
                Admission::New
            } else {
                self.sessions
                    .admit(Asked::remembered(owner, session, seq), at.unix_ms)
            };
            let outcome = match admission {
                Admission::Answered(Outcome::Done { .. } | Outcome::Differs { .. }) => {
                    stored += 1;
                    continue;
                }
                Admission::Answered(Outcome::Cancelled) => Outcome::Cancelled,
                _ => self.merge_one(member, remembered),
            };
            if outcome == Outcome::Cancelled {
                self.drop_remembered(member, number);
                dropped.push(number);
            } else {
                stored += 1;
            }
            self.sessions.record(session, seq, owner, &outcome);
        }
        Outcome::Merged { stored, dropped }
    }

    fn merge_one(&mut self, member: NodeId, remembered: Remembered) -> Outcome {
        if !Item::yields_to(self.items.get(&remembered.key), member, &remembered) {
            return Outcome::Cancelled;
        }
        match remembered.value {
            Some(value) => {
                let origin = Origin {
                    unix_ms: remembered.unix_ms,
                    member,
                    number: remembered.number,
                };
                self.set(remembered.key, value, origin)
            }
            None => self.delete(&remembered.key),
        }
    }

    fn drop_remembered(&mut self, member: NodeId, number: u64) {
        self.dropped += 1;
        let last = self.dropped_last.entry(member).or_default();
        if last.len() == DROPPED_MAX {
            last.pop_front();
        }
        last.push_back(number);
    }

    fn revoke(&mut self, lease: u64) -> Outcome {
        let Some(keys) = self.leases.revoke(lease) else {
            return Outcome::NoLease;
        };
        for key in keys {
            self.delete(&key);
        }
        Outcome::Done {
            revision: self.revision,
        }
    }

    /// Removes what has ended by itself.
    fn expire(&mut self, at: LogTime) {
        if self.leases.first_due().is_none_or(|due| due > at.unix_ms) {
            return;
        }
        for key in self.leases.end_due(at.unix_ms) {
            self.delete(&key);
        }
    }

    fn swap(&mut self, at: LogTime, key: Arc<str>, old: &Value, new: Value, lifetime: Lifetime) -> Outcome {
        let item = self.items.get(&key);
        let present = item.map_or(&[][..], |item| item.value.as_ref());
        if present == old.as_ref() {
            self.set_for(key, new, lifetime, Origin::quorum(at), at)
        } else {
            differs(item)
        }
    }

    fn set_for(
        &mut self,
        key: Arc<str>,
        value: Value,
        lifetime: Lifetime,
        origin: Origin,
        at: LogTime,
    ) -> Outcome {
        if lifetime == Lifetime::Forever {
            return self.set(key, value, origin);
        }
        if !self.leases.bind(&key, lifetime, at.unix_ms) {
            return Outcome::NoLease;
        }
        self.put(key, value, origin)
    }

    fn delete(&mut self, key: &str) -> Outcome {
        let Some((key, item)) = self.items.remove_entry(key) else {
            return differs(None);
        };
        self.leases.unbind(&key);
        self.bytes -= size(&key, &item);
        self.revision += 1;
        self.history.push(Event {
            revision: self.revision,
            key,
            value: None,
        });
        Outcome::Done {
            revision: self.revision,
        }
    }

    fn set(&mut self, key: Arc<str>, value: Value, origin: Origin) -> Outcome {
        self.leases.unbind(&key);
        self.put(key, value, origin)
    }

    fn put(&mut self, key: Arc<str>, value: Value, origin: Origin) -> Outcome {
        self.revision += 1;
        self.history.push(Event {
            revision: self.revision,
            key: key.clone(),
            value: Some(value.clone()),
        });
        let item = Item {
            value,
            revision: self.revision,
            unix_ms: origin.unix_ms,
            member: origin.member,
            number: origin.number,
        };
        self.bytes += size(&key, &item);
        if let Some(before) = self.items.insert(key.clone(), item) {
            self.bytes -= size(&key, &before);
        }
        Outcome::Done {
            revision: self.revision,
        }
    }
}

fn differs(item: Option<&Item>) -> Outcome {
    Outcome::Differs {
        value: item.map(|item| item.value.clone()),
        revision: item.map_or(0, |item| item.revision),
    }
}

fn size(key: &str, item: &Item) -> u64 {
    (key.len() + item.value.as_ref().len()) as u64
}

impl State for KvState {
    type Command = Command;
    type Outcome = Vec<Outcome>;

    fn apply(&mut self, at: LogTime, command: Command) -> Vec<Outcome> {
        let Command::Batch(requests) = command;
        self.expire(at);
        requests
            .into_iter()
            .map(|request| self.request(at, request))
            .collect()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        parts::write(self, &mut bytes).expect("a vector takes everything");
        bytes
    }

    fn write_snapshot(&self, to: &mut dyn io::Write) -> io::Result<()> {
        parts::write(self, to)
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        parts::read(bytes)
    }
}

#[cfg(test)]
mod tests;
