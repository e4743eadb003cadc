//! What a member remembers while there is no quorum: bounded, in order, until it is merged. Pure; the bytes of its file
//! are read and written by `server`.

mod log;

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::NodeId;

use crate::state::{Item, Owner, Policy, Remembered, Value};

pub use log::{Recovered, Stored, encode, recover};

/// Writes that are remembered at a time.
pub const WRITES_MAX: usize = 65_536;
/// Bytes of their keys and values together.
pub const BYTES_MAX: usize = 16 << 20;
/// What each write counts beside its key and value.
const WRITE_BYTES: usize = 64;
/// Writes in one log entry, and their bytes: a reader sees either all of them or none.
const MERGE_WRITES_MAX: usize = 4096;
const MERGE_BYTES_MAX: usize = 1 << 20;

/// A write of a member, under the node id that it had then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The node id.
    pub member: NodeId,
    /// The write.
    pub write: Remembered,
    /// Whose request it was, if it may have been ordered already.
    pub owner: Owner,
}

/// What is remembered, and room that is promised.
#[derive(Debug, Default)]
pub struct Outbox {
    writes: BTreeMap<u64, Own>,
    /// By key, the numbers of its writes.
    chains: BTreeMap<Arc<str>, Vec<u64>>,
    bytes: usize,
    promised: usize,
    promised_bytes: usize,
    last: u64,
    last_ms: u64,
}

/// A write that is to be remembered.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The member that accepts it.
    pub member: NodeId,
    /// The key.
    pub key: Arc<str>,
    /// Its new value; none removes the key.
    pub value: Option<Value>,
    /// The request under which it may have been ordered already; zeros if it was not.
    pub request: (u64, u64),
    /// Whose request that is.
    pub owner: Owner,
    /// What happens on a conflict.
    pub policy: Policy,
    /// The clock.
    pub unix_ms: u64,
}

/// The bytes that a write counts.
#[must_use]
pub fn size(key: &str, value: Option<&Value>) -> usize {
    WRITE_BYTES + key.len() + value.map_or(0, |value| value.as_ref().len())
}

impl Outbox {
    /// One with what the file holds.
    #[must_use]
    pub fn of(recovered: &Recovered) -> Self {
        let mut outbox = Self {
            last: recovered.last,
            ..Self::default()
        };
        for own in &recovered.writes {
            outbox.keep(own.clone());
        }
        outbox
    }

    /// How many writes are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The bytes of what is remembered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the last write that was ever remembered.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What is remembered, in order.
    pub fn writes(&self) -> impl Iterator<Item = &Own> {
        self.writes.values()
    }

    /// Promises room for a write; false when there is none.
    pub fn promise(&mut self, bytes: usize) -> bool {
        let fits = self.writes.len() + self.promised < WRITES_MAX
            && self.bytes + self.promised_bytes + bytes <= BYTES_MAX;
        if fits {
            self.promised += 1;
            self.promised_bytes += bytes;
        }
        fits
    }

    /// Takes a promise of room back.
    pub fn release(&mut self, bytes: usize) {
        self.promised -= 1;
        self.promised_bytes -= bytes;
    }

    /// Numbers a write. `present` is the key's item as the member knows it, `merged` the last number of the member that
    /// the group has merged.
    pub fn draw_up(&mut self, draft: Draft, present: Option<&Item>, merged: u64) -> Own {
        self.last = self.last.max(merged) + 1;
        // Later writes of one member are later, whatever its clock says.
        self.last_ms = draft.unix_ms.max(self.last_ms + 1);
        let before = self
            .chains
            .get(&draft.key)
            .and_then(|chain| chain.last())
            .map(|number| &self.writes[number]);
        let (base, after) = match before {
            Some(own) if own.write.value.is_none() => (0, 0),
            Some(own) => (own.write.base, own.write.number),
            None => (present.map_or(0, |item| item.revision), 0),
        };
        let (session, seq) = draft.request;
        Own {
            member: draft.member,
            owner: draft.owner,
            write: Remembered {
                number: self.last,
                session,
                seq,
                key: draft.key,
                value: draft.value,
                base,
                after,
                unix_ms: self.last_ms,
                policy: draft.policy,
            },
        }
    }

    /// Remembers a write, once it is on the disk or is on its way there.
    pub fn keep(&mut self, own: Own) {
        let write = &own.write;
        self.last = self.last.max(write.number);
        self.last_ms = self.last_ms.max(write.unix_ms);
        self.bytes += size(&write.key, write.value.as_ref());
        self.chains
            .entry(write.key.clone())
            .or_default()
            .push(write.number);
        self.writes.insert(write.number, own);
    }

    /// Forgets one write: it was merged, or did not get onto the disk.
    pub fn forget(&mut self, number: u64) {
        let Some(own) = self.writes.remove(&number) else {
            return;
        };
        self.bytes -= size(&own.write.key, own.write.value.as_ref());
        if let Some(chain) = self.chains.get_mut(&own.write.key) {
            chain.retain(|other| *other != number);
            if chain.is_empty() {
                self.chains.remove(&own.write.key);
            }
        }
    }

    /// The numbers of what the group has merged, of those whose members' last merged numbers `merged` tells.
    pub fn merged(&self, merged: impl Fn(NodeId) -> u64) -> Vec<u64> {
        let done = self
            .writes
            .values()
            .filter(|own| own.write.number <= merged(own.member));
        done.map(|own| own.write.number).collect()
    }

    /// The first writes, as many as fit into one log entry, with the owners of their requests; and the member that has them.
    #[must_use]
    pub fn first_batch(&self, upto: u64) -> Option<(NodeId, Vec<(Owner, Remembered)>)> {
        let member = self.writes.values().next()?.member;
        let mut bytes = 0;
        let batch: Vec<_> = self
            .writes
            .values()
            .take_while(|own| own.member == member && own.write.number <= upto)
            .take(MERGE_WRITES_MAX)
            .take_while(|own| {
                let fits = bytes < MERGE_BYTES_MAX;
                bytes += size(&own.write.key, own.write.value.as_ref());
                fits
            })
            .map(|own| (own.owner, own.write.clone()))
            .collect();
        (!batch.is_empty()).then_some((member, batch))
    }

    /// What the member shows of a key whose item is `present`: what remains once it is merged, if nothing else happens.
    /// None when nothing up to the number `upto` is remembered for the key.
    #[must_use]
    pub fn shows(&self, key: &str, present: Option<&Item>, upto: u64) -> Option<Shown> {
        let chain = self.chains.get(key)?;
        let mut shown: Option<Shown> = None;
        let chain = chain
            .iter()
            .filter(|number| **number <= upto)
            .map(|number| &self.writes[number]);
        for Own { member, write, .. } in chain {
            let present = match &shown {
                None => present,
                Some(Shown(item)) => item.as_ref(),
            };
            let wins = Item::yields_to(present, *member, write);
            if wins {
                let item = write.value.clone().map(|value| Item {
                    value,
                    revision: write.base,
                    unix_ms: write.unix_ms,
                    member: *member,
                    number: write.number,
                });
                shown = Some(Shown(item));
            }
        }
        shown
    }
}

/// What a member shows of a key: an item, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(pub Option<Item>);

#[cfg(test)]
mod tests;
