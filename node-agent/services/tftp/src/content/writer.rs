//! Writing content: into a temporary file, hashed on the way, synced, and only then renamed into place.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{CHUNK_BYTES, ContentError, ContentStore, blocking};
use crate::state::ContentHash;

/// Content on its way to the disk. Dropped before [`Sealed::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    store: ContentStore,
    expected: Option<ContentHash>,
    bytes_max: u64,
    size: u64,
    /// Bytes not yet written: senders' pieces may be small, and each write is a trip to another thread.
    pending: Vec<u8>,
    /// `None` once a write failed or was cancelled half way.
    partial: Option<Partial>,
}

/// Content that is complete and synced, under a temporary name still.
#[derive(Debug)]
pub struct Sealed {
    store: ContentStore,
    temp: TempFile,
    hash: ContentHash,
    size: u64,
}

#[derive(Debug)]
pub(super) struct Partial {
    pub(super) temp: TempFile,
    pub(super) hasher: Sha256,
}

/// A file that is removed when dropped, unless it was kept.
#[derive(Debug)]
pub(super) struct TempFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) kept: bool,
}

impl BlobWriter {
    pub(super) async fn create(
        store: ContentStore,
        expected: Option<ContentHash>,
        bytes_max: u64,
    ) -> Result<Self, ContentError> {
        let path = store.temp_path();
        let temp = blocking(move || TempFile::create(path)).await?;
        let partial = Some(Partial {
            temp,
            hasher: Sha256::new(),
        });
        Ok(Self {
            store,
            expected,
            bytes_max,
            size: 0,
            pending: Vec::new(),
            partial,
        })
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the content outgrows its limit or the disk refuses; the writer is of no more use then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        self.size += bytes.len() as u64;
        if self.size > self.bytes_max {
            self.partial = None;
            return Err(ContentError::TooLarge {
                bytes_max: self.bytes_max,
            });
        }
        self.pending.extend_from_slice(&bytes);
        if self.pending.len() as u64 >= CHUNK_BYTES {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Writes what is pending and syncs the file.
    ///
    /// # Errors
    /// When the disk refuses, or the bytes are not those that were expected.
    pub async fn seal(mut self) -> Result<Sealed, ContentError> {
        self.flush().await?;
        let Partial { temp, hasher } = self.partial.take().ok_or(ContentError::Abandoned)?;
        let found = ContentHash(hasher.finalize().into());
        if let Some(expected) = self.expected
            && expected != found
        {
            return Err(ContentError::Mismatch { expected, found });
        }
        let temp = blocking(move || {
            temp.file
                .sync_all()
                .map_err(|error| ContentError::io("sync", &temp.path, error))?;
            Ok(temp)
        })
        .await?;
        Ok(Sealed {
            store: self.store,
            temp,
            hash: found,
            size: self.size,
        })
    }

    /// [`BlobWriter::seal`] and [`Sealed::commit`].
    ///
    /// # Errors
    /// As these.
    pub async fn commit(self) -> Result<(ContentHash, u64), ContentError> {
        self.seal().await?.commit().await
    }

    async fn flush(&mut self) -> Result<(), ContentError> {
        let mut partial = self.partial.take().ok_or(ContentError::Abandoned)?;
        let mut pending = std::mem::take(&mut self.pending);
        (partial, pending) = blocking(move || {
            partial.write(&pending)?;
            pending.clear();
            Ok((partial, pending))
        })
        .await?;
        self.partial = Some(partial);
        self.pending = pending;
        Ok(())
    }
}

impl Sealed {
    /// The SHA-256 of the bytes.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Their number.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Renames the file into its place, for good: the directories are synced too. The same content that was there
    /// before is replaced, which heals a damaged copy.
    ///
    /// # Errors
    /// When the disk refuses; nothing is left behind then.
    pub async fn commit(self) -> Result<(ContentHash, u64), ContentError> {
        let Self {
            store,
            temp,
            hash,
            size,
        } = self;
        blocking(move || {
            let target = store.raw_path(&hash);
            let shard = target.parent().unwrap_or(&target);
            let is_new = match fs::create_dir(shard) {
                Ok(()) => true,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(ContentError::io("create", shard, error)),
            };
            temp.rename_into(&target)?;
            sync_dir(shard)?;
            if is_new && let Some(parent) = shard.parent() {
                sync_dir(parent)?;
            }
            store.placed(hash, size);
            Ok((hash, size))
        })
        .await
    }
}

impl Partial {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.hasher.update(bytes);
        self.temp.write(bytes)
    }
}

impl TempFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, ContentError> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self {
                file,
                path,
                kept: false,
            }),
            Err(error) => Err(ContentError::io("create", &path, error)),
        }
    }

    pub(super) fn rename_into(mut self, target: &Path) -> Result<(), ContentError> {
        fs::rename(&self.path, target).map_err(|error| ContentError::io("rename into", target, error))?;
        self.kept = true;
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.file
            .write_all(bytes)
            .map_err(|error| ContentError::io("write", &self.path, error))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "temporary file stays until the next start");
        }
    }
}

/// Makes names in a directory survive a power cut.
fn sync_dir(dir: &Path) -> Result<(), ContentError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| ContentError::io("sync", dir, error))
}
