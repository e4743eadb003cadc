//! What the callers' threads, the writer and the preparer share: one mutex, three condition variables.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::Disk;
use crate::index::Index;
use crate::recovery::Found;
use crate::segment::{SEGMENT_HEAD, Segment};
use crate::{Done, Entry, Options, Position, Stats, Vote};

/// What a caller wants written, in the order of the calls.
pub(crate) enum Op {
    Append {
        entries: Vec<Entry>,
        /// Marks the entries in the index until they are stored.
        ticket: u64,
    },
    Vote(Vote),
    Truncate(Option<Position>),
    Purge(Position),
    /// Nothing; but all that was queued before is stored and synced when it is done.
    Flush,
}

pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) done: Done,
    /// What it counts for in `State::queued_bytes`.
    pub(crate) bytes: u64,
}

pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<Position>,
    /// The commit index that the writer has taken last.
    pub(crate) committed_taken: Option<Position>,
    pub(crate) purged: Option<Position>,

    pub(crate) queue: VecDeque<Request>,
    /// Bytes on disk of all requests not yet done.
    pub(crate) queued_bytes: u64,
    pub(crate) tickets: u64,
    /// Set for ever by the first failed write or sync.
    pub(crate) failed: Option<String>,
    /// The last handle is gone: drain and stop.
    pub(crate) stopping: bool,
    /// The writer has stopped.
    pub(crate) stopped: bool,

    /// All segments that may hold entries, the one being written included.
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    /// The segment to go on with.
    pub(crate) prepared: Option<Arc<Segment>>,
    /// The sequence number of the next segment to prepare.
    pub(crate) next_sequence: u64,
    /// Segments no longer needed, oldest first.
    pub(crate) freed: VecDeque<Arc<Segment>>,
    /// Why no segment could be prepared; `None` once one could.
    pub(crate) full: Option<String>,
    /// Bytes left in the segment being written.
    pub(crate) room: u64,
    pub(crate) stats: Stats,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the writer: something is queued, or the log is to stop.
    pub(crate) work: Condvar,
    /// Wakes the preparer.
    pub(crate) prepare: Condvar,
    /// Wakes the writer when it waits for the preparer.
    pub(crate) prepared: Condvar,
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    #[cfg(simulation)]
    preparer: Mutex<Option<crate::preparer::Preparer>>,
}

impl Shared {
    pub(crate) fn new(found: &mut Found, options: Options, disk: Arc<dyn Disk>) -> Self {
        let prepared = found.prepared.take();
        let next_sequence = found.current.sequence + 1 + u64::from(prepared.is_some());
        let window = Index::new(options.cache_bytes_max);
        let mut segments = found.segments.clone();
        // What a purge freed before the last stop is still there.
        let needed = segments.split_off(&found.replay.oldest.min(found.current.sequence));
        let state = State {
            index: std::mem::replace(&mut found.replay.index, window),
            vote: found.replay.vote,
            committed: found.replay.committed,
            committed_taken: found.replay.committed,
            purged: found.replay.purged,
            queue: VecDeque::new(),
            queued_bytes: 0,
            tickets: 0,
            failed: None,
            stopping: false,
            stopped: false,
            segments: needed,
            prepared,
            next_sequence,
            freed: segments.into_values().collect(),
            full: None,
            room: 0,
            stats: Stats::default(),
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            prepare: Condvar::new(),
            prepared: Condvar::new(),
            options,
            disk,
            #[cfg(simulation)]
            preparer: Mutex::new(None),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a bug of ours; the writer's exit marks the log as failed then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the log as failed for ever and answers all that is queued.
    pub(crate) fn fail(&self, reason: &str) {
        let mut state = self.lock();
        if state.failed.is_none() {
            tracing::error!(reason, "the write-ahead log has failed; restart the process");
            state.failed = Some(reason.to_owned());
        }
        let queued: Vec<_> = state.queue.drain(..).collect();
        state.queued_bytes -= queued.iter().map(|request| request.bytes).sum::<u64>();
        drop(state);
        for request in queued {
            (request.done)(Err(failure(reason)));
        }
        self.prepared.notify_all();
        self.prepare.notify_all();
    }

    /// Waits until the preparer has a segment, or has failed.
    pub(crate) fn await_prepared<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        #[cfg(simulation)]
        if self.simulated_preparer().is_some() {
            drop(state);
            self.prepare_now();
            return self.lock();
        }
        self.prepared.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// In a simulation nothing runs beside the writer.
    #[cfg(simulation)]
    pub(crate) fn prepare_now(&self) {
        if let Some(preparer) = &mut *self.simulated_preparer() {
            preparer.step();
        }
    }

    #[cfg(simulation)]
    pub(crate) fn simulated_preparer(&self) -> MutexGuard<'_, Option<crate::preparer::Preparer>> {
        self.preparer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes kept for votes, truncations and purges when no further segment can be had.
    pub(crate) fn reserve(&self) -> u64 {
        (self.options.segment_bytes_checked() - SEGMENT_HEAD) / RESERVE_SHARE
    }
}

/// One part in so many of a segment is reserved: 256 KiB of 8 MiB, about 2,500 votes of 104 bytes each.
const RESERVE_SHARE: u64 = 32;

pub(crate) fn failure(reason: &str) -> io::Error {
    io::Error::other(format!(
        "the write-ahead log has failed and takes nothing more: {reason}; restart the process"
    ))
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(crate) fn storage_full(reason: Option<&str>) -> io::Error {
    let reason = reason.unwrap_or("no further segment could be prepared");
    io::Error::new(
        io::ErrorKind::StorageFull,
        format!("no room in the write-ahead log: {reason}; free disk space, or purge entries"),
    )
}

/// Marks the end of the writer, be it orderly or by a panic.
pub(crate) struct StopGuard(Arc<Shared>);

impl StopGuard {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer thread has panicked");
        }
        self.0.lock().stopped = true;
        self.0.prepare.notify_all();
    }
}
