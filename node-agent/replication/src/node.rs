//! A member as its program sees it: status, membership one step at a time, and the end.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use crate::founding::{backup, found};
use crate::identity::{Identity, Stored};
use crate::member::Member;
use crate::membership::{add_learner, become_member, promote, remove, status, stop, transfer};
use crate::raft::state_machine::Applied;
use crate::raft::types::MemberNode;
use crate::runtime::RaftRuntime;
use crate::{MembershipError, NodeId, NodeOptions, NodeStatus, Replica, StartError, State};

/// A running member, whatever service it runs. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    member: Arc<Member>,
    _runtime: Arc<RaftRuntime>,
}

impl Node {
    /// Opens the data directory, serves peers, and goes on as the member it was. On an empty disk it waits for
    /// [`Node::initialize`] or [`Node::join`]; the replica works already, without a leader.
    ///
    /// # Errors
    /// When the directory or the port cannot be used, or the log cannot be read for another reason than corruption.
    pub async fn start<S: State>(
        options: NodeOptions,
        #[cfg(simulation)] simulated: crate::simulation::Simulated,
    ) -> Result<(Self, Replica<S>), StartError> {
        let state = Applied::<S>::new();
        #[cfg(not(simulation))]
        let (member, runtime) = Member::start(options, state.clone()).await?;
        #[cfg(simulation)]
        let (member, runtime) = Member::start(options, state.clone(), simulated).await?;
        let replica = Replica::new(member.clone(), state);
        Ok((
            Self {
                member,
                _runtime: Arc::new(runtime),
            },
            replica,
        ))
    }

    /// What the member says of itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        status(&self.member)
    }

    /// Ticks when the status may have changed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.member.changed.subscribe()
    }

    /// The term for which this member leads and its service's listener is open to clients; none while it does not.
    #[must_use]
    pub fn listening(&self) -> watch::Receiver<Option<u64>> {
        self.member.listening.subscribe()
    }

    /// The member that handed its leadership to this one, if this one leads in `term` by that, and as long as it answers: its
    /// service still runs. None after an election that nobody asked for.
    #[must_use]
    pub fn handed_over_by(&self, term: u64) -> Option<NodeId> {
        let running = self.member.running()?;
        let handed_over = *self
            .member
            .handed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        handed_over
            .filter(|(its_term, by)| its_term.checked_add(1) == Some(term) && !running.peers.is_away(*by))
            .map(|(_, by)| by)
    }

    /// Makes this member the only voter of a new group, which begins with the backup that the options name. To be called
    /// once in a group's life, on one member.
    ///
    /// # Errors
    /// When this member is in a group already, or the backup cannot be used.
    pub async fn initialize(&self, group_id: Uuid) -> Result<Identity, MembershipError> {
        found(&self.member, group_id).await
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
        let node = MemberNode {
            name,
            peer_address,
            admin_address,
        };
        add_learner(&self.member, node).await
    }

    /// Takes the identity that a leader gave out. Repeating it is harmless.
    ///
    /// # Errors
    /// When this member is in a group already, under another identity.
    pub async fn join(&self, identity: Identity) -> Result<(), MembershipError> {
        let stored = Stored {
            identity,
            founding: false,
        };
        become_member(&self.member, stored, None).await
    }

    /// Makes a learner a voter, once it has caught up.
    ///
    /// # Errors
    /// When this member does not lead, the learner is unknown, or it does not catch up in time.
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        promote(&self.member, id).await
    }

    /// Removes a member for good.
    ///
    /// # Errors
    /// When this member does not lead, or is the one to be removed.
    pub async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        remove(&self.member, id).await
    }

    /// Hands leadership to `to`, or to the member that is furthest. Stops serving before it does.
    ///
    /// # Errors
    /// When this member does not lead, or nobody takes over.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<(), MembershipError> {
        transfer(&self.member, to).await
    }

    /// A backup of what this member holds, as one of `service`: everything up to an index that is at least `at_least`, for
    /// which it waits a while. The state cannot change while it is encoded.
    ///
    /// # Errors
    /// When this member is in no group, or has not applied so much in time.
    pub async fn backup(&self, service: &str, at_least: u64) -> Result<Bytes, MembershipError> {
        backup(&self.member, service.to_owned(), at_least).await
    }

    /// Hands leadership over if it leads, then ends: everything synced, the data directory free.
    pub async fn stop(&self) {
        stop(&self.member).await;
    }

    /// Resolves, with the reason, when the member cannot go on (a failed sync, a bug): the process has to end.
    pub async fn failed(&self) -> String {
        let mut failure = self.member.failure.subscribe();
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
