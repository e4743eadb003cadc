//! Why files are not put, removed or read.

use std::collections::BTreeSet;

use replication::{NodeId, ProposeError};

use super::FetchError;
use crate::content::ContentError;
use crate::path::FilePath;
use crate::state::ContentHash;

/// Why a file was not put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The sender's stream broke off.
    #[error("file was not received: {0}")]
    Receive(String),
    /// The sender promised another length.
    #[error("{received} bytes were received, {declared} were declared")]
    SizeDiffers {
        /// What was promised.
        declared: u64,
        /// What came.
        received: u64,
    },
    /// It does not fit beside what is stored.
    #[error(
        "file is too large: of {content_bytes_max} bytes for all content, {free} are free; remove files or raise contentBytesMax"
    )]
    TooLarge {
        /// The limit for all content.
        content_bytes_max: u64,
        /// What is left of it.
        free: u64,
    },
    /// The group holds as many files as it may.
    #[error("the group holds {files_max} files already; remove some or raise filesMax")]
    TooManyFiles {
        /// The limit.
        files_max: u32,
    },
    /// The bytes are not those that were promised.
    #[error("the bytes have the SHA-256 {found}, {expected} was promised")]
    HashDiffers {
        /// What was promised.
        expected: ContentHash,
        /// What came.
        found: ContentHash,
    },
    /// Only for sources: somebody else put the file.
    #[error("the file was put by somebody else")]
    OfAnother,
    /// Only for [`super::FilesOf::put_new`]: there is a file of that name.
    #[error("there is a file of that name already")]
    Exists,
    /// This member's disk refused.
    #[error("content could not be stored")]
    Store(#[source] ContentError),
    /// Too few members could store the bytes in time. Nothing was changed.
    #[error("only members {holders:?} hold the content, which is no majority: {failures}")]
    NoQuorum {
        /// Who holds it.
        holders: BTreeSet<NodeId>,
        /// What the others answered.
        failures: String,
    },
    /// This member does not lead, or the log did not take the entry. [`ProposeError::OutcomeUnknown`] is not failure.
    #[error("file could not be entered into the log")]
    Propose(#[source] ProposeError),
}

/// Why a file was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such file.
    #[error("there is no file {0}")]
    NotFound(FilePath),
    /// As [`PutError::Propose`].
    #[error("removal could not be entered into the log")]
    Propose(#[source] ProposeError),
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// This member knows no such file.
    #[error("there is no file {0}")]
    NotFound(FilePath),
    /// Its bytes are not here and nobody sends them.
    #[error("content of the file could not be fetched")]
    Fetch(#[source] FetchError),
}
