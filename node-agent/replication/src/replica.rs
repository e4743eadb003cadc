//! A service's handle on its replicated state.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::{Instant as _, LinearizerOption, ServerState};
use tokio::sync::{mpsc, watch};

use crate::backup::Keeper;
use crate::member::{Member, Running};
use crate::raft::leadership::Lease;
use crate::raft::log_store::stored;
use crate::raft::proto::Message;
use crate::raft::state_machine::{Applied, Machine as _};
use crate::raft::types::Proposal;
use crate::{
    Answerer, AskError, Leadership, NodeId, Peer, ProposeError, ReadError, ReplyStream, State, Told,
};

/// The largest encoded command; a larger one is a bug of the service.
const COMMAND_BYTES_MAX: usize = 8 << 20;

/// A service's handle on its replicated state: cheap to clone, usable before the member has joined its group.
pub struct Replica<S: State> {
    member: Arc<Member>,
    state: Arc<Applied<S>>,
}

impl<S: State> Clone for Replica<S> {
    fn clone(&self) -> Self {
        Self {
            member: self.member.clone(),
            state: self.state.clone(),
        }
    }
}

impl<S: State> Replica<S> {
    pub(crate) fn new(member: Arc<Member>, state: Arc<Applied<S>>) -> Self {
        Self { member, state }
    }

    /// This member's node id; 0 before it has joined.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.member
            .running()
            .map_or(0, |running| running.identity.node_id)
    }

    /// Orders a command and waits until it is applied here. Only the leader can.
    ///
    /// Cancelling the future does not take the command back.
    ///
    /// # Errors
    /// [`ProposeError::OutcomeUnknown`] is no failure: the command may have been or may yet be applied.
    pub async fn propose(&self, command: S::Command) -> Result<S::Outcome, ProposeError> {
        let running = self
            .member
            .running()
            .ok_or(ProposeError::NotLeader { leader: None })?;
        if running.wal.space() == wal::Space::Full {
            return Err(ProposeError::StorageFull);
        }
        let command = postcard::to_allocvec(&command).expect("a command in memory always serialises");
        debug_assert!(
            command.len() <= COMMAND_BYTES_MAX,
            "a command of {} bytes",
            command.len()
        );
        let proposal = Proposal::new(unix_ms(&self.member), &command);
        match running.raft.client_write(proposal).await {
            Ok(response) => {
                let outcome = response
                    .data
                    .0
                    .and_then(|outcome| outcome.downcast::<S::Outcome>().ok());
                Ok(*outcome.expect("apply answers a command with the outcome of its own service"))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader {
                    leader: forward.leader_id,
                })
            }
            Err(RaftError::Fatal(Fatal::Stopped)) if self.member.stop.is_cancelled() => {
                Err(ProposeError::Stopping)
            }
            Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// Reads linearizably (ReadIndex): sees every command that was acknowledged before the call. Only the leader can.
    ///
    /// # Errors
    /// When this member does not lead, or no quorum confirms that it does.
    pub async fn read<T>(&self, read: impl FnOnce(&S) -> T) -> Result<T, ReadError> {
        let index = self.read_index(Duration::ZERO, None).await?;
        self.applied_to(index).await;
        Ok(self.local(read))
    }

    /// The index up to which a member must have applied the log to see every command that was acknowledged before the
    /// call. Only the leader knows it, once a quorum has confirmed that it leads: by an answer to something that it sent
    /// at most `age_max` before the call (zero: after it), for which it waits at most `wait` (none: as long as a lease).
    /// With [`Replica::applied_to`] any member reads linearizably.
    ///
    /// # Errors
    /// When this member does not lead, or no quorum confirms that it does.
    pub async fn read_index(&self, age_max: Duration, wait: Option<Duration>) -> Result<u64, ReadError> {
        let running = self
            .member
            .running()
            .ok_or(ReadError::NotLeader { leader: None })?;
        let option = LinearizerOption::new(Some(age_max), true);
        let option = match wait {
            Some(wait) => option.with_wait_timeout(wait),
            None => option,
        };
        match running.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader {
                    leader: forward.leader_id,
                })
            }
            Err(RaftError::APIError(_)) => Err(ReadError::NotLeader { leader: None }),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopping),
        }
    }

    /// Whether a quorum has answered something that this member sent as the leader at most `age_max` ago. Costs nothing,
    /// and asks nobody.
    #[must_use]
    pub fn is_confirmed(&self, age_max: Duration) -> bool {
        self.member.running().is_some_and(|running| {
            let metrics = running.raft.metrics();
            let metrics = metrics.borrow_watched();
            let acked = metrics.last_quorum_acked.map(|acked| acked.into_inner());
            metrics.state == ServerState::Leader && acked.is_some_and(|acked| acked.elapsed() < age_max)
        })
    }

    /// Waits until this member has applied the log up to `index`.
    pub async fn applied_to(&self, index: u64) {
        // The sender lives as long as this handle.
        let _ = self.applied().wait_for(|applied| *applied >= index).await;
    }

    /// Whether this member has joined and has applied all that it knew to be committed when it started.
    #[must_use]
    pub fn has_recovered(&self) -> bool {
        self.member
            .running()
            .is_some_and(|running| *self.applied().borrow() >= running.committed_at_start)
    }

    /// Reads this member's applied state as it is, maybe old. A lock is held meanwhile: keep it short.
    pub fn local<T>(&self, read: impl FnOnce(&S) -> T) -> T {
        self.state.read(read)
    }

    /// Waits until this member's disk holds all that is applied here now, and that it is committed: started again, it
    /// shows at least as much, even alone. Without this a member that is alone after a power cut may show what it had
    /// applied up to a fifth of a second before.
    ///
    /// # Errors
    /// When the log has failed; the process is about to end.
    pub async fn keep_applied(&self) -> io::Result<()> {
        match self.member.running() {
            Some(running) => stored(&running.wal, wal::Wal::flush_then).await,
            None => Ok(()),
        }
    }

    /// Who leads; see [`Leadership`].
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.member.leadership.subscribe()
    }

    /// Says that the service's listener is open to clients, for the term that it leads, or that it is not any more.
    /// Whoever routes clients to the leader waits for this: see [`Node::listening`](crate::Node::listening).
    pub fn set_listening(&self, term: Option<u64>) {
        self.member.listening.send_replace(term);
    }

    /// Whether this member may answer clients; see [`Lease::is_valid`].
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.member.lease.clone()
    }

    /// The last applied index; changes when commands were applied or a snapshot was installed.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.state.index()
    }

    /// The other members, voters and learners.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let Some(running) = self.member.running() else {
            return Vec::new();
        };
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        membership
            .nodes()
            .filter(|(id, _)| **id != running.identity.node_id)
            .map(|(id, node)| Peer {
                id: *id,
                name: node.name.clone(),
                voter: voters.contains(id),
            })
            .collect()
    }

    /// Whether `ids` (this member's own included, when it is among them) are a majority of the voters; in a joint
    /// membership, of both sets.
    #[must_use]
    pub fn is_quorum(&self, ids: &BTreeSet<NodeId>) -> bool {
        let Some(running) = self.member.running() else {
            return false;
        };
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config();
        !configs.is_empty()
            && configs
                .iter()
                .all(|voters| 2 * voters.intersection(ids).count() > voters.len())
    }

    /// Sends a message to every other member, outside the log: best effort, bounded, dropped where a peer is slow.
    pub fn tell(&self, message: Bytes) {
        let Some(running) = self.member.running() else {
            return;
        };
        let (term, addresses) = {
            let metrics = running.raft.metrics();
            let metrics = metrics.borrow_watched();
            let nodes = metrics.membership_config.membership().nodes();
            let others = nodes.filter(|(id, _)| **id != running.identity.node_id);
            (
                metrics.current_term,
                others
                    .map(|(id, node)| (*id, node.peer_address.clone()))
                    .collect::<Vec<_>>(),
            )
        };
        for (id, address) in addresses {
            running.peers.tell(
                id,
                &address,
                Message {
                    term,
                    bytes: message.clone(),
                },
            );
        }
    }

    /// The receiving end of [`Replica::tell`]; there is one, for the first caller.
    #[must_use]
    pub fn told(&self) -> Option<mpsc::Receiver<Told>> {
        self.member.take_told()
    }

    /// Asks the service of one peer; the answer is a stream of chunks, ended by an error where it fails.
    ///
    /// # Errors
    /// When the peer is not a member, cannot be reached, or refuses.
    pub fn ask(&self, peer: NodeId, request: Bytes) -> BoxFuture<'static, Result<ReplyStream, AskError>> {
        let running: Option<&Running> = self.member.running();
        let found = running.and_then(|running| Some((running, running.node(peer)?)));
        match found {
            Some((running, node)) => Box::pin(running.peers.ask(peer, &node.peer_address, request)),
            None => Box::pin(async move { Err(AskError(format!("node {peer} is not a member"))) }),
        }
    }

    /// Installs who looks after what members share outside of the state; at most once, and before the group is founded.
    pub fn keep_with(&self, keeper: Arc<dyn Keeper>) {
        self.member.set_keeper(keeper);
    }

    /// Installs what answers the peers' [`Replica::ask`]; at most once.
    pub fn answer_with(&self, answerer: Answerer) {
        self.member.set_answerer(answerer);
    }
}

/// The proposer's clock, for the stamp of an entry.
#[cfg(not(simulation))]
#[expect(
    clippy::disallowed_methods,
    reason = "time enters a command here and nowhere else"
)]
fn unix_ms(_: &Member) -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(simulation)]
fn unix_ms(member: &Member) -> u64 {
    member.simulated.unix_ms()
}
