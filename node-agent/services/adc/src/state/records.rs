//! What the directory holds of users, accounts, bans and chat.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use replication::NodeId;
use serde::{Deserialize, Serialize};

use super::LinkId;
use crate::message::{Cid, Sid, fields};

/// Somebody who is here, or was a moment ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its session's id.
    pub sid: Sid,
    /// Its client's id.
    pub cid: Cid,
    /// Its nick as it wrote it.
    pub nick: Arc<str>,
    /// Its nick in the form in which nicks are compared.
    pub folded_nick: String,
    /// Its `INF`, escaped, without `PD`.
    pub inf: Arc<str>,
    /// Where it connects from.
    pub address: IpAddr,
    /// What its client offered in `SUP`; helps to give a returning client its SID back before it says who it is.
    pub offer: String,
    /// What it may do.
    pub class: Class,
    /// When it came, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Where its connection is.
    pub home: Home,
}

impl User {
    /// When an orphan's place is given up, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn orphan_until(&self) -> Option<u64> {
        match self.home {
            Home::Orphan { until_unix_ms } => Some(until_unix_ms),
            Home::Front { .. } => None,
        }
    }

    /// Its second address, if it proved one.
    #[must_use]
    pub fn second_address(&self) -> Option<IpAddr> {
        second_address(self.address, &self.inf)
    }
}

/// The address of the other family than `first` that an `INF` names, or a change of one: proved, since sessions leave
/// out all that clients say of their addresses.
pub(super) fn second_address(first: IpAddr, inf: &str) -> Option<IpAddr> {
    let tag = if first.is_ipv4() { "I6" } else { "I4" };
    fields(inf).find_map(|field| field.strip_prefix(tag)?.parse().ok())
}

/// Where a user's connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Home {
    /// At a member's front.
    Front {
        /// The member.
        front: NodeId,
        /// The connection.
        link: LinkId,
    },
    /// Nowhere: its front is gone.
    Orphan {
        /// When its place is given up, in milliseconds since the Unix epoch.
        until_unix_ms: u64,
    },
}

impl Home {
    /// The front, if it has one.
    #[must_use]
    pub const fn front(&self) -> Option<NodeId> {
        match self {
            Self::Front { front, .. } => Some(*front),
            Self::Orphan { .. } => None,
        }
    }

    /// The front and the connection there, if it has one.
    #[must_use]
    pub const fn link(&self) -> Option<(NodeId, LinkId)> {
        match self {
            Self::Front { front, link } => Some((*front, *link)),
            Self::Orphan { .. } => None,
        }
    }
}

/// What a user may do; a higher class may do all that a lower one may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Anybody.
    #[default]
    Guest,
    /// Has an account.
    Registered,
    /// Keeps order: kicks, bans, mutes, redirects, sets the topic.
    Operator,
    /// Makes accounts, too.
    Owner,
}

impl Class {
    /// Every class, lowest first.
    pub const ALL: [Self; 4] = [Self::Guest, Self::Registered, Self::Operator, Self::Owner];

    /// Its lowercase name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Registered => "registered",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    /// The value of `CT` in `INF` (ADC 1.0.3, INF); none for guests.
    #[must_use]
    pub const fn client_type(self) -> Option<u8> {
        match self {
            Self::Guest => None,
            Self::Registered => Some(2),
            Self::Operator => Some(4),
            Self::Owner => Some(16),
        }
    }
}

/// A password, encrypted with the group's key: ADC needs the password itself to check an answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPassword(pub Vec<u8>);

impl fmt::Debug for SealedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedPassword")
    }
}

/// A registered nick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The nick as it was registered.
    pub nick: String,
    /// What its owner may do; never [`Class::Guest`].
    pub class: Class,
    /// What its owner has to know.
    pub password: SealedPassword,
}

/// Somebody who may not come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Whom it hits.
    pub target: BanTarget,
    /// When it ends, in milliseconds since the Unix epoch; never, without.
    pub until_unix_ms: Option<u64>,
    /// What the banned are told.
    pub reason: String,
    /// Who gave it.
    pub by: String,
}

impl Ban {
    /// Whether it is in force at that time, in milliseconds since the Unix epoch.
    pub(super) fn is_in_force(&self, unix_ms: u64) -> bool {
        self.until_unix_ms.is_none_or(|until| until > unix_ms)
    }

    /// For how many seconds more, at that time; for ever, without.
    #[must_use]
    pub fn left_s(&self, unix_ms: u64) -> Option<u64> {
        let left = |until: u64| until.saturating_sub(unix_ms).div_ceil(1000);
        self.until_unix_ms.map(left)
    }
}

/// Whom a ban hits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BanTarget {
    /// A nick, in the form in which nicks are compared.
    Nick(String),
    /// A client.
    Cid(Cid),
    /// Addresses that share the first `prefix` bits with `address`.
    Network {
        /// The network.
        address: IpAddr,
        /// How many bits count.
        prefix: u8,
    },
}

impl BanTarget {
    /// Whether somebody is meant, who has one address or more.
    #[must_use]
    pub fn hits(&self, folded_nick: &str, cid: &Cid, addresses: &[IpAddr]) -> bool {
        match self {
            Self::Nick(nick) => nick == folded_nick,
            Self::Cid(banned) => banned == cid,
            Self::Network { .. } => addresses.iter().any(|address| self.holds(*address)),
        }
    }

    /// Whether this is a network, and an address is in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let Self::Network {
            address: network,
            prefix,
        } = self
        else {
            return false;
        };
        match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                shares(network.to_bits().into(), address.to_bits().into(), 32, *prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                shares(network.to_bits(), address.to_bits(), 128, *prefix)
            }
            _ => false,
        }
    }
}

fn shares(one: u128, other: u128, bits: u32, prefix: u8) -> bool {
    let ignored = bits.saturating_sub(prefix.into());
    // A shift by all bits: everybody is meant.
    (one ^ other).checked_shr(ignored).unwrap_or(0) == 0
}

impl fmt::Display for BanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nick(nick) => write!(f, "nick {nick}"),
            Self::Cid(cid) => write!(f, "cid {cid}"),
            Self::Network { address, prefix } => write!(f, "address {address}/{prefix}"),
        }
    }
}

/// Somebody who may not speak to all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// When it ends, in milliseconds since the Unix epoch; never, without.
    pub until_unix_ms: Option<u64>,
    /// Who gave it.
    pub by: String,
}

/// A line of chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The number of the effect that told it.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Who, as it was then.
    pub sid: Sid,
    /// Its nick.
    pub nick: Arc<str>,
    /// What, escaped.
    pub text: Arc<str>,
    /// Whether it describes what the user does.
    pub third_person: bool,
}
