//! What every member holds of the TFTP service: which files there are, and which transfers run. Pure.
//!
//! The bytes of files are not here: files and sessions name content by its SHA-256, and [`crate::content`] keeps the
//! bytes on each member's disk. Content is *referenced* while a file or a live session names it, so that a session
//! keeps its version when its file is replaced or removed; content that is not referenced may be deleted anywhere.

mod command;
mod hash;
mod origin;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use replication::{LogTime, RestoreError, State};
use serde::{Deserialize, Serialize};

pub use command::{Command, NewFile, Outcome};
pub use hash::{ContentHash, ParseHashError};
pub use session::{NewSession, SessionId, SessionKey, SessionRecord, TransferMode};

use crate::path::FilePath;
use origin::Origins;

/// The first byte of a snapshot in which no file came from a source.
const SNAPSHOT_VERSION: u8 = 1;
/// The same, when the files' sources follow.
const SNAPSHOT_VERSION_SOURCED: u8 = 2;

/// A file as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// Its content.
    pub content: ContentHash,
    /// The content's length in bytes.
    pub size: u64,
    /// The index of the log entry that put it.
    pub version: u64,
    /// When it was put, in milliseconds since the Unix epoch.
    pub modified_unix_ms: u64,
}

/// Files and sessions.
#[derive(Debug, Default)]
pub struct TftpState {
    files: BTreeMap<FilePath, FileVersion>,
    sessions: BTreeMap<SessionId, SessionRecord>,
    origins: Origins,
    /// Derived from the first two, as are the counts below.
    contents: BTreeMap<ContentHash, Content>,
    content_bytes: u64,
    content_changed: u64,
    by_key: BTreeMap<SessionKey, SessionId>,
    by_client: BTreeMap<IpAddr, u32>,
}

/// Content that is referenced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Content {
    size: u64,
    files: u32,
    octet_sessions: u32,
    netascii_sessions: u32,
}

/// What a snapshot holds; everything else follows from it.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    /// Every referenced content with its size: a session's own size may be that of a conversion.
    contents: Vec<(ContentHash, u64)>,
    content_changed: u64,
    files: Vec<(FilePath, FileVersion)>,
    sessions: Vec<SessionRecord>,
}

/// Who names content.
#[derive(Clone, Copy)]
enum Holder {
    File,
    Session(TransferMode),
}

impl TftpState {
    /// The file of that name.
    #[must_use]
    pub fn lookup(&self, path: &FilePath) -> Option<FileVersion> {
        self.files.get(path).copied()
    }

    /// All files, sorted by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&FilePath, &FileVersion)> {
        self.files.iter()
    }

    /// All sessions, oldest first.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &SessionRecord> + DoubleEndedIterator {
        self.sessions.values()
    }

    /// The session with that id.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&SessionRecord> {
        self.sessions.get(&id)
    }

    /// The session between these two ends.
    #[must_use]
    pub fn session_by_key(&self, key: &SessionKey) -> Option<&SessionRecord> {
        self.sessions.get(self.by_key.get(key)?)
    }

    /// Sessions of one client address.
    #[must_use]
    pub fn sessions_of_client(&self, client: IpAddr) -> u32 {
        self.by_client.get(&client).copied().unwrap_or(0)
    }

    /// All referenced content with its size, sorted by hash: what every member keeps on its disk.
    pub fn referenced(&self) -> impl ExactSizeIterator<Item = (ContentHash, u64)> {
        self.contents.iter().map(|(hash, content)| (*hash, content.size))
    }

    /// The size of content, if it is referenced.
    #[must_use]
    pub fn content_size(&self, content: &ContentHash) -> Option<u64> {
        Some(self.contents.get(content)?.size)
    }

    /// The content that running netascii sessions need converted.
    pub fn netascii_contents(&self) -> impl Iterator<Item = ContentHash> {
        self.contents
            .iter()
            .filter(|(_, content)| content.netascii_sessions > 0)
            .map(|(hash, _)| *hash)
    }

    /// Bytes of all referenced content, each counted once.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// The log index of the last change to [`TftpState::referenced`] or [`TftpState::netascii_contents`]: who keeps
    /// up with them need not look while it stays the same.
    #[must_use]
    pub fn content_changed(&self) -> u64 {
        self.content_changed
    }

    fn put(&mut self, at: LogTime, files: Vec<NewFile>, files_max: u32, content_bytes_max: u64) -> Outcome {
        let new_paths: BTreeSet<_> = files
            .iter()
            .map(|file| &file.path)
            .filter(|path| !self.files.contains_key(path))
            .collect();
        let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
        if !new_paths.is_empty() && self.files.len() + new_paths.len() > files_max {
            return Outcome::TooManyFiles;
        }
        // What is replaced is not counted as free: its content stays on disks beside the new for a while.
        let new_contents: BTreeMap<_, _> = files
            .iter()
            .filter(|file| !self.contents.contains_key(&file.content))
            .map(|file| (file.content, file.size))
            .collect();
        let added = new_contents
            .values()
            .fold(0_u64, |sum, size| sum.saturating_add(*size));
        let bytes = self.content_bytes.saturating_add(added);
        if added > 0 && bytes > content_bytes_max {
            return Outcome::ContentTooLarge { bytes };
        }
        for NewFile { path, content, size } in files {
            let size = self.hold(at.index, content, size, Holder::File);
            let version = FileVersion {
                content,
                size,
                version: at.index,
                modified_unix_ms: at.unix_ms,
            };
            self.origins.forget(&path);
            if let Some(old) = self.files.insert(path, version) {
                self.release(at.index, &old.content, Holder::File);
            }
        }
        Outcome::Put {
            version: at.index,
            modified_unix_ms: at.unix_ms,
        }
    }

    fn remove(&mut self, at: LogTime, path: &FilePath) -> Outcome {
        let Some(old) = self.files.remove(path) else {
            return Outcome::NotFound;
        };
        self.origins.forget(path);
        self.release(at.index, &old.content, Holder::File);
        Outcome::Removed
    }

    fn open(&mut self, at: LogTime, session: NewSession, total_max: u32, per_client_max: u32) -> Outcome {
        let Some(content) = self.contents.get(&session.content) else {
            return Outcome::FileGone;
        };
        let content_size = content.size;
        let replaced = self.by_key.get(&session.key).copied();
        let going = u32::from(replaced.is_some());
        let total = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        if total.saturating_sub(going) >= total_max {
            return Outcome::TooManySessions;
        }
        if self
            .sessions_of_client(session.key.client())
            .saturating_sub(going)
            >= per_client_max
        {
            return Outcome::TooManySessionsOfClient;
        }
        self.hold(
            at.index,
            session.content,
            content_size,
            Holder::Session(session.mode),
        );
        if let Some(replaced) = replaced {
            self.close(at.index, replaced);
        }
        let id = SessionId(at.index);
        self.admit(SessionRecord {
            id,
            opened_unix_ms: at.unix_ms,
            acked: None,
            fixed: session,
        });
        Outcome::Opened { id }
    }

    /// Enters a session into the maps; its content is held already.
    fn admit(&mut self, record: SessionRecord) {
        self.by_key.insert(record.fixed.key, record.id);
        *self.by_client.entry(record.fixed.key.client()).or_default() += 1;
        self.sessions.insert(record.id, record);
    }

    fn close(&mut self, index: u64, id: SessionId) {
        let Some(record) = self.sessions.remove(&id) else {
            return;
        };
        self.by_key.remove(&record.fixed.key);
        let client = record.fixed.key.client();
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
        self.release(index, &record.fixed.content, Holder::Session(record.fixed.mode));
    }

    /// Counts one more holder of content, and says its size: that of the first who named it, for a hash has one size.
    fn hold(&mut self, index: u64, hash: ContentHash, size: u64, holder: Holder) -> u64 {
        let content = self.contents.entry(hash).or_insert(Content {
            size,
            ..Content::default()
        });
        if content.holders() == 0 {
            self.content_bytes = self.content_bytes.saturating_add(content.size);
            self.content_changed = index;
        }
        let count = content.count(holder);
        *count += 1;
        if *count == 1 && matches!(holder, Holder::Session(TransferMode::Netascii)) {
            self.content_changed = index;
        }
        content.size
    }

    fn release(&mut self, index: u64, hash: &ContentHash, holder: Holder) {
        let Some(content) = self.contents.get_mut(hash) else {
            return;
        };
        let count = content.count(holder);
        *count -= 1;
        if *count == 0 && matches!(holder, Holder::Session(TransferMode::Netascii)) {
            self.content_changed = index;
        }
        if content.holders() == 0 {
            self.content_bytes = self.content_bytes.saturating_sub(content.size);
            self.contents.remove(hash);
            self.content_changed = index;
        }
    }

    fn checkpoint(&mut self, positions: Vec<(SessionId, u64)>) {
        for (id, acked) in positions {
            if let Some(record) = self.sessions.get_mut(&id) {
                record.acked = record.acked.max(Some(acked));
            }
        }
    }
}

impl Content {
    fn holders(&self) -> u64 {
        u64::from(self.files) + u64::from(self.octet_sessions) + u64::from(self.netascii_sessions)
    }

    fn count(&mut self, holder: Holder) -> &mut u32 {
        match holder {
            Holder::File => &mut self.files,
            Holder::Session(TransferMode::Octet) => &mut self.octet_sessions,
            Holder::Session(TransferMode::Netascii) => &mut self.netascii_sessions,
        }
    }
}

impl State for TftpState {
    type Command = Command;
    type Outcome = Outcome;

    fn apply(&mut self, at: LogTime, command: Command) -> Outcome {
        match command {
            Command::Put {
                files,
                files_max,
                content_bytes_max,
            } => self.put(at, files, files_max, content_bytes_max),
            Command::Remove { path } => self.remove(at, &path),
            Command::Open {
                session,
                sessions_max,
                sessions_per_client_max,
            } => self.open(at, session, sessions_max, sessions_per_client_max),
            Command::Checkpoint { positions } => {
                self.checkpoint(positions);
                Outcome::Checkpointed
            }
            Command::Close { sessions } => {
                for id in sessions {
                    self.close(at.index, id);
                }
                Outcome::Closed
            }
            Command::PutFrom {
                source,
                file,
                files_max,
                content_bytes_max,
            } => self.put_from(at, source, file, files_max, content_bytes_max),
            Command::RemoveFrom { source, path } => self.remove_from(at, &source, &path),
            Command::PutNew { file, .. } if self.files.contains_key(&file.path) => Outcome::Exists,
            Command::PutNew {
                file,
                files_max,
                content_bytes_max,
            } => self.put(at, vec![file], files_max, content_bytes_max),
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            contents: self.referenced().collect(),
            content_changed: self.content_changed,
            files: self
                .files
                .iter()
                .map(|(path, version)| (path.clone(), *version))
                .collect(),
            sessions: self.sessions.values().cloned().collect(),
        };
        let origins = self.origins.snapshot();
        let version = match origins {
            None => SNAPSHOT_VERSION,
            Some(_) => SNAPSHOT_VERSION_SOURCED,
        };
        let mut bytes = postcard::to_extend(&snapshot, vec![version])
            .expect("a vector takes any bytes, and every length is known");
        bytes.extend(origins.unwrap_or_default());
        bytes
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let unreadable = |reason: String| RestoreError { reason };
        let (sourced, body) = match bytes.split_first() {
            Some((&SNAPSHOT_VERSION, body)) => (false, body),
            Some((&SNAPSHOT_VERSION_SOURCED, body)) => (true, body),
            Some((version, _)) => {
                return Err(unreadable(format!(
                    "TFTP state has version {version}, this program reads up to {SNAPSHOT_VERSION_SOURCED}"
                )));
            }
            None => return Err(unreadable("TFTP state is empty".to_owned())),
        };
        let (snapshot, rest) = postcard::take_from_bytes::<Snapshot>(body)
            .map_err(|error| unreadable(format!("TFTP state does not decode: {error}")))?;
        if !sourced && !rest.is_empty() {
            return Err(unreadable(format!("{} bytes follow the TFTP state", rest.len())));
        }
        let sizes: BTreeMap<_, _> = snapshot.contents.iter().copied().collect();
        let size_of = |hash: &ContentHash| {
            sizes
                .get(hash)
                .copied()
                .ok_or_else(|| unreadable(format!("content {hash} is named but not listed")))
        };
        let mut state = Self::default();
        for (path, version) in snapshot.files {
            state.hold(0, version.content, size_of(&version.content)?, Holder::File);
            state.files.insert(path, version);
        }
        for record in snapshot.sessions {
            let fixed = &record.fixed;
            state.hold(
                0,
                fixed.content,
                size_of(&fixed.content)?,
                Holder::Session(fixed.mode),
            );
            state.admit(record);
        }
        state.content_changed = snapshot.content_changed;
        if sourced {
            state.origins = Origins::restore(rest)?;
        }
        Ok(state)
    }
}
