//! What a driver wants and what it has seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admin::{Identity, MemberStatus};

/// A member that the group should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedMember {
    /// Its name, unique in the group and stable over restarts.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where its admin port is.
    pub admin_address: String,
}

/// Whether the group exists yet: a durable mark that the driver keeps apart from the members' disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Initialization {
    /// Nobody was ever asked to found the group.
    Never,
    /// This member was asked, or is about to be; whether it did is unknown. It alone may be asked again, with the same
    /// UUID.
    Asked {
        /// The group's UUID.
        group_id: String,
        /// The member's name.
        member: String,
    },
    /// The group exists.
    Done {
        /// The group's UUID.
        group_id: String,
    },
}

/// An identity that the leader made for a new member and that was not yet handed over. Kept in memory only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The new member's name.
    pub member: String,
    /// What it is to become.
    pub identity: Identity,
}

/// What a driver found in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The durable mark.
    pub initialization: Initialization,
    /// Every member that runs or should run, wanted or not, by name; `None` when it does not answer. All answers were
    /// asked for after the last step had ended.
    pub answers: BTreeMap<String, Option<MemberStatus>>,
    /// The identity made by the last [`super::Step::AddLearner`], until a [`super::Step::Join`] takes it.
    pub offer: Option<Offer>,
}
