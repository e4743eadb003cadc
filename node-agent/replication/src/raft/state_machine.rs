//! A service's state under Raft: applies entries in log order, in memory; snapshots are files.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;
use tracing::warn;

use crate::raft::codec;
use crate::raft::snapshot::{self, SnapshotFile};
use crate::raft::types::{LogId, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::{LogTime, State};

/// How long the builder waits before it tries again to write a snapshot for which there was no space.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

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

    /// The last applied index; changes after each batch.
    pub(crate) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// The last applied index, the newest stamp, and the state as bytes: all of the same moment.
    pub(crate) fn snapshot(&self) -> (u64, u64, Vec<u8>) {
        let held = self.read_held();
        (
            held.last.map_or(0, |id| id.index),
            held.clock_ms,
            held.state.snapshot(),
        )
    }

    /// The last applied log id.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.read_held().last
    }

    fn publish(&self) {
        let last = self.last().map_or(0, |id| id.index);
        self.index
            .send_if_modified(|index| std::mem::replace(index, last) != last);
    }
}

impl<S: State> Held<S> {
    fn apply(
        &mut self,
        id: LogId,
        payload: EntryPayload<crate::raft::types::Proposal, u64, crate::raft::types::MemberNode>,
    ) -> io::Result<Reply> {
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
pub(crate) struct StateMachine<S> {
    applied: Arc<Applied<S>>,
    file: SnapshotFile,
}

impl<S: State> StateMachine<S> {
    pub(crate) fn new(applied: Arc<Applied<S>>, file: SnapshotFile) -> Self {
        Self { applied, file }
    }
}

/// A view of the state, encoded, on its way into the snapshot file.
pub(crate) struct SnapshotBuilder {
    meta: SnapshotMeta,
    bytes: Bytes,
    file: SnapshotFile,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        loop {
            let (file, bytes) = (self.file.clone(), self.bytes.clone());
            let written = tokio::task::spawn_blocking(move || file.write(&bytes))
                .await
                .map_err(io::Error::other)?;
            match written {
                Ok(()) => {
                    return Ok(Snapshot {
                        meta: self.meta.clone(),
                        snapshot: self.bytes.clone(),
                    });
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

impl<S: State> RaftStateMachine<TypeConfig> for StateMachine<S> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let held = self.applied.read_held();
        Ok((held.last, held.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.applied.write_held().apply(entry.log_id, entry.payload)?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        self.applied.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let held = self.applied.read_held();
        let meta = SnapshotMeta {
            last_log_id: held.last,
            last_membership: held.membership.clone(),
        };
        let bytes = snapshot::encode(&meta, held.clock_ms, &held.state.snapshot());
        SnapshotBuilder {
            meta,
            bytes,
            file: self.file.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> io::Result<()> {
        let parts = snapshot::decode(&bytes)?;
        let state =
            S::restore(&parts.state).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let file = self.file.clone();
        // At start openraft installs the snapshot that was just read; it need not be written again.
        tokio::task::spawn_blocking(move || match file.read()? {
            Some(current) if current == bytes => Ok(()),
            _ => file.write(&bytes),
        })
        .await
        .map_err(io::Error::other)??;
        *self.applied.write_held() = Held {
            state,
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
            clock_ms: parts.clock_ms,
        };
        self.applied.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let file = self.file.clone();
        let bytes = tokio::task::spawn_blocking(move || file.read())
            .await
            .map_err(io::Error::other)??;
        bytes
            .map(|bytes| {
                Ok(Snapshot {
                    meta: snapshot::decode(&bytes)?.meta,
                    snapshot: bytes,
                })
            })
            .transpose()
    }
}
