//! The values that callers exchange with the log.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::segment::SEGMENT_HEAD;

/// The greatest payload of one entry. An entry that does not fit in a segment of the usual length gets a longer one.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;
/// When this much is queued, [`crate::Wal::append`] answers [`io::ErrorKind::WouldBlock`]: a disk that is so far
/// behind will not keep up, and the memory is needed elsewhere. One call is taken whatever its size.
pub const QUEUE_BYTES_MAX: u64 = 128 << 20;

/// Called exactly once: from the writer's thread, or, if the call itself returns an error, before it returns.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The place of an entry in the log: a Raft log id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The node id of that leader.
    pub node: u64,
    /// The entry's index.
    pub index: u64,
}

/// What the member has voted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate.
    pub node: u64,
    /// Whether a quorum has granted it.
    pub committed: bool,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// Opaque; at most [`ENTRY_BYTES_MAX`] bytes. While the entry is in the memory window, so is the whole buffer
    /// that this is a slice of.
    pub payload: Bytes,
}

/// When something counts as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is synced: it survives power cuts.
    #[default]
    Strict,
    /// When it is written: it survives the process, not the machine.
    Relaxed,
}

/// How to keep a log.
#[derive(Debug, Clone)]
pub struct Options {
    /// When something counts as stored.
    pub durability: Durability,
    /// The length of a segment file: 8 KiB to 1 GiB, a multiple of 4 KiB; other values are rounded.
    pub segment_bytes: u64,
    /// How much of the youngest entries is kept in memory. Entries not yet stored are kept beyond it.
    pub cache_bytes_max: usize,
    /// How long nothing else must have been written before a moved commit index is written by itself.
    pub commit_idle: Duration,
    /// How long to wait after a segment could not be prepared, unless a purge frees one earlier.
    pub retry_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Strict,
            segment_bytes: 8 << 20,
            cache_bytes_max: 16 << 20,
            commit_idle: Duration::from_millis(200),
            retry_after: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// The segment length after rounding.
    pub(crate) fn segment_bytes_checked(&self) -> u64 {
        self.segment_bytes
            .clamp(2 * SEGMENT_HEAD, 1 << 30)
            .next_multiple_of(SEGMENT_HEAD)
    }
}

/// What was found when the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The last vote saved.
    pub vote: Option<Vote>,
    /// The last commit index saved; never beyond `last`.
    pub committed: Option<Position>,
    /// The last entry purged.
    pub purged: Option<Position>,
    /// The last entry present; without any, the last one purged.
    pub last: Option<Position>,
    /// Bytes of batches that were being written when the machine or process stopped, as far as can be told.
    pub torn_bytes_cut: u64,
    /// Whether the log was closed by dropping its last handle, or is new.
    pub closed_cleanly: bool,
}

/// Whether ordinary proposals should still be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Yes.
    Ok,
    /// Yes, but not for long: no further segment can be prepared, and entries go into what is left of the current one.
    Low,
    /// No: the rest is for what is under way, and for votes, truncations and purges.
    Full,
}

/// Counters since the log was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of batches written; zeros of prepared segments are not counted.
    pub bytes_written: u64,
    /// Syncs of batches.
    pub syncs: u64,
    /// Records written, batch headers not counted.
    pub records: u64,
    /// Batches written.
    pub batches: u64,
    /// Segments in use now.
    pub segments: u64,
    /// Segments prepared by writing zeros.
    pub segments_created: u64,
    /// Segments prepared from spare files.
    pub segments_recycled: u64,
    /// Bytes of entries held in memory now.
    pub cache_bytes: u64,
    /// Bytes queued and not yet stored now.
    pub queued_bytes: u64,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Stored data is damaged. Nothing was changed.
    #[error(
        "segment {segment:016x}.wal is corrupt at byte {offset}: {reason}; do not repair or cut the log: remove this \
         member from its group and let it join again with an empty directory under a new node id"
    )]
    Corrupt {
        /// The segment's sequence number, which is its file's name in hexadecimal.
        segment: u64,
        /// Where in the file.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// The log was written by another version of this program.
    #[error(
        "segment {segment:016x}.wal has format version {version}, this program reads version 1: upgrade it"
    )]
    Version {
        /// The segment's sequence number.
        segment: u64,
        /// Its version.
        version: u32,
    },
    /// Another process uses the directory.
    #[error("another process uses {}: stop it, or choose another directory", directory.display())]
    Locked {
        /// The log's directory.
        directory: PathBuf,
    },
}
