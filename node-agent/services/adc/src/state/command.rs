//! What is written into the log.

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::{Claim, Departure, Order, Ordered};
use crate::message::Sid;

/// One log entry. A stored format: variants and fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A front starts, or starts again: users that it had become orphans.
    Open {
        /// The member whose front it is.
        front: NodeId,
        /// Chosen by the front for this run, at random.
        epoch: u64,
        /// Limits of the hub.
        limits: Limits,
    },
    /// What happened at a front, in its order. Ignored unless the front is open in that epoch.
    Batch {
        /// The member whose front it is.
        front: NodeId,
        /// Its run.
        epoch: u64,
        /// The number of the first event; those that were applied already are skipped.
        first: u64,
        /// The events.
        events: Vec<Event>,
        /// Limits of the hub.
        limits: Limits,
    },
    /// Fronts are gone: their users become orphans.
    Lose {
        /// Each with its run, so that one that came back meanwhile is spared.
        fronts: Vec<(NodeId, u64)>,
        /// Limits of the hub.
        limits: Limits,
    },
    /// Ends what is over by now: grace of orphans, timed bans, mutes.
    Expire,
    /// An operator's order, from outside the hub.
    Order {
        /// Who gave it.
        by: String,
        /// The order.
        order: Order,
        /// Limits of the hub.
        limits: Limits,
    },
}

/// What happened at a front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It needs SIDs for clients to come.
    Borrow {
        /// How many.
        count: u32,
    },
    /// A client whose PID, and password where one is needed, were verified wants in. Also how a front takes its users
    /// back after it was given up by mistake.
    Claim(Box<Claim>),
    /// A user changed its `INF`, or proved its second address. Who proves one that is banned is put out.
    Update {
        /// Whose.
        sid: Sid,
        /// The fields, escaped; an empty value removes one.
        fields: String,
    },
    /// A user said something to all.
    Say {
        /// Who.
        sid: Sid,
        /// The text, escaped.
        text: String,
        /// Whether it describes what the user does (`ME1`).
        third_person: bool,
    },
    /// A user's connection ended.
    Leave {
        /// Whose.
        sid: Sid,
        /// How.
        departure: Departure,
    },
    /// A user's front lets it go; its place is kept for the grace period.
    Release {
        /// Whose.
        sid: Sid,
    },
    /// An operator's order, from inside the hub.
    Order {
        /// The operator.
        sid: Sid,
        /// The order.
        order: Order,
    },
}

/// The limits of the hub that `apply` needs; the same configuration on every member, but for a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Users at once.
    pub users_max: u32,
    /// Further places for registered users and operators.
    pub reserved_places: u32,
    /// How long an orphan's place is kept, in milliseconds.
    pub grace_ms: u32,
    /// Lines of chat to remember.
    pub history_lines_max: u16,
    /// Only registered users may enter.
    pub registered_only: bool,
    /// Nicks that differ in case are different.
    pub exact_nicks: bool,
    /// Accounts that the group may hold.
    pub accounts_max: u32,
    /// Bans that the group may hold.
    pub bans_max: u32,
}

/// What came of a command; what came of a front's events are [`super::Effect`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or no longer called for.
    Applied,
    /// What came of an order.
    Ordered(Ordered),
}

/// A member's front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Front {
    /// Its run.
    pub epoch: u64,
    /// The number of its next event.
    pub next: u64,
    /// Whether it was given up; it has to open again.
    pub lost: bool,
}
