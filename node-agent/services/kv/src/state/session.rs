//! Which requests were carried out already: a request carries a session and a number, and acts once.
//!
//! A client's session is its owner's; others do not find it. The sessions of members carry the requests of all their
//! callers, told apart by owner: there nobody meets the request of another.

mod stored;

use std::collections::BTreeMap;

use replication::NodeId;

use super::{Caller, Outcome, Owner, transaction};
pub(super) use stored::{Owned, Stored};

/// Sessions of clients that exist at a time; the one unused for the longest time makes room.
const CLIENT_SESSIONS_MAX: usize = 4096;
/// Sessions of members that exist at a time, one for each start of each member; likewise.
const MEMBER_SESSIONS_MAX: usize = 1024;
/// A client's session ends when it is not used for so long, by the log's time.
const IDLE_MS_MAX: u64 = 24 * 3600 * 1000;
/// Answers that a client's session keeps; older ones are forgotten.
const CLIENT_ANSWERS_MAX: usize = 1024;
/// Answers that a member's session keeps: more than it has requests under way.
const MEMBER_ANSWERS_MAX: usize = 32_768;
/// A larger value is not kept: the request changed nothing, and is evaluated anew when it is repeated.
const VALUE_BYTES_KEPT_MAX: usize = 4096;

/// The sessions that exist.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    last: u64,
    open: BTreeMap<u64, Session>,
}

#[derive(Debug)]
struct Session {
    member: Option<NodeId>,
    /// Nobody's where a member has it.
    owner: Owner,
    used_ms: u64,
    /// Requests below this one are not carried out any more.
    floor: u64,
    /// By number and owner.
    answers: BTreeMap<(u64, Owner), Outcome>,
}

/// Which request is looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) session: u64,
    pub(super) seq: u64,
    /// Those below this one are never repeated.
    pub(super) floor: u64,
    pub(super) caller: Caller,
    /// Whether it is there only to stop the request of its number.
    pub(super) cancels: bool,
}

impl Asked {
    /// One under which a remembered write may have been ordered already.
    pub(super) fn remembered(owner: Owner, session: u64, seq: u64) -> Self {
        Self {
            session,
            seq,
            floor: 0,
            caller: Caller {
                owner,
                has_numbered: false,
            },
            cancels: false,
        }
    }
}

/// Whether a request is carried out.
pub(super) enum Admission {
    /// It is new.
    New,
    /// It is not; this is its answer.
    Answered(Outcome),
}

impl Sessions {
    /// Opens one; another one may end for it.
    pub(super) fn open(&mut self, member: Option<NodeId>, owner: Owner, now_ms: u64) -> u64 {
        self.open.retain(|_, session| !session.is_over(now_ms));
        let alike = || {
            self.open
                .iter()
                .filter(|(_, session)| session.member.is_some() == member.is_some())
        };
        let most = if member.is_some() {
            MEMBER_SESSIONS_MAX
        } else {
            CLIENT_SESSIONS_MAX
        };
        if alike().count() >= most
            && let Some(oldest) = alike()
                .min_by_key(|(_, session)| session.used_ms)
                .map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.last += 1;
        let session = Session {
            member,
            owner,
            used_ms: now_ms,
            floor: 0,
            answers: BTreeMap::new(),
        };
        self.open.insert(self.last, session);
        self.last
    }

    /// Looks a request up before it is carried out.
    pub(super) fn admit(&mut self, asked: Asked, now_ms: u64) -> Admission {
        let (seq, owner) = (asked.seq, asked.caller.owner);
        let session = self.open.get_mut(&asked.session);
        let Some(session) = session.filter(|session| session.is_of(owner) && !session.is_over(now_ms)) else {
            return Admission::Answered(Outcome::NoSession);
        };
        session.used_ms = now_ms;
        // Only the member that has it says what it waits for, and begins requests in it.
        let is_visitor = asked.caller.has_numbered && session.member.is_some();
        if !is_visitor {
            session.forget_below(asked.floor.min(seq));
        }
        #[cfg(simulation)]
        if replication::simulation::is_planted(replication::simulation::Bug::NoDeduplication) {
            return Admission::New;
        }
        match session.answers.get(&(seq, owner)) {
            Some(answer) => Admission::Answered(answer.clone()),
            None if seq < session.floor => Admission::Answered(Outcome::Forgotten),
            None if is_visitor && !asked.cancels => Admission::Answered(Outcome::NoSession),
            None => Admission::New,
        }
    }

    /// Keeps the answer of a request that was carried out.
    pub(super) fn record(&mut self, id: u64, seq: u64, owner: Owner, outcome: &Outcome) {
        let session = self.open.get_mut(&id);
        let Some(session) = session.filter(|session| session.is_of(owner) && seq >= session.floor) else {
            return;
        };
        if let Outcome::Differs {
            value: Some(value), ..
        } = outcome
            && value.as_ref().len() > VALUE_BYTES_KEPT_MAX
        {
            return;
        }
        let kept = match outcome {
            Outcome::Transacted {
                holds,
                made,
                revision,
            } => Outcome::Transacted {
                holds: *holds,
                made: transaction::kept(made, VALUE_BYTES_KEPT_MAX),
                revision: *revision,
            },
            other => other.clone(),
        };
        session.answers.insert((seq, owner), kept);
        let most = if session.member.is_some() {
            MEMBER_ANSWERS_MAX
        } else {
            CLIENT_ANSWERS_MAX
        };
        if session.answers.len() > most
            && let Some(((first, _), _)) = session.answers.pop_first()
        {
            session.floor = session.floor.max(first + 1);
        }
    }

    /// What became of a request: its answer; [`Outcome::NoSession`] or [`Outcome::Forgotten`] where that is not known;
    /// none when it has not been carried out.
    pub(super) fn answer(&self, owner: Owner, id: u64, seq: u64) -> Option<Outcome> {
        match self.open.get(&id).filter(|session| session.is_of(owner)) {
            None => Some(Outcome::NoSession),
            Some(session) => match session.answers.get(&(seq, owner)) {
                Some(answer) => Some(answer.clone()),
                None => (seq < session.floor).then_some(Outcome::Forgotten),
            },
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }
}

impl Session {
    /// Whether it may carry requests of this owner.
    fn is_of(&self, owner: Owner) -> bool {
        self.member.is_some() || self.owner == owner
    }

    /// Members' sessions do not end by time: what they remember may arrive after a long time apart.
    fn is_over(&self, now_ms: u64) -> bool {
        self.member.is_none() && now_ms.saturating_sub(self.used_ms) > IDLE_MS_MAX
    }

    fn forget_below(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        while let Some(first) = self.answers.first_entry() {
            if first.key().0 >= floor {
                break;
            }
            first.remove();
        }
    }
}
