//! The operations: what a client asked for, on its terms, and the answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
#[cfg(simulation)]
use replication::simulation::{Bug, is_planted};

use super::Context;
use super::answers::{answer, found, merged, refused, timeout, told};
use super::link::Failed;
use super::remember::Room;
use super::writes::{Identity, Patience, Settled, reached};
use crate::outbox::{self, Draft, Shown};
use crate::request::{Answer, Refusal, Terms};
use crate::state::{Change, KvState, Outcome, Owner, Value};

/// How long a request waits that may time out and does not say.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a write that need not be consistent waits for a quorum before it is remembered.
const REMEMBER_AFTER: Duration = Duration::from_millis(50);

impl Context {
    pub(super) fn patience(&self, terms: &Terms, timeout: Duration) -> Patience {
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
        let read = |state: &KvState| (state.get(key).cloned(), state.ends(key));
        #[cfg(simulation)]
        if is_planted(Bug::EndsByOwnClock) {
            return match self.consistent(patience, read).await {
                Some((item, ends)) => {
                    found(item.as_ref().filter(|_| ends.is_none_or(|ends| ends > unix_ms())))
                }
                None => timeout(),
            };
        }
        match self.consistent_alive(patience, read).await {
            Some(item) => found(item.as_ref()),
            None => timeout(),
        }
    }

    /// Waits until this member knows at least what it knew before it was started; false when the patience ends.
    pub(super) async fn recovered(&self, patience: Patience) -> bool {
        let replica = &self.link.replica;
        let mut applied = replica.applied();
        while !replica.has_recovered() {
            tokio::select! {
                // Joining is told by the first entry that is applied.
                _ = applied.changed() => {}
                () = reached(patience.deadline) => return false,
            }
        }
        true
    }

    /// The newest value that this member knows.
    async fn get_here(&self, key: &str, patience: Patience) -> Answer {
        if !self.recovered(patience).await {
            return timeout();
        }
        match self.memory.shows(key) {
            (Some(Shown(item)), _) => Answer {
                revision: None,
                remembered: true,
                ..found(item.as_ref())
            },
            (None, item) => {
                let ends = self.link.replica.local(|state| state.ends(key));
                found(item.as_ref().filter(|_| ends.is_none_or(|ends| ends > unix_ms())))
            }
        }
    }

    /// Reads what a quorum has stored, after everything that this member remembered before; none when the patience ends.
    pub(super) async fn consistent<T>(&self, patience: Patience, read: impl Fn(&KvState) -> T) -> Option<T> {
        #[cfg(simulation)]
        if is_planted(Bug::LocalRead) {
            return Some(self.link.replica.local(&read));
        }
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
            biased;
            read = reading => Some(read),
            () = reached(patience.deadline) => None,
        }
    }

    /// `set`, `delete` and `swap`, stored by a quorum.
    pub(super) async fn change(&self, change: Change, terms: &Terms) -> Result<Answer, Refusal> {
        let patience = self.patience(terms, TIMEOUT);
        if let Some(reason) = self.no_room(&change, patience).await {
            return self.without_room(reason, &change, terms).await;
        }
        #[cfg(simulation)]
        let change = match self.decide_here(change, patience).await {
            Ok(change) => change,
            Err(answer) => return Ok(answer),
        };
        self.change_within(change, terms, patience).await
    }

    async fn change_within(
        &self,
        change: Change,
        terms: &Terms,
        patience: Patience,
    ) -> Result<Answer, Refusal> {
        tokio::select! {
            biased;
            // What this member remembered comes first: its own clients see one order.
            () = self.memory.merged() => {}
            // An earlier copy may be under way elsewhere: then `write` sends a cancellation, or says that nobody knows.
            () = reached(patience.deadline) => if terms.request.is_none() || terms.first {
                return Ok(timeout());
            },
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
                owner: terms.owner,
            }),
            None => self.number(terms.owner, patience).await.map(Identity::Own),
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
        // A numbered one may have been carried out already.
        if (terms.request.is_none() || terms.first)
            && let Some(reason) = self.no_room(&change, Patience::new(wait, self.doubt)).await
        {
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, reason));
        }
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
            let patience = Patience::new(wait, self.doubt);
            match self.try_quorum(change.clone(), terms, patience).await {
                Tried::Settled(outcome, identity) => {
                    if self.is_kept(&outcome, &key, patience).await {
                        return answer(Settled::Outcome(outcome), &change, identity.ids());
                    }
                    Some(identity)
                }
                Tried::GivenUp(identity) => identity,
            }
        } else {
            terms.request.map(|(session, seq)| Identity::Client {
                session,
                seq,
                floor: 0,
                first: false,
                owner: terms.owner,
            })
        };
        let draft = Draft {
            member,
            policy: self.policy_of(&key),
            key,
            value,
            request: given_up.as_ref().map_or((0, 0), Identity::ids),
            owner: given_up.as_ref().map_or(Owner::NOBODY, Identity::owner),
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

    /// Waits until this member shows a change of a key that a quorum has made, and would show it if it was started again
    /// alone; false when the patience ends before. Then it is remembered: this member shows what it has accepted.
    async fn is_kept(&self, outcome: &Outcome, key: &str, patience: Patience) -> bool {
        let is_shown = |state: &KvState| match outcome {
            Outcome::Done { revision } => state.revision() >= *revision,
            // There was nothing to delete.
            Outcome::Differs { .. } => state.get(key).is_none(),
            _ => true,
        };
        let replica = &self.link.replica;
        let mut applied = replica.applied();
        while !replica.local(is_shown) {
            tokio::select! {
                _ = applied.changed() => {}
                () = reached(patience.deadline) => return false,
            }
        }
        replica.keep_applied().await.is_ok()
    }

    /// Asks a quorum for a while. What is given up may yet take place, under its number.
    async fn try_quorum(&self, change: Change, terms: &Terms, patience: Patience) -> Tried {
        let Some(identity) = self.identity(terms, patience).await else {
            return Tried::GivenUp(None);
        };
        let (session, _) = identity.ids();
        let own = matches!(identity, Identity::Own(_));
        let put = self.conveyor.put(identity.load(change, false));
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
            Ok(outcome) => Tried::Settled(outcome, identity),
            Err(Failed::InDoubt | Failed::NotOrdered(_)) => Tried::GivenUp(Some(identity)),
        }
    }

    /// What became of a request.
    pub(super) async fn outcome(&self, terms: &Terms) -> Answer {
        let (session, seq) = terms.request.unwrap_or_default();
        let patience = self.patience(terms, TIMEOUT);
        let Some(outcome) = self
            .consistent(patience, |state| state.answer(terms.owner, session, seq))
            .await
        else {
            return timeout();
        };
        if outcome.is_some() {
            self.numbers.settle(terms.owner, session, seq);
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
            owner: terms.owner,
        };
        let patience = self.patience(terms, TIMEOUT);
        // Two copies of a cancellation do what one does, so that it needs no number of its own.
        match self.settle_certainly(&identity, patience).await {
            Some(outcome) => {
                self.numbers.settle(terms.owner, session, seq);
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
            owner: terms.owner,
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
    Settled(Outcome, Identity),
    /// With the number under which it may yet be ordered.
    GivenUp(Option<Identity>),
}

#[cfg(not(simulation))]
#[expect(
    clippy::disallowed_methods,
    reason = "the time at which a write is remembered, and by which values end here"
)]
pub(super) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(simulation)]
pub(super) fn unix_ms() -> u64 {
    replication::simulation::unix_ms(0)
}
