//! What [`super::FilesOf`] needs of replication, so that tests can connect stores without Raft.

use std::collections::BTreeSet;

use bytes::Bytes;
use replication::{AskError, Leadership, NodeId, Peer, ProposeError, Replica, ReplyStream};
use tokio::sync::watch;

use crate::state::{Command, Outcome, TftpState};

/// The group as one member sees it: the part of [`Replica`] that keeping files needs.
pub trait Group: Clone + Send + Sync + 'static {
    /// This member.
    fn id(&self) -> NodeId;
    /// The other members.
    fn peers(&self) -> Vec<Peer>;
    /// Are these members a majority of the voters?
    fn is_quorum(&self, ids: &BTreeSet<NodeId>) -> bool;
    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// Changes whenever entries were applied here.
    fn applied(&self) -> watch::Receiver<u64>;
    /// This member's own state, maybe old.
    fn local<T>(&self, read: impl FnOnce(&TftpState) -> T) -> T;
    /// Orders a command.
    fn propose(&self, command: Command) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;
    /// Asks a peer.
    fn ask(&self, peer: NodeId, request: Bytes)
    -> impl Future<Output = Result<ReplyStream, AskError>> + Send;
}

impl Group for Replica<TftpState> {
    fn id(&self) -> NodeId {
        Self::id(self)
    }
    fn peers(&self) -> Vec<Peer> {
        Self::peers(self)
    }
    fn is_quorum(&self, ids: &BTreeSet<NodeId>) -> bool {
        Self::is_quorum(self, ids)
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        Self::leadership(self)
    }
    fn applied(&self) -> watch::Receiver<u64> {
        Self::applied(self)
    }
    fn local<T>(&self, read: impl FnOnce(&TftpState) -> T) -> T {
        Self::local(self, read)
    }
    fn propose(&self, command: Command) -> impl Future<Output = Result<Outcome, ProposeError>> + Send {
        Self::propose(self, command)
    }
    fn ask(
        &self,
        peer: NodeId,
        request: Bytes,
    ) -> impl Future<Output = Result<ReplyStream, AskError>> + Send {
        Self::ask(self, peer, request)
    }
}
