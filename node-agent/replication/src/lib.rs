//! Replicated state machines: what a Quorate service must bring, and what it gets.
//!
//! A service brings a [`State`] (deterministic, pure) and gets a [`Replica`] of it: [`Replica::propose`] orders a
//! command in the group's Raft log, [`Replica::read`] reads linearizably, [`Replica::leadership`] says who serves.
//! Raft itself (openraft), the write-ahead log, the peers' connections and membership are behind [`Node`].
//! No other crate names openraft.

mod backup;
mod compaction;
mod founding;
mod identity;
mod member;
mod membership;
mod node;
mod raft;
mod replica;
mod runtime;
#[cfg(simulation)]
pub mod simulation;
mod space;
#[cfg(test)]
mod tests;
mod timers;
mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use backup::{Backup, BackupError, BackupHeader, Keeper, RestoreFrom};
pub use identity::Identity;
pub use node::Node;
pub use raft::leadership::Lease;
pub use replica::Replica;

/// A member's Raft node id: a small positive integer, never reused in its group.
pub type NodeId = u64;

/// The time of a command: stamped by the proposer into the log entry, clamped so that it never goes back from one
/// entry to the next. The only time that [`State::apply`] may know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTime {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The index of the log entry; unique, so it can serve as an id or a version.
    pub index: u64,
}

/// The deterministic half of a service: the same commands in the same order give the same bytes on every replica.
pub trait State: Default + Send + Sync + 'static {
    /// One log entry. A stored format (postcard): variants and fields are only appended, golden bytes are tested.
    type Command: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the proposer learns; refusals are outcomes too. Never stored, never sent.
    type Outcome: Send + Sync + 'static;

    /// Applies one command. Total: no error, no panic, no clock, no randomness, no I/O, no hash-ordered iteration.
    fn apply(&mut self, at: LogTime, command: Self::Command) -> Self::Outcome;

    /// The whole state as bytes, version first. Equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// Writes the same bytes, for a state that need not have them all in memory at once to do so.
    ///
    /// # Errors
    /// Those of `to`.
    fn write_snapshot(&self, to: &mut dyn io::Write) -> io::Result<()> {
        to.write_all(&self.snapshot())
    }

    /// The inverse of [`State::snapshot`].
    ///
    /// # Errors
    /// When the bytes are not a snapshot of a version that this program reads.
    fn restore(bytes: &[u8]) -> Result<Self, RestoreError>;
}

/// A replicated service: what replicas hold, and the front that clients meet on the leader.
pub trait Service: Sized + Send + 'static {
    /// Plain and already valid.
    type Options: Send;
    /// What every replica holds.
    type State: State;

    /// Runs on every member until `until`; serves clients only while [`Replica::leadership`] says so.
    fn serve(
        options: Self::Options,
        replica: Replica<Self::State>,
        until: Shutdown,
    ) -> impl Future<Output = Result<(), ServeError>> + Send;
}

/// A request to stop, given to everything that runs.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that nobody has requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that holds a clone to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Resolves once stopping was requested.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether stopping was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Bytes that are no snapshot this program can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state unreadable: {reason}")]
pub struct RestoreError {
    /// What was found and what was expected.
    pub reason: String,
}

/// A service that cannot go on, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServeError(pub String);

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This member leads, has applied an entry of its own term, and is heard by a quorum. While serving, check
    /// [`Lease::is_valid`] before each answer: a paused process learns late that it was deposed.
    Leader {
        /// The term it leads.
        term: u64,
    },
    /// Another member leads, or nobody.
    Follower {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
}

/// Another member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
}

/// A message that a peer sent outside the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who sent it.
    pub from: NodeId,
    /// The term in which it was sent.
    pub term: u64,
    /// The message.
    pub message: Bytes,
}

/// An answer to [`Replica::ask`]: chunks of at most 1 MiB; an error ends it.
pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<Bytes, AskError>> + Send>>;

/// What answers the peers' questions.
pub type Answerer = Arc<dyn Fn(Bytes) -> ReplyStream + Send + Sync>;

/// A question to a peer that was not answered, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AskError(pub String);

/// Why a command was not ordered, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was ordered: this member does not lead, or no quorum hears it.
    #[error("this member is not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The command may have been ordered: leadership was lost on the way.
    #[error("whether the command was stored is not known")]
    OutcomeUnknown,
    /// Nothing was ordered: the disk is full.
    #[error("the disk is full: free some space and try again")]
    StorageFull,
    /// Nothing was ordered: the member stops.
    #[error("this member is stopping")]
    Stopping,
}

/// Why a linearizable read was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This member does not lead, or no quorum hears it.
    #[error("this member is not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The member stops.
    #[error("this member is stopping")]
    Stopping,
}

/// Why a step of the group's life was not taken, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader can take this step.
    #[error("this member is not the leader")]
    NotLeader {
        /// Where the leader's admin port is, if known.
        leader_admin_address: Option<String>,
    },
    /// The step makes no sense now; the sentence says why.
    #[error("{0}")]
    Invalid(String),
    /// The step was not finished in time and may yet be.
    #[error("{0}")]
    Timeout(String),
    /// The member stops.
    #[error("this member is stopping")]
    Stopping,
}

/// A member that could not start, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A member's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Orders commands.
    Leader,
    /// Holds a copy and votes.
    Follower,
    /// Holds a copy and does not vote, or has not joined yet.
    Learner,
    /// Asks for votes.
    Candidate,
}

/// What a member says of itself. Indexes are 0 where there is nothing yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its group; none before it has joined.
    pub group_id: Option<Uuid>,
    /// Its node id; none before it has joined.
    pub node_id: Option<NodeId>,
    /// Its part.
    pub role: Role,
    /// The highest term it knows.
    pub term: u64,
    /// The last log index it knows to be committed.
    pub commit_index: u64,
    /// The last log index it has applied.
    pub applied_index: u64,
    /// The first log index it still holds.
    pub first_log_index: u64,
    /// The last log index it holds.
    pub last_log_index: u64,
    /// The last log index of its newest snapshot.
    pub snapshot_index: u64,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// Whether it leads and may answer clients.
    pub serving: bool,
    /// Whether it has joined and has applied all that it knows to be committed.
    pub ready: bool,
    /// The members it knows, in the order of their ids.
    pub members: Vec<MemberInfo>,
    /// Why it needs help, in a sentence.
    pub alarm: Option<String>,
    /// Which authorities and which certificate chain its new connections to peers count by: SHA-256 over both files, each
    /// behind its length (64 bits, little-endian), in hexadecimal. None without TLS.
    pub peer_certificates: Option<String>,
}

/// A member as the membership records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its node id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where its admin port is.
    pub admin_address: String,
    /// Whether it votes.
    pub voter: bool,
    /// The last log index it is known to hold; only the leader knows.
    pub matched_index: Option<u64>,
}

/// Election timers, as named profiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Timing {
    /// Heartbeat 30 ms, election after 100 to 200 ms beyond the lease of 200 ms.
    #[default]
    Lan,
    /// Heartbeat 100 ms, election after 300 to 600 ms beyond the lease of 600 ms.
    Edge,
}

/// When an entry counts as stored on a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// After it is synced to disk.
    #[default]
    Strict,
    /// After it is written. A member whose machine went down gives its identity up, since it may have forgotten.
    Relaxed,
}

/// Files for mutual TLS between peers, PEM. Changed ones count within seconds, for new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// The authorities, one of which signed every peer's certificate.
    pub ca_file: PathBuf,
    /// This member's certificate chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The name that every peer's certificate carries.
    pub server_name: String,
}

/// What [`Node::start`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// The member's name, unique in its group and stable over restarts.
    pub name: String,
    /// Where it keeps its identity, log and snapshot.
    pub data_dir: PathBuf,
    /// Where it listens for peers.
    pub peer_listen: SocketAddr,
    /// `host:port` where peers reach it.
    pub peer_advertise: String,
    /// `host:port` of its admin port.
    pub admin_advertise: String,
    /// Election timers.
    pub timing: Timing,
    /// When an entry counts as stored.
    pub durability: Durability,
    /// Mutual TLS between peers; plain TCP without it.
    pub tls: Option<PeerTls>,
    /// What the group begins with when this member founds it; nothing without it.
    pub restore: Option<RestoreFrom>,
}
