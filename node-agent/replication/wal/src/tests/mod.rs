//! The log on a simulated disk: power cuts between any two sectors, failed syncs, a full disk; and on a real one.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests only run where usize has 64 bits"
)]

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use crate::recovery::Found;
use crate::{Done, Entry, Options, Position, Vote, Wal};

mod basics;
mod crash;
mod damage;
mod faults;
mod model;

/// Small segments, no idle writes: what is written depends on the calls only.
fn small() -> Options {
    Options {
        segment_bytes: 8 << 10,
        cache_bytes_max: 1 << 20,
        commit_idle: Duration::from_secs(3600),
        retry_after: Duration::from_millis(1),
        ..Options::default()
    }
}

fn at(term: u64, index: u64) -> Position {
    Position { term, node: 1, index }
}

fn vote(term: u64) -> Vote {
    Vote {
        term,
        node: 2,
        committed: false,
    }
}

/// An entry whose payload tells its place, so that a mix-up is seen.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let seed = (term as usize * 31 + index as usize * 7) as u8;
    let payload: Vec<u8> = (0..bytes).map(|at| seed.wrapping_add(at as u8)).collect();
    Entry {
        position: at(term, index),
        payload: Bytes::from(payload),
    }
}

/// A callback and where its result comes out.
fn done() -> (Done, mpsc::Receiver<std::io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    (
        Box::new(move |result| sender.send(result).unwrap_or(())),
        receiver,
    )
}

fn ignore() -> Done {
    Box::new(|_| {})
}

/// Appends and waits for the callback.
fn append(wal: &Wal, entries: Vec<Entry>) -> std::io::Result<()> {
    let (done, result) = done();
    wal.append(entries, done)?;
    result.recv().unwrap()
}

fn all(wal: &Wal) -> Vec<Entry> {
    wal.entries(0..u64::MAX, usize::MAX).unwrap()
}

/// What a log says, apart from the commit index, which is lazy.
#[derive(Clone, Default, PartialEq, Eq)]
struct Content {
    vote: Option<Vote>,
    purged: Option<Position>,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |at: Position| (at.term, at.index);
        let entries: Vec<_> = self
            .entries
            .iter()
            .map(|e| (short(e.position), e.payload.len()))
            .collect();
        write!(
            f,
            "{:?}, purged {:?}, {entries:?}",
            self.vote,
            self.purged.map(short)
        )
    }
}

/// One thing that a caller asks for. The simplest model of the log is `Content` and these.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(Option<Position>),
    Purge(Position),
    Committed(Position),
}

impl Content {
    /// All that may be found after a stop in the middle of the step; the last is what is found after it.
    fn after(&self, step: &Step) -> Vec<Self> {
        let mut next = self.clone();
        match step {
            Step::Append(entries) => {
                let mut stages = Vec::new();
                for entry in entries {
                    next.entries.push(entry.clone());
                    stages.push(next.clone());
                }
                return stages;
            }
            Step::Vote(vote) => next.vote = Some(*vote),
            Step::Truncate(keep) => {
                next.entries
                    .retain(|entry| keep.is_some_and(|keep| entry.position.index <= keep.index));
            }
            Step::Purge(upto) => {
                next.purged = Some(*upto);
                next.entries.retain(|entry| entry.position.index > upto.index);
            }
            Step::Committed(_) => {}
        }
        vec![next]
    }

    fn of(wal: &Wal) -> Self {
        Self {
            vote: wal.vote(),
            purged: wal.purged(),
            entries: all(wal),
        }
    }

    fn found(found: &Found) -> Self {
        let sources = found.replay.index.sources(0..u64::MAX, usize::MAX);
        let entries = sources.into_iter().map(|source| match source {
            crate::index::Source::Memory(entry) => entry,
            crate::index::Source::Disk(place) => panic!("{place:?} should be in the window"),
        });
        Self {
            vote: found.replay.vote,
            purged: found.replay.purged,
            entries: entries.collect(),
        }
    }

    fn last(&self) -> Option<Position> {
        self.entries.last().map(|entry| entry.position).or(self.purged)
    }
}

impl Step {
    fn start(&self, wal: &Wal, done: Done) {
        match self {
            Step::Append(entries) => wal.append(entries.clone(), done),
            Step::Vote(vote) => wal.save_vote(*vote, done),
            Step::Truncate(keep) => wal.truncate_after(*keep, done),
            Step::Purge(upto) => wal.purge(*upto, done),
            Step::Committed(committed) => {
                wal.save_committed(Some(*committed));
                done(Ok(()));
                Ok(())
            }
        }
        .unwrap();
    }
}
