//! What commands change for users, numbered, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::{Refusal, Said};
use crate::message::{Sid, SidBlock};

/// A connection of one front's run; never used again in it.
pub type LinkId = u64;

/// Effects that are kept for fronts to read. A front that is further behind compares the directory instead.
const EFFECTS_MAX: usize = 16_384;

/// One thing that fronts tell their users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// SIDs are the front's to give out.
    Lent {
        /// Whose.
        front: NodeId,
        /// Which.
        block: SidBlock,
    },
    /// A user is here. Everybody is told.
    Joined {
        /// Its SID.
        sid: Sid,
        /// Its front.
        front: NodeId,
        /// Its connection there.
        link: LinkId,
        /// Its `INF`.
        inf: Arc<str>,
    },
    /// An orphan's place was taken over by its owner. Others are told what changed, if anything.
    Returned {
        /// Its SID.
        sid: Sid,
        /// Its front.
        front: NodeId,
        /// Its connection there.
        link: LinkId,
        /// Fields that changed, escaped.
        changes: Option<Arc<str>>,
    },
    /// A client is not let in. Nobody else is told.
    Refused {
        /// Its front.
        front: NodeId,
        /// Its connection there.
        link: LinkId,
        /// Why.
        refusal: Refusal,
    },
    /// A user's `INF` changed.
    Updated {
        /// Whose.
        sid: Sid,
        /// Fields that changed, escaped.
        changes: Arc<str>,
    },
    /// A user said something to all.
    Said(Said),
    /// A user is gone.
    Left {
        /// Its SID.
        sid: Sid,
        /// Its front and connection, if it had one: to be closed, if it still is open.
        link: Option<(NodeId, LinkId)>,
        /// How it went.
        departure: Departure,
    },
    /// The topic changed.
    Topic {
        /// The new one.
        topic: Option<Arc<str>>,
    },
    /// An operator's order from inside the hub was carried out, or not.
    Answered {
        /// The operator's front.
        front: NodeId,
        /// Whose order it was.
        sid: Sid,
        /// What came of it, in words.
        text: String,
    },
}

/// How a user went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// It closed its connection.
    Left,
    /// The hub closed it: the client broke the protocol, did not read, or did not answer; the reason, in words.
    Dropped {
        /// Why.
        reason: String,
    },
    /// Its grace period ended.
    Lost,
    /// The same client came back under another SID.
    Moved,
    /// Somebody else at its address was given its SID while it was away.
    GaveWay,
    /// An operator removed it.
    Kicked {
        /// The operator.
        by: String,
        /// Why.
        reason: String,
        /// When it may come back, in milliseconds since the Unix epoch, if it is banned for a time.
        until_unix_ms: Option<u64>,
        /// Whether it may come back.
        banned: bool,
    },
    /// An operator sent it to another hub.
    Redirected {
        /// The operator.
        by: String,
        /// The other hub; several are separated by commas.
        address: String,
        /// Why.
        reason: String,
    },
    /// An operator sent it to another hub for good.
    RedirectedForGood {
        /// The operator.
        by: String,
        /// As in [`Departure::Redirected`].
        address: String,
        /// Why.
        reason: String,
    },
}

/// Some of the effects asked for are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("effects are forgotten")]
pub struct EffectsGone;

/// The last effects.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// The number of the first one kept.
    first: u64,
    kept: VecDeque<Effect>,
}

impl Effects {
    pub(super) const fn starting_at(first: u64) -> Self {
        Self {
            first,
            kept: VecDeque::new(),
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    pub(super) fn push(&mut self, effect: Effect) {
        if self.kept.len() == EFFECTS_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(effect);
    }

    pub(super) fn since(&self, number: u64) -> Result<impl Iterator<Item = &Effect>, EffectsGone> {
        if number > self.next() {
            return Err(EffectsGone);
        }
        let skipped = number.checked_sub(self.first).ok_or(EffectsGone)?;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Ok(self.kept.range(skipped..))
    }
}
