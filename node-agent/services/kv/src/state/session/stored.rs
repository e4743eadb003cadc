//! Sessions as snapshots hold them. A stored format: what has no owner is as it was before there were owners, the rest is in
//! a part of its own.

use std::collections::BTreeMap;

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::{Session, Sessions};
use crate::state::{Outcome, Owner};

/// The sessions, with the answers that are nobody's.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::state) struct Stored {
    last: u64,
    open: BTreeMap<u64, StoredSession>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredSession {
    member: Option<NodeId>,
    used_ms: u64,
    floor: u64,
    answers: BTreeMap<u64, Outcome>,
}

/// What has an owner.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::state) struct Owned {
    /// Clients' sessions.
    sessions: BTreeMap<u64, Owner>,
    /// By session, number and owner.
    answers: Vec<(u64, u64, Owner, Outcome)>,
}

impl Owned {
    /// Whether nothing has an owner.
    pub(in crate::state) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.answers.is_empty()
    }
}

impl Sessions {
    /// As snapshots hold them.
    pub(in crate::state) fn stored(&self) -> (Stored, Owned) {
        let (mut open, mut owned) = (BTreeMap::new(), Owned::default());
        for (id, session) in &self.open {
            if session.owner != Owner::NOBODY {
                owned.sessions.insert(*id, session.owner);
            }
            let mut answers = BTreeMap::new();
            for ((seq, owner), outcome) in &session.answers {
                if *owner == Owner::NOBODY {
                    answers.insert(*seq, outcome.clone());
                } else {
                    owned.answers.push((*id, *seq, *owner, outcome.clone()));
                }
            }
            let stored = StoredSession {
                member: session.member,
                used_ms: session.used_ms,
                floor: session.floor,
                answers,
            };
            open.insert(*id, stored);
        }
        let stored = Stored {
            last: self.last,
            open,
        };
        (stored, owned)
    }

    /// The inverse of [`Sessions::stored`].
    pub(in crate::state) fn of(stored: Stored, owned: Owned) -> Self {
        let of_nobody = |(id, session): (u64, StoredSession)| {
            let answers = session.answers.into_iter();
            let session = Session {
                member: session.member,
                owner: owned.sessions.get(&id).copied().unwrap_or_default(),
                used_ms: session.used_ms,
                floor: session.floor,
                answers: answers
                    .map(|(seq, outcome)| ((seq, Owner::NOBODY), outcome))
                    .collect(),
            };
            (id, session)
        };
        let mut open: BTreeMap<_, _> = stored.open.into_iter().map(of_nobody).collect();
        for (id, seq, owner, outcome) in owned.answers {
            if let Some(session) = open.get_mut(&id) {
                session.answers.insert((seq, owner), outcome);
            }
        }
        Self {
            last: stored.last,
            open,
        }
    }
}
