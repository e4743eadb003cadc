//! The snapshot file: one a member, written aside and renamed, checked when read.
//!
//! ```text
//!  8 bytes      4 bytes   4 bytes
//! | "QRSNAP01" | crc32c  | header length | header (postcard, HeaderV1) | state (the service's bytes) |
//!                         |<------------------- the crc covers this ------------------------------->|
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::raft::codec;
use crate::raft::pages::{Counted, Pages};
use crate::raft::types::{LeaderId, LogId, SnapshotMeta, StoredMembership};

const MAGIC: &[u8; 8] = b"QRSNAP01";
const PREFIX_BYTES: usize = 16;
/// The largest snapshot that is read or received.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

#[derive(Serialize, Deserialize)]
struct HeaderV1 {
    last: Option<(u64, NodeId, u64)>,
    membership_at: Option<(u64, NodeId, u64)>,
    membership: Vec<u8>,
    /// The newest stamp that was applied, so that time never goes back after a restore.
    clock_ms: u64,
}

/// A snapshot taken apart.
pub(crate) struct Parts {
    pub(crate) meta: SnapshotMeta,
    pub(crate) clock_ms: u64,
    pub(crate) state: Bytes,
}

fn to_tuple(id: &LogId) -> (u64, NodeId, u64) {
    (id.leader_id.term, id.leader_id.node_id, id.index)
}

fn to_log_id((term, node_id, index): (u64, NodeId, u64)) -> LogId {
    LogId::new(LeaderId { term, node_id }, index)
}

/// The file's bytes. `state` writes the service's, twice, and the same.
pub(crate) fn encode(
    meta: &SnapshotMeta,
    clock_ms: u64,
    state: impl Fn(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<Bytes> {
    let header = HeaderV1 {
        last: meta.last_log_id.as_ref().map(to_tuple),
        membership_at: meta.last_membership.log_id().as_ref().map(to_tuple),
        membership: codec::encode_membership(meta.last_membership.membership()),
        clock_ms,
    };
    let header = postcard::to_allocvec(&header).expect("numbers and bytes in memory always serialise");
    let header_length = u32::try_from(header.len()).expect("a header is small");
    let mut state_bytes = Counted::default();
    state(&mut state_bytes)?;
    let mut pages = Pages::for_bytes(PREFIX_BYTES + header.len() + state_bytes.0)?;
    pages.write_all(MAGIC)?;
    pages.write_all(&[0; 4])?;
    pages.write_all(&header_length.to_le_bytes())?;
    pages.write_all(&header)?;
    state(&mut pages)?;
    let bytes = pages.filled_mut();
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(pages.freeze())
}

/// The inverse of [`encode`]; an error says what is wrong with the bytes.
pub(crate) fn decode(bytes: &Bytes) -> io::Result<Parts> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("snapshot unreadable: {what}"));
    if bytes.len() < PREFIX_BYTES || &bytes[..8] != MAGIC {
        return Err(bad("it does not begin with QRSNAP01"));
    }
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if crc32c::crc32c(&bytes[12..]) != number(8) {
        return Err(bad("its checksum differs"));
    }
    let header_end = PREFIX_BYTES + number(12) as usize;
    let header = bytes
        .get(PREFIX_BYTES..header_end)
        .ok_or_else(|| bad("its header is cut off"))?;
    let header: HeaderV1 = postcard::from_bytes(header).map_err(|error| bad(&error.to_string()))?;
    let membership = codec::decode_membership(&header.membership).map_err(|error| bad(&error.to_string()))?;
    let meta = SnapshotMeta {
        last_log_id: header.last.map(to_log_id),
        last_membership: StoredMembership::new(header.membership_at.map(to_log_id), membership),
    };
    Ok(Parts {
        meta,
        clock_ms: header.clock_ms,
        state: bytes.slice(header_end..),
    })
}

/// Where a member keeps its snapshot.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    directory: Arc<Path>,
}

impl SnapshotFile {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("snapshot")
    }

    /// The length of the file; 0 before the first snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |metadata| metadata.len())
    }

    /// The current snapshot's bytes; none before the first.
    pub(crate) fn read(&self) -> io::Result<Option<Bytes>> {
        match File::open(self.path()).and_then(Pages::read) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the snapshot: written aside, synced, renamed, the directory synced. A failure leaves the old one.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let aside = self.directory.join("snapshot.tmp");
        let written = File::create(&aside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&aside, self.path()));
        if renamed.is_err() {
            // Best effort: the space is needed, and the next write truncates the file anyway.
            let _ = fs::remove_file(&aside);
        }
        renamed?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Bytes {
        encode(&meta(), 5, |to| to.write_all(b"state")).unwrap()
    }

    fn meta() -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(to_log_id((2, 1, 9))),
            last_membership: StoredMembership::default(),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encoded();
        assert_eq!(&bytes[..8], b"QRSNAP01");
        assert_eq!(&bytes[12..], b"\x09\0\0\0\x01\x02\x01\x09\0\x02\0\0\x05state");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encoded();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_snapshot_survives_a_round_trip_through_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(directory.path());
        assert!(file.read().unwrap().is_none());
        file.write(&encoded()).unwrap();
        let parts = decode(&file.read().unwrap().unwrap()).unwrap();
        assert_eq!(
            (parts.meta, parts.clock_ms, &parts.state[..]),
            (meta(), 5, &b"state"[..])
        );
    }
}
