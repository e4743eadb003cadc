//! Which requests were carried out already: a request carries a session and a number, and acts once.

use std::collections::BTreeMap;

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::{Outcome, transaction};

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
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Sessions {
    last: u64,
    open: BTreeMap<u64, Session>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    member: Option<NodeId>,
    used_ms: u64,
    /// Requests below this one are not carried out any more.
    floor: u64,
    answers: BTreeMap<u64, Outcome>,
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
    pub(super) fn open(&mut self, member: Option<NodeId>, now_ms: u64) -> u64 {
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
            used_ms: now_ms,
            floor: 0,
            answers: BTreeMap::new(),
        };
        self.open.insert(self.last, session);
        self.last
    }

    /// Looks a request up before it is carried out.
    pub(super) fn admit(&mut self, id: u64, seq: u64, floor: u64, now_ms: u64) -> Admission {
        let Some(session) = self.open.get_mut(&id).filter(|session| !session.is_over(now_ms)) else {
            return Admission::Answered(Outcome::NoSession);
        };
        session.used_ms = now_ms;
        session.forget_below(floor.min(seq));
        #[cfg(simulation)]
        if replication::simulation::is_planted(replication::simulation::Bug::NoDeduplication) {
            return Admission::New;
        }
        match session.answers.get(&seq) {
            Some(answer) => Admission::Answered(answer.clone()),
            None if seq < session.floor => Admission::Answered(Outcome::Forgotten),
            None => Admission::New,
        }
    }

    /// Keeps the answer of a request that was carried out.
    pub(super) fn record(&mut self, id: u64, seq: u64, outcome: &Outcome) {
        let Some(session) = self.open.get_mut(&id).filter(|session| seq >= session.floor) else {
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
        session.answers.insert(seq, kept);
        let most = if session.member.is_some() {
            MEMBER_ANSWERS_MAX
        } else {
            CLIENT_ANSWERS_MAX
        };
        if session.answers.len() > most
            && let Some((first, _)) = session.answers.pop_first()
        {
            session.floor = session.floor.max(first + 1);
        }
    }

    /// What became of a request: its answer; [`Outcome::NoSession`] or [`Outcome::Forgotten`] where that is not known;
    /// none when it has not been carried out.
    pub(super) fn answer(&self, id: u64, seq: u64) -> Option<Outcome> {
        match self.open.get(&id) {
            None => Some(Outcome::NoSession),
            Some(session) => match session.answers.get(&seq) {
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
            if *first.key() >= floor {
                break;
            }
            first.remove();
        }
    }
}
