//! The last changes of the store, for those who watch it: one event for each revision, none missing between the oldest and
//! the newest.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Value;

/// Events that are kept.
const EVENTS_MAX: usize = 16_384;
/// Bytes of their keys and values.
const BYTES_MAX: usize = 8 << 20;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The store's revision since.
    pub revision: u64,
    /// The key.
    pub key: Arc<str>,
    /// Its value; none when it was removed.
    pub value: Option<Value>,
}

/// What was asked for is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest that is kept, or the next one.
    pub oldest: u64,
}

/// The last events.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct History {
    /// Events up to this revision are gone.
    compacted: u64,
    events: VecDeque<Event>,
    #[serde(skip)]
    bytes: usize,
}

impl History {
    /// One that begins behind a revision.
    pub(super) fn after(revision: u64) -> Self {
        Self {
            compacted: revision,
            ..Self::default()
        }
    }

    /// Puts what a snapshot does not hold in its place.
    pub(super) fn index(&mut self) {
        self.bytes = self.events.iter().map(Event::bytes).sum();
    }

    /// Whether there is nothing that a snapshot must hold.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Keeps the event of the next revision.
    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        // A single event that is too large stays until the next one.
        while self.events.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.bytes();
                self.compacted = oldest.revision;
            }
        }
    }

    /// The events from a revision on; it may lie in the future.
    pub(super) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Event>, Compacted> {
        let Some(skipped) = revision.checked_sub(self.compacted + 1) else {
            return Err(Compacted {
                oldest: self.compacted + 1,
            });
        };
        let skipped = usize::try_from(skipped)
            .unwrap_or(usize::MAX)
            .min(self.events.len());
        Ok(self.events.range(skipped..))
    }
}

impl Event {
    /// The bytes of its key and its value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.as_ref().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, bytes: usize) -> Event {
        Event {
            revision,
            key: "k".into(),
            value: Some(Value::from(&vec![b'v'; bytes][..])),
        }
    }

    fn revisions(history: &History, from: u64) -> Result<Vec<u64>, Compacted> {
        let events = history.since(from)?;
        Ok(events.map(|event| event.revision).collect())
    }

    #[test]
    fn events_are_read_from_a_revision_on() {
        let mut history = History::after(10);
        assert_eq!(revisions(&history, 11), Ok(vec![]));
        for revision in 11..=14 {
            history.push(event(revision, 1));
        }
        assert_eq!(revisions(&history, 11), Ok(vec![11, 12, 13, 14]));
        assert_eq!(revisions(&history, 13), Ok(vec![13, 14]));
        assert_eq!(revisions(&history, 99), Ok(vec![]));
        assert_eq!(revisions(&history, 10), Err(Compacted { oldest: 11 }));
        assert_eq!(revisions(&history, 0), Err(Compacted { oldest: 11 }));
    }

    #[test]
    fn history_is_bounded_by_count_and_by_bytes() {
        let mut history = History::default();
        for revision in 1..=EVENTS_MAX as u64 + 5 {
            history.push(event(revision, 0));
        }
        assert_eq!(revisions(&history, 5), Err(Compacted { oldest: 6 }));
        assert_eq!(revisions(&history, 6).unwrap().len(), EVENTS_MAX);
        let mut history = History::default();
        for revision in 1..=20 {
            history.push(event(revision, 1 << 20));
        }
        assert_eq!(revisions(&history, 1), Err(Compacted { oldest: 14 }));
        history.push(event(21, BYTES_MAX));
        assert_eq!(revisions(&history, 21), Ok(vec![21]));
        assert_eq!(history.bytes, BYTES_MAX + 1);
    }
}
