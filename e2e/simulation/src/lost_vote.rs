//! A member that loses its power between voting and storing its vote, where it decides who leads: the old leader's side of
//! a cut network, or the side of the candidate that it voted for.
//!
//! Chance alone hardly ever brings this about: the power has to fail within a few milliseconds, and the network has to
//! change at the same moment. A vote that was told before it was stored then makes two leaders: the candidate has been
//! elected, and the member, which does not know that any more, goes on with the old leader.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use turmoil::Sim;

use crate::world::{World, event};

/// Somebody votes within so long, or nothing comes of it.
const VOTES_WITHIN: Duration = Duration::from_millis(1500);
/// The power fails so many milliseconds after the vote: most messages have come by then.
const CUT_AFTER_MS: std::ops::Range<u64> = 6..16;
/// What syncs take longer meanwhile: in milliseconds.
const SLOWER_MS: std::ops::Range<u64> = 20..60;

/// How far it is.
pub(crate) struct LostVote {
    /// The leader's side.
    old: Vec<usize>,
    /// The others: a majority.
    others: Vec<usize>,
    /// In nanoseconds of the simulation.
    began_ns: u64,
    ends: Duration,
    /// Who has voted, and when its power fails.
    voted: Option<(usize, Duration)>,
}

/// What is to be done now.
pub(crate) enum Step {
    Nothing,
    /// The member loses its power, and all that it has not stored; from then on it reaches the first ones only.
    Cut(usize, Vec<usize>, Vec<usize>),
    /// It is over.
    End,
}

impl LostVote {
    /// Cuts the leader off; none while the group is not whole.
    pub(crate) fn begin(sim: &mut Sim<'_>, world: &World, rng: &mut StdRng, now: Duration) -> Option<Self> {
        let members = world.machines.len();
        let leader = world.leader.load(Ordering::Relaxed);
        if leader >= members || !world.whole.load(Ordering::Relaxed) {
            return None;
        }
        let mut others: Vec<_> = (0..members).filter(|other| *other != leader).collect();
        let mut old = vec![leader];
        // As many as leave a majority that needs each of its members.
        while others.len() > members / 2 + 1 {
            old.push(others.remove(rng.random_range(0..others.len())));
        }
        event(format!(
            "members {old:?} are cut off, the disks of the others are slow"
        ));
        part(sim, world, &old, &others);
        for number in &others {
            let slower = Duration::from_millis(rng.random_range(SLOWER_MS));
            set_slower(world, *number, slower);
        }
        Some(Self {
            old,
            others,
            began_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ends: now + VOTES_WITHIN,
            voted: None,
        })
    }

    /// Goes on to `now`.
    pub(crate) fn step(&mut self, world: &World, rng: &mut StdRng, now: Duration) -> Step {
        if now >= self.ends {
            return Step::End;
        }
        match self.voted {
            None => {
                let voter = self.others.iter().find(|number| self.has_voted(world, **number));
                let after = Duration::from_millis(rng.random_range(CUT_AFTER_MS));
                self.voted = voter.map(|number| (*number, now + after));
                Step::Nothing
            }
            Some((number, at)) if at <= now && self.others.contains(&number) => {
                self.others.retain(|other| *other != number);
                self.old.push(number);
                self.ends = now + Duration::from_millis(rng.random_range(400..1500));
                Step::Cut(number, self.old.clone(), self.others.clone())
            }
            Some(_) => Step::Nothing,
        }
    }

    /// Whether a member has voted for another one.
    fn has_voted(&self, world: &World, number: usize) -> bool {
        let own = world.node_ids[number].load(Ordering::Relaxed);
        let vote = world.machines[number].disk.vote();
        vote.is_some_and(|(vote, at)| at > self.began_ns && vote.node != own && !vote.committed)
    }

    /// The disks are quick again.
    pub(crate) fn quicken(&self, world: &World) {
        for number in self.old.iter().chain(&self.others) {
            set_slower(world, *number, Duration::ZERO);
        }
    }
}

fn set_slower(world: &World, number: usize, by: Duration) {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    world.machines[number].disk.set_slower(by);
}

/// Cuts the network between two sides.
pub(crate) fn part(sim: &mut Sim<'_>, world: &World, one: &[usize], other: &[usize]) {
    for a in one {
        for b in other {
            let (a, b) = (&world.machines[*a].name, &world.machines[*b].name);
            sim.partition(a.as_str(), b.as_str());
        }
    }
}
