//! What the directory says: effects become lines for users, and places for those who asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use replication::NodeId;

use super::super::events::{Admitted, ToWorker};
use super::super::{roster, words};
use super::{Client, Hub};
use crate::message::Sid;
use crate::state::{Class, Departure, Effect, Event, LinkId, Said, folded};

/// Effects that are read at once: the directory is locked meanwhile.
const EFFECTS_READ_MAX: usize = 4096;

/// A client of this member that has its place, and is not told yet.
struct Newcomer {
    sid: Sid,
    link: LinkId,
    /// It was away for a moment, and knows what was said.
    was_here: bool,
}

/// What was read of the directory.
struct Read {
    effects: Vec<Effect>,
    /// Classes of users that are let in here.
    classes: BTreeMap<Sid, Class>,
    /// The end of the history, if somebody is let in here.
    history: Vec<Said>,
    topic: Option<String>,
    is_all: bool,
}

impl Hub {
    /// Tells everything that the directory says and was not told yet.
    pub(super) fn tell(&mut self) {
        while let Some(read) = self.read() {
            let is_all = read.is_all;
            let mut newcomers = Vec::new();
            for effect in &read.effects {
                // Those who come together are told of together: one piece of memory for all, one write for each.
                if !matches!(effect, Effect::Joined { .. } | Effect::Returned { .. }) {
                    self.let_in(&mut newcomers, &read);
                }
                self.effect(effect, &mut newcomers);
                self.cursor += 1;
            }
            self.let_in(&mut newcomers, &read);
            if is_all {
                return;
            }
        }
        self.compare();
    }

    /// Reads effects; none when some that were not told are forgotten.
    fn read(&self) -> Option<Read> {
        let (me, kept) = (self.me, self.history_on_join);
        self.replica.local(|state| {
            let left = state.next_effect().checked_sub(self.cursor)?;
            let effects: Vec<Effect> = state
                .effects_since(self.cursor)
                .ok()?
                .take(EFFECTS_READ_MAX)
                .cloned()
                .collect();
            let entering: Vec<Sid> = effects.iter().filter_map(|effect| enters(effect, me)).collect();
            let class = |sid: &Sid| state.user(*sid).map_or(Class::Guest, |user| user.class);
            let history = if entering.is_empty() { 0 } else { kept };
            Some(Read {
                classes: entering.iter().map(|sid| (*sid, class(sid))).collect(),
                history: {
                    let mut last: Vec<Said> = state.history().rev().take(history).cloned().collect();
                    last.reverse();
                    last
                },
                topic: state.topic().map(ToOwned::to_owned),
                is_all: effects.len() as u64 == left,
                effects,
            })
        })
    }

    fn effect(&mut self, effect: &Effect, newcomers: &mut Vec<Newcomer>) {
        match effect {
            Effect::Lent { front, block } => {
                if *front == self.me && self.is_borrowing {
                    self.is_borrowing = false;
                    self.sids.push_back(*block);
                    self.serve_waiting();
                }
            }
            Effect::Joined {
                sid,
                front,
                link,
                inf,
            } => newcomers.extend(self.joined(*sid, *front, *link, inf)),
            Effect::Returned {
                sid,
                front,
                link,
                changes,
            } => newcomers.extend(self.returned(*sid, *front, *link, changes.as_deref())),
            Effect::Refused { front, link, refusal } => {
                if *front == self.me {
                    self.refused(*link, refusal.clone());
                }
            }
            Effect::Updated { sid, changes } => self.updated(*sid, changes),
            Effect::Said(said) => {
                words::put_said(&mut self.lines, said);
                self.lines_count += 1;
            }
            Effect::Left { sid, departure, .. } => self.left(*sid, departure),
            Effect::Topic { topic } => {
                let text = topic.as_deref().unwrap_or_default();
                self.all(words::topic(text).as_bytes());
                self.all(words::notice(&format!("Topic: {text}")).as_bytes());
            }
            Effect::Answered { front, sid, text } => {
                if *front == self.me {
                    self.say_to(*sid, text);
                }
            }
        }
    }

    /// Says something to one user of this member.
    pub(super) fn say_to(&mut self, sid: Sid, text: &str) {
        if let Some(link) = self.link_of(sid) {
            self.seal();
            let lines = words::notice(text).into();
            self.order(link, ToWorker::One { link, lines });
        }
    }

    fn joined(&mut self, sid: Sid, front: NodeId, link: LinkId, inf: &Arc<str>) -> Option<Newcomer> {
        roster::put_inf(&mut self.lines, sid, inf);
        self.lines_count += 1;
        self.roster.put(sid, inf.clone(), Some((front, link)));
        (front == self.me).then_some(Newcomer {
            sid,
            link,
            was_here: false,
        })
    }

    fn returned(&mut self, sid: Sid, front: NodeId, link: LinkId, changes: Option<&str>) -> Option<Newcomer> {
        if let Some(changes) = changes {
            roster::put_inf(&mut self.lines, sid, changes);
            self.lines_count += 1;
            self.roster.update(sid, changes);
        }
        let home = Some((front, link));
        if self.roster.get(sid).is_some() {
            self.roster.moved(sid, home);
        } else {
            // Cannot be: whoever returns was here.
            self.roster.put(sid, changes.unwrap_or_default().into(), home);
        }
        let is_in = matches!(self.clients.get(&link), Some(Client::User { .. }));
        (front == self.me && !is_in).then_some(Newcomer {
            sid,
            link,
            was_here: true,
        })
    }

    /// Clients of this member have their places. The roster holds them, and everybody else is told first.
    fn let_in(&mut self, newcomers: &mut Vec<Newcomer>, read: &Read) {
        if newcomers.is_empty() {
            return;
        }
        self.seal();
        for newcomer in newcomers.drain(..) {
            let Newcomer { sid, link, .. } = newcomer;
            match self.clients.get(&link) {
                Some(Client::Claiming {
                    is_gone: false,
                    claim,
                    ..
                }) => {
                    let unpacks = claim.offer.split(' ').any(|feature| feature == "ZLIF");
                    self.clients.insert(link, Client::User { sid });
                    self.admit(&newcomer, read, unpacks);
                }
                Some(Client::User { sid: own }) if *own == sid => {}
                _ => {
                    self.clients.remove(&link);
                    let departure = Departure::Left;
                    self.conveyor.put(Event::Leave { sid, departure });
                }
            }
        }
    }

    fn admit(&mut self, newcomer: &Newcomer, read: &Read, unpacks: bool) {
        let Newcomer { sid, link, was_here } = *newcomer;
        let mut welcome = String::new();
        if let Some(topic) = &read.topic {
            welcome.push_str(&words::topic(topic));
            welcome.push_str(&words::notice(&format!("Topic: {topic}")));
        }
        // Later lines come as they are said.
        let before = read.history.iter().filter(|said| said.number < self.cursor);
        if !was_here {
            welcome.extend(before.map(words::remembered));
        }
        if let (Some(hybrid), Some((first, token))) = (self.settings.hybrid, self.seconds.request(sid, link))
        {
            welcome.push_str(&hybrid.request(first, &token));
        }
        let inf = self.roster.get(sid).map(|entry| entry.inf.clone());
        let inf = inf.unwrap_or_default();
        let mut own = BytesMut::new();
        roster::put_inf(&mut own, sid, &inf);
        let admitted = Admitted {
            link,
            sid,
            class: read.classes.get(&sid).copied().unwrap_or_default(),
            list: self.roster.list_without(sid),
            packed: if unpacks {
                self.roster.packed_list_without(sid)
            } else {
                None
            },
            own: own.freeze(),
            welcome: welcome.into(),
            features: roster::features(&inf).unwrap_or_default().to_owned(),
        };
        self.order(link, ToWorker::Admitted(Box::new(admitted)));
    }

    fn updated(&mut self, sid: Sid, changes: &str) {
        roster::put_inf(&mut self.lines, sid, changes);
        self.lines_count += 1;
        self.roster.update(sid, changes);
        if let (Some(features), Some(link)) = (roster::features(changes), self.link_of(sid)) {
            self.seal();
            let features = features.to_owned();
            self.order(link, ToWorker::Features { link, features });
        }
    }

    fn left(&mut self, sid: Sid, departure: &Departure) {
        let by = self.initiator(departure);
        if let Some(link) = self.link_of(sid) {
            self.clients.remove(&link);
            self.seal();
            let inf = self.roster.get(sid).map(|entry| entry.inf.clone());
            let inf = inf.unwrap_or_default();
            let lines = words::last_words(sid, &inf, departure, by, super::duties::unix_ms()).into();
            self.order(link, ToWorker::Close { link, lines });
        }
        if self.roster.remove(sid).is_some() {
            self.all(words::gone(sid, departure, by).as_bytes());
        }
    }

    fn initiator(&self, departure: &Departure) -> Option<Sid> {
        match departure {
            Departure::Kicked { by, .. }
            | Departure::Redirected { by, .. }
            | Departure::RedirectedForGood { by, .. } => {
                let nick = folded(by, &self.limits);
                let user = |state: &crate::state::AdcState| state.user_by_nick(&nick).map(|user| user.sid);
                self.replica.local(user)
            }
            _ => None,
        }
    }

    /// Makes what was told equal to what the directory says, when effects are forgotten: at the start, and after a
    /// snapshot of another member has replaced the directory.
    pub(super) fn compare(&mut self) {
        let (users, next, said) = self.replica.local(|state| {
            let users: BTreeMap<Sid, _> = state
                .users()
                .map(|user| (user.sid, (user.inf.clone(), roster::home(user), user.class)))
                .collect();
            let missed = state.history().filter(|said| said.number >= self.cursor);
            (users, state.next_effect(), missed.cloned().collect::<Vec<_>>())
        });
        let is_start = self.roster.len() == 0 && self.clients.is_empty();
        let gone: Vec<Sid> = self
            .roster
            .iter()
            .map(|(sid, _)| sid)
            .filter(|sid| !users.contains_key(sid))
            .collect();
        for sid in gone {
            self.left(sid, &Departure::Lost);
        }
        self.cursor = next;
        let read = Read {
            effects: Vec::new(),
            classes: users.iter().map(|(sid, user)| (*sid, user.2)).collect(),
            history: Vec::new(),
            topic: None,
            is_all: true,
        };
        for (sid, (inf, home, _)) in users {
            let claimed = home.filter(|(front, link)| *front == self.me && self.is_claiming(*link));
            let told = self.roster.get(sid).map(|entry| &*entry.inf);
            let compared = Compared::new(told, &inf, claimed.is_some());
            if compared.is_news && !is_start {
                roster::put_inf(&mut self.lines, sid, &inf);
                self.lines_count += 1;
            }
            self.roster.put(sid, inf, home);
            if let (Some((_, link)), Some(was_here)) = (claimed, compared.enters) {
                self.let_in(&mut vec![Newcomer { sid, link, was_here }], &read);
            }
        }
        if !is_start {
            for said in said {
                words::put_said(&mut self.lines, &said);
                self.lines_count += 1;
            }
        }
    }

    fn is_claiming(&self, link: LinkId) -> bool {
        matches!(self.clients.get(&link), Some(Client::Claiming { .. }))
    }
}

/// What follows from a user of the directory that is compared with what was told of it.
#[derive(Debug, PartialEq, Eq)]
struct Compared {
    /// Everybody is told of its `INF`.
    is_news: bool,
    /// It is a client of this member that waits for its place, and has it; whether it was here before.
    enters: Option<bool>,
}

impl Compared {
    fn new(told: Option<&str>, inf: &str, is_claimed: bool) -> Self {
        Self {
            is_news: told != Some(inf),
            enters: is_claimed.then_some(told.is_some()),
        }
    }
}

/// The user that an effect lets in at that front.
fn enters(effect: &Effect, me: NodeId) -> Option<Sid> {
    match effect {
        Effect::Joined { sid, front, .. } | Effect::Returned { sid, front, .. } if *front == me => Some(*sid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_its_place_when_effects_are_forgotten_is_let_in() {
        for (told, is_claimed, is_news, enters) in [
            (None, false, true, None),
            (Some("NIx"), false, false, None),
            (Some("NIx SS1"), false, true, None),
            (None, true, true, Some(false)),
            // Its place was kept, and it came back to it.
            (Some("NIx"), true, false, Some(true)),
            (Some("NIx SS1"), true, true, Some(true)),
        ] {
            let expected = Compared { is_news, enters };
            assert_eq!(Compared::new(told, "NIx", is_claimed), expected, "{told:?}");
        }
    }
}
