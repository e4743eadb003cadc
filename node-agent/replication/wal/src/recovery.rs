//! From files to a log: reads all segments in order, tells a torn tail from corruption, and makes the tail safe.
//! The rules are in the crate's documentation.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::index::Index;
use crate::record::{self, ALIGN, BATCH_HEAD, Batch, Record, Seed};
use crate::segment::{self, BadHeader, SEGMENT_HEAD, Segment, sequence_of, spare_name, used_name};
use crate::{ENTRY_BYTES_MAX, Entry, OpenError, Options, Position, Recovered, Vote};

/// All that recovery found, ready to go on from.
pub(crate) struct Found {
    pub(crate) replay: Replay,
    /// All segments in use; the last one is written next.
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) current: Arc<Segment>,
    /// Where in `current` the next batch goes.
    pub(crate) at: u64,
    pub(crate) prepared: Option<Arc<Segment>>,
    /// Names of spare files.
    pub(crate) spares: Vec<String>,
    pub(crate) torn_bytes_cut: u64,
}

impl Found {
    pub(crate) fn recovered(&self) -> Recovered {
        Recovered {
            vote: self.replay.vote,
            committed: self.replay.committed,
            purged: self.replay.purged,
            last: self.replay.index.last().or(self.replay.purged),
            torn_bytes_cut: self.torn_bytes_cut,
            closed_cleanly: self.replay.closed,
        }
    }
}

/// The log as far as it has been read.
pub(crate) struct Replay {
    pub(crate) index: Index,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<Position>,
    pub(crate) purged: Option<Position>,
    /// The next batch's number; unknown before the first batch.
    pub(crate) number: Option<u64>,
    /// The oldest segment that is needed.
    pub(crate) oldest: u64,
    /// The last batch says that the log was closed, or there is no batch at all.
    pub(crate) closed: bool,
    /// The greatest index of the entries in each segment, truncated ones included.
    pub(crate) greatest: BTreeMap<u64, Option<u64>>,
}

/// A segment as read from disk.
struct Scanned {
    segment: Arc<Segment>,
    /// Where its last whole batch ends.
    end: usize,
    /// Beyond `end`: where the last byte is that is not zero.
    used: usize,
    batches: u64,
}

pub(crate) fn recover(disk: &dyn Disk, options: &Options) -> Result<Found, OpenError> {
    let names = disk
        .names()
        .map_err(|e| io_error("list the log's directory", e))?;
    let mut spares = Vec::new();
    let mut sequences = Vec::new();
    for name in names {
        if let Some(sequence) = sequence_of(&name, ".wal") {
            sequences.push(sequence);
        } else if sequence_of(&name, ".spare").is_some() {
            spares.push(name);
        } else if sequence_of(&name, ".new").is_some() {
            disk.remove(&name)
                .map_err(|e| io_error(&format!("remove {name}"), e))?;
        }
    }
    sequences.sort_unstable();
    let mut replay = Replay {
        index: Index::new(options.cache_bytes_max),
        vote: None,
        committed: None,
        purged: None,
        number: None,
        oldest: FIRST_SEGMENT,
        closed: true,
        greatest: BTreeMap::new(),
    };
    if sequences.is_empty() {
        let bytes = options.segment_bytes_checked();
        let first = segment::create(disk, FIRST_SEGMENT, bytes)
            .map_err(|e| io_error("make the log's first segment (is the disk full?)", e))?;
        let segments = BTreeMap::from([(FIRST_SEGMENT, first.clone())]);
        replay.number = Some(0);
        replay.greatest.insert(FIRST_SEGMENT, None);
        return Ok(Found {
            replay,
            segments,
            current: first,
            at: SEGMENT_HEAD,
            prepared: None,
            spares,
            torn_bytes_cut: 0,
        });
    }
    let scanned = scan_all(disk, &sequences, &mut replay)?;
    finish(disk, scanned, replay, spares)
}

/// Segments are numbered from here.
const FIRST_SEGMENT: u64 = 1;
/// Pages of the segments that a failed sync can have hit are read from the disk, not from the cache: the one that
/// was written last, and the one prepared after it.
const SEGMENTS_REREAD: usize = 2;

fn scan_all(disk: &dyn Disk, sequences: &[u64], replay: &mut Replay) -> Result<Vec<Scanned>, OpenError> {
    let mut all: Vec<Scanned> = Vec::new();
    for (nth, &sequence) in sequences.iter().enumerate() {
        if nth > 0 && sequence != sequences[nth - 1] + 1 {
            return Err(corrupt(sequences[nth - 1] + 1, 0, "the segment is missing"));
        }
        let reread = nth + SEGMENTS_REREAD >= sequences.len();
        let end = all
            .last()
            .map(|before| (before.segment.sequence, before.end as u64));
        let scanned = scan(disk, sequence, reread, end, replay)?;
        // A segment is first written when the one before it is complete and synced.
        let before = all.last().filter(|before| before.batches == 0);
        if let (Some(before), true) = (before, scanned.batches > 0) {
            let reason = "no batch in this segment checks out, but one in a later segment does";
            return Err(corrupt(before.segment.sequence, SEGMENT_HEAD, reason));
        }
        all.push(scanned);
    }
    if replay.oldest < sequences[0] {
        return Err(corrupt(
            replay.oldest,
            0,
            "the segment is missing, or its successor's first batch is bad",
        ));
    }
    Ok(all)
}

/// Reads one segment. `before` is where the batches of the one before it end.
fn scan(
    disk: &dyn Disk,
    sequence: u64,
    reread: bool,
    before: Option<(u64, u64)>,
    replay: &mut Replay,
) -> Result<Scanned, OpenError> {
    let name = used_name(sequence);
    let read = || -> io::Result<_> {
        let file = disk.open(&name)?;
        if reread {
            // What a killed process wrote but did not sync must be durable before anything is built on it.
            file.sync()?;
            file.forget_cached();
        }
        let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        Ok((file, bytes))
    };
    let (file, bytes) = read().map_err(|e| io_error(&format!("read {name}"), e))?;
    let seed = segment::decode_header(&bytes, sequence).map_err(|bad| match bad {
        BadHeader::Damaged => corrupt(sequence, 0, "the segment's header does not check out"),
        BadHeader::Version(version) => OpenError::Version {
            segment: sequence,
            version,
        },
    })?;
    let mut end = usize::try_from(SEGMENT_HEAD).expect("small");
    let mut batches = 0;
    while let Some((batch, next)) = whole_batch(&bytes, end, seed) {
        if replay.number.is_some_and(|expected| expected != batch.number) {
            let (segment, offset) = before.filter(|_| batches == 0).unwrap_or((sequence, end as u64));
            return Err(corrupt(
                segment,
                offset,
                "batches from here on are lost: the next number does not follow",
            ));
        }
        apply(&bytes, end, next, &batch, sequence, seed, replay)?;
        end = next;
        batches += 1;
    }
    if let Some(proof) = proof_of_corruption(&bytes, end, seed) {
        let reason = format!("this batch does not check out, but the one at {proof} says it had been synced");
        return Err(corrupt(sequence, end as u64, &reason));
    }
    let used = bytes[end..]
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(end, |last| end + last + 1);
    Ok(Scanned {
        segment: Arc::new(Segment { sequence, seed, file }),
        end,
        used,
        batches,
    })
}

/// The batch at `at` and where it ends, if its header and all its records check out.
fn whole_batch(bytes: &[u8], at: usize, seed: Seed) -> Option<(Batch, usize)> {
    let batch = record::decode_batch(bytes, at, seed)?;
    let end = at + BATCH_HEAD + batch.body as usize;
    let mut next = at + BATCH_HEAD;
    while next < end {
        next += record::decode(bytes, next, seed)?.1;
    }
    (next == end).then_some((batch, end))
}

/// A batch beyond `bad` that was written after everything up to beyond `bad` had been synced: then what should stand
/// at `bad` was on the disk once, and is not torn but corrupt.
fn proof_of_corruption(bytes: &[u8], bad: usize, seed: Seed) -> Option<usize> {
    (bad..bytes.len())
        .step_by(ALIGN)
        .find(|at| record::decode_batch(bytes, *at, seed).is_some_and(|batch| batch.synced as usize > bad))
}

fn apply(
    bytes: &[u8],
    at: usize,
    end: usize,
    batch: &Batch,
    sequence: u64,
    seed: Seed,
    replay: &mut Replay,
) -> Result<(), OpenError> {
    let mut next = at + BATCH_HEAD;
    let greatest = replay.greatest.entry(sequence).or_default();
    while next < end {
        let (record, length) = record::decode(bytes, next, seed).expect("whole_batch has decoded it");
        match record {
            Record::Entry(position, payload) => {
                let follows = replay.index.last().map_or(position.index, |last| last.index + 1);
                if position.index != follows || payload.len() > ENTRY_BYTES_MAX {
                    let reason = format!("entry {} where {follows} should follow", position.index);
                    return Err(corrupt(sequence, next as u64, &reason));
                }
                let entry = Entry {
                    position,
                    payload: Bytes::copy_from_slice(payload),
                };
                let offset = u32::try_from(next).expect("segments are smaller than 4 GiB");
                *greatest = (*greatest).max(Some(position.index));
                replay.index.push_stored(&entry, sequence, offset);
            }
            Record::Vote(vote) => replay.vote = Some(vote),
            Record::Truncate(keep) => replay
                .index
                .truncate_from(keep.map_or(0, |keep| keep.index.saturating_add(1))),
            Record::Purge(upto) => {
                replay.index.purge_upto(upto.index);
                replay.purged = Some(upto);
            }
        }
        next += length;
    }
    replay.committed = batch.committed;
    replay.number = Some(batch.number + 1);
    replay.oldest = batch.oldest;
    replay.closed = batch.closed;
    Ok(())
}

/// Chooses where to go on, and makes sure that nothing beyond that place can come back.
fn finish(
    disk: &dyn Disk,
    mut scanned: Vec<Scanned>,
    mut replay: Replay,
    mut spares: Vec<String>,
) -> Result<Found, OpenError> {
    let with_batches = scanned
        .iter()
        .rposition(|scanned| scanned.batches > 0)
        .unwrap_or(0);
    let later = scanned.split_off(with_batches + 1);
    let last = scanned.last().expect("recover found at least one segment");
    let (current, end, used) = (last.segment.clone(), last.end, last.used);
    // Without any batch the log is as new; what there is of a first batch was never acknowledged.
    let fresh = replay.number.is_none();
    let safe = replay.closed && !fresh;
    let mut torn_bytes_cut = 0;
    let mut prepared = None;
    if safe {
        let mut later = later.into_iter();
        prepared = later.next().map(|scanned| scanned.segment);
        retire(disk, later.collect(), &mut spares)?;
    } else {
        torn_bytes_cut = torn_bytes(end, used, last.segment.as_ref())?;
        if used > end {
            let zeroed = segment::write_zeros(&*current.file, end as u64, used as u64)
                .and_then(|()| current.file.sync());
            let doing = format!("clear the torn tail of {}", used_name(current.sequence));
            zeroed.map_err(|e| io_error(&doing, e))?;
        }
        // Their header stands for a new salt, so that no piece of a torn first batch checks out any more.
        retire(disk, later, &mut spares)?;
    }
    disk.sync_names()
        .map_err(|e| io_error("sync the log's directory", e))?;
    // A commit index beyond the stored entries is true of those entries too.
    let last = replay.index.last().or(replay.purged);
    if replay
        .committed
        .is_some_and(|committed| last.is_none_or(|last| last.index < committed.index))
    {
        replay.committed = last;
    }
    replay.number.get_or_insert(0);
    let needed = replay.oldest.min(current.sequence);
    replay.greatest.entry(current.sequence).or_default();
    replay.greatest.retain(|sequence, _| *sequence >= needed);
    let segments = scanned
        .into_iter()
        .map(|scanned| (scanned.segment.sequence, scanned.segment))
        .collect();
    Ok(Found {
        replay,
        segments,
        current,
        at: end as u64,
        prepared,
        spares,
        torn_bytes_cut,
    })
}

/// Turns segments without a batch into spares, the youngest first, so that no gap can appear.
fn retire(disk: &dyn Disk, empty: Vec<Scanned>, spares: &mut Vec<String>) -> Result<(), OpenError> {
    for scanned in empty.into_iter().rev() {
        let (used, spare) = (
            used_name(scanned.segment.sequence),
            spare_name(scanned.segment.sequence),
        );
        disk.rename(&used, &spare)
            .and_then(|()| disk.sync_names())
            .map_err(|e| io_error(&format!("rename {used}"), e))?;
        if !spares.contains(&spare) {
            spares.push(spare);
        }
    }
    Ok(())
}

/// How much of batches that were being written is cut, as far as their headers tell: the bytes of a recycled file's
/// former life cannot be told from those of a batch whose header did not reach the disk, and do not count.
fn torn_bytes(end: usize, used: usize, segment: &Segment) -> Result<u64, OpenError> {
    let mut bytes = vec![0; used];
    let name = used_name(segment.sequence);
    segment
        .file
        .read_at(&mut bytes[end..], end as u64)
        .map_err(|e| io_error(&format!("read {name}"), e))?;
    let batch_end = |at: usize| {
        let batch = record::decode_batch(&bytes, at, segment.seed)?;
        Some(at + BATCH_HEAD + batch.body as usize - end)
    };
    Ok((end..used)
        .step_by(ALIGN)
        .filter_map(batch_end)
        .max()
        .unwrap_or(0) as u64)
}

fn corrupt(segment: u64, offset: u64, reason: &str) -> OpenError {
    OpenError::Corrupt {
        segment,
        offset,
        reason: reason.to_owned(),
    }
}

fn io_error(doing: &str, source: io::Error) -> OpenError {
    OpenError::Io {
        doing: doing.to_owned(),
        source,
    }
}
