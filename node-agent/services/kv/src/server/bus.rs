//! The event bus: messages to addresses, to all who are connected or to one of them in turn. Outside the log: what nobody
//! takes is gone.

mod local;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use hyper::StatusCode;
use replication::{NodeId, Shutdown};
use tokio::time::sleep;

use super::Context;
use super::answers::timeout;
use super::operations::TIMEOUT;
use super::told::{Tellings, Told};
use super::writes::reached;
use crate::peer::{Bus, Question, Reply};
use crate::request::{Answer, Refusal, Terms, Token};
use crate::state::Value;
pub(super) use local::{Local, Message};
use local::{Subscription, Wait};

/// A sign of life is sent when there was nothing else for so long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What another member may take to say whether it delivered a message.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);
/// Before consumers are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a message was handed over.
enum Handed {
    Over,
    /// Another member does not say.
    InDoubt,
    /// Nobody has it.
    ToNobody,
}

impl Context {
    /// Messages to an address. The subscriber is found from now on.
    pub(super) fn subscribe(&self, address: Arc<str>, until: Shutdown) -> Tellings {
        let subscription = self.link.bus.subscribe(address);
        let told = stream::unfold(Some((subscription, until)), |state| async move {
            let (mut subscription, until) = state?;
            let told = tokio::select! {
                message = subscription.messages.recv() => match message {
                    Some(message) => Told::Message(message),
                    // The queue was full.
                    None => return Some((Told::Overrun, None)),
                },
                () = sleep(HEARTBEAT) => Told::Beat,
                () = until.requested() => return None,
            };
            Some((told, Some::<(Subscription, Shutdown)>((subscription, until))))
        });
        stream::once(async { Told::Subscribed }).chain(told).boxed()
    }

    /// Gives a message to all subscribers of an address, wherever they are connected.
    pub(super) async fn publish(&self, address: Arc<str>, message: Value) -> Answer {
        let delivered_here = self.link.bus.publish(&address, &message);
        let peers = self.link.replica.peers();
        let answers = join_all(peers.iter().map(|peer| {
            let question = Bus::Publish {
                address: address.clone(),
                message: message.clone(),
            };
            self.ask_bus(peer.id, question)
        }))
        .await;
        let unreached = peers.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let unreached: Vec<String> = unreached.map(|(peer, _)| peer.name.clone()).collect();
        Answer {
            valid: unreached.is_empty(),
            delivered: Some(delivered_here + answers.into_iter().flatten().sum::<u64>()),
            unreached: (!unreached.is_empty()).then_some(unreached),
            ..Answer::default()
        }
    }

    /// Gives a message to one subscriber of an address, in turn, and returns its reply.
    pub(super) async fn send(
        &self,
        address: Arc<str>,
        message: Value,
        terms: &Terms,
    ) -> Result<Answer, Refusal> {
        let patience = self.patience(terms, TIMEOUT);
        let Some(mut wait) = self.link.bus.wait(self.link.replica.id()) else {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many senders wait for replies at this member: try another one, or later",
            ));
        };
        tokio::select! {
            () = self.hand_over(&address, &message, &wait) => {}
            () = reached(patience.deadline) => return Ok(timeout()),
        }
        tokio::select! {
            reply = &mut wait.reply => Ok(Answer {
                valid: true,
                ..Answer::default().with_value(&reply.unwrap_or_else(|_| Value::empty()))
            }),
            () = reached(patience.deadline) => Ok(Answer {
                unknown: true,
                error: Some("a subscriber was given the message, and did not reply in time".to_owned()),
                ..Answer::default()
            }),
        }
    }

    /// Returns once somebody has the message, or may have it.
    async fn hand_over(&self, address: &Arc<str>, message: &Value, wait: &Wait) {
        let own = self.link.replica.id();
        loop {
            let places = self.places(address, own).await;
            let total = places.len() as u64;
            for _ in 0..total {
                let turn = self.link.bus.turn(address) % total;
                let Some((member, place)) = usize::try_from(turn).ok().and_then(|turn| places.get(turn))
                else {
                    break;
                };
                match self.hand_to(*member, *place, address, message, wait).await {
                    Handed::Over | Handed::InDoubt => return,
                    Handed::ToNobody => {}
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// All subscribers of an address: the member, and the place there.
    async fn places(&self, address: &Arc<str>, own: NodeId) -> Vec<(NodeId, u64)> {
        let peers = self.link.replica.peers();
        let counts = join_all(peers.iter().map(|peer| async {
            let question = Bus::Count {
                address: address.clone(),
            };
            (peer.id, self.ask_bus(peer.id, question).await.unwrap_or_default())
        }));
        let mut counts = counts.await;
        counts.push((own, self.link.bus.count(address)));
        counts.sort_unstable();
        counts
            .into_iter()
            .flat_map(|(member, count)| (0..count).map(move |place| (member, place)))
            .collect()
    }

    async fn hand_to(
        &self,
        member: NodeId,
        place: u64,
        address: &Arc<str>,
        message: &Value,
        wait: &Wait,
    ) -> Handed {
        if member == self.link.replica.id() {
            let message = Message {
                value: message.clone(),
                token: Some(wait.token),
            };
            return match self.link.bus.send(address, place, message) {
                true => Handed::Over,
                false => Handed::ToNobody,
            };
        }
        let question = Bus::Send {
            address: address.clone(),
            place,
            message: message.clone(),
            number: wait.token.number,
            secret: wait.token.secret,
            sender: wait.token.member,
        };
        match self.ask_bus(member, question).await {
            Some(0) => Handed::ToNobody,
            Some(_) => Handed::Over,
            None => Handed::InDoubt,
        }
    }

    /// Replies to a message that was sent.
    pub(super) async fn reply(&self, token: Token, reply: Value) -> Result<Answer, Refusal> {
        let taken = if token.member == self.link.replica.id() {
            Some(u64::from(self.link.bus.reply(token, reply)))
        } else {
            let question = Bus::Reply {
                number: token.number,
                secret: token.secret,
                reply,
            };
            self.ask_bus(token.member, question).await
        };
        match taken {
            Some(0) => Err(Refusal::new(
                StatusCode::GONE,
                "nobody waits for this reply (any more)",
            )),
            Some(_) => Ok(Answer {
                valid: true,
                ..Answer::default()
            }),
            None => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the member at which the sender waits does not answer: the reply may have been lost",
            )),
        }
    }

    async fn ask_bus(&self, peer: NodeId, question: Bus) -> Option<u64> {
        let question = Question::Bus(question);
        let asked = self.link.ask_member(peer, &question);
        match tokio::time::timeout(PEER_TIMEOUT, asked).await {
            Ok(Some(Reply::Delivered(count))) => Some(count),
            _ => None,
        }
    }
}

impl Local {
    /// Answers another member.
    pub(super) fn answer(&self, question: Bus) -> u64 {
        match question {
            Bus::Publish { address, message } => self.publish(&address, &message),
            Bus::Count { address } => self.count(&address),
            Bus::Send {
                address,
                place,
                message,
                sender,
                number,
                secret,
            } => {
                let token = Token {
                    member: sender,
                    number,
                    secret,
                };
                let message = Message {
                    value: message,
                    token: Some(token),
                };
                self.send(&address, place, message).into()
            }
            Bus::Reply {
                number,
                secret,
                reply,
            } => {
                let token = Token {
                    member: 0,
                    number,
                    secret,
                };
                self.reply(token, reply).into()
            }
        }
    }
}
