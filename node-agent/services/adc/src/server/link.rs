//! Reaches the leader, here or at another member, and answers the other members.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use replication::{AskError, Leadership, NodeId, Replica, ReplyStream};
use tokio::sync::{mpsc, oneshot};

use crate::peer::{self, Proof, Question, Relayed, Reply};
use crate::session::Unproved;
use crate::state::{AdcState, Command, Front};

/// An answer of at most so many bytes is read from a peer.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// How long an order may take at another member before its fate counts as unknown.
const ORDER_WAIT: Duration = Duration::from_secs(3);
/// How long a peer may take to answer a ping.
const PING_WAIT: Duration = Duration::from_millis(1500);
/// How long a peer may take to deliver lines: it may have to learn of their senders first.
const RELAY_WAIT: Duration = Duration::from_secs(5);
/// How long a peer may take to say whether an address is proved.
const PROOF_WAIT: Duration = Duration::from_secs(3);
/// Addresses that peers want proved, and that wait to be looked at.
const PROOFS_MAX: usize = 64;
/// Batches of lines from peers that wait to be delivered: each peer has one under way.
const INCOMING_MAX: usize = 64;

/// Lines that came from another member.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) from: NodeId,
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) seen: u64,
    pub(super) lines: Vec<Relayed>,
    /// Answered with the number of the next line, once these are delivered.
    pub(super) done: oneshot::Sender<u64>,
}

/// An address that another member wants proved, and what comes of it.
pub(super) type Asked = (Proof, oneshot::Sender<Result<(), Unproved>>);

/// What comes from other members.
pub(super) struct FromPeers {
    pub(super) lines: mpsc::Receiver<Incoming>,
    pub(super) proofs: mpsc::Receiver<Asked>,
}

/// The way to the leader and the peers.
pub(super) struct Link {
    pub(super) replica: Replica<AdcState>,
    incoming: mpsc::Sender<Incoming>,
    proofs: mpsc::Sender<Asked>,
}

impl Link {
    /// A link, and what comes over it.
    pub(super) fn new(replica: Replica<AdcState>) -> (Arc<Self>, FromPeers) {
        let (incoming, lines) = mpsc::channel(INCOMING_MAX);
        let (sender, proofs) = mpsc::channel(PROOFS_MAX);
        let link = Arc::new(Self {
            replica,
            incoming,
            proofs: sender,
        });
        link.answer_peers();
        (link, FromPeers { lines, proofs })
    }

    /// Lets the peers reach this member, as long as the service runs.
    fn answer_peers(self: &Arc<Self>) {
        let link = Arc::downgrade(self);
        self.replica.answer_with(Arc::new(move |question: Bytes| {
            let link = link.clone();
            let reply = async move {
                match link.upgrade() {
                    Some(link) => link.answer(&question).await,
                    None => Err(AskError("the service of this member has ended".to_owned())),
                }
            };
            Box::pin(futures::stream::once(reply)) as ReplyStream
        }));
    }

    async fn answer(&self, question: &[u8]) -> Result<Bytes, AskError> {
        let question = peer::decode(question).map_err(|error| AskError(format!("no question: {error}")))?;
        let ended = || AskError("the service of this member ends".to_owned());
        let reply = match question {
            Question::Ping => Reply::Here,
            Question::Order(command) => match self.order_here(command).await {
                Some(front) => Reply::Ordered(front),
                None => Reply::NotOrdered,
            },
            Question::Relay {
                epoch,
                first,
                seen,
                from,
                lines,
            } => {
                let (done, answer) = oneshot::channel();
                let incoming = Incoming {
                    from,
                    epoch,
                    first,
                    seen,
                    lines,
                    done,
                };
                self.incoming.send(incoming).await.map_err(|_| ended())?;
                Reply::Relayed {
                    next: answer.await.map_err(|_| ended())?,
                }
            }
            Question::Prove(proof) => {
                let (done, answer) = oneshot::channel();
                self.proofs.send((proof, done)).await.map_err(|_| ended())?;
                answer.await.map_err(|_| ended())?.into()
            }
        };
        Ok(peer::encode(&reply).into())
    }

    /// Orders a command of this member's front; none when it was not ordered, or nobody knows. Then it is ordered again:
    /// it counts once.
    pub(super) async fn order(&self, command: Command) -> Option<Option<Front>> {
        match self.leader() {
            Leader::Here => self.order_here(command).await,
            Leader::There(peer) => {
                let question = Question::Order(command);
                match tokio::time::timeout(ORDER_WAIT, self.ask(peer, &question)).await {
                    Ok(Some(Reply::Ordered(front))) => Some(front),
                    _ => None,
                }
            }
            Leader::Unknown => None,
        }
    }

    async fn order_here(&self, command: Command) -> Option<Option<Front>> {
        let front = match &command {
            Command::Open { front, .. } | Command::Batch { front, .. } => Some(*front),
            _ => None,
        };
        self.replica.propose(command).await.ok()?;
        Some(front.and_then(|front| self.replica.local(|state| state.front(front))))
    }

    /// Whether a peer's service is there.
    pub(super) async fn ping(&self, peer: NodeId) -> bool {
        let answer = async { self.ask_once(peer, &Question::Ping).await };
        matches!(
            tokio::time::timeout(PING_WAIT, answer).await,
            Ok(Some(Reply::Here))
        )
    }

    /// Hands lines to a peer; the number of the next one that it waits for.
    pub(super) async fn relay(&self, peer: NodeId, question: &Question) -> Option<u64> {
        match tokio::time::timeout(RELAY_WAIT, self.ask_once(peer, question)).await {
            Ok(Some(Reply::Relayed { next })) => Some(next),
            _ => None,
        }
    }

    /// Whether a peer takes an address for proved.
    pub(super) async fn prove(&self, peer: NodeId, proof: Proof) -> Result<(), Unproved> {
        let question = Question::Prove(proof);
        let answer = self.ask_once(peer, &question);
        match tokio::time::timeout(PROOF_WAIT, answer).await {
            Ok(Some(Reply::Proved(true))) => Ok(()),
            Ok(Some(Reply::Banned { reason, left_s })) => Err(Unproved::Banned { reason, left_s }),
            _ => Err(Unproved::Unknown),
        }
    }

    /// Asks another member, as long as it is taken for the leader; none when no answer came.
    async fn ask(&self, peer: NodeId, question: &Question) -> Option<Reply> {
        let mut leadership = self.replica.leadership();
        let deposed = leadership.wait_for(|now| match now {
            Leadership::Leader { .. } => true,
            Leadership::Follower { leader } => leader.is_some_and(|leader| leader != peer),
        });
        tokio::select! {
            reply = self.ask_once(peer, question) => reply,
            _ = deposed => None,
        }
    }

    async fn ask_once(&self, peer: NodeId, question: &Question) -> Option<Reply> {
        let question = Bytes::from(peer::encode(question));
        let mut parts = self.replica.ask(peer, question).await.ok()?;
        let mut whole = BytesMut::new();
        while let Some(part) = parts.next().await {
            let part = part.ok()?;
            if whole.len() + part.len() > REPLY_BYTES_MAX {
                return None;
            }
            whole.extend_from_slice(&part);
        }
        peer::decode(&whole).ok()
    }

    fn leader(&self) -> Leader {
        match *self.replica.leadership().borrow() {
            Leadership::Leader { .. } => Leader::Here,
            Leadership::Follower { leader: Some(peer) } => Leader::There(peer),
            Leadership::Follower { leader: None } => Leader::Unknown,
        }
    }

    /// Whether this member leads.
    pub(super) fn leads(&self) -> bool {
        matches!(self.leader(), Leader::Here)
    }
}

enum Leader {
    Here,
    There(NodeId),
    Unknown,
}
