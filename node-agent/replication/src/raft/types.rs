//! The types that openraft is parameterised with: one configuration for every service, since entries are opaque
//! bytes here and typed only at `Replica<S>`.

use std::any::Any;
use std::fmt;

use bytes::Bytes;

use crate::NodeId;
use crate::raft::codec;

openraft::declare_raft_types!(
    /// Quorate's Raft: node-id-ordered leader ids, entries as bytes.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = NodeId,
        Node = MemberNode,
        AsyncRuntime = AsyncRuntime,
);

/// What openraft runs on.
#[cfg(not(simulation))]
type AsyncRuntime = openraft::impls::TokioRuntime;
/// In a simulation its chance comes from the seed.
#[cfg(simulation)]
type AsyncRuntime = crate::simulation::AsyncRuntime;

pub(crate) type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::EntryPayload<Proposal, NodeId, MemberNode>;
pub(crate) type Membership = openraft::Membership<NodeId, MemberNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Bytes>;

/// What the membership records of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemberNode {
    /// Its name.
    pub(crate) name: String,
    /// `host:port` where peers reach it.
    pub(crate) peer_address: String,
    /// `host:port` of its admin port.
    pub(crate) admin_address: String,
}

/// A command on its way through the log: the encoded entry payload, shared by log, wire and apply.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    payload: Bytes,
}

impl Proposal {
    /// Stamps and encodes a command that `write` serialises.
    pub(crate) fn new(unix_ms: u64, command: &[u8]) -> Self {
        Self {
            payload: codec::encode_command(unix_ms, command),
        }
    }

    /// Wraps an encoded payload of the command kind.
    pub(crate) fn from_payload(payload: Bytes) -> Self {
        Self { payload }
    }

    /// The encoded payload.
    pub(crate) fn payload(&self) -> &Bytes {
        &self.payload
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.payload.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What `apply` hands to the proposer on the same member: the service's outcome, not encoded.
pub(crate) struct Reply(pub(crate) Option<Box<dyn Any + Send + Sync>>);

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Reply(outcome)"
        } else {
            "Reply(none)"
        })
    }
}
