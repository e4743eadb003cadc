//! Where every entry of the log is: on disk, and, for the youngest, in memory too.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::{Entry, Position};

/// Added to a payload's length when the window's size is reckoned: its handle and its share of the deque.
const CACHED_OVERHEAD: usize = 64;
/// In `Slot::home`: the rest is the number of the call that brought the entry, which is not stored yet.
const PENDING: u64 = 1 << 63;

/// One entry. 32 bytes.
#[derive(Debug, Clone, Copy)]
struct Slot {
    term: u64,
    node: u64,
    /// The segment's sequence number; or [`PENDING`] and the number of the `append` call.
    home: u64,
    offset: u32,
    length: u32,
}

/// A place on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Where the payload of one entry is to be had.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Memory(Entry),
    Disk(Place),
}

/// All entries, without gaps; the youngest with their payload.
#[derive(Debug)]
pub(crate) struct Index {
    /// The index of `slots[0]`.
    first: u64,
    slots: VecDeque<Slot>,
    /// The payloads of the last `window.len()` slots.
    window: VecDeque<Bytes>,
    window_bytes: usize,
    window_bytes_max: usize,
}

impl Index {
    pub(crate) fn new(window_bytes_max: usize) -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            window: VecDeque::new(),
            window_bytes: 0,
            window_bytes_max,
        }
    }

    pub(crate) fn first_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    pub(crate) fn last(&self) -> Option<Position> {
        let slot = self.slots.back()?;
        Some(Position {
            term: slot.term,
            node: slot.node,
            index: self.end() - 1,
        })
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Adds an entry that call number `ticket` brought and that is not stored yet; it must follow the last.
    pub(crate) fn push(&mut self, entry: &Entry, ticket: u64) {
        self.push_slot(entry, PENDING | ticket, 0);
    }

    /// Adds an entry found on disk; it must follow the last.
    pub(crate) fn push_stored(&mut self, entry: &Entry, segment: u64, offset: u32) {
        self.push_slot(entry, segment, offset);
        self.shrink_window();
    }

    fn push_slot(&mut self, entry: &Entry, home: u64, offset: u32) {
        if self.slots.is_empty() {
            self.first = entry.position.index;
        }
        assert_eq!(entry.position.index, self.end(), "entries follow each other");
        let length =
            u32::try_from(entry.payload.len()).expect("append refuses payloads above ENTRY_BYTES_MAX");
        self.slots.push_back(Slot {
            term: entry.position.term,
            node: entry.position.node,
            home,
            offset,
            length,
        });
        self.window_bytes += entry.payload.len() + CACHED_OVERHEAD;
        self.window.push_back(entry.payload.clone());
    }

    /// Notes where an entry of call `ticket` was stored, if it has not been truncated or purged meanwhile.
    pub(crate) fn store(&mut self, index: u64, ticket: u64, segment: u64, offset: u32) {
        let Some(at) = index
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return;
        };
        if let Some(slot) = self
            .slots
            .get_mut(at)
            .filter(|slot| slot.home == PENDING | ticket)
        {
            slot.home = segment;
            slot.offset = offset;
        }
    }

    /// Drops the oldest payloads above the window's bound. What is not stored yet stays.
    pub(crate) fn shrink_window(&mut self) {
        while self.window_bytes > self.window_bytes_max && !self.window.is_empty() {
            let oldest = self.slots.len() - self.window.len();
            if self.slots[oldest].home & PENDING != 0 {
                break;
            }
            self.drop_oldest_payload();
        }
    }

    fn drop_oldest_payload(&mut self) {
        if let Some(payload) = self.window.pop_front() {
            self.window_bytes -= payload.len() + CACHED_OVERHEAD;
        }
    }

    /// Removes all entries with an index of at least `end`.
    pub(crate) fn truncate_from(&mut self, end: u64) {
        while !self.slots.is_empty() && self.end() > end {
            self.pop();
        }
    }

    /// Removes the entries that are not stored: they are always the last ones.
    pub(crate) fn remove_pending(&mut self) {
        while self.slots.back().is_some_and(|slot| slot.home & PENDING != 0) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        self.slots.pop_back();
        if let Some(payload) = self.window.pop_back() {
            self.window_bytes -= payload.len() + CACHED_OVERHEAD;
        }
    }

    /// Removes all entries up to and with `upto`.
    pub(crate) fn purge_upto(&mut self, upto: u64) {
        while !self.slots.is_empty() && self.first <= upto {
            if self.window.len() == self.slots.len() {
                self.drop_oldest_payload();
            }
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
        if self.window.capacity() > 1024 && self.window.len() < self.window.capacity() / 4 {
            self.window.shrink_to(self.window.len() * 2);
        }
    }

    /// Where the entries of `range` are: at least one if any is present, then as many as fit in `bytes_max`.
    pub(crate) fn sources(&self, range: Range<u64>, bytes_max: usize) -> Vec<Source> {
        let mut sources = Vec::new();
        let mut bytes = 0usize;
        let in_memory_from = self.end() - self.window.len() as u64;
        for index in range.start.max(self.first)..range.end.min(self.end()) {
            let Some(slot) = self.slot(index) else { break };
            bytes += slot.length as usize;
            if bytes > bytes_max && !sources.is_empty() {
                break;
            }
            let position = Position {
                term: slot.term,
                node: slot.node,
                index,
            };
            let payload = index
                .checked_sub(in_memory_from)
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| self.window.get(at));
            sources.push(match payload {
                Some(payload) => Source::Memory(Entry {
                    position,
                    payload: payload.clone(),
                }),
                None => Source::Disk(place(slot, position)),
            });
        }
        sources
    }

    /// Whether no entry from this one on has to be read from the disk.
    pub(crate) fn is_in_memory(&self, index: u64) -> bool {
        index >= self.end() - self.window.len() as u64
    }

    /// Bytes of the payloads of all entries after this one.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        let before = (index + 1).saturating_sub(self.first);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        self.slots
            .iter()
            .skip(before)
            .map(|slot| u64::from(slot.length))
            .sum()
    }

    /// The entry before the youngest ones up to `upto` that have at most `bytes_max` bytes of payload together.
    pub(crate) fn before_youngest(&self, upto: u64, bytes_max: u64) -> u64 {
        let (mut index, mut bytes) = (upto, 0);
        while let Some(slot) = self.slot(index) {
            bytes += u64::from(slot.length);
            if bytes > bytes_max || index == 0 {
                break;
            }
            index -= 1;
        }
        index
    }

    /// Whether the entry is still at this place.
    pub(crate) fn is_at(&self, expected: &Place) -> bool {
        self.slot(expected.position.index)
            .is_some_and(|slot| place(slot, expected.position) == *expected)
    }

    /// Bytes of payload (and overhead) held in memory.
    pub(crate) fn window_bytes(&self) -> usize {
        self.window_bytes
    }
}

fn place(slot: &Slot, at: Position) -> Place {
    let position = Position {
        term: slot.term,
        node: slot.node,
        index: at.index,
    };
    Place {
        position,
        segment: slot.home,
        offset: slot.offset,
        length: slot.length,
    }
}

const _: () = assert!(size_of::<Slot>() == 32);
