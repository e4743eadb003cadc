//! One write, until it is certain what became of it.
//!
//! A request that was not handed over can be taken back at any time. One that was is in doubt until a quorum has said
//! what became of it: it is sent again under the same number, and once its time is over a cancellation is sent in its
//! place. Whichever of them is ordered first decides, so `timeout` never stands for "maybe".

use std::time::Duration;

#[cfg(simulation)]
use replication::simulation::{Bug, is_planted};
use tokio::time::{Instant, sleep_until};

use super::conveyor::{Load, Withdrawal};
use super::link::{Failed, now};
use super::numbers::Number;
use super::{Context, conveyor};
use crate::peer::NotOrdered;
use crate::state::{Change, Outcome, Owner};

/// Before a request is sent again, unless leadership changes earlier.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// How long a caller waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// When the request is given up, if it can be; none for a caller that waits for the answer.
    pub(super) deadline: Option<Instant>,
    /// When a caller whose request is in doubt is told so.
    pub(super) unknown_at: Option<Instant>,
}

impl Patience {
    /// A caller that waits for the answer.
    pub(super) const ENDLESS: Self = Self {
        deadline: None,
        unknown_at: None,
    };

    /// A caller that waits so long, and in doubt `doubt` longer.
    pub(super) fn new(timeout: Duration, doubt: Duration) -> Self {
        let deadline = now() + timeout;
        Self {
            deadline: Some(deadline),
            unknown_at: Some(deadline + doubt),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now())
    }
}

/// Which request it is.
#[derive(Debug)]
pub(super) enum Identity {
    /// One of this member's own session.
    Own(Number),
    /// One that the client has numbered.
    Client {
        /// The client's session.
        session: u64,
        /// The request's number.
        seq: u64,
        /// The lowest number that the client still waits for.
        floor: u64,
        /// Whether the client promises that it has not sent the request before, to any member.
        first: bool,
        /// Whose it is.
        owner: Owner,
    },
}

impl Identity {
    pub(super) const fn ids(&self) -> (u64, u64) {
        match self {
            Self::Own(number) => (number.session, number.seq),
            Self::Client { session, seq, .. } => (*session, *seq),
        }
    }

    pub(super) const fn owner(&self) -> Owner {
        match self {
            Self::Own(number) => number.owner,
            Self::Client { owner, .. } => *owner,
        }
    }

    pub(super) fn load(&self, change: Change, confirmed: bool) -> Load {
        let (session, seq) = self.ids();
        let floor = match self {
            Self::Own(_) => None,
            Self::Client { floor, .. } => Some(*floor),
        };
        Load {
            session,
            seq,
            floor,
            owner: self.owner(),
            change,
            confirmed,
        }
    }
}

/// How a write ended.
#[derive(Debug)]
pub(super) enum Settled {
    /// A quorum said what became of it.
    Outcome(Outcome),
    /// It did not take place and never will.
    Timeout,
    /// Nobody knows yet.
    Unknown,
    /// It was not ordered, and trying again does not help.
    Refused(NotOrdered),
}

/// What one attempt came to.
enum Attempt {
    Settled(Settled),
    Again,
    InDoubt,
}

impl Context {
    /// Carries a change out, or makes certain that it never is.
    pub(super) async fn write(&self, identity: &Identity, change: Change, patience: Patience) -> Settled {
        // Another member may have handed an earlier copy over.
        let mut in_doubt = matches!(identity, Identity::Client { first: false, .. });
        loop {
            #[cfg(simulation)]
            if patience.is_over() && is_planted(Bug::TimeoutWithoutCancel) {
                return Settled::Timeout;
            }
            let change = if in_doubt && patience.is_over() {
                Change::Cancel
            } else {
                change.clone()
            };
            match self.attempt(identity, change, patience, in_doubt).await {
                Attempt::Settled(Settled::Unknown) => return unknown(identity),
                Attempt::Settled(settled) => return settled,
                Attempt::InDoubt => in_doubt = true,
                Attempt::Again => {}
            }
            if in_doubt && patience.unknown_at.is_some_and(|at| at <= now()) {
                return unknown(identity);
            }
            if !in_doubt && patience.is_over() {
                return Settled::Timeout;
            }
            self.pause(patience, in_doubt).await;
        }
    }

    async fn attempt(
        &self,
        identity: &Identity,
        change: Change,
        patience: Patience,
        in_doubt: bool,
    ) -> Attempt {
        // One in doubt is only ever made certain by being ordered: nothing is won by asking a quorum first.
        let confirmed = patience.deadline.is_some() && !in_doubt;
        let put = self.conveyor.put(identity.load(change, confirmed));
        // In the order of likelihood: what is ready at once needs no timer.
        let mut carried = tokio::select! {
            biased;
            carried = put => carried,
            () = reached(patience.deadline), if !in_doubt => return Attempt::Settled(Settled::Timeout),
            () = reached(patience.unknown_at) => return Attempt::Settled(Settled::Unknown),
        };
        let (withdrawal, was_over) = (carried.withdrawal(), patience.is_over());
        let answer = tokio::select! {
            biased;
            answer = carried.answer() => answer,
            ended = given_up(&withdrawal, patience, in_doubt, was_over) => return ended,
        };
        match answer {
            Ok(Outcome::Cancelled) => Attempt::Settled(Settled::Timeout),
            // What the group has forgotten it cannot say any more; a client learns that.
            Ok(Outcome::NoSession | Outcome::Forgotten)
                if in_doubt && matches!(identity, Identity::Own(_)) =>
            {
                Attempt::Settled(Settled::Unknown)
            }
            Ok(outcome) => Attempt::Settled(Settled::Outcome(outcome)),
            Err(Failed::InDoubt) => Attempt::InDoubt,
            Err(Failed::NotOrdered(why @ NotOrdered::StorageFull)) if !in_doubt => {
                Attempt::Settled(Settled::Refused(why))
            }
            Err(Failed::NotOrdered(_)) => Attempt::Again,
        }
    }

    /// Sends a cancellation until a quorum has said what it met; none when the patience ends.
    pub(super) async fn settle_certainly(&self, identity: &Identity, patience: Patience) -> Option<Outcome> {
        let settling = async {
            loop {
                let mut carried = self.conveyor.put(identity.load(Change::Cancel, false)).await;
                if let Ok(outcome) = carried.answer().await {
                    return outcome;
                }
                self.pause(patience, true).await;
            }
        };
        tokio::select! {
            outcome = settling => Some(outcome),
            () = reached(patience.deadline) => None,
        }
    }

    /// Lets another session be opened, unless that has been done.
    pub(super) fn session_is_lost(&self, session: u64) {
        if self.numbers.session() == session {
            self.session_lost.notify_one();
        }
    }

    /// Waits until it may be worth to try again.
    pub(super) async fn pause(&self, patience: Patience, in_doubt: bool) {
        let mut leadership = self.link.replica.leadership();
        leadership.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(RETRY_AFTER) => {}
            _ = leadership.changed() => {}
            () = reached(patience.deadline), if !in_doubt => {}
        }
    }

    /// A number of this member's session; none when the patience ended before there is one.
    pub(super) async fn number(&self, owner: Owner, patience: Patience) -> Option<Number> {
        loop {
            if let Some(number) = self.numbers.next(owner) {
                return Some(number);
            }
            let mut opened = self.opened.subscribe();
            // It may have been opened just now.
            if self.numbers.session() != 0 {
                continue;
            }
            tokio::select! {
                _ = opened.changed() => {}
                () = reached(patience.deadline) => return None,
            }
        }
    }

    /// Opens this member's session, and another one whenever the group has forgotten it. Never ends.
    pub(super) async fn keep_session(&self) {
        loop {
            let member = self.link.replica.id();
            if member != 0 && self.numbers.session() == 0 {
                let mut carried = self.conveyor.put(conveyor::open_session(member)).await;
                if let Ok(Outcome::Opened { session }) = carried.answer().await {
                    self.numbers.begin(session);
                    self.opened.send_replace(session);
                    continue;
                }
                self.pause(Patience::ENDLESS, false).await;
            } else if member == 0 {
                // Joining changes leadership; it is not yet known whose.
                self.pause(Patience::ENDLESS, false).await;
            } else {
                self.session_lost.notified().await;
                self.numbers.begin(0);
            }
        }
    }
}

/// The group has to remember the request: its client may ask later what became of it.
fn unknown(identity: &Identity) -> Settled {
    if let Identity::Own(number) = identity {
        number.leave_unknown();
    }
    Settled::Unknown
}

/// Resolves when a caller gives up: when its time is over, as long as the request can be taken back, else when nobody
/// knows.
async fn given_up(withdrawal: &Withdrawal, patience: Patience, in_doubt: bool, was_over: bool) -> Attempt {
    if !was_over {
        reached(patience.deadline).await;
        if withdrawal.withdraw() {
            return if in_doubt {
                Attempt::Again
            } else {
                Attempt::Settled(Settled::Timeout)
            };
        }
    }
    reached(patience.unknown_at).await;
    Attempt::Settled(Settled::Unknown)
}

pub(super) async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
