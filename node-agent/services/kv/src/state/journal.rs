//! Journals: named logs to which entries are only appended. The oldest make room for new ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Compacted, Outcome, Value};

/// Journals that exist at a time; a further one is refused.
const JOURNALS_MAX: usize = 1024;
/// Entries that a journal keeps.
const ENTRIES_MAX: usize = 10_000;
/// Bytes of entries that a journal keeps.
const BYTES_MAX: usize = 4 << 20;

/// An entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was appended, by the log's time, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What it says.
    pub value: Value,
}

/// All journals.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Journals {
    journals: BTreeMap<Arc<str>, Journal>,
    #[serde(skip)]
    bytes: u64,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Journal {
    /// Entries that were dropped, so that the first one that is kept has the next number.
    dropped: u64,
    entries: VecDeque<Entry>,
    #[serde(skip)]
    bytes: usize,
}

impl Journals {
    /// Puts what a snapshot does not hold in its place.
    pub(super) fn index(&mut self) {
        for journal in self.journals.values_mut() {
            journal.bytes = journal.entries.iter().map(Entry::bytes).sum();
        }
        self.bytes = self.journals.values().map(|journal| journal.bytes as u64).sum();
    }

    /// Whether there is nothing that a snapshot must hold.
    pub(super) fn is_empty(&self) -> bool {
        self.journals.is_empty()
    }

    /// Of all entries.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many journals there are.
    pub(super) fn count(&self) -> usize {
        self.journals.len()
    }

    /// Appends an entry; entries are numbered from 1.
    pub(super) fn append(&mut self, name: Arc<str>, entry: Entry) -> Outcome {
        if self.journals.len() >= JOURNALS_MAX && !self.journals.contains_key(&name) {
            return Outcome::Full;
        }
        let journal = self.journals.entry(name).or_default();
        self.bytes -= journal.bytes as u64;
        journal.append(entry);
        self.bytes += journal.bytes as u64;
        Outcome::Appended {
            index: journal.last(),
        }
    }

    /// Removes a journal; whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(journal) = self.journals.remove(name) else {
            return false;
        };
        self.bytes -= journal.bytes as u64;
        true
    }

    /// The entries of a journal from a number on, with their numbers; none when there is no such journal.
    pub(super) fn read(
        &self,
        name: &str,
        from: Option<u64>,
    ) -> Option<Result<impl Iterator<Item = (u64, &Entry)>, Compacted>> {
        self.journals.get(name).map(|journal| journal.read(from))
    }

    /// The number of a journal's last entry; 0 when there is none.
    pub(super) fn last(&self, name: &str) -> u64 {
        self.journals.get(name).map_or(0, Journal::last)
    }

    /// The last entries of all journals together, the oldest first.
    pub(super) fn tail(&self, most: usize) -> Vec<(&str, u64, &Entry)> {
        let ends = self.journals.iter().flat_map(|(name, journal)| {
            let skipped = journal.entries.len().saturating_sub(most);
            let end = journal.entries.iter().enumerate().skip(skipped);
            end.map(move |(place, entry)| (&**name, journal.dropped + 1 + place as u64, entry))
        });
        let mut tail: Vec<_> = ends.collect();
        tail.sort_by_key(|(_, _, entry)| entry.unix_ms);
        tail.split_off(tail.len().saturating_sub(most))
    }
}

impl Journal {
    fn last(&self) -> u64 {
        self.dropped + self.entries.len() as u64
    }

    fn append(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        // A single entry that is too large stays until the next one.
        while self.entries.len() > ENTRIES_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.bytes();
                self.dropped += 1;
            }
        }
    }

    fn read(&self, from: Option<u64>) -> Result<impl Iterator<Item = (u64, &Entry)>, Compacted> {
        let oldest = self.dropped + 1;
        let from = from.unwrap_or(oldest);
        let Some(skipped) = from.checked_sub(oldest) else {
            return Err(Compacted { oldest });
        };
        let skipped = usize::try_from(skipped)
            .unwrap_or(usize::MAX)
            .min(self.entries.len());
        Ok((from..).zip(self.entries.range(skipped..)))
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.value.as_ref().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(journals: &mut Journals, name: &str, text: &str) -> Outcome {
        let entry = Entry {
            unix_ms: 1,
            value: text.into(),
        };
        journals.append(name.into(), entry)
    }

    fn numbers(journals: &Journals, from: Option<u64>) -> Result<Vec<u64>, Compacted> {
        let entries = journals.read("j", from).unwrap()?;
        Ok(entries.map(|(number, _)| number).collect())
    }

    #[test]
    fn entries_are_numbered_and_read_from_a_number_on() {
        let mut journals = Journals::default();
        assert!(journals.read("j", None).is_none());
        for number in 1..=3 {
            assert_eq!(
                append(&mut journals, "j", "entry"),
                Outcome::Appended { index: number }
            );
        }
        assert_eq!(numbers(&journals, None), Ok(vec![1, 2, 3]));
        assert_eq!(numbers(&journals, Some(3)), Ok(vec![3]));
        assert_eq!(numbers(&journals, Some(9)), Ok(vec![]));
        assert_eq!(numbers(&journals, Some(0)), Err(Compacted { oldest: 1 }));
        assert_eq!((journals.bytes(), journals.last("j")), (15, 3));
        append(&mut journals, "k", "newest");
        let tail: Vec<_> = journals
            .tail(2)
            .into_iter()
            .map(|(name, number, _)| (name, number))
            .collect();
        assert_eq!(tail, [("j", 3), ("k", 1)]);
        assert!(journals.remove("j") && !journals.remove("j"));
        assert_eq!(journals.bytes(), 6);
    }

    #[test]
    fn oldest_entries_make_room() {
        let mut journals = Journals::default();
        for _ in 0..ENTRIES_MAX + 2 {
            append(&mut journals, "j", "x");
        }
        assert_eq!(numbers(&journals, Some(2)), Err(Compacted { oldest: 3 }));
        assert_eq!(numbers(&journals, None).unwrap().len(), ENTRIES_MAX);
        for _ in 0..3 {
            append(&mut journals, "j", &"x".repeat(BYTES_MAX / 2));
        }
        assert_eq!(numbers(&journals, None).unwrap().len(), 2);
        assert_eq!(journals.bytes(), BYTES_MAX as u64);
        let mut back: Journals = postcard::from_bytes(&postcard::to_allocvec(&journals).unwrap()).unwrap();
        back.index();
        assert_eq!((back.bytes(), back.last("j")), (journals.bytes(), 10_005));
        for number in 1..JOURNALS_MAX {
            append(&mut journals, &number.to_string(), "");
        }
        assert_eq!(append(&mut journals, "one more", ""), Outcome::Full);
    }
}
