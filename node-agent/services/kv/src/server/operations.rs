//! The operations: what a client asked for, on its terms, and the answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use replication::NodeId;

use super::Context;
use super::conveyor::Load;
use super::link::Failed;
use super::remember::Room;
use super::writes::{Identity, Patience, Settled, reached};
use crate::outbox::{self, Draft, Shown};
use crate::peer::NotOrdered;
use crate::request::{Answer, Refusal, Terms};
use crate::state::{Change, Item, KvState, Outcome, Value};

/// How long a request waits that may time out and does not say.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a write that need not be consistent waits for a quorum before it is remembered.
const REMEMBER_AFTER: Duration = Duration::from_millis(50);

impl Context {
    fn patience(&self, terms: &Terms, timeout: Duration) -> Patience {
        if terms.blocking {
            Patience::ENDLESS
        } else {
            Patience::new(terms.timeout.unwrap_or(timeout), self.doubt)
        }
    }

    /// `get`
    pub(super) async fn get(&self, key: &str, terms: &Terms) -> Answer {
        let patience = self.patience(terms, TIMEOUT);
        if terms.local {
            return self.get_here(key, patience).await;
        }
        match self.consistent(patience, |state| state.get(key).cloned()).await {
            Some(item) => found(item.as_ref()),
            None => timeout(),
        }
    }

    /// The newest value that this member knows.
    async fn get_here(&self, key: &str, patience: Patience) -> Answer {
        let replica = &self.link.replica;
        let mut applied = replica.applied();
        while !replica.has_recovered() {
            tokio::select! {
                // Joining is told by the first entry that is applied.
                _ = applied.changed() => {}
                () = reached(patience.deadline) => return timeout(),
            }
        }
        match self.memory.shows(key) {
            (Some(Shown(item)), _) => Answer {
                revision: None,
                remembered: true,
                ..found(item.as_ref())
            },
            (None, item) => found(item.as_ref()),
        }
    }

    /// Reads what a quorum has stored, after everything that this member remembered before; none when the patience ends.
    async fn consistent<T>(&self, patience: Patience, read: impl Fn(&KvState) -> T) -> Option<T> {
        let reading = async {
            self.memory.merged().await;
            loop {
                match self.reads.index().await {
                    Ok(index) => {
                        self.link.replica.applied_to(index).await;
                        return self.link.replica.local(&read);
                    }
                    Err(_) => self.pause(patience, false).await,
                }
            }
        };
        tokio::select! {
            read = reading => Some(read),
            () = reached(patience.deadline) => None,
        }
    }

    /// `set`, `delete` and `swap`, stored by a quorum.
    pub(super) async fn change(&self, change: Change, terms: &Terms) -> Result<Answer, Refusal> {
        let patience = self.patience(terms, TIMEOUT);
        self.change_within(change, terms, patience).await
    }

    async fn change_within(
        &self,
        change: Change,
        terms: &Terms,
        patience: Patience,
    ) -> Result<Answer, Refusal> {
        tokio::select! {
            // What this member remembered comes first: its own clients see one order.
            () = self.memory.merged() => {}
            () = reached(patience.deadline) => return Ok(timeout()),
        }
        loop {
            let Some(identity) = self.identity(terms, patience).await else {
                return Ok(timeout());
            };
            let settled = self.write(&identity, change.clone(), patience).await;
            let lost = matches!(settled, Settled::Outcome(Outcome::NoSession));
            if lost && let Identity::Own(number) = &identity {
                // It was not carried out: the group has forgotten this member's session.
                self.session_is_lost(number.session);
                continue;
            }
            return answer(settled, &change, identity.ids());
        }
    }

    async fn identity(&self, terms: &Terms, patience: Patience) -> Option<Identity> {
        match terms.request {
            Some((session, seq)) => Some(Identity::Client {
                session,
                seq,
                floor: terms.floor,
                first: terms.first,
            }),
            None => self.number(patience).await.map(Identity::Own),
        }
    }

    /// `set` and `delete` that this member accepts alone when there is no quorum.
    pub(super) async fn change_here(
        &self,
        key: Arc<str>,
        value: Option<Value>,
        terms: &Terms,
    ) -> Result<Answer, Refusal> {
        let wait = terms.timeout.unwrap_or(REMEMBER_AFTER);
        let change = match &value {
            Some(value) => Change::Set {
                key: key.clone(),
                value: value.clone(),
            },
            None => Change::Delete { key: key.clone() },
        };
        let member = self.link.replica.id();
        if member == 0 {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "this member has not joined its group yet: it can remember nothing",
            ));
        }
        let room = match self.memory.room(outbox::size(&key, value.as_ref())) {
            Ok(room) => room,
            Err(reason) => {
                // Without room only a quorum can take it.
                let answer = self
                    .change_within(change, terms, Patience::new(wait, self.doubt))
                    .await?;
                return if answer.timeout {
                    Err(Refusal {
                        timeout: true,
                        ..Refusal::new(StatusCode::INSUFFICIENT_STORAGE, reason)
                    })
                } else {
                    Ok(answer)
                };
            }
        };
        // Behind what is remembered already: one order, here and at the merge.
        let given_up = if self.memory.is_empty() {
            match self
                .try_quorum(change.clone(), terms, Patience::new(wait, self.doubt))
                .await
            {
                Tried::Settled(outcome, ids) => return answer(Settled::Outcome(outcome), &change, ids),
                Tried::GivenUp(identity) => identity,
            }
        } else {
            terms.request.map(|(session, seq)| Identity::Client {
                session,
                seq,
                floor: 0,
                first: false,
            })
        };
        let draft = Draft {
            member,
            policy: self.policy_of(&key),
            key,
            value,
            request: given_up.as_ref().map_or((0, 0), Identity::ids),
            unix_ms: unix_ms(),
        };
        self.remember(draft, given_up, room, terms).await
    }

    async fn remember(
        &self,
        draft: Draft,
        request: Option<Identity>,
        room: Room,
        terms: &Terms,
    ) -> Result<Answer, Refusal> {
        let number = match request {
            Some(Identity::Own(number)) => Some(number),
            _ => None,
        };
        let (member, key) = (draft.member, draft.key.clone());
        let remembered = self.memory.remember(draft, number, room).await;
        let number = remembered.map_err(|reason| Refusal::new(StatusCode::INSUFFICIENT_STORAGE, reason))?;
        if !terms.blocking {
            return Ok(Answer {
                valid: true,
                timeout: true,
                remembered: true,
                ..Answer::default()
            });
        }
        self.memory.merged_to(number).await;
        Ok(self
            .link
            .replica
            .local(|state| merged(state, member, number, &key)))
    }

    /// Asks a quorum for a while. What is given up may yet take place, under its number.
    async fn try_quorum(&self, change: Change, terms: &Terms, patience: Patience) -> Tried {
        let Some(identity) = self.identity(terms, patience).await else {
            return Tried::GivenUp(None);
        };
        let (session, seq) = identity.ids();
        let own = matches!(identity, Identity::Own(_));
        let put = self.conveyor.put(Load {
            session,
            seq,
            floor: (!own).then_some(terms.floor),
            change,
            confirmed: false,
        });
        let mut carried = tokio::select! {
            carried = put => carried,
            () = reached(patience.deadline) => return Tried::GivenUp(Some(identity)),
        };
        let withdrawal = carried.withdrawal();
        let answer = tokio::select! {
            answer = carried.answer() => answer,
            () = reached(patience.deadline) => {
                withdrawal.withdraw();
                return Tried::GivenUp(Some(identity));
            }
        };
        match answer {
            Ok(Outcome::NoSession) if own => {
                self.session_is_lost(session);
                Tried::GivenUp(None)
            }
            Ok(outcome) => Tried::Settled(outcome, (session, seq)),
            Err(Failed::InDoubt | Failed::NotOrdered(_)) => Tried::GivenUp(Some(identity)),
        }
    }

    /// What became of a request.
    pub(super) async fn outcome(&self, terms: &Terms) -> Answer {
        let (session, seq) = terms.request.unwrap_or_default();
        let patience = self.patience(terms, TIMEOUT);
        let Some(outcome) = self
            .consistent(patience, |state| state.answer(session, seq))
            .await
        else {
            return timeout();
        };
        if outcome.is_some() {
            self.numbers.settle(session, seq);
        }
        told(outcome.as_ref())
    }

    /// Makes a request never take place, unless it did already.
    pub(super) async fn cancel(&self, terms: &Terms) -> Result<Answer, Refusal> {
        let (session, seq) = terms.request.unwrap_or_default();
        let identity = Identity::Client {
            session,
            seq,
            floor: 0,
            first: false,
        };
        let patience = self.patience(terms, TIMEOUT);
        // Two copies of a cancellation do what one does, so that it needs no number of its own.
        match self.settle_certainly(&identity, patience).await {
            Some(outcome) => {
                self.numbers.settle(session, seq);
                Ok(told(Some(&outcome)))
            }
            None => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "no quorum settled the request in time: it is as it was, or cancelled; ask again",
            )),
        }
    }

    /// Opens a session for a client.
    pub(super) async fn open_session(&self, terms: &Terms) -> Result<Answer, Refusal> {
        let patience = self.patience(terms, TIMEOUT);
        let identity = Identity::Client {
            session: 0,
            seq: 0,
            floor: 0,
            first: true,
        };
        // One that nobody learns of ends by itself.
        match self
            .write(&identity, Change::Open { member: None }, patience)
            .await
        {
            Settled::Outcome(Outcome::Opened { session }) => Ok(Answer {
                valid: true,
                session: Some(session),
                ..Answer::default()
            }),
            Settled::Refused(why) => Err(refused(&why)),
            _ => Ok(timeout()),
        }
    }
}

/// What came of asking a quorum.
enum Tried {
    Settled(Outcome, (u64, u64)),
    /// With the number under which it may yet be ordered.
    GivenUp(Option<Identity>),
}

fn found(item: Option<&Item>) -> Answer {
    match item {
        Some(item) => Answer {
            valid: true,
            revision: Some(item.revision),
            ..Answer::default().with_value(&item.value)
        },
        None => Answer::default(),
    }
}

/// What became of a remembered write, once it was merged: it may have lost a conflict.
fn merged(state: &KvState, member: NodeId, number: u64, key: &str) -> Answer {
    if state.was_dropped(member, number) {
        return Answer {
            valid: false,
            outcome: Some("dropped"),
            ..found(state.get(key))
        };
    }
    Answer {
        valid: true,
        ..Answer::default()
    }
}

/// It did not take place, and never will.
pub(super) fn timeout() -> Answer {
    Answer {
        timeout: true,
        ..Answer::default()
    }
}

fn refused(why: &NotOrdered) -> Refusal {
    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, why.to_string())
}

fn answer(settled: Settled, change: &Change, (session, seq): (u64, u64)) -> Result<Answer, Refusal> {
    match settled {
        Settled::Timeout => Ok(timeout()),
        Settled::Unknown => Ok(Answer {
            unknown: true,
            ticket: Some(format!("{session}.{seq}")),
            ..Answer::default()
        }),
        Settled::Refused(why) => Err(refused(&why)),
        Settled::Outcome(Outcome::NoSession) => Err(Refusal::new(
            StatusCode::GONE,
            format!(
                "there is no session {session} (any more): nothing was done; open one with POST /v1/sessions"
            ),
        )),
        Settled::Outcome(Outcome::Forgotten) => Err(Refusal::new(
            StatusCode::GONE,
            format!("request {seq} of session {session} was answered long ago, and its answer is forgotten"),
        )),
        Settled::Outcome(Outcome::Full) => Err(Refusal::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "the group holds as many of these as it can: nothing was done",
        )),
        Settled::Outcome(outcome) => {
            let answer = of(&outcome);
            Ok(match (outcome, change) {
                (Outcome::Done { .. }, Change::Swap { new, .. }) => answer.with_value(new),
                _ => answer,
            })
        }
    }
}

fn of(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::Done { revision } => Answer {
            valid: true,
            revision: Some(*revision),
            ..Answer::default()
        },
        Outcome::Differs {
            value: Some(value),
            revision,
        } => Answer {
            revision: Some(*revision),
            ..Answer::default().with_value(value)
        },
        Outcome::Cancelled => timeout(),
        Outcome::Extracted { start, gap, total } => Answer {
            valid: true,
            gap: *gap,
            start: Some(*start),
            total: Some(*total),
            ..Answer::default()
        },
        _ => Answer::default(),
    }
}

/// The answer to a question about a request.
fn told(outcome: Option<&Outcome>) -> Answer {
    let name = match outcome {
        None => "none",
        Some(Outcome::Done { .. } | Outcome::Extracted { .. }) => "done",
        Some(Outcome::Cancelled) => "cancelled",
        Some(Outcome::NoSession | Outcome::Forgotten) => "forgotten",
        Some(_) => "differs",
    };
    Answer {
        outcome: Some(name),
        ..outcome.map(of).unwrap_or_default()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time at which a write is remembered"
)]
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
