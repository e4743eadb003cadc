//! Segment files: names, header, and how one is made ready.
//!
//! ```text
//!  0            8            12        16            24         32            4096
//! | "QUORWAL\0" | version u32 | crc u32 | sequence u64 | salt u64 | 0 ...      | batches ...          | zeros or old bytes |
//! ```
//!
//! The CRC-32C covers bytes 0..12 and 16..32. The salt is random and new for every use of a file. Batches start at
//! 4096, so that writing them never rewrites the header's page.
//!
//! | name              | what it is |
//! |-------------------|------------|
//! | `<sequence>.wal`  | in use, or ready for use (a valid header and no batch) |
//! | `<sequence>.spare`| no longer needed; the next segment is made from it, its blocks being allocated |
//! | `<sequence>.new`  | being filled with zeros; worthless after a crash |
//!
//! A file gets its `.wal` name only when its header and its zeros are synced, so a `.wal` file with a bad header is
//! corrupt, never torn.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::sync::Arc;

use crate::disk::{Disk, File};
use crate::record::{Seed, u32_at, u64_at};

/// Where the first batch of a segment starts.
pub(crate) const SEGMENT_HEAD: u64 = HEAD_PAGE as u64;
/// The version of the header, the batches and the records.
pub(crate) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"QUORWAL\0";
const HEADER_BYTES: usize = 32;
/// The header has a page of its own.
const HEAD_PAGE: usize = 4096;
/// Zeros are written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A segment in use or ready for use.
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) seed: Seed,
    pub(crate) file: Arc<dyn File>,
}

/// What is wrong with a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged,
    Version(u32),
}

/// `<sequence>.wal`.
pub(crate) fn used_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// `<sequence>.spare`.
pub(crate) fn spare_name(sequence: u64) -> String {
    format!("{sequence:016x}.spare")
}

fn new_name(sequence: u64) -> String {
    format!("{sequence:016x}.new")
}

/// The sequence number in a name with this ending.
pub(crate) fn sequence_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// A salt that nobody who writes entries can know.
pub(crate) fn fresh_salt() -> u64 {
    // The standard library seeds it from the operating system.
    RandomState::new().build_hasher().finish()
}

pub(crate) fn encode_header(sequence: u64, salt: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&sequence.to_le_bytes());
    header[24..].copy_from_slice(&salt.to_le_bytes());
    let crc = header_crc(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..HEADER_BYTES])
}

/// The seed of the segment that starts with these bytes.
pub(crate) fn decode_header(bytes: &[u8], sequence: u64) -> Result<Seed, BadHeader> {
    let header = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
    if &header[..8] != MAGIC || u32_at(header, 12) != header_crc(header) {
        return Err(BadHeader::Damaged);
    }
    // Every version keeps these first 16 bytes.
    if u32_at(header, 8) != VERSION {
        return Err(BadHeader::Version(u32_at(header, 8)));
    }
    if u64_at(header, 16) != sequence {
        return Err(BadHeader::Damaged);
    }
    Ok(Seed::new(u64_at(header, 24), sequence))
}

/// Makes a new segment of `bytes` bytes of zeros: what is appended later changes no metadata of the file.
pub(crate) fn create(disk: &dyn Disk, sequence: u64, bytes: u64) -> io::Result<Arc<Segment>> {
    let name = new_name(sequence);
    let made = disk.create(&name).and_then(|file| {
        write_zeros(&*file, SEGMENT_HEAD, bytes)?;
        Ok(file)
    });
    let finished = made.and_then(|file| finish(disk, &name, file, sequence));
    if finished.is_err() {
        // Gives the blocks back; if even that fails, the next start removes it.
        let _ = disk.remove(&name);
    }
    finished
}

/// Makes a segment from a spare file: no zeros needed, as nothing in it checks out under the new salt.
pub(crate) fn reuse(disk: &dyn Disk, spare: &str, sequence: u64, bytes: u64) -> io::Result<Arc<Segment>> {
    let file = disk.open(spare)?;
    if file.bytes()? != bytes {
        file.set_bytes(bytes)?;
    }
    finish(disk, spare, file, sequence)
}

fn finish(disk: &dyn Disk, name: &str, file: Arc<dyn File>, sequence: u64) -> io::Result<Arc<Segment>> {
    let salt = fresh_salt();
    let mut head = [0; HEAD_PAGE];
    head[..HEADER_BYTES].copy_from_slice(&encode_header(sequence, salt));
    file.write_at(&head, 0)?;
    file.sync()?;
    disk.rename(name, &used_name(sequence))?;
    disk.sync_names()?;
    Ok(Arc::new(Segment {
        sequence,
        seed: Seed::new(salt, sequence),
        file,
    }))
}

/// Writes zeros to `from..to`, without a sync.
pub(crate) fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let piece = usize::try_from(to - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_at(&ZEROS[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}
