//! What is in the log, and what comes of it. Pure.

use serde::{Deserialize, Serialize};

use super::{ContentHash, NewSession, SessionId};
use crate::path::FilePath;

/// One log entry. A stored format: variants and fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Creates or replaces files: all of them, or none. A quorum must hold their content already.
    Put {
        /// The files; of two with the same path the last one counts.
        files: Vec<NewFile>,
        /// Files that the group may hold.
        files_max: u32,
        /// Bytes that all content may take.
        content_bytes_max: u64,
    },
    /// Removes a file.
    Remove {
        /// Its path.
        path: FilePath,
    },
    /// Opens a session, in the place of an older one between the same two ends: the client has started again.
    Open {
        /// What it fixes.
        session: NewSession,
        /// Sessions that may run in all.
        sessions_max: u32,
        /// Sessions that may run for one client address.
        sessions_per_client_max: u32,
    },
    /// Records how far clients have come. Positions only grow; sessions that are gone are skipped.
    Checkpoint {
        /// Each session's last acknowledged block, counted without rolling over.
        positions: Vec<(SessionId, u64)>,
    },
    /// Ends sessions. Those that are gone are skipped.
    Close {
        /// Their ids.
        sessions: Vec<SessionId>,
    },
    /// Creates or replaces a file that comes from a source, unless somebody else put one of that name.
    PutFrom {
        /// The source's name.
        source: String,
        /// The file.
        file: NewFile,
        /// As in [`Command::Put`].
        files_max: u32,
        /// As in [`Command::Put`].
        content_bytes_max: u64,
    },
    /// Removes a file if it came from this source.
    RemoveFrom {
        /// The source's name.
        source: String,
        /// The file's path.
        path: FilePath,
    },
    /// Creates a file, unless there is one of that name.
    PutNew {
        /// The file.
        file: NewFile,
        /// As in [`Command::Put`].
        files_max: u32,
        /// As in [`Command::Put`].
        content_bytes_max: u64,
    },
}

/// A file to be put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFile {
    /// Its path.
    pub path: FilePath,
    /// Its content.
    pub content: ContentHash,
    /// The content's length in bytes.
    pub size: u64,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The files are in place.
    Put {
        /// Their version.
        version: u64,
        /// When, in milliseconds since the Unix epoch.
        modified_unix_ms: u64,
    },
    /// Nothing was put: there would be too many files.
    TooManyFiles,
    /// Nothing was put: the content would not fit.
    ContentTooLarge {
        /// Bytes that all content would take.
        bytes: u64,
    },
    /// The file is removed.
    Removed,
    /// There is no such file.
    NotFound,
    /// The session runs.
    Opened {
        /// Its id.
        id: SessionId,
    },
    /// No session: too many run.
    TooManySessions,
    /// No session: too many run for this client.
    TooManySessionsOfClient,
    /// No session: its content is no longer referenced, because the file was replaced or removed meanwhile.
    FileGone,
    /// Positions are recorded.
    Checkpointed,
    /// The sessions are ended.
    Closed,
    /// Nothing was changed: the file is not of this source.
    OfAnother,
    /// Nothing was changed: there is a file of that name.
    Exists,
}
