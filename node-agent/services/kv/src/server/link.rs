//! Reaches the leader: here, or at another member.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use replication::{AskError, Leadership, NodeId, ProposeError, ReadError, Replica, ReplyStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bus;
use crate::peer::{self, NotOrdered, Question, Reply};
use crate::state::{Command, KvState, Outcome};

/// A leader that heard from a quorum so recently need not ask again before it orders what must not stay in doubt.
/// The window in which a lost quorum leaves a request in doubt is as long.
const CONFIRMED_AGE_MAX: Duration = Duration::from_millis(5);
/// How long a quorum's confirmation is waited for: longer than a lost packet takes, and than most pauses.
const CONFIRM_WAIT: Duration = Duration::from_millis(200);
/// An answer of at most so many bytes is read from a peer.
const REPLY_BYTES_MAX: usize = 256 << 20;
/// Chunks of an answer to a peer.
const CHUNK_BYTES: usize = 1 << 20;

/// A command that was not carried out, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nothing was ordered.
    NotOrdered(NotOrdered),
    /// It may have been ordered.
    InDoubt,
}

/// The way to the leader.
pub(super) struct Link {
    pub(super) replica: Replica<KvState>,
    /// The leader that confirmed last that it leads, and when it was asked.
    confirmed: watch::Sender<Option<(NodeId, Instant)>>,
    /// The event bus, as far as this member has part in it.
    pub(super) bus: Arc<bus::Local>,
}

impl Link {
    pub(super) fn new(replica: Replica<KvState>) -> Self {
        let confirmed = watch::channel(None).0;
        Self {
            replica,
            confirmed,
            bus: Arc::default(),
        }
    }

    /// Lets the peers reach this member's log, as long as the service runs.
    pub(super) fn answer_peers(self: &Arc<Self>) {
        let link = Arc::downgrade(self);
        self.replica.answer_with(Arc::new(move |question: Bytes| {
            let link = link.clone();
            let reply = async move {
                match link.upgrade() {
                    Some(link) => link.answer(&question).await,
                    None => Err(AskError("the service of this member has ended".to_owned())),
                }
            };
            Box::pin(futures::stream::once(reply).flat_map(|reply| futures::stream::iter(chunks(reply))))
                as ReplyStream
        }));
    }

    async fn answer(&self, question: &[u8]) -> Result<Bytes, AskError> {
        let question = peer::decode(question).map_err(|error| AskError(format!("no question: {error}")))?;
        let reply = match question {
            Question::ReadIndex => index_reply(self.index_here(Duration::ZERO).await),
            Question::Confirm => index_reply(self.index_here(CONFIRMED_AGE_MAX).await),
            Question::Bus(question) => Reply::Delivered(self.bus.answer(question)),
            Question::Order { confirmed, command } => match self.order_here(command, confirmed).await {
                Ok(outcomes) => Reply::Ordered(outcomes),
                Err(Failed::NotOrdered(why)) => Reply::NotOrdered(why),
                Err(Failed::InDoubt) => Reply::InDoubt,
            },
        };
        Ok(peer::encode(&reply))
    }

    /// How far this member must have applied the log to read linearizably.
    pub(super) async fn read_index(&self) -> Result<u64, NotOrdered> {
        match self.leader() {
            Leader::Here => self.index_here(Duration::ZERO).await,
            Leader::There(peer) => match self.ask(peer, &Question::ReadIndex).await {
                Some(Reply::Index(index)) => Ok(index),
                Some(Reply::NotOrdered(why)) => Err(why),
                _ => Err(NotOrdered::NoLeader { leader: None }),
            },
            Leader::Unknown => Err(NotOrdered::NoLeader { leader: None }),
        }
    }

    /// Orders a command, and returns what became of its requests. If `confirmed`, only once a quorum has confirmed who
    /// leads: then nothing is handed over to a leader that may not be able to order it.
    pub(super) async fn order(&self, command: Command, confirmed: bool) -> Result<Vec<Outcome>, Failed> {
        match self.leader() {
            Leader::Here => self.order_here(command, confirmed).await,
            Leader::There(peer) => {
                if confirmed {
                    self.confirm(peer).await.map_err(Failed::NotOrdered)?;
                }
                let asked = now();
                match self.ask(peer, &Question::Order { confirmed, command }).await {
                    Some(Reply::Ordered(outcomes)) => {
                        self.confirmed.send_replace(Some((peer, asked)));
                        Ok(outcomes)
                    }
                    Some(Reply::NotOrdered(why)) => Err(Failed::NotOrdered(why)),
                    _ => Err(Failed::InDoubt),
                }
            }
            Leader::Unknown => Err(Failed::NotOrdered(NotOrdered::NoLeader { leader: None })),
        }
    }

    async fn confirm(&self, peer: NodeId) -> Result<(), NotOrdered> {
        let asked = now();
        let known = *self.confirmed.borrow();
        if known.is_some_and(|(id, at)| id == peer && asked - at < CONFIRMED_AGE_MAX) {
            return Ok(());
        }
        let answer = tokio::time::timeout(2 * CONFIRM_WAIT, self.ask(peer, &Question::Confirm));
        match answer.await {
            Ok(Some(Reply::Index(_))) => {
                self.confirmed.send_replace(Some((peer, asked)));
                Ok(())
            }
            Ok(Some(Reply::NotOrdered(why))) => Err(why),
            _ => Err(NotOrdered::NoLeader { leader: None }),
        }
    }

    async fn index_here(&self, age_max: Duration) -> Result<u64, NotOrdered> {
        let index = self.replica.read_index(age_max, Some(CONFIRM_WAIT)).await;
        index.map_err(|error| match error {
            ReadError::NotLeader { leader } => NotOrdered::NoLeader { leader },
            ReadError::Stopping => NotOrdered::Stopping,
        })
    }

    async fn order_here(&self, command: Command, confirmed: bool) -> Result<Vec<Outcome>, Failed> {
        if confirmed && !self.replica.is_confirmed(CONFIRMED_AGE_MAX) {
            self.index_here(CONFIRMED_AGE_MAX)
                .await
                .map_err(Failed::NotOrdered)?;
        }
        let outcomes = self.replica.propose(command).await;
        outcomes.map_err(|error| match error {
            ProposeError::NotLeader { leader } => Failed::NotOrdered(NotOrdered::NoLeader { leader }),
            ProposeError::StorageFull => Failed::NotOrdered(NotOrdered::StorageFull),
            ProposeError::Stopping | ProposeError::OutcomeUnknown => Failed::InDoubt,
        })
    }

    /// Asks another member, as long as it is taken for the leader; none when no answer came.
    async fn ask(&self, peer: NodeId, question: &Question) -> Option<Reply> {
        let mut leadership = self.replica.leadership();
        let deposed = leadership.wait_for(|now| match now {
            Leadership::Leader { .. } => true,
            Leadership::Follower { leader } => leader.is_some_and(|leader| leader != peer),
        });
        tokio::select! {
            reply = self.ask_member(peer, question) => reply,
            _ = deposed => None,
        }
    }

    /// Asks another member; none when no answer came.
    pub(super) async fn ask_member(&self, peer: NodeId, question: &Question) -> Option<Reply> {
        let mut parts = self.replica.ask(peer, peer::encode(question)).await.ok()?;
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
}

enum Leader {
    Here,
    There(NodeId),
    Unknown,
}

fn index_reply(index: Result<u64, NotOrdered>) -> Reply {
    match index {
        Ok(index) => Reply::Index(index),
        Err(why) => Reply::NotOrdered(why),
    }
}

fn chunks(reply: Result<Bytes, AskError>) -> Vec<Result<Bytes, AskError>> {
    match reply {
        Ok(mut whole) => {
            let mut parts = Vec::new();
            while !whole.is_empty() {
                parts.push(Ok(whole.split_to(CHUNK_BYTES.min(whole.len()))));
            }
            parts
        }
        Err(error) => vec![Err(error)],
    }
}

/// The clock of deadlines.
pub(super) fn now() -> Instant {
    Instant::now()
}
