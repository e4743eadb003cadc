//! The handle: what callers do goes into memory and the queue here; the writer's thread does the rest.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;

use crate::disk::{Directory, Disk};
use crate::handle::Handle;
use crate::index::{Place, Source};
use crate::preparer::Preparer;
use crate::record::{self, RECORD_HEAD, entry_bytes};
use crate::recovery;
use crate::shared::{Op, Request, Shared, State, failure, storage_full};
use crate::types::{
    Done, ENTRY_BYTES_MAX, Entry, OpenError, Options, Position, QUEUE_BYTES_MAX, Recovered, Space, Stats,
    Vote,
};
use crate::writer::Writer;

/// An open log. Clones share it; dropping the last one writes out what is queued, marks the log as cleanly closed
/// and waits for the threads to end.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

impl Wal {
    /// Opens the log in `dir`, making it if there is none. Blocks: it reads all of the log.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; after `Corrupt`, nothing has been changed.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(Arc::new(Directory::open(dir)?), options)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered), OpenError> {
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |source| OpenError::Io { doing, source }
        };
        let mut found = recovery::recover(&*disk, &options)?;
        let recovered = found.recovered();
        let shared = Arc::new(Shared::new(&mut found, options, disk));
        let writer = Writer::new(shared.clone(), &found).map_err(io("read a segment's length"))?;
        let preparer = Preparer::new(shared.clone(), found.spares);
        let mut handle = Handle {
            shared,
            threads: Vec::new(),
            #[cfg(simulation)]
            stepper: None,
        };
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(io("start a thread"))
        };
        // In this order: the preparer ends when the writer has. If it cannot be started, the writer is stopped.
        handle
            .threads
            .push(start("wal-writer", Box::new(move || writer.run()))?);
        handle
            .threads
            .push(start("wal-preparer", Box::new(move || preparer.run()))?);
        Ok((
            Self {
                handle: Arc::new(handle),
            },
            recovered,
        ))
    }

    /// Opens the log on a simulated disk. It has no threads: `wake` is called when there is work for [`Wal::step`].
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    #[cfg(simulation)]
    pub fn open_simulated(
        disk: &crate::simulation::Disk,
        options: Options,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<(Self, Recovered), OpenError> {
        let mut found = recovery::recover(disk, &options)?;
        let recovered = found.recovered();
        let shared = Arc::new(Shared::new(&mut found, options, Arc::new(disk.clone())));
        let writer = Writer::new(shared.clone(), &found).map_err(|source| OpenError::Io {
            doing: "read a segment's length".to_owned(),
            source,
        })?;
        *shared.simulated_preparer() = Some(Preparer::new(shared.clone(), found.spares));
        let handle = Arc::new(Handle {
            shared,
            threads: Vec::new(),
            stepper: Some(crate::simulation::Stepper::new(writer, disk.clone(), wake)),
        });
        Ok((Self { handle }, recovered))
    }

    /// Does what is queued; `idle`: a commit index that moved is enough. What was stored counts as stored at the time
    /// that its completion says.
    #[cfg(simulation)]
    #[must_use]
    pub fn step(&self, idle: bool) -> Vec<crate::simulation::Completion> {
        let stepper = self.handle.stepper.as_ref();
        stepper.map_or_else(Vec::new, |stepper| stepper.step(idle))
    }

    /// Appends entries, which must follow the last one without a gap (after a purge of everything: the purged one);
    /// the first of all may have any index. Returns at once; the entries can be read when it returns.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: a gap, or a payload above [`ENTRY_BYTES_MAX`]. `WouldBlock`: [`QUEUE_BYTES_MAX`]. `StorageFull`:
    /// no room; nothing of this call is stored, and the log goes on. Other kinds: the log has failed for ever.
    /// `StorageFull` may also come through `done` only, if the disk became full after the call: then the entries
    /// from some point on are gone again from the log, with those of all appends queued after them.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        let bytes = entries
            .iter()
            .map(|entry| entry_bytes(entry.payload.len()) as u64)
            .sum();
        let mut state = self.handle.shared.lock();
        if let Err(error) = self.admit(&state, &entries, bytes) {
            drop(state);
            return refuse(done, error);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        for entry in &entries {
            state.index.push(entry, ticket);
        }
        self.enqueue(&mut state, Op::Append { entries, ticket }, done, bytes);
        Ok(())
    }

    fn admit(&self, state: &State, entries: &[Entry], bytes: u64) -> io::Result<()> {
        if let Some(reason) = &state.failed {
            return Err(failure(reason));
        }
        let invalid = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        let mut follows = state.index.last().or(state.purged).map(|last| last.index + 1);
        for entry in entries {
            let index = entry.position.index;
            if follows.is_some_and(|follows| follows != index) {
                return invalid(format!(
                    "entry {index} where {} should follow",
                    follows.unwrap_or_default()
                ));
            }
            if entry.payload.len() > ENTRY_BYTES_MAX {
                let length = entry.payload.len();
                return invalid(format!(
                    "entry {index} has {length} bytes, {ENTRY_BYTES_MAX} are the most"
                ));
            }
            follows = Some(index + 1);
        }
        if state.queued_bytes > 0 && state.queued_bytes + bytes > QUEUE_BYTES_MAX {
            let reason = format!(
                "{} bytes wait to be written: the disk is too slow",
                state.queued_bytes
            );
            return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
        }
        // While a segment is prepared, or is going to be, there is room. Batch headers come out of the reserve.
        let reserve = self.handle.shared.reserve();
        let last_segment = state.full.is_some() && state.prepared.is_none();
        if last_segment && state.queued_bytes + bytes + reserve + BATCH_SLACK > state.room {
            return Err(storage_full(state.full.as_deref()));
        }
        Ok(())
    }

    /// Saves a vote, in order with appends. Never refused for want of space.
    ///
    /// # Errors
    ///
    /// The log has failed for ever.
    pub fn save_vote(&self, vote: Vote, done: Done) -> io::Result<()> {
        #[cfg(simulation)]
        self.handle.note_vote(vote);
        self.control(Op::Vote(vote), done, |state| state.vote = Some(vote))
    }

    /// Notes the commit index. It is written with the next batch, or by itself once nothing was written for
    /// [`Options::commit_idle`].
    pub fn save_committed(&self, committed: Option<Position>) {
        let mut state = self.handle.shared.lock();
        let asleep = state.committed == state.committed_taken;
        state.committed = committed;
        drop(state);
        if asleep {
            #[cfg(simulation)]
            self.handle.wake();
            self.handle.shared.work.notify_one();
        }
    }

    /// Removes the entries with an index above `keep`'s; all of them if it is `None`.
    ///
    /// # Errors
    ///
    /// The log has failed for ever.
    pub fn truncate_after(&self, keep: Option<Position>, done: Done) -> io::Result<()> {
        let from = keep.map_or(0, |keep| keep.index.saturating_add(1));
        self.control(Op::Truncate(keep), done, |state| state.index.truncate_from(from))
    }

    /// Removes the entries up to and with `upto`, which may be beyond the last one. Segments without any other entry
    /// are used again. A lower mark than an earlier one's changes nothing.
    ///
    /// # Errors
    ///
    /// The log has failed for ever.
    pub fn purge(&self, upto: Position, done: Done) -> io::Result<()> {
        let mut state = self.handle.shared.lock();
        let upto = state
            .purged
            .filter(|purged| purged.index >= upto.index)
            .unwrap_or(upto);
        if let Some(reason) = &state.failed {
            let error = failure(reason);
            drop(state);
            return refuse(done, error);
        }
        state.index.purge_upto(upto.index);
        state.purged = Some(upto);
        self.enqueue(&mut state, Op::Purge(upto), done, RECORD_HEAD as u64);
        Ok(())
    }

    /// The entries of `range` that are present, in order: at least one if there is any, then as long as their payloads
    /// fit in `bytes_max`. Blocks on the disk for entries that are not in memory.
    ///
    /// # Errors
    ///
    /// The disk cannot be read, or what it gives does not check out (`InvalidData`).
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let sources = self.handle.shared.lock().index.sources(range.clone(), bytes_max);
            if let Some(entries) = self.gather(sources)? {
                return Ok(entries);
            }
            // A purge or a truncation came in between: look again.
        }
    }

    /// `None` if the entries have moved meanwhile.
    fn gather(&self, sources: Vec<Source>) -> io::Result<Option<Vec<Entry>>> {
        let mut entries = Vec::with_capacity(sources.len());
        let mut places: Vec<Place> = Vec::new();
        // Only the youngest are in memory, so all from the disk come first.
        for source in sources {
            match source {
                Source::Disk(place) if places.last().is_none_or(|last| follows(last, &place)) => {
                    places.push(place)
                }
                Source::Disk(place) => {
                    if !self.read(&places, &mut entries)? {
                        return Ok(None);
                    }
                    places = vec![place];
                }
                Source::Memory(entry) => {
                    if !self.read(&places, &mut entries)? {
                        return Ok(None);
                    }
                    places.clear();
                    entries.push(entry);
                }
            }
        }
        Ok(self.read(&places, &mut entries)?.then_some(entries))
    }

    /// Reads neighbours with one call. `false` if they have moved meanwhile.
    fn read(&self, places: &[Place], entries: &mut Vec<Entry>) -> io::Result<bool> {
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return Ok(true);
        };
        let Some(segment) = self.handle.shared.lock().segments.get(&first.segment).cloned() else {
            return Ok(false);
        };
        let start = first.offset as usize;
        let mut bytes = vec![0; last.offset as usize + entry_bytes(last.length as usize) - start];
        let read = segment.file.read_at(&mut bytes, u64::from(first.offset));
        let bytes = Bytes::from(bytes);
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let at = place.offset as usize - start;
            let record = &bytes[at..];
            let payload = record::decode_entry(record, u64::from(place.offset), segment.seed, place.position);
            if let (Some(payload), Ok(())) = (payload, &read) {
                found.push(Entry {
                    position: place.position,
                    payload: bytes.slice_ref(payload),
                });
                continue;
            }
            if !self.handle.shared.lock().index.is_at(place) {
                return Ok(false);
            }
            read?;
            let name = crate::segment::used_name(place.segment);
            let reason = format!(
                "entry {} at {} of {name} is damaged",
                place.position.index, place.offset
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        entries.append(&mut found);
        Ok(true)
    }

    /// Whether [`Wal::entries`] finds all from this index on in memory, so that it does not block on the disk.
    #[must_use]
    pub fn is_in_memory(&self, index: u64) -> bool {
        self.handle.shared.lock().index.is_in_memory(index)
    }

    /// The last vote given to [`Wal::save_vote`].
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.handle.shared.lock().vote
    }

    /// The last commit index given to [`Wal::save_committed`].
    #[must_use]
    pub fn committed(&self) -> Option<Position> {
        self.handle.shared.lock().committed
    }

    /// The last entry; without any, the last one purged.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        let state = self.handle.shared.lock();
        state.index.last().or(state.purged)
    }

    /// The last entry purged.
    #[must_use]
    pub fn purged(&self) -> Option<Position> {
        self.handle.shared.lock().purged
    }

    /// The index of the first entry present.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        self.handle.shared.lock().index.first_index()
    }

    /// Bytes of the payloads of all entries after this one.
    #[must_use]
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.handle.shared.lock().index.bytes_after(index)
    }

    /// The entry before the youngest ones up to `upto` that have at most `bytes_max` bytes of payload together: what may
    /// be purged when so much is to be kept.
    #[must_use]
    pub fn before_youngest(&self, upto: u64, bytes_max: u64) -> u64 {
        self.handle.shared.lock().index.before_youngest(upto, bytes_max)
    }

    /// Whether ordinary proposals should still be accepted.
    #[must_use]
    pub fn space(&self) -> Space {
        let under_way = self.handle.shared.options.segment_bytes_checked() / UNDER_WAY_SHARE;
        let state = self.handle.shared.lock();
        if state.full.is_none() {
            Space::Ok
        } else if state.queued_bytes + under_way <= state.room {
            Space::Low
        } else {
            Space::Full
        }
    }

    /// Why the log has failed for ever; `None` if it has not.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.handle.shared.lock().failed.clone()
    }

    /// Blocks until all that was queued before, and the commit index, is stored and synced, whatever the durability.
    /// Not to be called from a [`Done`].
    ///
    /// # Errors
    ///
    /// The log has failed for ever.
    pub fn flush(&self) -> io::Result<()> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done: Done = Box::new(move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        });
        self.control(Op::Flush, done, |_| {})?;
        #[cfg(simulation)]
        for completion in self.step(true) {
            (completion.done)();
        }
        receiver
            .recv()
            .unwrap_or_else(|_| Err(failure("the writer thread is gone")))
    }

    /// The same without blocking: calls `done` once all is stored and synced.
    ///
    /// # Errors
    ///
    /// The log has failed for ever.
    pub fn flush_then(&self, done: Done) -> io::Result<()> {
        self.control(Op::Flush, done, |_| {})
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.handle.shared.lock();
        Stats {
            segments: state.segments.len() as u64,
            cache_bytes: state.index.window_bytes() as u64,
            queued_bytes: state.queued_bytes,
            ..state.stats
        }
    }

    fn control(&self, op: Op, done: Done, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.handle.shared.lock();
        if let Some(reason) = &state.failed {
            let error = failure(reason);
            drop(state);
            return refuse(done, error);
        }
        change(&mut state);
        self.enqueue(&mut state, op, done, RECORD_HEAD as u64);
        Ok(())
    }

    fn enqueue(&self, state: &mut State, op: Op, done: Done, bytes: u64) {
        #[cfg(simulation)]
        let done = self.handle.defer(done);
        state.queued_bytes += bytes;
        state.queue.push_back(Request { op, done, bytes });
        self.handle.shared.work.notify_one();
        #[cfg(simulation)]
        self.handle.wake();
    }
}

/// One part in so many of a segment is kept for what was proposed before the space ended: 2 MiB of 8 MiB, a thousand
/// entries of the largest usual kind.
const UNDER_WAY_SHARE: u64 = 4;
/// Kept free for batch headers when the room that is left is reckoned.
const BATCH_SLACK: u64 = 256;
/// Entries of one segment are read together if no more than this lies between them.
const READ_GAP: u32 = 4096;

fn follows(last: &Place, next: &Place) -> bool {
    let end = last.offset as usize + entry_bytes(last.length as usize);
    last.segment == next.segment && (end..end + READ_GAP as usize).contains(&(next.offset as usize))
}

/// Tells both the caller and its callback.
fn refuse(done: Done, error: io::Error) -> io::Result<()> {
    done(Err(io::Error::new(error.kind(), error.to_string())));
    Err(error)
}
