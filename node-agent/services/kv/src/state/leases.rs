//! What ends by itself: keys with a lifetime of their own, and leases with the keys that are attached to them.
//!
//! Time is the log's. What is due ends before the next command is carried out, whatever it is; the leader orders one when
//! there is no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[cfg(simulation)]
use replication::simulation::{Bug, is_planted};
use serde::{Deserialize, Serialize};

/// Leases that exist at a time.
const LEASES_MAX: usize = 65_536;

/// How long a value stays. A stored format: variants are only appended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// Until it is replaced or removed.
    #[default]
    Forever,
    /// At most so many milliseconds.
    Millis(u64),
    /// At most as long as this lease.
    Lease(u64),
}

/// All leases, and all keys that end by themselves.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Leases {
    last: u64,
    open: BTreeMap<u64, Lease>,
    keys: BTreeMap<Arc<str>, Bound>,
    /// When what ends, the earliest first.
    #[serde(skip)]
    due: BTreeSet<(u64, Due)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lease {
    ttl_ms: u64,
    ends_ms: u64,
    keys: BTreeSet<Arc<str>>,
}

#[cfg(simulation)]
impl Lease {
    /// The planted [`Bug::LeaseLeavesKey`].
    fn without_a_key(mut self) -> Self {
        if is_planted(Bug::LeaseLeavesKey) {
            self.keys.pop_first();
        }
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Bound {
    /// Ends then.
    At(u64),
    /// Ends with this lease.
    Lease(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(u64),
    Key(Arc<str>),
}

impl Leases {
    /// Whether there is nothing that a snapshot must hold.
    pub(super) fn is_untouched(&self) -> bool {
        self.last == 0 && self.keys.is_empty()
    }

    /// Puts what a snapshot does not hold in its place.
    pub(super) fn index(&mut self) {
        let leases = self
            .open
            .iter()
            .map(|(id, lease)| (lease.ends_ms, Due::Lease(*id)));
        let keys = self.keys.iter().filter_map(|(key, bound)| match bound {
            Bound::At(ends_ms) => Some((*ends_ms, Due::Key(key.clone()))),
            Bound::Lease(_) => None,
        });
        self.due = leases.chain(keys).collect();
    }

    /// How many leases there are.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Whether there is this lease.
    pub(super) fn has(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    /// When the next one ends, in milliseconds since the Unix epoch; none when nothing ends.
    pub(super) fn first_due(&self) -> Option<u64> {
        self.due.first().map(|(ends_ms, _)| *ends_ms)
    }

    /// When a key ends, in milliseconds since the Unix epoch; none when it does not by itself.
    pub(super) fn ends(&self, key: &str) -> Option<u64> {
        match self.keys.get(key)? {
            Bound::At(ends_ms) => Some(*ends_ms),
            Bound::Lease(id) => self.open.get(id).map(|lease| lease.ends_ms),
        }
    }

    /// A lease's whole time, when it ends, and its keys.
    pub(super) fn get(&self, id: u64) -> Option<(u64, u64, impl Iterator<Item = &Arc<str>>)> {
        let lease = self.open.get(&id)?;
        Some((lease.ttl_ms, lease.ends_ms, lease.keys.iter()))
    }

    /// Grants one; none when there are too many.
    pub(super) fn grant(&mut self, ttl_ms: u64, now_ms: u64) -> Option<u64> {
        if self.open.len() >= LEASES_MAX {
            return None;
        }
        self.last += 1;
        let lease = Lease {
            ttl_ms,
            ends_ms: now_ms.saturating_add(ttl_ms),
            keys: BTreeSet::new(),
        };
        self.due.insert((lease.ends_ms, Due::Lease(self.last)));
        self.open.insert(self.last, lease);
        Some(self.last)
    }

    /// Gives a lease its whole time again; its time, or none when there is no such lease.
    pub(super) fn keep_alive(&mut self, id: u64, now_ms: u64) -> Option<u64> {
        #[cfg(simulation)]
        if !self.has(id) && is_planted(Bug::EndedLeaseKeptAlive) {
            return Some(0);
        }
        let lease = self.open.get_mut(&id)?;
        self.due.remove(&(lease.ends_ms, Due::Lease(id)));
        lease.ends_ms = now_ms.saturating_add(lease.ttl_ms);
        self.due.insert((lease.ends_ms, Due::Lease(id)));
        Some(lease.ttl_ms)
    }

    /// Ends a lease; the keys that end with it, or none when there is no such lease.
    pub(super) fn revoke(&mut self, id: u64) -> Option<Vec<Arc<str>>> {
        let lease = self.open.remove(&id)?;
        self.due.remove(&(lease.ends_ms, Due::Lease(id)));
        #[cfg(simulation)]
        let lease = lease.without_a_key();
        for key in &lease.keys {
            self.keys.remove(key);
        }
        Some(lease.keys.into_iter().collect())
    }

    /// Lets a key end so; false when there is no such lease, and then nothing changed.
    pub(super) fn bind(&mut self, key: &Arc<str>, lifetime: Lifetime, now_ms: u64) -> bool {
        if let Lifetime::Lease(id) = lifetime
            && !self.has(id)
        {
            return false;
        }
        self.unbind(key);
        let bound = match lifetime {
            Lifetime::Forever => return true,
            Lifetime::Millis(millis) => {
                let ends_ms = now_ms.saturating_add(millis);
                self.due.insert((ends_ms, Due::Key(key.clone())));
                Bound::At(ends_ms)
            }
            Lifetime::Lease(id) => {
                if let Some(lease) = self.open.get_mut(&id) {
                    lease.keys.insert(key.clone());
                }
                Bound::Lease(id)
            }
        };
        self.keys.insert(key.clone(), bound);
        true
    }

    /// Lets a key not end by itself.
    pub(super) fn unbind(&mut self, key: &str) {
        let Some((key, bound)) = self.keys.remove_entry(key) else {
            return;
        };
        match bound {
            Bound::At(ends_ms) => {
                self.due.remove(&(ends_ms, Due::Key(key)));
            }
            Bound::Lease(id) => {
                if let Some(lease) = self.open.get_mut(&id) {
                    lease.keys.remove(&key);
                }
            }
        }
    }

    /// Ends what is due; the keys that end, the earliest first.
    pub(super) fn end_due(&mut self, now_ms: u64) -> Vec<Arc<str>> {
        let mut ended = Vec::new();
        while let Some((ends_ms, due)) = self.due.pop_first() {
            if ends_ms > now_ms {
                self.due.insert((ends_ms, due));
                break;
            }
            match due {
                Due::Lease(id) => ended.extend(self.revoke(id).unwrap_or_default()),
                Due::Key(key) => {
                    self.keys.remove(&key);
                    ended.push(key);
                }
            }
        }
        ended
    }
}
