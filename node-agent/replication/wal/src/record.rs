//! Bytes <-> records. Pure: no files, no clocks.
//!
//! ```text
//!  0        4        8      9       10        16      24      32       40
//! | crc u32 | len u32 | kind | flags | 0 (6 B) | term | node | index  | payload (len bytes) | 0 to a multiple of 8 |
//! ```
//!
//! All numbers are little endian; every record starts at a multiple of 8 from the start of its segment. The CRC-32C
//! covers, in this order: the segment's salt and sequence number, the record's own offset in the segment, then all
//! bytes after the CRC, padding included. A record is therefore valid in one place of one use of one file only:
//! what a recycled file still holds from its former life, or a log that somebody stored as an entry's payload, never
//! checks out.
//!
//! | kind | name     | flags                     | term, node, index   | payload |
//! |------|----------|---------------------------|---------------------|---------|
//! | 1    | Batch    | 1: has committed, 2: last before a clean close | committed | number u64, oldest u64, synced u32, body u32 |
//! | 2    | Entry    | 0                         | the entry's         | opaque  |
//! | 3    | Vote     | 1: committed              | term, node, 0       | empty   |
//! | 4    | Truncate | 1: has a position to keep | last entry kept     | empty   |
//! | 5    | Purge    | 0                         | last entry removed  | empty   |
//!
//! The version of all this is in the segment's header ([`crate::segment`]).

use crate::{ENTRY_BYTES_MAX, Position, Vote};

/// Bytes before a record's payload.
pub(crate) const RECORD_HEAD: usize = 40;
/// Bytes of a whole batch header: a record with 24 bytes of payload.
pub(crate) const BATCH_HEAD: usize = RECORD_HEAD + BATCH_PAYLOAD;
/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 8;

const BATCH_PAYLOAD: usize = 24;
const FLAG_PRESENT: u8 = 1;
const FLAG_CLOSED: u8 = 2;
const KIND_BATCH: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_VOTE: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;

/// What ties a CRC to one use of one segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(salt: u64, sequence: u64) -> Self {
        Self(crc32c::crc32c_append(
            crc32c::crc32c(&salt.to_le_bytes()),
            &sequence.to_le_bytes(),
        ))
    }

    fn crc(self, offset: u64, after_crc: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), after_crc)
    }
}

/// The header of a batch: all that one write stores, all or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Counts all batches of the log, without gaps, over all segments.
    pub(crate) number: u64,
    /// The oldest segment that is needed once this batch is stored; older ones may be gone.
    pub(crate) oldest: u64,
    /// Everything in this segment before this offset had been synced when this batch was written.
    pub(crate) synced: u32,
    /// Bytes of the records that follow.
    pub(crate) body: u32,
    /// The commit index at that time.
    pub(crate) committed: Option<Position>,
    /// Nothing was under way after this batch: the log was closed.
    pub(crate) closed: bool,
}

/// A record other than a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Entry(Position, &'a [u8]),
    Vote(Vote),
    Truncate(Option<Position>),
    Purge(Position),
}

impl Record<'_> {
    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Record::Entry(_, payload) => entry_bytes(payload.len()),
            Record::Vote(_) | Record::Truncate(_) | Record::Purge(_) => RECORD_HEAD,
        }
    }
}

/// Bytes on disk of an entry with this much payload.
pub(crate) fn entry_bytes(payload: usize) -> usize {
    RECORD_HEAD + payload.next_multiple_of(ALIGN)
}

/// Appends `record` to `buffer`, whose first byte goes to offset `base` of the segment.
pub(crate) fn encode(record: &Record<'_>, seed: Seed, base: u64, buffer: &mut Vec<u8>) {
    let none = Position::default();
    let (kind, flags, position, payload): (u8, u8, Position, &[u8]) = match *record {
        Record::Entry(position, payload) => (KIND_ENTRY, 0, position, payload),
        Record::Vote(vote) => {
            let position = Position {
                term: vote.term,
                node: vote.node,
                index: 0,
            };
            (KIND_VOTE, u8::from(vote.committed), position, &[])
        }
        Record::Truncate(keep) => (KIND_TRUNCATE, u8::from(keep.is_some()), keep.unwrap_or(none), &[]),
        Record::Purge(upto) => (KIND_PURGE, 0, upto, &[]),
    };
    put(kind, flags, position, payload, seed, base, buffer);
}

/// Writes a batch header over the first [`BATCH_HEAD`] bytes of `buffer`, which goes to offset `base` of the segment.
pub(crate) fn encode_batch(batch: &Batch, seed: Seed, base: u64, buffer: &mut [u8]) {
    let mut payload = [0; BATCH_PAYLOAD];
    payload[..8].copy_from_slice(&batch.number.to_le_bytes());
    payload[8..16].copy_from_slice(&batch.oldest.to_le_bytes());
    payload[16..20].copy_from_slice(&batch.synced.to_le_bytes());
    payload[20..].copy_from_slice(&batch.body.to_le_bytes());
    let mut flags = u8::from(batch.committed.is_some());
    if batch.closed {
        flags |= FLAG_CLOSED;
    }
    let mut head = Vec::with_capacity(BATCH_HEAD);
    put(
        KIND_BATCH,
        flags,
        batch.committed.unwrap_or_default(),
        &payload,
        seed,
        base,
        &mut head,
    );
    buffer[..BATCH_HEAD].copy_from_slice(&head);
}

fn put(kind: u8, flags: u8, at: Position, payload: &[u8], seed: Seed, base: u64, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    let length = u32::try_from(payload.len()).expect("append refuses payloads above ENTRY_BYTES_MAX");
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&[kind, flags, 0, 0, 0, 0, 0, 0]);
    for number in [at.term, at.node, at.index] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    buffer.extend_from_slice(payload);
    buffer.resize(start + RECORD_HEAD + payload.len().next_multiple_of(ALIGN), 0);
    let crc = seed.crc(base + start as u64, &buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The batch header at `at` of the segment, if a valid one is there.
pub(crate) fn decode_batch(segment: &[u8], at: usize, seed: Seed) -> Option<Batch> {
    let raw = raw(segment, at)?;
    // The cheap tests come first: a search tries every multiple of 8.
    if raw.kind != KIND_BATCH
        || raw.payload.len() != BATCH_PAYLOAD
        || raw.flags > 3
        || !raw.checks_out(at, seed)
    {
        return None;
    }
    Some(Batch {
        number: u64_at(raw.payload, 0),
        oldest: u64_at(raw.payload, 8),
        synced: u32_at(raw.payload, 16),
        body: u32_at(raw.payload, 20),
        committed: (raw.flags & FLAG_PRESENT != 0).then_some(raw.position),
        closed: raw.flags & FLAG_CLOSED != 0,
    })
}

/// The record at `at` of the segment and its bytes on disk, if a valid one other than a batch header is there.
pub(crate) fn decode(segment: &[u8], at: usize, seed: Seed) -> Option<(Record<'_>, usize)> {
    let raw = raw(segment, at)?;
    if !raw.checks_out(at, seed) {
        return None;
    }
    let record = record(&raw)?;
    Some((record, record.bytes()))
}

/// The payload of the entry `position`, whose record is `bytes` and stands at offset `offset` of its segment.
pub(crate) fn decode_entry(bytes: &[u8], offset: u64, seed: Seed, position: Position) -> Option<&[u8]> {
    let raw = raw(bytes, 0)?;
    if seed.crc(offset, raw.after_crc) != raw.crc {
        return None;
    }
    match record(&raw)? {
        Record::Entry(found, payload) if found == position => Some(payload),
        _ => None,
    }
}

fn record<'a>(raw: &Raw<'a>) -> Option<Record<'a>> {
    let present = raw.flags & FLAG_PRESENT != 0;
    let bare = raw.payload.is_empty() && raw.flags <= FLAG_PRESENT;
    match raw.kind {
        KIND_ENTRY if raw.flags == 0 => Some(Record::Entry(raw.position, raw.payload)),
        KIND_VOTE if bare => Some(Record::Vote(Vote {
            term: raw.position.term,
            node: raw.position.node,
            committed: present,
        })),
        KIND_TRUNCATE if bare => Some(Record::Truncate(present.then_some(raw.position))),
        KIND_PURGE if bare && !present => Some(Record::Purge(raw.position)),
        _ => None,
    }
}

/// A record whose shape fits; its CRC is not yet checked.
struct Raw<'a> {
    crc: u32,
    kind: u8,
    flags: u8,
    position: Position,
    payload: &'a [u8],
    after_crc: &'a [u8],
}

impl Raw<'_> {
    fn checks_out(&self, at: usize, seed: Seed) -> bool {
        seed.crc(at as u64, self.after_crc) == self.crc
    }
}

fn raw(segment: &[u8], at: usize) -> Option<Raw<'_>> {
    let bytes = segment.get(at..)?;
    let head = bytes.get(..RECORD_HEAD)?;
    let length = u32_at(head, 4) as usize;
    if head[8] == 0 || length > ENTRY_BYTES_MAX {
        return None;
    }
    let whole = bytes.get(..entry_bytes(length))?;
    Some(Raw {
        crc: u32_at(head, 0),
        kind: head[8],
        flags: head[9],
        position: Position {
            term: u64_at(head, 16),
            node: u64_at(head, 24),
            index: u64_at(head, 32),
        },
        payload: &whole[RECORD_HEAD..RECORD_HEAD + length],
        after_crc: &whole[4..],
    })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
