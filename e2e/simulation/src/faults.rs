//! What happens to members: drawn from the seed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use turmoil::Sim;

use crate::lost_vote::{self, LostVote};
use crate::world::{World, event, lock};

/// A failed member is started again after so long.
const RESTARTED_AFTER: Duration = Duration::from_millis(150);

/// What happens, and to whom.
pub(crate) struct Faults {
    world: Arc<World>,
    rng: StdRng,
    next: Duration,
    /// When a member that is down is started again.
    down: BTreeMap<usize, Duration>,
    /// When the network is whole again.
    cut_until: Option<Duration>,
    slow_until: Option<Duration>,
    full_until: BTreeMap<usize, Duration>,
    lost_vote: Option<LostVote>,
    /// One is to begin once the group is whole.
    wants_lost_vote: bool,
    stall: Option<Stall>,
    count: Count,
}

/// What has happened.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) faults: usize,
    pub(crate) lost_votes: usize,
    pub(crate) stalls: usize,
}

/// A member that stands still, as a process does that gets no processor.
struct Stall {
    number: usize,
    until: Duration,
    /// How far its clock goes when it goes on.
    jump: Option<Duration>,
}

fn ms(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

impl Faults {
    pub(crate) fn new(world: Arc<World>, rng: &mut StdRng) -> Self {
        Self {
            world,
            rng: StdRng::seed_from_u64(rng.random()),
            next: Duration::ZERO,
            down: BTreeMap::new(),
            cut_until: None,
            slow_until: None,
            full_until: BTreeMap::new(),
            lost_vote: None,
            wants_lost_vote: false,
            stall: None,
            count: Count::default(),
        }
    }

    pub(crate) fn count(&self) -> Count {
        self.count
    }

    fn name(&self, number: usize) -> String {
        self.world.machines[number].name.clone()
    }

    /// Goes on to `now`.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, now: Duration) {
        self.revive(sim, now);
        if self.cut_until.is_some_and(|until| until <= now) {
            self.heal(sim);
        }
        if self.slow_until.is_some_and(|until| until <= now) {
            self.quicken(sim);
        }
        self.full_until.retain(|number, until| {
            let over = *until <= now;
            if over {
                self.world.machines[*number].disk.set_full(false);
            }
            !over
        });
        if self.stall.as_ref().is_some_and(|stall| stall.until <= now) {
            self.go_on(sim);
        }
        self.lose_vote(sim, now);
        let at_rest = self.down.is_empty() && self.cut_until.is_none() && self.stall.is_none();
        if self.wants_lost_vote && self.lost_vote.is_none() && at_rest {
            self.lost_vote = LostVote::begin(sim, &self.world, &mut self.rng, now);
            self.wants_lost_vote = self.lost_vote.is_none();
        }
        if now >= self.next && self.lost_vote.is_none() {
            self.next = now + ms(&mut self.rng, 50..900);
            self.happen(sim, now);
            self.count.faults += 1;
        }
    }

    /// Starts again what is due, what has failed by itself, and what the group's keeper wants to start anew.
    pub(crate) fn revive(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let resets = std::mem::take(&mut *lock(&self.world.resets));
        for number in resets {
            if !self.down.contains_key(&number) {
                event(format!(
                    "{} starts anew: its node id was removed",
                    self.name(number)
                ));
                self.crash_and_empty(sim, number, now + RESTARTED_AFTER);
            }
        }
        for number in 0..self.world.machines.len() {
            let name = self.name(number);
            match self.down.get(&number) {
                Some(until) if *until <= now => {
                    self.down.remove(&number);
                    event(format!("{name} starts"));
                    sim.bounce(name.as_str());
                }
                Some(_) => {}
                None if !sim.is_host_running(name.as_str()) => {
                    event(format!("{name} ended by itself"));
                    // What still runs of it ends here; it is started again from what was synced.
                    sim.bounce(name.as_str());
                    self.crash(sim, number, false, now + RESTARTED_AFTER);
                }
                None => {}
            }
        }
    }

    /// All faults are over.
    pub(crate) fn end(&mut self, sim: &mut Sim<'_>, now: Duration) {
        self.go_on(sim);
        self.end_lost_vote(sim);
        self.heal(sim);
        self.quicken(sim);
        for machine in &self.world.machines {
            machine.disk.set_full(false);
        }
        self.full_until.clear();
        for until in self.down.values_mut() {
            *until = now;
        }
        self.revive(sim, now);
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let members = self.world.machines.len();
        let all = (0..members).flat_map(|a| (a + 1..members).map(move |b| (a, b)));
        all.map(|(a, b)| (self.name(a), self.name(b))).collect()
    }

    fn heal(&mut self, sim: &mut Sim<'_>) {
        if self.cut_until.take().is_some() {
            event("the network is whole");
        }
        self.repair(sim);
    }

    fn repair(&self, sim: &mut Sim<'_>) {
        for (a, b) in self.pairs() {
            sim.release(a.as_str(), b.as_str());
            sim.repair(a.as_str(), b.as_str());
            sim.repair_oneway(a.as_str(), b.as_str());
            sim.repair_oneway(b.as_str(), a.as_str());
        }
    }

    fn quicken(&mut self, sim: &mut Sim<'_>) {
        if self.slow_until.take().is_some() {
            for (a, b) in self.pairs() {
                sim.set_link_max_message_latency(a.as_str(), b.as_str(), Duration::from_millis(8));
            }
        }
    }

    /// A member ends at once. `power`: its machine, too, so that unsynced data is lost or torn.
    fn crash(&mut self, sim: &mut Sim<'_>, number: usize, power: bool, until: Duration) {
        let machine = self.world.machines[number].clone();
        sim.crash(machine.name.as_str());
        machine.close();
        let kept = if self.lost_vote.is_some() {
            0.0
        } else {
            [0.0, 0.5, 0.9][self.rng.random_range(0..3)]
        };
        let rng = &mut self.rng;
        machine.disk.cut(&mut || !power || rng.random_bool(kept));
        let outbox = machine.directory.join("outbox");
        if power && self.rng.random_bool(0.3) && outbox.is_file() {
            // The beginning of a record that was never acknowledged.
            let torn = OpenOptions::new().append(true).open(outbox);
            torn.and_then(|mut file| file.write_all(&[9, 0, 0, 0, 1, 2]))
                .expect("files of a simulation can be written");
        }
        self.world.local.new_life(number);
        self.down.insert(number, until);
    }

    fn living(&mut self) -> Option<usize> {
        let up: Vec<_> = (0..self.world.machines.len())
            .filter(|number| !self.down.contains_key(number))
            .collect();
        (!up.is_empty()).then(|| up[self.rng.random_range(0..up.len())])
    }

    fn happen(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let Some(number) = self.living() else {
            return;
        };
        let name = self.name(number);
        let until = now + ms(&mut self.rng, 50..2000);
        let others: Vec<_> = (0..self.world.machines.len())
            .filter(|other| *other != number)
            .collect();
        match self.rng.random_range(0..120) {
            0..14 => {
                event(format!("{name} loses power"));
                self.crash(sim, number, true, until);
            }
            14..22 => {
                event(format!("{name} is killed"));
                self.crash(sim, number, false, until);
            }
            22..36 => {
                event("all lose power");
                for number in 0..self.world.machines.len() {
                    if !self.down.contains_key(&number) {
                        let until = now + ms(&mut self.rng, 50..600);
                        self.crash(sim, number, true, until);
                    }
                }
            }
            36..44 => {
                event(format!("only {name} has power"));
                for other in others {
                    if !self.down.contains_key(&other) {
                        self.crash(sim, other, true, until);
                    }
                }
            }
            44..68 => self.cut(sim, number, until),
            68..74 => {
                event(format!("{name} is slow to reach"));
                self.slow_until = Some(until);
                let slow = ms(&mut self.rng, 20..400);
                for other in others {
                    sim.set_link_max_message_latency(name.as_str(), self.name(other).as_str(), slow);
                }
            }
            74..80 => {
                self.world.wishes.fetch_add(1, Ordering::Relaxed);
            }
            80..86 => {
                event(format!("the disk of {name} is full"));
                self.world.machines[number].disk.set_full(true);
                self.full_until.insert(number, until);
            }
            86..90 => {
                event(format!("the next sync of {name} fails"));
                self.world.machines[number].disk.fail_next_sync();
            }
            90..95 => {
                let skew = self.rng.random_range(-60_000..60_000);
                event(format!("the clock of {name} jumps to {skew} ms"));
                self.world.machines[number].skew_ms.store(skew, Ordering::Relaxed);
            }
            95..100 => self.lose_disk(sim, number, until),
            100..110 => self.wants_lost_vote = true,
            _ => self.stall(sim, number, until),
        }
    }

    /// A disk is lost only while all others are whole: a majority keeps its disks.
    fn lose_disk(&mut self, sim: &mut Sim<'_>, number: usize, until: Duration) {
        if !self.world.whole.swap(false, Ordering::Relaxed) || !self.down.is_empty() {
            return;
        }
        event(format!("{} loses its disk", self.name(number)));
        self.crash_and_empty(sim, number, until);
    }

    fn crash_and_empty(&mut self, sim: &mut Sim<'_>, number: usize, until: Duration) {
        let machine = self.world.machines[number].clone();
        self.crash(sim, number, true, until);
        machine.disk.empty();
        fs::remove_dir_all(&machine.directory).expect("files of a simulation can be removed");
        self.world.local.disk_lost(number);
    }

    /// Nothing reaches or leaves a member, what it is asked waits, and its clock jumps: before or after that.
    fn stall(&mut self, sim: &mut Sim<'_>, number: usize, until: Duration) {
        if self.cut_until.is_some() || self.stall.is_some() {
            return;
        }
        event(format!("{} stands still", self.name(number)));
        self.count.stalls += 1;
        let machine = &self.world.machines[number];
        let jump = ms(&mut self.rng, 20..2000);
        let at_once = self.rng.random_bool(0.5);
        if at_once {
            machine.jump(jump);
        }
        machine.stall(true);
        for (a, b) in self.pairs() {
            if a == machine.name || b == machine.name {
                sim.hold(a.as_str(), b.as_str());
            }
        }
        self.stall = Some(Stall {
            number,
            until,
            jump: (!at_once).then_some(jump),
        });
    }

    fn go_on(&mut self, sim: &mut Sim<'_>) {
        let Some(stall) = self.stall.take() else {
            return;
        };
        let machine = self.world.machines[stall.number].clone();
        event(format!("{} goes on", machine.name));
        for (a, b) in self.pairs() {
            if a == machine.name || b == machine.name {
                sim.release(a.as_str(), b.as_str());
            }
        }
        machine.stall(false);
        if let Some(by) = stall.jump {
            machine.jump(by);
        }
    }

    /// Goes on with the vote that is to be lost, if any.
    fn lose_vote(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let Some(lost) = &mut self.lost_vote else {
            return;
        };
        match lost.step(&self.world, &mut self.rng, now) {
            lost_vote::Step::Nothing => {}
            lost_vote::Step::Cut(number, old, others) => {
                event(format!("{} loses its power and its vote", self.name(number)));
                self.count.lost_votes += 1;
                let until = now + ms(&mut self.rng, 30..80);
                if !self.down.contains_key(&number) {
                    self.crash(sim, number, true, until);
                }
                self.repair(sim);
                lost_vote::part(sim, &self.world, &old, &others);
                if let Some(lost) = &self.lost_vote {
                    lost.quicken(&self.world);
                }
            }
            lost_vote::Step::End => self.end_lost_vote(sim),
        }
    }

    fn end_lost_vote(&mut self, sim: &mut Sim<'_>) {
        if let Some(lost) = self.lost_vote.take() {
            lost.quicken(&self.world);
            event("the network is whole");
            self.repair(sim);
        }
    }

    fn cut(&mut self, sim: &mut Sim<'_>, number: usize, until: Duration) {
        if self.cut_until.is_some() || self.stall.is_some() {
            return;
        }
        self.cut_until = Some(until);
        let name = self.name(number);
        let members = self.world.machines.len();
        let others: Vec<_> = (0..members)
            .filter(|other| *other != number)
            .map(|other| self.name(other))
            .collect();
        let kind = self.rng.random_range(0..5);
        let what = [
            "is cut off",
            "is not heard",
            "hears nobody",
            "is held up",
            "does not reach one other",
        ][kind];
        event(format!("{name} {what}"));
        for other in &others {
            let (name, other) = (name.as_str(), other.as_str());
            match kind {
                0 => sim.partition(name, other),
                1 => sim.partition_oneway(name, other),
                2 => sim.partition_oneway(other, name),
                3 => sim.hold(name, other),
                _ => {
                    sim.partition(name, other);
                    return;
                }
            }
        }
    }
}
