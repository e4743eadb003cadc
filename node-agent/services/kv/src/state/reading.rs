//! What is read of the state, without changing it.

use std::ops::Bound;
use std::sync::Arc;

use replication::NodeId;

use super::{Change, Compacted, Entry, Event, Item, KvState, Operation, Outcome, Owner, Transaction, size};

impl KvState {
    /// The present item of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.items.len()
    }

    /// The bytes of all keys and values together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many remembered writes lost a conflict.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a remembered write of `member` lost a conflict; of very old ones that is forgotten.
    #[must_use]
    pub fn was_dropped(&self, member: NodeId, number: u64) -> bool {
        let last = self.dropped_last.get(&member);
        last.is_some_and(|last| last.contains(&number))
    }

    /// How many servers' logs are extracted.
    #[must_use]
    pub fn log_servers(&self) -> usize {
        self.logs.servers()
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.count()
    }

    /// The number of the last remembered write of `member` that was merged.
    #[must_use]
    pub fn merged(&self, member: NodeId) -> u64 {
        self.merged.get(&member).copied().unwrap_or_default()
    }

    /// What became of a request of this owner; none when it has not been carried out.
    #[must_use]
    pub fn answer(&self, owner: Owner, session: u64, seq: u64) -> Option<Outcome> {
        self.sessions.answer(owner, session, seq)
    }

    /// The keys that begin with `prefix` and come after `after`, in order.
    pub fn range(&self, prefix: &str, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Item)> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.items
            .range::<str, _>((begin, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// When a key ends by itself, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn ends(&self, key: &str) -> Option<u64> {
        self.leases.ends(key)
    }

    /// When the next key or lease ends, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn first_due(&self) -> Option<u64> {
        self.leases.first_due()
    }

    /// How many leases there are.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.count()
    }

    /// A lease's whole time and its end, both in milliseconds, and its keys.
    #[must_use]
    pub fn lease(&self, id: u64) -> Option<(u64, u64, Vec<Arc<str>>)> {
        let (ttl_ms, ends_ms, keys) = self.leases.get(id)?;
        Some((ttl_ms, ends_ms, keys.cloned().collect()))
    }

    /// What counts against the quota, in bytes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.bytes + self.journals.bytes()
    }

    /// The changes from a revision on, one for each revision; it may lie in the future.
    ///
    /// # Errors
    /// When older changes than are kept are asked for.
    pub fn changes(&self, from: u64) -> Result<impl Iterator<Item = &Event>, Compacted> {
        self.history.since(from)
    }

    /// The entries of a journal with their numbers, from a number on; none when there is no such journal, an error when
    /// older ones than are kept are asked for.
    pub fn journal(
        &self,
        name: &str,
        from: Option<u64>,
    ) -> Option<Result<impl Iterator<Item = (u64, &Entry)>, Compacted>> {
        self.journals.read(name, from)
    }

    /// The number of a journal's last entry; 0 when there is none.
    #[must_use]
    pub fn journal_last(&self, name: &str) -> u64 {
        self.journals.last(name)
    }

    /// The last entries of all journals together, the oldest first: journal, number, entry.
    #[must_use]
    pub fn journal_tail(&self, most: usize) -> Vec<(&str, u64, &Entry)> {
        self.journals.tail(most)
    }

    /// How many journals there are.
    #[must_use]
    pub fn journals(&self) -> usize {
        self.journals.count()
    }

    /// By how many bytes a change would add to [`KvState::used`], at most.
    #[must_use]
    pub fn growth(&self, change: &Change) -> u64 {
        match change {
            Change::Set { key, value }
            | Change::SetFor { key, value, .. }
            | Change::Swap { key, new: value, .. }
            | Change::SwapFor { key, new: value, .. } => self.growth_of(key, value.as_ref().len()),
            Change::Transact(Transaction { then, otherwise, .. }) => {
                let sum = |operations: &[Operation]| operations.iter().map(|one| self.growth_by(one)).sum();
                u64::max(sum(then), sum(otherwise))
            }
            Change::Append { value, .. } => value.as_ref().len() as u64,
            _ => 0,
        }
    }

    fn growth_by(&self, operation: &Operation) -> u64 {
        match operation {
            Operation::Set { key, value, .. } => self.growth_of(key, value.as_ref().len()),
            Operation::Delete { .. } | Operation::Get { .. } => 0,
        }
    }

    fn growth_of(&self, key: &str, value_bytes: usize) -> u64 {
        let before = self.items.get(key).map_or(0, |item| size(key, item));
        ((key.len() + value_bytes) as u64).saturating_sub(before)
    }
}
