//! The directory, as every member holds it: who is here, accounts, bans, topic, history. Pure.
//!
//! A member's *front* owns the sockets of its users and orders what they do in batches, numbered, so that a batch that
//! is sent twice counts once. What a command changes for users comes out as numbered [`Effect`]s: each front reads them
//! in order and tells its own users, each effect exactly once.
//!
//! A user whose front is gone is an *orphan* for a grace period: it keeps SID, nick and CID, nobody is told, and the
//! same CID takes the place over. A live user is never taken over.

mod claims;
mod command;
mod effects;
mod orders;
mod records;
mod redirects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use replication::{LogTime, NodeId, RestoreError, State};
use serde::{Deserialize, Serialize};

pub use claims::{Claim, Refusal, merged_inf};
pub use command::{Command, Event, Front, Limits, Outcome};
pub use effects::{Departure, Effect, EffectsGone, LinkId};
pub use orders::{AuditEntry, Order, OrderError, Ordered};
pub use records::{Account, Ban, BanTarget, Class, Home, Mute, Said, SealedPassword, User};

use crate::message::{Cid, Sid, SidBlock, fold_nick};
use effects::Effects;

/// The first byte of a snapshot without accounts of the file of registered users.
const SNAPSHOT_VERSION: u8 = 1;
/// The first byte of one with them: their nicks follow.
const SNAPSHOT_VERSION_LISTED: u8 = 2;
/// Bytes that a user's `INF` may have grown to; an update that would exceed them is dropped.
pub const INF_BYTES_MAX: usize = 4096;
/// Lines of chat that the history can hold, whatever a command asks.
pub const HISTORY_LINES_MAX: u16 = 1000;
/// Fronts that are remembered: many more than a group has members.
const FRONTS_MAX: usize = 1024;
/// SIDs that one command can lend.
pub const SIDS_LENT_MAX: u32 = 4096;

/// The directory.
#[derive(Debug, Default)]
pub struct AdcState {
    fronts: BTreeMap<NodeId, Front>,
    next_sid: u64,
    users: BTreeMap<Sid, User>,
    accounts: BTreeMap<String, Account>,
    /// Those of the accounts that are in the file of registered users.
    listed: BTreeSet<String>,
    bans: BTreeMap<u64, Ban>,
    last_ban: u64,
    mutes: BTreeMap<String, Mute>,
    topic: Option<Arc<str>>,
    history: VecDeque<Said>,
    audit: VecDeque<AuditEntry>,
    /// Derived from users.
    by_nick: BTreeMap<String, Sid>,
    by_cid: BTreeMap<Cid, Sid>,
    orphans: u32,
    /// Not in snapshots but for their number: whoever restores one compares the directory with what it has told.
    effects: Effects,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    fronts: BTreeMap<NodeId, Front>,
    next_sid: u64,
    users: Vec<User>,
    accounts: BTreeMap<String, Account>,
    bans: BTreeMap<u64, Ban>,
    last_ban: u64,
    mutes: BTreeMap<String, Mute>,
    topic: Option<Arc<str>>,
    history: VecDeque<Said>,
    audit: VecDeque<AuditEntry>,
    effects: u64,
}

impl AdcState {
    /// The user with that SID.
    #[must_use]
    pub fn user(&self, sid: Sid) -> Option<&User> {
        self.users.get(&sid)
    }

    /// The user with that nick, in the form in which nicks are compared.
    #[must_use]
    pub fn user_by_nick(&self, folded: &str) -> Option<&User> {
        self.users.get(self.by_nick.get(folded)?)
    }

    /// The user with that CID.
    #[must_use]
    pub fn user_by_cid(&self, cid: &Cid) -> Option<&User> {
        self.users.get(self.by_cid.get(cid)?)
    }

    /// All users, orphans included, by SID.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &User> {
        self.users.values()
    }

    /// How many users are orphans.
    #[must_use]
    pub const fn orphans(&self) -> u32 {
        self.orphans
    }

    /// A member's front.
    #[must_use]
    pub fn front(&self, front: NodeId) -> Option<Front> {
        self.fronts.get(&front).copied()
    }

    /// All fronts that were ever open and are not forgotten.
    pub fn fronts(&self) -> impl Iterator<Item = (NodeId, Front)> + Clone + '_ {
        self.fronts.iter().map(|(id, front)| (*id, *front))
    }

    /// The account of a nick, in the form in which nicks are compared.
    #[must_use]
    pub fn account(&self, folded: &str) -> Option<&Account> {
        self.accounts.get(folded)
    }

    /// All accounts, by nick.
    pub fn accounts(&self) -> impl ExactSizeIterator<Item = &Account> {
        self.accounts.values()
    }

    /// Seals every password anew, with what makes the new seal of a nick, in the form in which nicks are compared, and the
    /// old seal.
    ///
    /// # Errors
    /// The first of `reseal`.
    pub fn reseal<E>(
        &mut self,
        mut reseal: impl FnMut(&str, &SealedPassword) -> Result<SealedPassword, E>,
    ) -> Result<(), E> {
        for (folded, account) in &mut self.accounts {
            account.password = reseal(folded, &account.password)?;
        }
        Ok(())
    }

    /// The accounts that are there because the file of registered users names them, in the form in which nicks are
    /// compared.
    pub fn listed(&self) -> impl ExactSizeIterator<Item = &str> {
        self.listed.iter().map(String::as_str)
    }

    /// Whether an account is one of them.
    #[must_use]
    pub fn is_listed(&self, folded: &str) -> bool {
        self.listed.contains(folded)
    }

    /// All bans with their numbers.
    pub fn bans(&self) -> impl ExactSizeIterator<Item = (u64, &Ban)> {
        self.bans.iter().map(|(id, ban)| (*id, ban))
    }

    /// Whether a nick, in the form in which nicks are compared, may not speak.
    #[must_use]
    pub fn mute(&self, folded: &str) -> Option<&Mute> {
        self.mutes.get(folded)
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// The last lines of chat, oldest first.
    pub fn history(&self) -> impl ExactSizeIterator<Item = &Said> + DoubleEndedIterator {
        self.history.iter()
    }

    /// What operators did, oldest first.
    pub fn audit(&self) -> impl ExactSizeIterator<Item = &AuditEntry> + DoubleEndedIterator {
        self.audit.iter()
    }

    /// The number of the next effect.
    #[must_use]
    pub fn next_effect(&self) -> u64 {
        self.effects.next()
    }

    /// The effects from that number on.
    ///
    /// # Errors
    /// When some of them are forgotten.
    pub fn effects_since(&self, number: u64) -> Result<impl Iterator<Item = &Effect>, EffectsGone> {
        self.effects.since(number)
    }

    /// Whether [`Command::Expire`] would change anything at that time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn is_due(&self, unix_ms: u64) -> bool {
        let over = |until: Option<u64>| until.is_some_and(|until| until <= unix_ms);
        (self.orphans > 0 && self.users.values().any(|user| over(user.orphan_until())))
            || self.bans.values().any(|ban| over(ban.until_unix_ms))
            || self.mutes.values().any(|mute| over(mute.until_unix_ms))
    }

    fn open(&mut self, at: LogTime, front: NodeId, epoch: u64, limits: Limits) {
        if self
            .fronts
            .get(&front)
            .is_some_and(|known| known.epoch == epoch && !known.lost)
        {
            return;
        }
        self.orphan_all_of(at, front, limits);
        if self.fronts.len() >= FRONTS_MAX && !self.fronts.contains_key(&front) {
            // Node ids only grow: the smallest is the one that is gone for longest.
            self.fronts.pop_first();
        }
        let next = self
            .fronts
            .get(&front)
            .filter(|known| known.epoch == epoch)
            .map_or(0, |known| known.next);
        self.fronts.insert(
            front,
            Front {
                epoch,
                next,
                lost: false,
            },
        );
    }

    fn lose(&mut self, at: LogTime, front: NodeId, epoch: u64, limits: Limits) {
        let Some(known) = self.fronts.get_mut(&front) else {
            return;
        };
        if known.epoch == epoch && !known.lost {
            known.lost = true;
            self.orphan_all_of(at, front, limits);
        }
    }

    fn orphan_all_of(&mut self, at: LogTime, front: NodeId, limits: Limits) {
        let sids: Vec<Sid> = self
            .users
            .values()
            .filter(|user| user.home.front() == Some(front))
            .map(|user| user.sid)
            .collect();
        for sid in sids {
            self.orphan(at, sid, limits);
        }
    }

    fn orphan(&mut self, at: LogTime, sid: Sid, limits: Limits) {
        if let Some(user) = self.users.get_mut(&sid)
            && user.home.front().is_some()
        {
            user.home = Home::Orphan {
                until_unix_ms: at.unix_ms.saturating_add(limits.grace_ms.into()),
            };
            self.orphans += 1;
        }
    }

    fn batch(
        &mut self,
        at: LogTime,
        front: NodeId,
        epoch: u64,
        first: u64,
        events: Vec<Event>,
        limits: Limits,
    ) {
        let Some(known) = self.fronts.get_mut(&front) else {
            return;
        };
        if known.epoch != epoch || known.lost || first > known.next {
            return;
        }
        let skipped = known.next - first;
        known.next = known.next.max(first.saturating_add(events.len() as u64));
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        for event in events.into_iter().skip(skipped) {
            self.event(at, front, event, limits);
        }
    }

    fn event(&mut self, at: LogTime, front: NodeId, event: Event, limits: Limits) {
        let is_home = |sid: &Sid| {
            self.users
                .get(sid)
                .is_some_and(|user| user.home.front() == Some(front))
        };
        match event {
            Event::Borrow { count } => {
                let block = SidBlock {
                    first: self.next_sid,
                    count: count.min(SIDS_LENT_MAX),
                };
                self.next_sid = self.next_sid.wrapping_add(block.count.into());
                self.effects.push(Effect::Lent { front, block });
            }
            Event::Claim(claim) => self.claim(at, front, *claim, limits),
            Event::Update { sid, fields } if is_home(&sid) => self.update(at, sid, &fields),
            Event::Say {
                sid,
                text,
                third_person,
            } if is_home(&sid) => {
                self.say(at, sid, &text, third_person, limits);
            }
            Event::Leave { sid, departure } if is_home(&sid) => self.depart(sid, departure),
            Event::Release { sid } if is_home(&sid) => self.orphan(at, sid, limits),
            Event::Order { sid, order } if is_home(&sid) => {
                self.order_from_inside(at, front, sid, order, limits)
            }
            // The user left, or its place is another front's by now.
            _ => {}
        }
    }

    fn say(&mut self, at: LogTime, sid: Sid, text: &str, third_person: bool, limits: Limits) {
        let Some(user) = self.users.get(&sid) else { return };
        if self.mutes.contains_key(&user.folded_nick) {
            return;
        }
        let said = Said {
            number: self.effects.next(),
            unix_ms: at.unix_ms,
            sid,
            nick: user.nick.clone(),
            text: text.into(),
            third_person,
        };
        self.effects.push(Effect::Said(said.clone()));
        self.history.push_back(said);
        let kept = limits.history_lines_max.min(HISTORY_LINES_MAX);
        while self.history.len() > usize::from(kept) {
            self.history.pop_front();
        }
    }

    fn depart(&mut self, sid: Sid, departure: Departure) {
        if let Some(user) = self.remove(sid) {
            let link = user.home.link();
            self.effects.push(Effect::Left { sid, link, departure });
        }
    }

    fn expire(&mut self, at: LogTime) {
        let over = |until: Option<u64>| until.is_some_and(|until| until <= at.unix_ms);
        let ended: Vec<Sid> = self
            .users
            .values()
            .filter(|user| over(user.orphan_until()))
            .map(|user| user.sid)
            .collect();
        for sid in ended {
            self.depart(sid, Departure::Lost);
        }
        self.bans.retain(|_, ban| !over(ban.until_unix_ms));
        self.mutes.retain(|_, mute| !over(mute.until_unix_ms));
    }

    fn admit(&mut self, user: User) {
        self.by_nick.insert(user.folded_nick.clone(), user.sid);
        self.by_cid.insert(user.cid, user.sid);
        self.orphans += u32::from(user.orphan_until().is_some());
        self.users.insert(user.sid, user);
    }

    fn remove(&mut self, sid: Sid) -> Option<User> {
        let user = self.users.remove(&sid)?;
        self.by_nick.remove(&user.folded_nick);
        self.by_cid.remove(&user.cid);
        self.orphans -= u32::from(user.orphan_until().is_some());
        Some(user)
    }
}

/// The form in which a nick is compared under these limits.
#[must_use]
pub fn folded(nick: &str, limits: &Limits) -> String {
    fold_nick(nick, limits.exact_nicks)
}

impl State for AdcState {
    type Command = Command;
    type Outcome = Outcome;

    fn apply(&mut self, at: LogTime, command: Command) -> Outcome {
        match command {
            Command::Open { front, epoch, limits } => self.open(at, front, epoch, limits),
            Command::Batch {
                front,
                epoch,
                first,
                events,
                limits,
            } => self.batch(at, front, epoch, first, events, limits),
            Command::Lose { fronts, limits } => {
                for (front, epoch) in fronts {
                    self.lose(at, front, epoch, limits);
                }
            }
            Command::Expire => self.expire(at),
            Command::Order { by, order, limits } => {
                return Outcome::Ordered(self.order(at, &by, Class::Owner, order, limits));
            }
        }
        Outcome::Applied
    }

    fn snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            fronts: self.fronts.clone(),
            next_sid: self.next_sid,
            users: self.users.values().cloned().collect(),
            accounts: self.accounts.clone(),
            bans: self.bans.clone(),
            last_ban: self.last_ban,
            mutes: self.mutes.clone(),
            topic: self.topic.clone(),
            history: self.history.clone(),
            audit: self.audit.clone(),
            effects: self.effects.next(),
        };
        let encoded = if self.listed.is_empty() {
            postcard::to_extend(&snapshot, vec![SNAPSHOT_VERSION])
        } else {
            postcard::to_extend(&(snapshot, &self.listed), vec![SNAPSHOT_VERSION_LISTED])
        };
        encoded.expect("a vector takes any bytes, and every length is known")
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let unreadable = |reason: String| RestoreError { reason };
        let decoded = match bytes.split_first() {
            Some((&SNAPSHOT_VERSION, body)) => postcard::take_from_bytes::<Snapshot>(body)
                .map(|(snapshot, rest)| ((snapshot, BTreeSet::new()), rest)),
            Some((&SNAPSHOT_VERSION_LISTED, body)) => postcard::take_from_bytes(body),
            Some((version, _)) => {
                return Err(unreadable(format!(
                    "ADC state has version {version}, this program reads {SNAPSHOT_VERSION} and \
                     {SNAPSHOT_VERSION_LISTED}"
                )));
            }
            None => return Err(unreadable("ADC state is empty".to_owned())),
        };
        let ((snapshot, listed), rest) =
            decoded.map_err(|error| unreadable(format!("ADC state does not decode: {error}")))?;
        if !rest.is_empty() {
            return Err(unreadable(format!("{} bytes follow the ADC state", rest.len())));
        }
        let mut state = Self {
            fronts: snapshot.fronts,
            next_sid: snapshot.next_sid,
            accounts: snapshot.accounts,
            listed,
            bans: snapshot.bans,
            last_ban: snapshot.last_ban,
            mutes: snapshot.mutes,
            topic: snapshot.topic,
            history: snapshot.history,
            audit: snapshot.audit,
            effects: Effects::starting_at(snapshot.effects),
            ..Self::default()
        };
        for user in snapshot.users {
            state.admit(user);
        }
        Ok(state)
    }
}
