use super::super::{AUTHORITY_SECONDS, MEMBERS_SECONDS};
use super::*;
use crate::certificates;

const NAME: &str = "boot-members.default.svc";
const GROUP: (&str, &str) = ("boot", NAME);
/// In 2026.
const START: i64 = 1_795_000_000;
const DAY: i64 = 24 * 3600;

type Damage = fn(&mut World);

/// Two Secrets, and three members who read them when they are told to.
struct World {
    authority: Option<Authority>,
    members: Option<PeerCertificates>,
    /// What each member has read; all of it.
    read: [Option<PeerCertificates>; 3],
    now: i64,
}

impl World {
    /// A group that was made at `START`.
    fn new() -> Self {
        let mut world = Self {
            authority: None,
            members: None,
            read: [None, None, None],
            now: START,
        };
        assert_eq!(world.steps(), ["authority Missing", "members Missing"]);
        world.everyone_reads();
        assert_eq!(world.steps(), ["nothing"]);
        world
    }

    fn readers(&self) -> Readers {
        let mut readers = Readers::default();
        let mark = |files: &PeerCertificates| digest(&files.authorities, &files.certificate);
        let wanted = self.members.as_ref().map(mark);
        for (member, read) in self.read.iter().enumerate() {
            match read {
                None => readers.silent.push(format!("boot-{member}")),
                Some(read) if Some(mark(read)) != wanted => readers.behind.push(format!("boot-{member}")),
                Some(_) => {}
            }
        }
        readers
    }

    fn next(&self) -> Next {
        let (authority, members) = (self.authority.as_ref(), self.members.as_ref());
        next(authority, members, GROUP, &self.readers(), self.now)
    }

    /// Carries out steps until there are none. What members have read never stops them from understanding each other.
    fn steps(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        loop {
            assert!(steps.len() < 10, "{steps:?}");
            match self.next() {
                Next::Nothing => {
                    if steps.is_empty() {
                        steps.push("nothing".to_owned());
                    }
                    return steps;
                }
                Next::Wait(_) => {
                    if !self.read.iter().all(Option::is_none) {
                        steps.push("wait".to_owned());
                    }
                    return steps;
                }
                Next::Authority { previous, why } => {
                    steps.push(format!("authority {}", word(&why)));
                    self.authority = Some(certificates::authority("boot", previous, self.now).unwrap());
                }
                Next::Members(why) => {
                    steps.push(format!("members {}", word(&why)));
                    let authority = self.authority.as_ref().unwrap();
                    self.members = Some(certificates::members(authority, GROUP, self.now).unwrap());
                }
                Next::Trust => {
                    steps.push("trust".to_owned());
                    let trusted = trusted(self.authority.as_ref().unwrap(), self.now);
                    self.members.as_mut().unwrap().authorities = trusted;
                }
                Next::Forget => {
                    steps.push("forget".to_owned());
                    self.authority.as_mut().unwrap().previous.clear();
                }
            }
        }
    }

    fn reads(&mut self, member: usize) {
        self.read[member] = self.members.clone();
        self.all_understand_each_other();
    }

    fn everyone_reads(&mut self) {
        for member in 0..3 {
            self.reads(member);
        }
    }

    /// Whoever calls whom: the certificate of each is accepted by the other.
    fn all_understand_each_other(&self) {
        for shown in self.read.iter().flatten() {
            for judge in self.read.iter().flatten() {
                members_life(shown, &judge.authorities, NAME, self.now).unwrap();
            }
        }
    }

    fn is_shown_by(&self, authority: &Authority) -> bool {
        members_life(
            self.members.as_ref().unwrap(),
            &authority.certificate,
            NAME,
            self.now,
        )
        .is_ok()
    }
}

fn word(why: &Why) -> &str {
    match why {
        Why::Due => "Due",
        Why::Succession => "Succession",
        Why::Missing => "Missing",
        Why::Unusable(_) => "Unusable",
    }
}

#[test]
fn nothing_is_due_in_the_first_two_thirds() {
    let mut world = World::new();
    for day in 1..58 {
        world.now = START + day * DAY;
        assert_eq!(world.next(), Next::Nothing, "day {day}");
    }
    // Its life began a day before it was made.
    world.now = START + 60 * DAY;
    assert_eq!(world.steps(), ["members Due", "wait"]);
    assert_eq!(
        end(&world.members.as_ref().unwrap().certificate),
        Some(world.now + MEMBERS_SECONDS)
    );
    world.reads(0);
    assert_eq!(world.steps(), ["wait"]);
    world.everyone_reads();
    assert_eq!(world.steps(), ["nothing"]);
}

#[test]
fn ten_years_pass_and_members_always_understand_each_other() {
    let mut world = World::new();
    let mut authorities = 0;
    for look in 1..730 {
        world.now = START + look * 5 * DAY;
        let steps = world.steps();
        authorities += steps.iter().filter(|step| step.starts_with("authority")).count();
        // Kubelets bring a change to one node after the other.
        world.all_understand_each_other();
        let slow = usize::try_from(look % 3).unwrap();
        world.reads(slow);
    }
    assert_eq!(authorities, 2);
}

#[test]
fn an_authority_is_succeeded_only_as_fast_as_members_read() {
    let mut world = World::new();
    let old = world.authority.clone().unwrap();
    // Shortly after a renewal, so that the members' certificate is not due.
    world.now = START + AUTHORITY_SECONDS * 2 / 3 - 10 * DAY;
    world.steps();
    // Nobody looked after it in between.
    world.read = [None, None, None];
    world.everyone_reads();
    world.now += 10 * DAY;
    assert_eq!(world.steps(), ["authority Due", "trust", "wait"]);
    assert!(world.is_shown_by(&old));
    world.reads(0);
    world.reads(1);
    assert_eq!(world.steps(), ["wait"]);
    world.reads(2);
    assert_eq!(world.steps(), ["members Succession", "wait"]);
    assert!(!world.is_shown_by(&old));
    world.reads(2);
    assert_eq!(world.steps(), ["wait"]);
    world.everyone_reads();
    assert_eq!(world.steps(), ["forget", "trust", "wait"]);
    world.everyone_reads();
    assert_eq!(world.steps(), ["nothing"]);
    assert_eq!(blocks(&world.members.unwrap().authorities).len(), 1);
}

#[test]
fn one_member_that_never_reads_holds_a_succession_up_until_it_is_urgent() {
    let mut world = World::new();
    let old = world.authority.clone().unwrap();
    world.authority = None;
    assert_eq!(world.steps(), ["authority Missing", "trust", "wait"]);
    world.read[1] = None;
    world.now = START + 74 * DAY;
    world.reads(0);
    world.reads(2);
    assert_eq!(world.steps(), ["wait"]);
    assert!(world.is_shown_by(&old));
    world.now += DAY;
    assert_eq!(world.steps(), ["members Succession", "wait"]);
    // The old authority stays trusted: that one may still show its certificate.
    assert_eq!(blocks(&world.members.unwrap().authorities).len(), 2);
}

#[test]
fn what_is_deleted_is_made_anew_and_stays_understood() {
    let mut world = World::new();
    world.members = None;
    assert_eq!(world.steps(), ["members Missing", "wait"]);
    world.everyone_reads();
    world.authority = None;
    assert_eq!(world.steps(), ["authority Missing", "trust", "wait"]);
    world.everyone_reads();
    assert_eq!(world.steps(), ["members Succession", "wait"]);
    // In the middle of it, again.
    world.authority = None;
    assert_eq!(world.steps(), ["authority Missing", "trust", "wait"]);
    world.members = None;
    assert_eq!(world.steps(), ["members Missing", "wait"]);
}

#[test]
fn what_is_damaged_is_replaced_and_said_why() {
    let damages: [(&str, Damage); 6] = [
        ("is no certificate in PEM", |world| {
            world.members.as_mut().unwrap().certificate = "oops".to_owned();
        }),
        ("has no key in PEM", |world| {
            world.members.as_mut().unwrap().key.clear()
        }),
        ("has a key that is another one's", |world| {
            world.members.as_mut().unwrap().key = world.authority.as_ref().unwrap().key.clone();
        }),
        ("has expired, or is not valid yet", |world| {
            world.now = START + 91 * DAY
        }),
        ("is not accepted by members", |world| {
            let authority = world.authority.as_ref().unwrap();
            world.members =
                Some(certificates::members(authority, ("boot", "other.default.svc"), START).unwrap());
        }),
        ("is not accepted by members", |world| {
            let stranger = certificates::authority("boot", String::new(), START).unwrap();
            world.members = Some(certificates::members(&stranger, GROUP, START).unwrap());
        }),
    ];
    for (sentence, damage) in damages {
        let mut world = World::new();
        damage(&mut world);
        let Next::Members(Why::Unusable(why)) = world.next() else {
            panic!("{sentence}: {:?}", world.next());
        };
        assert!(why.starts_with(sentence), "{why}");
        world.steps();
        world.read = [None, None, None];
        world.everyone_reads();
        assert_eq!(world.steps(), ["nothing"], "{sentence}");
    }
}

#[test]
fn a_damaged_authority_is_succeeded_and_trusted_on_if_it_can_be() {
    let mut world = World::new();
    world.authority.as_mut().unwrap().key = "oops".to_owned();
    assert_eq!(world.steps(), ["authority Unusable", "trust", "wait"]);
    assert_eq!(blocks(&world.members.as_ref().unwrap().authorities).len(), 2);
    let mut world = World::new();
    world.authority = Some(certificates::authority("other", String::new(), START).unwrap());
    assert_eq!(world.steps()[0], "authority Unusable");
    let mut world = World::new();
    world.members.as_mut().unwrap().authorities = "oops".to_owned();
    assert_eq!(world.steps(), ["trust", "nothing"][..1]);
    // Nobody renewed anything for too long: there is nobody left to be understood by.
    let mut world = World::new();
    world.now = START + AUTHORITY_SECONDS + DAY;
    assert_eq!(world.steps(), ["authority Unusable", "members Unusable", "wait"]);
    assert_eq!(blocks(&world.members.unwrap().authorities).len(), 1);
}

/// A member computes the same: `node-agent/replication/src/tls.rs`.
#[test]
fn the_digest_is_what_members_say() {
    assert_eq!(
        digest("authorities", "chain"),
        "fec079631574ff0b1e487ff4ac73c47c608ceddf89869e8273f09ad96008c6f5"
    );
}
