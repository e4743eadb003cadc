//! The bytes of files on this member's disk, addressed by their SHA-256. I/O, but no network.
//!
//! ```text
//! <dir>/ab/<64 hex digits>        content whose hash begins with ab, complete and synced
//! <dir>/netascii/<64 hex digits>  its netascii conversion, made when first needed, emptied at every start
//! <dir>/tmp/<number>              what is being written, emptied at every start
//! ```
//!
//! Names on disk are made from hashes only: nothing a client sends ever becomes part of a path. A file gets its name
//! after its bytes were hashed and synced, so a name in `ab/` is a promise. Bytes that rot later are found by
//! [`ContentStore::verify`], which whoever owns the store runs over all content in the background: to hash hundreds
//! of megabytes before the first DATA would keep clients waiting. A wrong length is found at once.

mod cache;
mod derive;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use sha2::{Digest, Sha256};

use crate::state::ContentHash;
use cache::{ChunkCache, ChunkKey};
pub use writer::{BlobWriter, Sealed};

/// Content is cached and exchanged between members in pieces of this size: a read of the disk that is worth its trip
/// to another thread, and a quarter of what a peer's message may hold.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// Files kept open between reads. More sessions than this on different files only open files again.
const OPEN_FILES_MAX: usize = 64;

/// What can be read: content, or its netascii conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobKey {
    /// The bytes that were put.
    Raw(ContentHash),
    /// Their netascii conversion.
    Netascii(ContentHash),
}

/// Why content could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContentError {
    /// It is not on this member's disk.
    #[error("content {0} is not on this member's disk")]
    Missing(ContentHash),
    /// The bytes are not those that were asked for.
    #[error("content has the SHA-256 {found}, expected {expected}")]
    Mismatch {
        /// What was asked for.
        expected: ContentHash,
        /// What came.
        found: ContentHash,
    },
    /// More bytes than the writer was allowed.
    #[error("content is larger than the {bytes_max} bytes that are allowed")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The disk, or its owner's quota, is full.
    #[error("disk is full, could not {action} {path}: free space on this member")]
    DiskFull {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
    /// The disk refused.
    #[error("could not {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
    /// The writer failed before, or one of its calls was cancelled.
    #[error("content was abandoned half way")]
    Abandoned,
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopping,
}

/// The content of one member. Clones share it.
#[derive(Debug, Clone)]
pub struct ContentStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    temp_next: AtomicU64,
    blobs: Mutex<BTreeMap<BlobKey, u64>>,
    cache: Mutex<ChunkCache>,
    loading: Mutex<BTreeMap<ChunkKey, Loading>>,
    /// Most recently used last.
    open_files: Mutex<Vec<(BlobKey, Arc<File>)>>,
    /// One conversion at a time: a thousand phones that ask for one file must not convert it a thousand times.
    deriving: tokio::sync::Mutex<()>,
}

type Loading = Shared<BoxFuture<'static, Result<Bytes, ContentError>>>;

impl BlobKey {
    /// The content that it is made of.
    #[must_use]
    pub fn content(&self) -> ContentHash {
        match self {
            Self::Raw(hash) | Self::Netascii(hash) => *hash,
        }
    }
}

impl ContentStore {
    /// Opens the store in a directory, which is created when missing, throws away what an earlier process left
    /// unfinished and lists what is there. Only one process may have it open.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub async fn open(dir: PathBuf, cache_bytes_max: u64) -> Result<Self, ContentError> {
        blocking(move || {
            for dir in [dir.clone(), dir.join("tmp"), dir.join("netascii")] {
                fs::create_dir_all(&dir).map_err(|error| ContentError::io("create", &dir, error))?;
            }
            empty(&dir.join("tmp"))?;
            empty(&dir.join("netascii"))?;
            let blobs = index(&dir)?;
            let inner = Inner {
                dir,
                temp_next: AtomicU64::new(0),
                blobs: Mutex::new(blobs),
                cache: Mutex::new(ChunkCache::new(cache_bytes_max)),
                loading: Mutex::default(),
                open_files: Mutex::default(),
                deriving: tokio::sync::Mutex::default(),
            };
            Ok(Self {
                inner: Arc::new(inner),
            })
        })
        .await
    }

    /// A writer for content whose hash is not known yet.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn writer(&self, bytes_max: u64) -> Result<BlobWriter, ContentError> {
        BlobWriter::create(self.clone(), None, bytes_max).await
    }

    /// A writer that accepts one content only.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn writer_of(&self, expected: ContentHash, size: u64) -> Result<BlobWriter, ContentError> {
        BlobWriter::create(self.clone(), Some(expected), size).await
    }

    /// Is the content here?
    #[must_use]
    pub fn contains(&self, hash: &ContentHash) -> bool {
        self.length(&BlobKey::Raw(*hash)).is_some()
    }

    /// The content's size, if it is here.
    #[must_use]
    pub fn size(&self, hash: &ContentHash) -> Option<u64> {
        self.length(&BlobKey::Raw(*hash))
    }

    /// The length of content or of a conversion, if it is here.
    #[must_use]
    pub fn length(&self, key: &BlobKey) -> Option<u64> {
        lock(&self.inner.blobs).get(key).copied()
    }

    /// All content and conversions that are here, with their lengths.
    #[must_use]
    pub fn list(&self) -> Vec<(BlobKey, u64)> {
        lock(&self.inner.blobs)
            .iter()
            .map(|(key, length)| (*key, *length))
            .collect()
    }

    /// Removes content together with its conversion, or a conversion alone. What is not here is no error. Blocks for
    /// the moment that the removal of a name takes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, key: &BlobKey) -> Result<(), ContentError> {
        if let BlobKey::Raw(hash) = key {
            self.remove(&BlobKey::Netascii(*hash))?;
        }
        self.forget(key);
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ContentError::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// A chunk of content, if it is in memory: the bytes from `index * CHUNK_BYTES`, fewer at the end. Allocates
    /// nothing.
    #[must_use]
    pub fn chunk(&self, key: &BlobKey, index: u64) -> Option<Bytes> {
        lock(&self.inner.cache).get(&(*key, index)).cloned()
    }

    /// Appends bytes from `offset` on to `out`, fewer than `length` only where the content ends. Allocates nothing but
    /// the room in `out`.
    ///
    /// # Errors
    /// The index of the first chunk that is not in memory; `out` is as before then. [`ContentStore::load`] it.
    pub fn append_to(&self, key: &BlobKey, offset: u64, length: usize, out: &mut Vec<u8>) -> Result<(), u64> {
        let start = out.len();
        let mut offset = offset;
        let mut cache = lock(&self.inner.cache);
        while out.len() - start < length {
            let index = offset / CHUNK_BYTES;
            let Some(chunk) = cache.get(&(*key, index)) else {
                out.truncate(start);
                return Err(index);
            };
            let within = usize::try_from(offset % CHUNK_BYTES).unwrap_or(usize::MAX);
            let rest = chunk.get(within..).unwrap_or_default();
            let taken = rest.len().min(length - (out.len() - start));
            if taken == 0 {
                break;
            }
            out.extend_from_slice(&rest[..taken]);
            offset += taken as u64;
        }
        Ok(())
    }

    /// A chunk of content from memory or disk; it is in memory afterwards. Callers who want the same chunk at the same
    /// time share one read. A conversion that is not there is made.
    ///
    /// # Errors
    /// When the content is not here, or the disk refuses.
    pub async fn load(&self, key: &BlobKey, index: u64) -> Result<Bytes, ContentError> {
        if let Some(chunk) = self.chunk(key, index) {
            return Ok(chunk);
        }
        if let BlobKey::Netascii(hash) = key {
            self.netascii(*hash).await?;
        }
        self.loading((*key, index)).await
    }

    /// Makes sure that the netascii conversion of content is here, and says its length.
    ///
    /// # Errors
    /// When the content is not here, or the disk refuses.
    pub async fn netascii(&self, hash: ContentHash) -> Result<u64, ContentError> {
        let key = BlobKey::Netascii(hash);
        if let Some(length) = self.length(&key) {
            return Ok(length);
        }
        let _one = self.inner.deriving.lock().await;
        if let Some(length) = self.length(&key) {
            return Ok(length);
        }
        let store = self.clone();
        blocking(move || {
            let length = derive::derive(&store, hash)?;
            lock(&store.inner.blobs).insert(key, length);
            Ok(length)
        })
        .await
    }

    /// Hashes all bytes of content: are they still what their name says? Content that is not here is not.
    ///
    /// # Errors
    /// When the disk refuses to read it.
    pub async fn verify(&self, hash: ContentHash) -> Result<bool, ContentError> {
        let path = self.raw_path(&hash);
        blocking(move || {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(ContentError::io("open", &path, error)),
            };
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX)];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => hasher.update(&buffer[..read]),
                    Err(error) => return Err(ContentError::io("read", &path, error)),
                }
            }
            Ok(ContentHash(hasher.finalize().into()) == hash)
        })
        .await
    }

    /// Bytes of content in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        lock(&self.inner.cache).bytes()
    }

    fn loading(&self, key: ChunkKey) -> Loading {
        let mut loading = lock(&self.inner.loading);
        if let Some(running) = loading.get(&key) {
            return running.clone();
        }
        let store = self.clone();
        // The read ends by itself, even when nobody waits for it any more: it alone takes its entry away.
        let read = blocking(move || {
            let chunk = store.read_chunk(&key);
            if let Ok(chunk) = &chunk {
                lock(&store.inner.cache).insert(key, chunk.clone());
            }
            lock(&store.inner.loading).remove(&key);
            chunk
        });
        loading.entry(key).or_insert(read.boxed().shared()).clone()
    }

    fn read_chunk(&self, (key, index): &ChunkKey) -> Result<Bytes, ContentError> {
        let path = self.path(key);
        let file = self.open_file(key, &path)?;
        let length = self
            .length(key)
            .ok_or_else(|| ContentError::Missing(key.content()))?;
        let start = index.saturating_mul(CHUNK_BYTES);
        let wanted = length.saturating_sub(start).min(CHUNK_BYTES);
        let mut chunk = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut chunk, start)
            .map_err(|error| self.unreadable(key.content(), &path, error))?;
        Ok(chunk.into())
    }

    fn open_file(&self, key: &BlobKey, path: &Path) -> Result<Arc<File>, ContentError> {
        let mut open_files = lock(&self.inner.open_files);
        if let Some(place) = open_files.iter().position(|(open, _)| open == key) {
            open_files[place..].rotate_left(1);
        } else {
            let file = File::open(path).map_err(|error| self.unreadable(key.content(), path, error))?;
            if open_files.len() >= OPEN_FILES_MAX {
                open_files.remove(0);
            }
            open_files.push((*key, Arc::new(file)));
        }
        let (_, file) = open_files.last().ok_or(ContentError::Abandoned)?;
        Ok(Arc::clone(file))
    }

    /// The error for content that could not be read. If its file is gone or too short, the content counts as missing
    /// from now on, so that it is fetched again.
    fn unreadable(&self, hash: ContentHash, path: &Path, error: io::Error) -> ContentError {
        if matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
        ) {
            let mut blobs = lock(&self.inner.blobs);
            blobs.remove(&BlobKey::Raw(hash));
            blobs.remove(&BlobKey::Netascii(hash));
            return ContentError::Missing(hash);
        }
        ContentError::io("read", path, error)
    }

    /// Content has got its name.
    fn placed(&self, hash: ContentHash, size: u64) {
        self.forget(&BlobKey::Raw(hash));
        lock(&self.inner.blobs).insert(BlobKey::Raw(hash), size);
    }

    fn forget(&self, key: &BlobKey) {
        lock(&self.inner.blobs).remove(key);
        lock(&self.inner.open_files).retain(|(open, _)| open != key);
        lock(&self.inner.cache).forget(key);
    }

    fn path(&self, key: &BlobKey) -> PathBuf {
        match key {
            BlobKey::Raw(hash) => self.raw_path(hash),
            BlobKey::Netascii(hash) => self.netascii_path(hash),
        }
    }

    fn raw_path(&self, hash: &ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.inner.dir.join(&name[..2]).join(name)
    }

    fn netascii_path(&self, hash: &ContentHash) -> PathBuf {
        self.inner.dir.join("netascii").join(hash.to_string())
    }

    fn temp_path(&self) -> PathBuf {
        let number = self.inner.temp_next.fetch_add(1, Ordering::Relaxed);
        self.inner.dir.join("tmp").join(number.to_string())
    }
}

impl ContentError {
    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        let (path, source) = (path.to_owned(), Arc::new(error));
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { action, path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

/// Runs work that blocks on a thread made for it.
async fn blocking<T, F>(work: F) -> Result<T, ContentError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ContentError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ContentError::Stopping),
        },
    }
}

/// A panic elsewhere leaves our maps usable: each change to them is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn empty(dir: &Path) -> Result<(), ContentError> {
    for entry in entries(dir)? {
        let path = entry.path();
        fs::remove_file(&path).map_err(|error| ContentError::io("remove", &path, error))?;
    }
    Ok(())
}

/// Lists content by name; whatever is not named like content is left alone.
fn index(dir: &Path) -> Result<BTreeMap<BlobKey, u64>, ContentError> {
    let mut blobs = BTreeMap::new();
    for shard in entries(dir)? {
        let shard_name = shard.file_name();
        if shard_name.len() != 2 || !shard.path().is_dir() {
            continue;
        }
        for entry in entries(&shard.path())? {
            let name = entry.file_name();
            let Some(hash) = name.to_str().and_then(|name| name.parse::<ContentHash>().ok()) else {
                continue;
            };
            let path = entry.path();
            let metadata = entry
                .metadata()
                .map_err(|error| ContentError::io("examine", &path, error))?;
            if metadata.is_file() && name.as_encoded_bytes().starts_with(shard_name.as_encoded_bytes()) {
                blobs.insert(BlobKey::Raw(hash), metadata.len());
            }
        }
    }
    Ok(blobs)
}

fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, ContentError> {
    fs::read_dir(dir)
        .and_then(Iterator::collect)
        .map_err(|error| ContentError::io("list", dir, error))
}
