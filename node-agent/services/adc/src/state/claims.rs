//! Who gets a place, and how its `INF` changes.

use std::net::IpAddr;
use std::sync::Arc;

use replication::{LogTime, NodeId};
use serde::{Deserialize, Serialize};

use super::records::second_address;
use super::{AdcState, Ban, Class, Departure, Effect, Home, INF_BYTES_MAX, Limits, LinkId, User, folded};
use crate::message::{Cid, Sid, fields};

/// A client that wants in, verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its connection.
    pub link: LinkId,
    /// The SID it was given.
    pub sid: Sid,
    /// Its client's id, proved.
    pub cid: Cid,
    /// Its nick as it wrote it.
    pub nick: String,
    /// Its `INF`, escaped, without `PD` and `CT`.
    pub inf: String,
    /// Where it connects from.
    pub address: IpAddr,
    /// What it offered in `SUP`.
    pub offer: String,
    /// Whether it knows the password of its nick's account.
    pub knows_password: bool,
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The hub is full.
    Full,
    /// Somebody has this nick.
    NickTaken,
    /// This client is here already.
    CidTaken,
    /// Somebody has this SID.
    SidTaken,
    /// The nick is registered, and the password was not asked: the account is new.
    PasswordNeeded,
    /// Only registered users may come in.
    RegisteredOnly,
    /// It is banned.
    Banned {
        /// Why.
        reason: String,
        /// For how many seconds more; for ever, without.
        left_s: Option<u64>,
    },
}

impl AdcState {
    pub(super) fn claim(&mut self, at: LogTime, front: NodeId, claim: Claim, limits: Limits) {
        let link = claim.link;
        let nick = folded(&claim.nick, &limits);
        match self.admissible(at, &claim, &nick, &limits) {
            Ok(class) => self.enter(at, front, claim, nick, class),
            Err(refusal) => self.effects.push(Effect::Refused { front, link, refusal }),
        }
    }

    /// The class in which a client may enter.
    fn admissible(&self, at: LogTime, claim: &Claim, nick: &str, limits: &Limits) -> Result<Class, Refusal> {
        let account = self.accounts.get(nick);
        if account.is_some() && !claim.knows_password {
            return Err(Refusal::PasswordNeeded);
        }
        let class = account.map_or(Class::Guest, |account| account.class);
        // Who can lift bans is not locked out by one.
        if class < Class::Owner {
            self.check_bans(at, claim, nick)?;
        }
        if limits.registered_only && class == Class::Guest {
            return Err(Refusal::RegisteredOnly);
        }
        let is_orphan = |user: &User| user.orphan_until().is_some();
        if self.users.get(&claim.sid).is_some_and(|user| !is_orphan(user)) {
            return Err(Refusal::SidTaken);
        }
        let own = self.user_by_cid(&claim.cid);
        if own.is_some_and(|user| !is_orphan(user)) {
            return Err(Refusal::CidTaken);
        }
        if let Some(holder) = self.user_by_nick(nick)
            && holder.cid != claim.cid
        {
            // Its owner proved it by the password, so an orphan with another client of the same owner gives way.
            let is_owners = account.is_some();
            let gives_way = is_orphan(holder) && (is_owners || holder.sid == claim.sid);
            if !gives_way {
                return Err(Refusal::NickTaken);
            }
        }
        let places = limits.users_max.saturating_add(if class > Class::Guest {
            limits.reserved_places
        } else {
            0
        });
        let users = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        if own.is_none() && users >= places {
            return Err(Refusal::Full);
        }
        Ok(class)
    }

    fn check_bans(&self, at: LogTime, claim: &Claim, nick: &str) -> Result<(), Refusal> {
        let mut addresses = vec![claim.address];
        // A user that is taken back has proved its second address before.
        addresses.extend(second_address(claim.address, &claim.inf));
        let ban = self
            .bans
            .values()
            .find(|ban| ban.is_in_force(at.unix_ms) && ban.target.hits(nick, &claim.cid, &addresses));
        match ban {
            None => Ok(()),
            Some(ban) => Err(Refusal::Banned {
                reason: ban.reason.clone(),
                left_s: ban.left_s(at.unix_ms),
            }),
        }
    }

    /// The ban that keeps a user out who proves a second address, at that time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn ban_of_second(&self, unix_ms: u64, sid: Sid, second: IpAddr) -> Option<&Ban> {
        // As in a claim.
        self.users.get(&sid).filter(|user| user.class < Class::Owner)?;
        self.bans
            .values()
            .find(|ban| ban.is_in_force(unix_ms) && ban.target.holds(second))
    }

    fn enter(&mut self, at: LogTime, front: NodeId, claim: Claim, folded_nick: String, class: Class) {
        let mut inf = claim.inf;
        if let Some(client_type) = class.client_type() {
            inf.push_str(&format!(" CT{client_type}"));
        }
        let inf: Arc<str> = inf.into();
        let link = claim.link;
        let old = self.user_by_cid(&claim.cid).map(|user| user.sid);
        let returned = old
            .filter(|old| *old == claim.sid)
            .and_then(|sid| self.remove(sid));
        if returned.is_none() {
            // The own orphan under another SID, the orphan whose SID this is, the orphan with this nick.
            if let Some(old) = old {
                self.depart(old, Departure::Moved);
            }
            self.depart(claim.sid, Departure::GaveWay);
        }
        if let Some(holder) = self.by_nick.get(&folded_nick).copied() {
            self.depart(holder, Departure::GaveWay);
        }
        let sid = claim.sid;
        self.effects.push(match &returned {
            Some(before) => Effect::Returned {
                sid,
                front,
                link,
                changes: difference(&before.inf, &inf).map(Arc::from),
            },
            None => Effect::Joined {
                sid,
                front,
                link,
                inf: inf.clone(),
            },
        });
        self.admit(User {
            sid,
            cid: claim.cid,
            nick: claim.nick.into(),
            folded_nick,
            inf,
            address: claim.address,
            offer: claim.offer,
            class,
            since_unix_ms: returned.map_or(at.unix_ms, |before| before.since_unix_ms),
            home: Home::Front { front, link },
        });
    }

    pub(super) fn update(&mut self, at: LogTime, sid: Sid, changes: &str) {
        let Some(user) = self.users.get(&sid) else { return };
        // Of all that changes an `INF`, only a proof names an address.
        let second = second_address(user.address, changes);
        if let Some(ban) = second.and_then(|second| self.ban_of_second(at.unix_ms, sid, second)) {
            let departure = Departure::Kicked {
                by: ban.by.clone(),
                reason: ban.reason.clone(),
                until_unix_ms: ban.until_unix_ms,
                banned: true,
            };
            self.depart(sid, departure);
            return;
        }
        let Some(user) = self.users.get_mut(&sid) else {
            return;
        };
        let merged = merged_inf(&user.inf, changes);
        if merged.len() > INF_BYTES_MAX {
            return;
        }
        let Some(changes) = difference(&user.inf, &merged) else {
            return;
        };
        user.inf = merged.into();
        self.effects.push(Effect::Updated {
            sid,
            changes: changes.into(),
        });
    }
}

/// The fields of `inf` after `changes`; an empty value removes a field.
#[must_use]
pub fn merged_inf(inf: &str, changes: &str) -> String {
    let named = |field: &str, tag: &str| field.get(..2) == Some(tag);
    let mut merged: Vec<&str> = fields(inf).collect();
    for change in fields(changes) {
        let Some((tag, value)) = change.split_at_checked(2) else {
            continue;
        };
        let at = merged.iter().position(|field| named(field, tag));
        match (at, value.is_empty()) {
            (Some(at), true) => drop(merged.remove(at)),
            (Some(at), false) => merged[at] = change,
            (None, true) => {}
            (None, false) => merged.push(change),
        }
    }
    merged.join(" ")
}

/// What has to be said to make `before` into `after`; none when nothing.
fn difference(before: &str, after: &str) -> Option<String> {
    let tag = |field: &'_ str| field.get(..2).map(ToOwned::to_owned);
    let mut changes: Vec<String> = fields(after)
        .filter(|field| !fields(before).any(|old| old == *field))
        .map(ToOwned::to_owned)
        .collect();
    let gone = fields(before).filter_map(tag);
    changes.extend(gone.filter(|gone| !fields(after).any(|field| field.starts_with(gone.as_str()))));
    (!changes.is_empty()).then(|| changes.join(" "))
}
