//! A member as its program sees it: status, membership one step at a time, and the end.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use uuid::Uuid;

use crate::founding::{backup, found};
use crate::identity::{Identity, Stored};
use crate::member::Member;
use crate::membership::{add_learner, become_member, promote, remove, status, stop, transfer};
use crate::raft::types::MemberNode;
use crate::runtime::RaftRuntime;
use crate::{MembershipError, NodeId, NodeOptions, NodeStatus, Replica, StartError, State};

/// A running member, whatever service it runs. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    control: Arc<dyn Control>,
    _runtime: Arc<RaftRuntime>,
}

impl Node {
    /// Opens the data directory, serves peers, and goes on as the member it was. On an empty disk it waits for
    /// [`Node::initialize`] or [`Node::join`]; the replica works already, without a leader.
    ///
    /// # Errors
    /// When the directory or the port cannot be used, or the log cannot be read for another reason than corruption.
    pub async fn start<S: State>(options: NodeOptions) -> Result<(Self, Replica<S>), StartError> {
        let (member, runtime) = Member::<S>::start(options).await?;
        let replica = Replica::new(member.clone());
        Ok((
            Self {
                control: Arc::new(Handle(member)),
                _runtime: Arc::new(runtime),
            },
            replica,
        ))
    }

    /// What the member says of itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.control.status()
    }

    /// Ticks when the status may have changed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.control.watch()
    }

    /// The term for which this member leads and its service's listener is open to clients; none while it does not.
    #[must_use]
    pub fn listening(&self) -> watch::Receiver<Option<u64>> {
        self.control.listening()
    }

    /// Makes this member the only voter of a new group, which begins with the backup that the options name. To be called
    /// once in a group's life, on one member.
    ///
    /// # Errors
    /// When this member is in a group already, or the backup cannot be used.
    pub async fn initialize(&self, group_id: Uuid) -> Result<Identity, MembershipError> {
        self.control.initialize(group_id).await
    }

    /// Admits a member with an empty disk, on the leader; its node id is the index of a log entry of its own.
    ///
    /// # Errors
    /// When this member does not lead or the change is not committed in time.
    pub async fn add_learner(
        &self,
        name: String,
        peer_address: String,
        admin_address: String,
    ) -> Result<Identity, MembershipError> {
        self.control
            .add_learner(MemberNode {
                name,
                peer_address,
                admin_address,
            })
            .await
    }

    /// Takes the identity that a leader gave out. Repeating it is harmless.
    ///
    /// # Errors
    /// When this member is in a group already, under another identity.
    pub async fn join(&self, identity: Identity) -> Result<(), MembershipError> {
        self.control.join(identity).await
    }

    /// Makes a learner a voter, once it has caught up.
    ///
    /// # Errors
    /// When this member does not lead, the learner is unknown, or it does not catch up in time.
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        self.control.promote(id).await
    }

    /// Removes a member for good.
    ///
    /// # Errors
    /// When this member does not lead, or is the one to be removed.
    pub async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        self.control.remove(id).await
    }

    /// Hands leadership to `to`, or to the member that is furthest. Stops serving before it does.
    ///
    /// # Errors
    /// When this member does not lead, or nobody takes over.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<(), MembershipError> {
        self.control.transfer(to).await
    }

    /// A backup of what this member holds, as one of `service`: everything up to an index that is at least `at_least`, for
    /// which it waits a while. The state cannot change while it is encoded.
    ///
    /// # Errors
    /// When this member is in no group, or has not applied so much in time.
    pub async fn backup(&self, service: &str, at_least: u64) -> Result<Bytes, MembershipError> {
        self.control.backup(service.to_owned(), at_least).await
    }

    /// Hands leadership over if it leads, then ends: everything synced, the data directory free.
    pub async fn stop(&self) {
        self.control.stop().await;
    }

    /// Resolves, with the reason, when the member cannot go on (a failed sync, a bug): the process has to end.
    pub async fn failed(&self) -> String {
        let mut failure = self.control.failure();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// [`Node`] without the state's type.
trait Control: Send + Sync {
    fn status(&self) -> NodeStatus;
    fn watch(&self) -> watch::Receiver<()>;
    fn listening(&self) -> watch::Receiver<Option<u64>>;
    fn failure(&self) -> watch::Receiver<Option<String>>;
    fn initialize(&self, group_id: Uuid) -> BoxFuture<'_, Result<Identity, MembershipError>>;
    fn add_learner(&self, node: MemberNode) -> BoxFuture<'_, Result<Identity, MembershipError>>;
    fn join(&self, identity: Identity) -> BoxFuture<'_, Result<(), MembershipError>>;
    fn promote(&self, id: NodeId) -> BoxFuture<'_, Result<(), MembershipError>>;
    fn remove(&self, id: NodeId) -> BoxFuture<'_, Result<(), MembershipError>>;
    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'_, Result<(), MembershipError>>;
    fn backup(&self, service: String, at_least: u64) -> BoxFuture<'_, Result<Bytes, MembershipError>>;
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// Gives the trait's methods an owned `Arc` of the member.
struct Handle<S: State>(Arc<Member<S>>);

impl<S: State> Control for Handle<S> {
    fn status(&self) -> NodeStatus {
        status(&self.0)
    }

    fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn listening(&self) -> watch::Receiver<Option<u64>> {
        self.0.listening.subscribe()
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.0.failure.subscribe()
    }

    fn initialize(&self, group_id: Uuid) -> BoxFuture<'_, Result<Identity, MembershipError>> {
        found(&self.0, group_id).boxed()
    }

    fn add_learner(&self, node: MemberNode) -> BoxFuture<'_, Result<Identity, MembershipError>> {
        add_learner(&self.0, node).boxed()
    }

    fn join(&self, identity: Identity) -> BoxFuture<'_, Result<(), MembershipError>> {
        let stored = Stored {
            identity,
            founding: false,
        };
        become_member(&self.0, stored, None).boxed()
    }

    fn promote(&self, id: NodeId) -> BoxFuture<'_, Result<(), MembershipError>> {
        promote(&self.0, id).boxed()
    }

    fn remove(&self, id: NodeId) -> BoxFuture<'_, Result<(), MembershipError>> {
        remove(&self.0, id).boxed()
    }

    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'_, Result<(), MembershipError>> {
        transfer(&self.0, to).boxed()
    }

    fn backup(&self, service: String, at_least: u64) -> BoxFuture<'_, Result<Bytes, MembershipError>> {
        backup(&self.0, service, at_least).boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        stop(&self.0).boxed()
    }
}
