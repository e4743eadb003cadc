//! The bytes of the outbox's file.
//!
//! ```text
//!  8 bytes      4 bytes  4 bytes
//! | "QROUTB01" | length | crc32c | record (postcard, Stored) | length | crc32c | record | ...
//!                                 |<--- the crc covers this -->|
//! ```
//!
//! A record that cannot be read is a torn tail when nothing readable follows: it was never acknowledged. Else it is
//! damage, and what could be read is used.

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::Own;
use crate::state::{Owner, Remembered};

const MAGIC: &[u8; 8] = b"QROUTB01";
const HEAD_BYTES: usize = 8;
/// A record of the longest key and value.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// One record. A stored format: variants and fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// The last number that was used before this file began.
    Last(u64),
    /// A write, and the node id of the member then.
    Write(NodeId, Remembered),
    /// The same, and the owner of its request.
    WriteFor(NodeId, Remembered, Owner),
}

impl From<Own> for Stored {
    fn from(own: Own) -> Self {
        match own.owner {
            Owner::NOBODY => Self::Write(own.member, own.write),
            owner => Self::WriteFor(own.member, own.write, owner),
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last number that was used.
    pub last: u64,
    /// The writes, in order.
    pub writes: Vec<Own>,
    /// The length of what could be read without a gap.
    pub good_bytes: usize,
    /// Whether acknowledged records may be missing.
    pub is_damaged: bool,
}

/// A file with these records.
#[must_use]
pub fn encode<'a>(records: impl IntoIterator<Item = &'a Stored>, with_magic: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if with_magic {
        bytes.extend_from_slice(MAGIC);
    }
    for record in records {
        let record = postcard::to_allocvec(record).expect("values in memory always serialise");
        let length = u32::try_from(record.len()).expect("a record is small");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
        bytes.extend_from_slice(&record);
    }
    bytes
}

/// Reads a file. Never fails: what cannot be read is left out, and told.
#[must_use]
pub fn recover(bytes: &[u8]) -> Recovered {
    let mut recovered = Recovered::default();
    if bytes.is_empty() {
        return recovered;
    }
    let mut at = MAGIC.len();
    let mut is_whole = bytes.starts_with(MAGIC);
    recovered.is_damaged = !is_whole && !MAGIC.starts_with(bytes);
    if is_whole {
        recovered.good_bytes = at;
    }
    while at < bytes.len() {
        match record_at(bytes, at) {
            Some((record, end)) => {
                // Something readable behind a gap: the gap was no torn tail.
                recovered.is_damaged |= !is_whole;
                recovered.take(record);
                at = end;
                if is_whole {
                    recovered.good_bytes = at;
                }
            }
            None => {
                is_whole = false;
                at += 1;
            }
        }
    }
    recovered
}

impl Recovered {
    fn take(&mut self, record: Stored) {
        match record {
            Stored::Last(last) => self.last = self.last.max(last),
            Stored::Write(member, write) => self.take_write(member, write, Owner::NOBODY),
            Stored::WriteFor(member, write, owner) => self.take_write(member, write, owner),
        }
    }

    fn take_write(&mut self, member: NodeId, write: Remembered, owner: Owner) {
        self.last = self.last.max(write.number);
        self.writes.push(Own { member, write, owner });
    }
}

fn record_at(bytes: &[u8], at: usize) -> Option<(Stored, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = usize::try_from(number(at)?).ok()?;
    if length == 0 || length > RECORD_BYTES_MAX {
        return None;
    }
    let end = at + HEAD_BYTES + length;
    let record = bytes.get(at + HEAD_BYTES..end)?;
    if crc32c::crc32c(record) != number(at + 4)? {
        return None;
    }
    Some((postcard::from_bytes(record).ok()?, end))
}
