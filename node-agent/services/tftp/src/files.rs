//! The files of the group: metadata through Raft, bytes on every member's disk. I/O, through [`Group`] and
//! [`ContentStore`] only.
//!
//! A put goes in this order: stream to the leader's disk; have a quorum of voters hold the bytes, synced; propose the
//! entry that names them. So whoever can be elected can also find the bytes, and an acknowledged file survives the
//! loss of any minority. Members outside that quorum fetch what they lack when they apply the entry.

mod error;
mod group;
mod import;
mod keeper;
mod lag;
mod peer;
mod pins;
mod sourced;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use replication::{Leadership, NodeId, ProposeError, Replica};
use tokio::sync::{Notify, Semaphore};

use crate::content::{BlobWriter, ContentError, ContentStore, Sealed};
use crate::path::FilePath;
use crate::state::{Command, ContentHash, FileVersion, NewFile, Outcome, TftpState};

pub use error::{GetError, PutError, RemoveError};
pub use group::Group;
pub use import::{IMPORT_FILES_MAX, Import, ImportError, ImportedFile, Skipped, import};
pub use peer::FetchError;
use pins::Pins;

/// Files that are being put at the same time; more wait.
const PUTS_MAX: usize = 16;

/// Fetches for sessions that wait, at the same time; more wait.
const URGENT_FETCHES_MAX: usize = 8;

/// How long a put waits for a quorum to hold a small file: several elections and a restart of a member.
const HOLD_TIME: Duration = Duration::from_secs(15);

/// A put waits longer for a large file: as if the slowest link carried this much.
const HOLD_BYTES_PER_SECOND: u64 = 1 << 20;

/// How long to wait before a member that could not hold content is asked again.
const HOLD_RETRY: Duration = Duration::from_millis(500);

/// The files of this member's group. Clones share everything.
pub type Files = FilesOf<Replica<TftpState>>;

/// What all files together may take.
#[derive(Debug, Clone, Copy)]
pub struct FileLimits {
    /// Files that the group may hold.
    pub files_max: u32,
    /// Bytes that all content may take on each member's disk.
    pub content_bytes_max: u64,
}

/// [`Files`] over any [`Group`].
#[derive(Debug)]
pub struct FilesOf<G: Group> {
    inner: Arc<Inner<G>>,
}

#[derive(Debug)]
struct Inner<G> {
    group: G,
    store: ContentStore,
    limits: FileLimits,
    lag: Mutex<lag::Lag>,
    pins: Mutex<Pins>,
    flights: Mutex<BTreeMap<ContentHash, Arc<tokio::sync::Mutex<()>>>>,
    puts: Semaphore,
    urgent: Semaphore,
    /// Content was lost here: fetch it at once.
    lost: Notify,
}

/// What a put does where there is a file of that name.
#[derive(Clone, Copy)]
enum PutTerms<'a> {
    /// Replaces it.
    Replace,
    /// Leaves it as it is.
    New,
    /// For a source, with its name and the content that it promises: replaces what came from the same source.
    From(&'a str, ContentHash),
}

/// Content that must stay on this member's disk, as long as this lives.
struct Pin<G: Group> {
    inner: Arc<Inner<G>>,
    hash: ContentHash,
}

impl<G: Group> FilesOf<G> {
    /// The files of a replica. Have somebody await [`FilesOf::run`], and let [`FilesOf::answerer`] answer the other members.
    #[must_use]
    pub fn new(group: G, store: ContentStore, limits: FileLimits) -> Self {
        let inner = Inner {
            group,
            store,
            limits,
            lag: Mutex::default(),
            pins: Mutex::default(),
            flights: Mutex::default(),
            puts: Semaphore::new(PUTS_MAX),
            urgent: Semaphore::new(URGENT_FETCHES_MAX),
            lost: Notify::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Creates or replaces a file; only on the leader. When it returns, a majority of the voters has the bytes and the
    /// entry. Dropped before, it may or may not have happened; a half is never seen.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put<S, E>(
        &self,
        path: FilePath,
        bytes: S,
        declared: Option<u64>,
    ) -> Result<FileVersion, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.put_on(path, bytes, declared, PutTerms::Replace).await
    }

    /// As [`FilesOf::put`], unless there is a file of that name.
    ///
    /// # Errors
    /// See [`PutError`]; [`PutError::Exists`] when there is one.
    pub async fn put_new<S, E>(
        &self,
        path: FilePath,
        bytes: S,
        declared: Option<u64>,
    ) -> Result<FileVersion, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.put_on(path, bytes, declared, PutTerms::New).await
    }

    async fn put_on<S, E>(
        &self,
        path: FilePath,
        bytes: S,
        declared: Option<u64>,
        terms: PutTerms<'_>,
    ) -> Result<FileVersion, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let _turn = self
            .inner
            .puts
            .acquire()
            .await
            .map_err(|_| PutError::Propose(ProposeError::Stopping))?;
        self.check_leads()?;
        let sealed = self.receive(&path, bytes, declared).await?;
        if let PutTerms::From(_, expected) = terms
            && sealed.hash() != expected
        {
            let found = sealed.hash();
            return Err(PutError::HashDiffers { expected, found });
        }
        // Pinned before it gets its name: from then on a collection of idle content could find it.
        let _pin = self.pin(sealed.hash());
        let (content, size) = sealed.commit().await.map_err(PutError::Store)?;
        self.spread(content, size).await?;
        let FileLimits {
            files_max,
            content_bytes_max,
        } = self.inner.limits;
        let file = NewFile { path, content, size };
        let command = match terms {
            PutTerms::Replace => Command::Put {
                files: vec![file],
                files_max,
                content_bytes_max,
            },
            PutTerms::New => Command::PutNew {
                file,
                files_max,
                content_bytes_max,
            },
            PutTerms::From(source, _) => Command::PutFrom {
                source: source.to_owned(),
                file,
                files_max,
                content_bytes_max,
            },
        };
        match self
            .inner
            .group
            .propose(command)
            .await
            .map_err(PutError::Propose)?
        {
            Outcome::Put {
                version,
                modified_unix_ms,
            } => Ok(FileVersion {
                content,
                size,
                version,
                modified_unix_ms,
            }),
            Outcome::TooManyFiles => Err(PutError::TooManyFiles { files_max }),
            Outcome::OfAnother => Err(PutError::OfAnother),
            Outcome::Exists => Err(PutError::Exists),
            _ => Err(self.too_large()),
        }
    }

    /// Removes a file; only on the leader. Running transfers of it go on.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, path: FilePath) -> Result<(), RemoveError> {
        let command = Command::Remove { path: path.clone() };
        match self
            .inner
            .group
            .propose(command)
            .await
            .map_err(RemoveError::Propose)?
        {
            Outcome::NotFound => Err(RemoveError::NotFound(path)),
            _ => Ok(()),
        }
    }

    /// All files that this member knows, sorted by path.
    #[must_use]
    pub fn list(&self) -> Vec<(FilePath, FileVersion)> {
        self.inner.group.local(|state| {
            state
                .files()
                .map(|(path, version)| (path.clone(), *version))
                .collect()
        })
    }

    /// A file's bytes, on any member; fetched first when they are not here. They stay the same to the end of the
    /// stream, whatever happens to the file.
    ///
    /// # Errors
    /// When there is no such file, or nobody has its bytes.
    pub async fn get(
        &self,
        path: &FilePath,
    ) -> Result<
        (
            FileVersion,
            impl Stream<Item = Result<Bytes, ContentError>> + Send + 'static + use<G>,
        ),
        GetError,
    > {
        let found = self.inner.group.local(|state| state.lookup(path));
        let version = found.ok_or_else(|| GetError::NotFound(path.clone()))?;
        let pin = self.pin(version.content);
        self.ensure(version.content).await.map_err(GetError::Fetch)?;
        Ok((version, peer::read_from(pin, version.size, 0)))
    }

    /// Makes sure that content is on this member's disk, before everything that is fetched in the background. Returns
    /// its size.
    ///
    /// # Errors
    /// When it is not here and nobody sends it.
    pub async fn ensure(&self, content: ContentHash) -> Result<u64, FetchError> {
        let size = self.inner.group.local(|state| state.content_size(&content));
        let unavailable = || FetchError::Unavailable {
            content,
            attempts: Vec::new(),
        };
        if let Some(here) = self.inner.store.size(&content)
            && size.is_none_or(|size| size == here)
        {
            return Ok(here);
        }
        let _turn = self.inner.urgent.acquire().await.map_err(|_| unavailable())?;
        self.obtain(content, size, None).await?;
        self.inner.store.size(&content).ok_or_else(unavailable)
    }

    fn check_leads(&self) -> Result<(), PutError> {
        match *self.inner.group.leadership().borrow() {
            Leadership::Leader { .. } => Ok(()),
            Leadership::Follower { leader } => Err(PutError::Propose(ProposeError::NotLeader { leader })),
        }
    }

    /// Bytes of new content that fit.
    fn free(&self) -> u64 {
        let used = self.inner.group.local(TftpState::content_bytes);
        self.inner.limits.content_bytes_max.saturating_sub(used)
    }

    fn too_large(&self) -> PutError {
        PutError::TooLarge {
            content_bytes_max: self.inner.limits.content_bytes_max,
            free: self.free(),
        }
    }

    /// Streams a file to this disk, no more of it than could be put.
    async fn receive<S, E>(
        &self,
        path: &FilePath,
        bytes: S,
        declared: Option<u64>,
    ) -> Result<Sealed, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        // A file that is put again as it is needs no room, however little there is.
        let current = self
            .inner
            .group
            .local(|state| state.lookup(path))
            .map_or(0, |version| version.size);
        let bytes_max = self.free().max(current);
        if declared.is_some_and(|declared| declared > bytes_max) {
            return Err(self.too_large());
        }
        let stored = |error| match error {
            ContentError::TooLarge { .. } => self.too_large(),
            error => PutError::Store(error),
        };
        let mut writer: BlobWriter = self.inner.store.writer(bytes_max).await.map_err(stored)?;
        let mut bytes = std::pin::pin!(bytes);
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| PutError::Receive(error.into().to_string()))?;
            writer.write(piece).await.map_err(stored)?;
        }
        let received = writer.size();
        if let Some(declared) = declared
            && declared != received
        {
            return Err(PutError::SizeDiffers { declared, received });
        }
        writer.seal().await.map_err(stored)
    }

    /// Returns once a majority of the voters, this member included, has the content on disk.
    async fn spread(&self, content: ContentHash, size: u64) -> Result<(), PutError> {
        let group = &self.inner.group;
        let mut holders = BTreeSet::from([group.id()]);
        if group.is_quorum(&holders) {
            return Ok(());
        }
        let failures = Mutex::new(BTreeMap::new());
        let voters = group.peers().into_iter().filter(|peer| peer.voter);
        let mut asks: FuturesUnordered<_> = voters
            .map(|peer| self.hold_at(peer.id, content, size, &failures))
            .collect();
        let held = async {
            while let Some(id) = asks.next().await {
                holders.insert(id);
                if group.is_quorum(&holders) {
                    return true;
                }
            }
            false
        };
        let mut leadership = group.leadership();
        let time = HOLD_TIME + Duration::from_secs(size / HOLD_BYTES_PER_SECOND);
        tokio::select! {
            done = held => if done { return Ok(()) },
            _ = leadership.wait_for(|role| !matches!(role, Leadership::Leader { .. })) => self.check_leads()?,
            () = tokio::time::sleep(time) => {}
        }
        drop(asks);
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failures = failures
            .iter()
            .map(|(id, reason)| format!("member {id}: {reason}"))
            .collect::<Vec<_>>();
        Err(PutError::NoQuorum {
            holders,
            failures: failures.join("; "),
        })
    }

    /// Asks a member to hold content, again and again, until it does.
    async fn hold_at(
        &self,
        peer: NodeId,
        content: ContentHash,
        size: u64,
        failures: &Mutex<BTreeMap<NodeId, String>>,
    ) -> NodeId {
        while let Err(reason) = self.ask_hold(peer, content, size).await {
            tracing::debug!(peer, %content, reason, "member does not hold content yet");
            lock(failures).insert(peer, reason);
            tokio::time::sleep(HOLD_RETRY).await;
        }
        peer
    }

    fn pin(&self, hash: ContentHash) -> Pin<G> {
        lock(&self.inner.pins).pin(hash);
        Pin {
            inner: Arc::clone(&self.inner),
            hash,
        }
    }
}

impl<G: Group> Clone for FilesOf<G> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<G: Group> Drop for Pin<G> {
    fn drop(&mut self) {
        lock(&self.inner.pins).unpin(self.hash);
    }
}

/// A panic elsewhere leaves our maps usable: each change to them is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error in one line, with what caused it.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
