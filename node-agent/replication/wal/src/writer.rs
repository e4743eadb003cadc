//! The thread that writes: drains the queue, forms a batch, one write, one sync, then all callbacks.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, PoisonError};

use crate::record::{self, BATCH_HEAD, Batch, Record};
use crate::recovery::Found;
use crate::segment::{self, SEGMENT_HEAD, Segment};
use crate::shared::{Op, Request, Shared, StopGuard, failure, is_full, storage_full};
use crate::{Done, Durability, Entry, Position, Vote};

#[cfg(simulation)]
mod steps;

/// A batch is written when it reaches this size, so that the first callers need not wait for the last ones' bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The batch buffer is given back to the system after a batch above this size.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Why a record cannot go into the log.
enum Refusal {
    /// No segment to be had; the log goes on.
    Full(String),
    /// A write or a sync has failed; the log is over.
    Failed(String),
}

/// What one round takes from the queue.
struct Work {
    requests: VecDeque<Request>,
    /// The commit index as of the same moment.
    committed: Option<Position>,
    stopping: bool,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// Where the segment's file ends.
    end: u64,
    /// Where the next batch goes.
    at: u64,
    /// All before this offset is synced.
    synced: u64,
    /// The next batch's number.
    number: u64,
    /// The oldest segment that is needed, the batch being formed included.
    oldest: u64,
    /// What a new segment's first batch repeats.
    vote: Option<Vote>,
    purged: Option<Position>,
    committed: Option<Position>,
    /// The last batch on disk says that the log was closed.
    closed: bool,
    /// The greatest index of the entries in each segment, truncated ones included.
    greatest: BTreeMap<u64, Option<u64>>,

    /// The batch being formed: room for its header, then its records; empty if there is none.
    buffer: Vec<u8>,
    /// The records in `buffer`.
    records: u64,
    /// The entries in `buffer`: index, ticket, offset.
    entries: Vec<(u64, u64, u32)>,
    /// Requests whose last record is in `buffer`, or that need none, and what they count for in the queue.
    waiting: Vec<(Done, u64)>,
    /// Flushes, answered when the round is over.
    flushes: Vec<(Done, u64)>,
    /// The batch must be synced even in [`Durability::Relaxed`].
    must_sync: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, found: &Found) -> io::Result<Self> {
        let end = found.current.file.bytes()?;
        shared.lock().room = end - found.at;
        Ok(Self {
            shared,
            segment: found.current.clone(),
            end,
            at: found.at,
            synced: found.at,
            number: found.replay.number.unwrap_or(0),
            oldest: found.replay.oldest,
            vote: found.replay.vote,
            purged: found.replay.purged,
            committed: found.replay.committed,
            closed: found.replay.closed,
            greatest: found.replay.greatest.clone(),
            buffer: Vec::new(),
            records: 0,
            entries: Vec::new(),
            waiting: Vec::new(),
            flushes: Vec::new(),
            must_sync: false,
        })
    }

    /// Works until the last handle is gone and the queue is empty.
    pub(crate) fn run(mut self) {
        let guard = StopGuard::new(self.shared.clone());
        loop {
            let work = self.take_work();
            let stopping = work.stopping && work.requests.is_empty();
            self.round(work);
            if stopping {
                break;
            }
        }
        self.close();
        drop(guard);
    }

    /// Waits for requests; or, once the commit index has moved and nothing else came for a while, for that alone.
    fn take_work(&self) -> Work {
        let mut state = self.shared.lock();
        while state.queue.is_empty() && !state.stopping {
            if state.committed == state.committed_taken || state.failed.is_some() {
                state = self
                    .shared
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let idle = self.shared.options.commit_idle;
            let waited = self
                .shared
                .work
                .wait_timeout_while(state, idle, |state| state.queue.is_empty() && !state.stopping);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
            break;
        }
        state.committed_taken = state.committed;
        Work {
            requests: std::mem::take(&mut state.queue),
            committed: state.committed,
            stopping: state.stopping,
        }
    }

    fn round(&mut self, work: Work) {
        let failed = self.shared.lock().failed.clone();
        if let Some(reason) = failed {
            self.fail(&reason, work.requests);
            return;
        }
        let mut requests = work.requests;
        while let Some(Request { op, done, bytes }) = requests.pop_front() {
            if matches!(op, Op::Flush) {
                self.flushes.push((done, bytes));
                continue;
            }
            let is_append = matches!(op, Op::Append { .. });
            match self.put_op(op) {
                Ok(()) => self.waiting.push((done, bytes)),
                Err(Refusal::Full(reason)) if is_append => self.refuse(&reason, done, bytes, &mut requests),
                // Memory already shows the change: going on without it would put records out of order.
                Err(Refusal::Full(reason) | Refusal::Failed(reason)) => {
                    self.waiting.push((done, bytes));
                    self.fail(&reason, requests);
                    return;
                }
            }
        }
        // Only now: this commit index may speak of what the round's last request changed.
        let written = self.finish_round(work.committed);
        if let Err(Refusal::Failed(reason)) = written {
            self.fail(&reason, VecDeque::new());
        }
    }

    fn put_op(&mut self, op: Op) -> Result<(), Refusal> {
        match op {
            Op::Append { entries, ticket } => {
                for entry in &entries {
                    self.put_entry(entry, ticket)?;
                }
            }
            Op::Vote(vote) => {
                self.put(&Record::Vote(vote), false)?;
                self.vote = Some(vote);
            }
            Op::Truncate(keep) => {
                self.put(&Record::Truncate(keep), false)?;
            }
            Op::Purge(upto) => {
                self.put(&Record::Purge(upto), false)?;
                self.purged = Some(upto);
                self.let_go(upto);
            }
            // It needs no record; `finish_round` does the rest.
            Op::Flush => {}
        }
        Ok(())
    }

    /// Notes which segments are not needed once the batch with the purge is stored: always the oldest ones, so that
    /// a truncation never goes before the entries that it removes.
    fn let_go(&mut self, purged: Position) {
        while let Some(oldest) = self.greatest.first_entry() {
            let empty = oldest.get().is_none_or(|greatest| greatest <= purged.index);
            if !empty || *oldest.key() >= self.segment.sequence {
                break;
            }
            self.oldest = *oldest.key() + 1;
            oldest.remove();
            // Files go only after the disk knows that they may.
            self.must_sync = true;
        }
    }

    fn put_entry(&mut self, entry: &Entry, ticket: u64) -> Result<(), Refusal> {
        let offset = self.put(&Record::Entry(entry.position, &entry.payload), true)?;
        let offset = u32::try_from(offset).expect("segments are smaller than 4 GiB");
        let index = entry.position.index;
        self.entries.push((index, ticket, offset));
        let greatest = self.greatest.entry(self.segment.sequence).or_default();
        *greatest = (*greatest).max(Some(index));
        Ok(())
    }

    /// Adds a record to the batch being formed, writing out that batch or changing the segment if need be. Returns
    /// the record's offset in its segment.
    fn put(&mut self, record: &Record<'_>, is_entry: bool) -> Result<u64, Refusal> {
        self.make_room(record.bytes() as u64, is_entry)?;
        self.begin_batch();
        let offset = self.at + self.buffer.len() as u64;
        record::encode(record, self.segment.seed, self.at, &mut self.buffer);
        self.records += 1;
        Ok(offset)
    }

    fn begin_batch(&mut self) {
        if !self.buffer.is_empty() {
            return;
        }
        self.buffer.resize(BATCH_HEAD, 0);
        if self.at == SEGMENT_HEAD {
            // A segment's first batch repeats what older segments say, so that they can go.
            let vote = self.vote.map(Record::Vote);
            let purged = self.purged.map(Record::Purge);
            for record in [vote, purged].into_iter().flatten() {
                record::encode(&record, self.segment.seed, self.at, &mut self.buffer);
                self.records += 1;
            }
        }
    }

    /// Bytes of a batch with nothing in it yet.
    fn begun_bytes(&self) -> u64 {
        let repeated = u64::from(self.vote.is_some()) + u64::from(self.purged.is_some());
        let repeated = if self.at == SEGMENT_HEAD {
            repeated * record::RECORD_HEAD as u64
        } else {
            0
        };
        BATCH_HEAD as u64 + repeated
    }

    fn make_room(&mut self, bytes: u64, is_entry: bool) -> Result<(), Refusal> {
        loop {
            let batch = if self.buffer.is_empty() {
                self.begun_bytes()
            } else {
                self.buffer.len() as u64
            };
            let wanted = self.at + batch + bytes;
            let reserve = if is_entry { self.shared.reserve() } else { 0 };
            let too_long =
                !self.buffer.is_empty() && self.buffer.len() as u64 + bytes > BATCH_BYTES_MAX as u64;
            if too_long {
                self.write_batch(self.committed, false)?;
            } else if wanted + reserve <= self.end
                || (wanted <= self.end && self.shared.lock().prepared.is_some())
            {
                return Ok(());
            } else if self.buffer.is_empty() && self.at == SEGMENT_HEAD {
                self.extend(wanted + self.shared.reserve())?;
            } else {
                if !self.buffer.is_empty() {
                    self.write_batch(self.committed, false)?;
                }
                self.next_segment()?;
            }
        }
    }

    /// Makes an empty segment long enough for an entry that no segment of the usual length can hold.
    fn extend(&mut self, end: u64) -> Result<(), Refusal> {
        let file = &self.segment.file;
        match segment::write_zeros(&**file, self.end, end).and_then(|()| file.sync()) {
            Ok(()) => {
                self.end = end;
                Ok(())
            }
            Err(error) if is_full(&error) => {
                let _ = file.set_bytes(self.end);
                Err(Refusal::Full(error.to_string()))
            }
            Err(error) => Err(Refusal::Failed(format!(
                "extending segment {}: {error}",
                self.segment.sequence
            ))),
        }
    }

    /// Goes on to the prepared segment, or waits until the preparer has one or has failed.
    fn next_segment(&mut self) -> Result<(), Refusal> {
        // Recovery relies on it: a segment is only written when the one before it is complete on the disk.
        self.sync()?;
        let mut state = self.shared.lock();
        let next = loop {
            if let Some(reason) = &state.failed {
                return Err(Refusal::Failed(reason.clone()));
            }
            if let Some(next) = state.prepared.take() {
                break next;
            }
            if let Some(reason) = &state.full {
                return Err(Refusal::Full(reason.clone()));
            }
            state = self.shared.await_prepared(state);
        };
        state.segments.insert(next.sequence, next.clone());
        drop(state);
        self.shared.prepare.notify_all();
        self.greatest.insert(next.sequence, None);
        self.end = next
            .file
            .bytes()
            .map_err(|error| Refusal::Failed(error.to_string()))?;
        self.segment = next;
        self.at = SEGMENT_HEAD;
        self.synced = SEGMENT_HEAD;
        self.shared.lock().room = self.end - self.at;
        Ok(())
    }

    fn finish_round(&mut self, committed: Option<Position>) -> Result<(), Refusal> {
        self.must_sync |= !self.flushes.is_empty();
        let mut flushes = std::mem::take(&mut self.flushes);
        self.waiting.append(&mut flushes);
        if self.buffer.is_empty() && committed != self.committed {
            match self.make_room(0, false) {
                Ok(()) => self.begin_batch(),
                // The commit index is a convenience: it waits until there is room.
                Err(Refusal::Full(_)) => {}
                Err(failed) => return Err(failed),
            }
        }
        if !self.buffer.is_empty() {
            return self.write_batch(committed, false);
        }
        if std::mem::take(&mut self.must_sync) {
            self.sync()?;
        }
        self.answer();
        Ok(())
    }

    /// One write, one sync, then the index, then the callbacks.
    fn write_batch(&mut self, committed: Option<Position>, closed: bool) -> Result<(), Refusal> {
        let short = |bytes: u64| u32::try_from(bytes).expect("segments are smaller than 4 GiB");
        let batch = Batch {
            number: self.number,
            oldest: self.oldest,
            synced: short(self.synced),
            body: short((self.buffer.len() - BATCH_HEAD) as u64),
            committed,
            closed,
        };
        record::encode_batch(&batch, self.segment.seed, self.at, &mut self.buffer);
        if let Err(error) = self.segment.file.write_at(&self.buffer, self.at) {
            return Err(Refusal::Failed(format!(
                "writing segment {}: {error}",
                self.segment.sequence
            )));
        }
        self.at += self.buffer.len() as u64;
        self.number += 1;
        self.committed = committed;
        self.closed = closed;
        if std::mem::take(&mut self.must_sync) || self.shared.options.durability == Durability::Strict {
            self.sync()?;
        }
        self.publish();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.records = 0;
        self.answer();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Refusal> {
        if self.synced < self.at {
            let synced = self.segment.file.sync();
            synced.map_err(|e| Refusal::Failed(format!("syncing segment {}: {e}", self.segment.sequence)))?;
            self.synced = self.at;
            self.shared.lock().stats.syncs += 1;
        }
        Ok(())
    }

    /// Tells readers where the batch's entries are, and the preparer which segments are free.
    fn publish(&mut self) {
        let mut state = self.shared.lock();
        for (index, ticket, offset) in self.entries.drain(..) {
            state.index.store(index, ticket, self.segment.sequence, offset);
        }
        state.index.shrink_window();
        state.room = self.end - self.at;
        state.stats.batches += 1;
        state.stats.records += self.records;
        state.stats.bytes_written += self.buffer.len() as u64;
        let mut freed = false;
        while let Some(oldest) = state
            .segments
            .first_entry()
            .filter(|oldest| *oldest.key() < self.oldest)
        {
            let segment = oldest.remove();
            state.freed.push_back(segment);
            freed = true;
        }
        drop(state);
        if freed {
            self.shared.prepare.notify_all();
        }
    }

    fn answer(&mut self) {
        let bytes = self.waiting.iter().map(|(_, bytes)| bytes).sum::<u64>();
        self.shared.lock().queued_bytes -= bytes;
        for (done, _) in self.waiting.drain(..) {
            done(Ok(()));
        }
    }

    /// There is no room for an append. No later entry may be stored in its place, so all appends that are queued are
    /// refused with it; votes, truncations and purges still have their turn.
    fn refuse(&mut self, reason: &str, done: Done, bytes: u64, requests: &mut VecDeque<Request>) {
        // Before a refusal the batch is written, so what is still pending now is not in it.
        assert!(
            self.buffer.is_empty(),
            "the batch is written before a segment is asked for"
        );
        let mut refused = vec![(done, bytes)];
        let mut state = self.shared.lock();
        let later = std::mem::take(&mut state.queue);
        for request in requests.drain(..).chain(later).collect::<Vec<_>>() {
            if matches!(request.op, Op::Append { .. }) {
                refused.push((request.done, request.bytes));
            } else {
                requests.push_back(request);
            }
        }
        state.queued_bytes -= refused.iter().map(|(_, bytes)| bytes).sum::<u64>();
        state.index.remove_pending();
        drop(state);
        for (done, _) in refused {
            done(Err(storage_full(Some(reason))));
        }
    }

    fn fail(&mut self, reason: &str, rest: VecDeque<Request>) {
        self.buffer = Vec::new();
        self.entries = Vec::new();
        let mut all = std::mem::take(&mut self.waiting);
        all.append(&mut self.flushes);
        all.extend(rest.into_iter().map(|request| (request.done, request.bytes)));
        self.shared.lock().queued_bytes -= all.iter().map(|(_, bytes)| bytes).sum::<u64>();
        self.shared.fail(reason);
        for (done, _) in all {
            done(Err(failure(reason)));
        }
    }

    /// Leaves the mark that all was synced: it lets recovery tell damage to the last batches from a torn write.
    fn close(&mut self) {
        if self.closed || self.shared.lock().failed.is_some() {
            return;
        }
        let written = self
            .sync()
            .and_then(|()| self.make_room(0, false))
            .and_then(|()| {
                self.begin_batch();
                self.must_sync = true;
                self.write_batch(self.committed, true)
            });
        if let Err(Refusal::Failed(reason)) = written {
            self.fail(&reason, VecDeque::new());
        }
    }
}
