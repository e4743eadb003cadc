//! A backup: a group's whole state at one log index, in one file that is checked when it is read.
//!
//! ```text
//!  8 bytes      4 bytes   4 bytes
//! | "QRBACK01" | crc32c  | header length | header (JSON, BackupHeader) | state (the service's snapshot) |
//!                         |<------------------- the crc covers this -------------------------------->|
//! ```
//!
//! Numbers are little-endian. A group that is founded from a backup goes on counting where the backup ends: log indexes,
//! and with them node ids and versions, are never used twice, in the old group and the new one together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::NodeId;
use crate::raft::snapshot::{self, SNAPSHOT_BYTES_MAX};
use crate::raft::types::{LeaderId, LogId, MemberNode, Membership, SnapshotMeta, StoredMembership};

const MAGIC: &[u8; 8] = b"QRBACK01";
const PREFIX_BYTES: usize = 16;
/// Of a header; ours have about two hundred.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupHeader {
    /// The version of this format: [`BackupHeader::FORMAT`].
    pub format: u32,
    /// The service whose state it is.
    pub service: String,
    /// The group that it was taken from.
    pub group_id: Uuid,
    /// The member that wrote it.
    pub member: String,
    /// The last log index whose effects it holds.
    pub index: u64,
    /// The newest time stamp that was applied, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What members share outside of the state and read it with, as [`Keeper::secret`] gives it; none where there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Looks after what a service's members share outside of the replicated state, and without which a part of it cannot be read.
pub trait Keeper: Send + Sync {
    /// What goes into a backup beside the state; none when there is nothing.
    fn secret(&self) -> Option<String>;

    /// The state of a backup as members of this group can read it.
    ///
    /// # Errors
    /// A sentence that says what is missing, when they could not.
    fn adopt(&self, state: Bytes, secret: Option<&str>) -> Result<Bytes, String>;
}

impl BackupHeader {
    /// The version that this program writes and reads.
    pub const FORMAT: u32 = 1;
}

/// A backup in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What it says of itself.
    pub header: BackupHeader,
    /// The service's snapshot.
    pub state: Bytes,
}

/// A file that a group is to be founded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreFrom {
    /// A backup, as [`Node::backup`](crate::Node::backup) gave it.
    pub file: PathBuf,
    /// The service that it must be of.
    pub service: String,
}

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read from its disk.
    #[error("the backup {file} cannot be read: {reason}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// It is no backup, or one that was changed or cut since.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// A newer program wrote it.
    #[error("the backup has format {0}: this program reads format {expected}", expected = BackupHeader::FORMAT)]
    Format(u32),
    /// It is of another service.
    #[error("the backup is one of a {found} group: a {wanted} group cannot begin with it")]
    OfAnother {
        /// The service in the header.
        found: String,
        /// The service of the group that is to be founded.
        wanted: String,
    },
}

impl Backup {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let header = serde_json::to_vec(&self.header).expect("numbers and strings always serialise");
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + header.len() + self.state.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(0);
        bytes.put_u32_le(u32::try_from(header.len()).expect("a header is small"));
        bytes.put_slice(&header);
        bytes.put_slice(&self.state);
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes.freeze()
    }

    /// The inverse of [`Backup::encode`].
    ///
    /// # Errors
    /// When anything in the bytes is not as it was written.
    pub fn decode(bytes: &Bytes) -> Result<Self, BackupError> {
        let damaged = |what: &str| BackupError::Damaged(what.to_owned());
        if bytes.len() < PREFIX_BYTES || &bytes[..8] != MAGIC {
            return Err(damaged("it does not begin with QRBACK01, so it is no backup"));
        }
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if crc32c::crc32c(&bytes[12..]) != number(8) {
            return Err(damaged(
                "its checksum differs, so it was changed or cut since it was written",
            ));
        }
        let header_end = PREFIX_BYTES + number(12) as usize;
        let header = bytes
            .get(PREFIX_BYTES..header_end)
            .filter(|header| header.len() <= HEADER_BYTES_MAX)
            .ok_or_else(|| damaged("its header has no sensible length"))?;
        // The version first: a newer header has fields that are not known here.
        let Format { format } =
            serde_json::from_slice(header).map_err(|error| damaged(&error.to_string()))?;
        if format != BackupHeader::FORMAT {
            return Err(BackupError::Format(format));
        }
        Ok(Self {
            header: serde_json::from_slice(header).map_err(|error| damaged(&error.to_string()))?,
            state: bytes.slice(header_end..),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not whole.
    pub fn read(file: &Path) -> Result<Self, BackupError> {
        let unreadable = |reason: String| BackupError::Unreadable {
            file: file.display().to_string(),
            reason,
        };
        let length = fs::metadata(file)
            .map_err(|error| unreadable(error.to_string()))?
            .len();
        if length > (SNAPSHOT_BYTES_MAX + PREFIX_BYTES + HEADER_BYTES_MAX) as u64 {
            return Err(unreadable(format!(
                "it has {length} bytes, more than any backup of ours"
            )));
        }
        let bytes = fs::read(file).map_err(|error| unreadable(error.to_string()))?;
        Self::decode(&bytes.into())
    }

    /// Refuses a backup of another service.
    ///
    /// # Errors
    /// When it is one.
    pub fn check_service(&self, wanted: &str) -> Result<(), BackupError> {
        if self.header.service == wanted {
            return Ok(());
        }
        Err(BackupError::OfAnother {
            found: self.header.service.clone(),
            wanted: wanted.to_owned(),
        })
    }

    /// The node id of the member that founds a group from this backup: greater than any in the old group at that index,
    /// and less than those of entries to come.
    pub(crate) fn founder(&self) -> NodeId {
        self.header.index + 1
    }

    /// The snapshot with which the new group begins, of which the founder is the only member. Term 0 is below that of
    /// any leader to come.
    pub(crate) fn first_snapshot(&self, founder: MemberNode) -> io::Result<Bytes> {
        let leader_id = LeaderId { term: 0, node_id: 0 };
        let last = LogId::new(leader_id, self.header.index);
        let id = self.founder();
        let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, founder)]))
            .expect("one voter with its node is a membership");
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
        };
        snapshot::encode(&meta, self.header.unix_ms, |to| to.write_all(&self.state))
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        Backup {
            header: BackupHeader {
                format: BackupHeader::FORMAT,
                service: "kv".to_owned(),
                group_id: Uuid::from_u128(7),
                member: "kv-0".to_owned(),
                index: 9,
                unix_ms: 5,
                secret: None,
            },
            state: Bytes::from_static(b"state"),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = backup().encode();
        let header = r#"{"format":1,"service":"kv","groupId":"00000000-0000-0000-0000-000000000007","member":"kv-0","index":9,"unixMs":5}"#;
        assert_eq!(&bytes[..8], b"QRBACK01");
        assert_eq!(bytes[12..16], u32::try_from(header.len()).unwrap().to_le_bytes());
        assert_eq!(&bytes[16..16 + header.len()], header.as_bytes());
        assert_eq!(&bytes[16 + header.len()..], b"state");
        assert_eq!(Backup::decode(&bytes).unwrap(), backup());
        let mut sealed = backup();
        sealed.header.secret = Some("key".to_owned());
        let bytes = sealed.encode();
        let header = header.replace('}', r#","secret":"key"}"#);
        assert_eq!(&bytes[16..16 + header.len()], header.as_bytes());
        assert_eq!(Backup::decode(&bytes).unwrap(), sealed);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = backup().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = Backup::decode(&damaged.into()).unwrap_err();
            assert!(matches!(error, BackupError::Damaged(_)), "bit {bit}: {error}");
        }
        for length in 0..bytes.len() {
            assert!(Backup::decode(&bytes.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_backup_of_a_newer_format_or_another_service_says_so() {
        let mut newer = backup();
        newer.header.format = 2;
        let error = Backup::decode(&newer.encode()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the backup has format 2: this program reads format 1"
        );
        let error = backup().check_service("tftp").unwrap_err();
        assert!(error.to_string().contains("one of a kv group"), "{error}");
    }
}
