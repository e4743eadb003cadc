//! A service's state under Raft: applies entries in log order, in memory; snapshots are files.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;
use tracing::warn;

use crate::raft::codec;
use crate::raft::snapshot::{self, Parts, SnapshotFile};
use crate::raft::types::{EntryPayload, LogId, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::runtime::blocking;
use crate::{LogTime, RestoreError, State};

/// How long the builder waits before it tries again to write a snapshot for which there was no space.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// A reader that holds the state longer than so many tries take is one of the long ones.
const SHORT_READS: u32 = 200;
/// Before the state is tried again while one of these holds it.
const LONG_READ_PAUSE: Duration = Duration::from_millis(1);
/// After so many tries more the entry gets in line, before further readers: many short ones can hold the state without a gap.
const LONG_READS: u32 = 1000;

/// What Raft does with a state, whichever service's it is: openraft's code exists once for all of them.
pub(crate) trait Machine: Send + Sync {
    /// The last applied log id, and the membership as of then.
    fn position(&self) -> (Option<LogId>, StoredMembership);
    /// Applies the next entry; none when a reader holds the state, and then the payload is left.
    fn try_apply(&self, id: LogId, payload: &mut Option<EntryPayload>) -> Option<io::Result<Reply>>;
    /// The same; waits for the readers, and lets further ones wait.
    fn apply(&self, id: LogId, payload: EntryPayload) -> io::Result<Reply>;
    /// The last applied index; changes after each batch.
    fn index(&self) -> watch::Receiver<u64>;
    /// Tells the readers how far the log is applied.
    fn publish(&self);
    /// The last applied index, the newest stamp, and the state as bytes: all of the same moment.
    fn view(&self) -> (u64, u64, Vec<u8>);
    /// The present state as a snapshot.
    fn snapshot(&self) -> io::Result<(SnapshotMeta, Bytes)>;
    /// Whether the bytes of a snapshot's state can be read.
    fn check(&self, state: &[u8]) -> Result<(), RestoreError>;
    /// Reads a snapshot; what is returned makes it the present state.
    fn prepare(&self, parts: Parts) -> Result<Box<dyn FnOnce() + Send + '_>, RestoreError>;
}

/// The applied state of one member, shared with its readers.
pub(crate) struct Applied<S> {
    held: RwLock<Held<S>>,
    index: watch::Sender<u64>,
}

struct Held<S> {
    state: S,
    last: Option<LogId>,
    membership: StoredMembership,
    clock_ms: u64,
}

impl<S: State> Applied<S> {
    pub(crate) fn new() -> Arc<Self> {
        let held = Held {
            state: S::default(),
            last: None,
            membership: StoredMembership::default(),
            clock_ms: 0,
        };
        Arc::new(Self {
            held: RwLock::new(held),
            index: watch::channel(0).0,
        })
    }

    // A panic inside `apply` is a bug that stops the process (panic = the state may be half changed), so a poisoned
    // lock is only ever seen while the process ends.
    fn read_held(&self) -> RwLockReadGuard<'_, Held<S>> {
        self.held
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_held(&self) -> RwLockWriteGuard<'_, Held<S>> {
        self.held
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads the state under the lock.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&S) -> T) -> T {
        read(&self.read_held().state)
    }
}

impl<S: State> Machine for Applied<S> {
    fn position(&self) -> (Option<LogId>, StoredMembership) {
        let held = self.read_held();
        (held.last, held.membership.clone())
    }

    fn try_apply(&self, id: LogId, payload: &mut Option<EntryPayload>) -> Option<io::Result<Reply>> {
        let mut held = match self.held.try_write() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        payload.take().map(|payload| held.apply(id, payload))
    }

    fn apply(&self, id: LogId, payload: EntryPayload) -> io::Result<Reply> {
        self.write_held().apply(id, payload)
    }

    fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    fn view(&self) -> (u64, u64, Vec<u8>) {
        let held = self.read_held();
        (
            held.last.map_or(0, |id| id.index),
            held.clock_ms,
            held.state.snapshot(),
        )
    }

    fn publish(&self) {
        let last = self.read_held().last.map_or(0, |id| id.index);
        self.index
            .send_if_modified(|index| std::mem::replace(index, last) != last);
    }

    fn snapshot(&self) -> io::Result<(SnapshotMeta, Bytes)> {
        let held = self.read_held();
        let meta = SnapshotMeta {
            last_log_id: held.last,
            last_membership: held.membership.clone(),
        };
        let bytes = snapshot::encode(&meta, held.clock_ms, |to| held.state.write_snapshot(to))?;
        Ok((meta, bytes))
    }

    fn check(&self, state: &[u8]) -> Result<(), RestoreError> {
        S::restore(state).map(drop)
    }

    fn prepare(&self, parts: Parts) -> Result<Box<dyn FnOnce() + Send + '_>, RestoreError> {
        let held = Held {
            state: S::restore(&parts.state)?,
            last: parts.meta.last_log_id,
            membership: parts.meta.last_membership,
            clock_ms: parts.clock_ms,
        };
        Ok(Box::new(move || *self.write_held() = held))
    }
}

impl<S: State> Held<S> {
    fn apply(&mut self, id: LogId, payload: EntryPayload) -> io::Result<Reply> {
        self.last = Some(id);
        let reply = match payload {
            EntryPayload::Blank => Reply(None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                Reply(None)
            }
            EntryPayload::Normal(proposal) => {
                let unreadable = |error: String| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("log entry {}: {error}", id.index),
                    )
                };
                let (stamp, command) = codec::decode_command(proposal.payload())
                    .map_err(|error| unreadable(error.to_string()))?;
                // Leaders' clocks differ: time stands still rather than going back.
                self.clock_ms = self.clock_ms.max(stamp);
                let command =
                    postcard::from_bytes(&command).map_err(|error| unreadable(error.to_string()))?;
                let at = LogTime {
                    unix_ms: self.clock_ms,
                    index: id.index,
                };
                Reply(Some(Box::new(self.state.apply(at, command))))
            }
        };
        Ok(reply)
    }
}

/// openraft's state machine around a service's state.
pub(crate) struct StateMachine {
    applied: Arc<dyn Machine>,
    file: SnapshotFile,
}

impl StateMachine {
    pub(crate) fn new(applied: Arc<dyn Machine>, file: SnapshotFile) -> Self {
        Self { applied, file }
    }

    /// Raft has one thread, and heartbeats need it: a reader that holds the state for long (a backup) is waited for without it.
    async fn apply_one(&self, id: LogId, payload: EntryPayload) -> io::Result<Reply> {
        let mut payload = Some(payload);
        for tries in 0..SHORT_READS + LONG_READS {
            if let Some(reply) = self.applied.try_apply(id, &mut payload) {
                return reply;
            }
            if tries < SHORT_READS {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(LONG_READ_PAUSE).await;
            }
        }
        let (applied, payload) = (self.applied.clone(), payload.take());
        let payload = payload.expect("a try that fails leaves it");
        blocking(move || applied.apply(id, payload)).await?
    }
}

/// A view of the state, encoded, on its way into the snapshot file.
pub(crate) struct SnapshotBuilder {
    view: io::Result<(SnapshotMeta, Bytes)>,
    file: SnapshotFile,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let view = std::mem::replace(&mut self.view, Err(io::ErrorKind::Other.into()));
        let (meta, snapshot) = view?;
        loop {
            let (file, bytes) = (self.file.clone(), snapshot.clone());
            let written = blocking(move || file.write(&bytes)).await?;
            match written {
                Ok(()) => {
                    return Ok(Snapshot { meta, snapshot });
                }
                // A full disk is no reason to stop a member: the log is still whole, and space may come back.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    warn!(%error, "no space for a snapshot; trying again");
                    tokio::time::sleep(SNAPSHOT_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.applied.position())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_one(entry.log_id, entry.payload).await?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        self.applied.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let applied = self.applied.clone();
        // Fails only when it panics, and then it does so here, too.
        let view = match blocking(move || applied.snapshot()).await {
            Ok(view) => view,
            Err(_) => self.applied.snapshot(),
        };
        SnapshotBuilder {
            view,
            file: self.file.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> io::Result<()> {
        let (applied, file, meta) = (self.applied.clone(), self.file.clone(), meta.clone());
        blocking(move || {
            let parts = Parts {
                meta,
                ..snapshot::decode(&bytes)?
            };
            let take_over = applied
                .prepare(parts)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // At start openraft installs the snapshot that was just read; it need not be written again.
            match file.read()? {
                Some(current) if current == bytes => {}
                _ => file.write(&bytes)?,
            }
            take_over();
            Ok::<_, io::Error>(())
        })
        .await??;
        self.applied.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let file = self.file.clone();
        let read = move || -> io::Result<Option<Snapshot>> {
            let Some(bytes) = file.read()? else {
                return Ok(None);
            };
            Ok(Some(Snapshot {
                meta: snapshot::decode(&bytes)?.meta,
                snapshot: bytes,
            }))
        };
        blocking(read).await?
    }
}
