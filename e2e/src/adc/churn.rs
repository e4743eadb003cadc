//! Users who come, talk, whisper, search and go, for a while; then the members must agree on who is left, and hold nothing
//! of those who went.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::swarm::Phase;
use super::{Air, Swarm};
use crate::Group;
use crate::clock::{PATIENCE, eventually, now};
use crate::group::pid;

/// The pause between two actions of the crowd.
const ACT_EVERY: Duration = Duration::from_millis(5);

/// Who is on their way in at most.
const AT_ONCE: usize = 100;

/// Files that members may open and close at any time for themselves: connections to each other, segments of the log.
const SPARE_SOCKETS: usize = 12;

/// What is done in a churn.
#[derive(Debug, Clone)]
pub struct Churn {
    /// How many users there are.
    pub users: usize,
    /// For how long they come and go.
    pub lasts: Duration,
    /// How many actions there are at least: on a busy machine it lasts longer.
    pub acts_min: u64,
    /// How often the leader is killed meanwhile.
    pub kills: u32,
    /// What chance makes of it.
    pub seed: u64,
}

/// What was done.
#[derive(Debug, Default, Clone, Copy)]
pub struct Done {
    /// Users who came.
    pub joins: u64,
    /// Users who left.
    pub leaves: u64,
    /// Lines to all.
    pub said: u64,
    /// Lines to one.
    pub whispered: u64,
    /// Searches.
    pub searched: u64,
    /// Lines that came to the users.
    pub heard: u64,
    /// Users who were in at the end.
    pub left: usize,
}

/// Runs the churn on a group; fails when the members disagree, or keep anything, or offend the watchers.
pub fn run(group: &Group, churn: &Churn) -> anyhow::Result<Done> {
    let ports = group.adc_member_ports();
    // One watcher on each member.
    let watchers = ports
        .iter()
        .enumerate()
        .map(|(index, port)| Air::join(&format!("watcher{index}"), &format!("adc://127.0.0.1:{port}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let names: BTreeSet<String> = watchers.iter().map(|watcher| watcher.nick().to_owned()).collect();
    all_see(&watchers, &names).context("before the churn")?;
    let before = sockets(group)?;
    let mut swarm = Swarm::new(ports, churn.users)?;
    swarm.returning = true;
    let mut done = Crowd {
        random: StdRng::seed_from_u64(churn.seed),
        done: Done::default(),
    }
    .churn(group, &mut swarm, churn)?;
    arrive(&mut swarm)?;
    let in_now = (0..churn.users).filter(|user| swarm.phase(*user) == Phase::Normal);
    let expected: BTreeSet<String> = in_now
        .map(|user| format!("user{user:05}"))
        .chain(names.clone())
        .collect();
    done.left = expected.len() - names.len();
    done.heard = swarm.lines;
    while_turning(&mut swarm, || all_see(&watchers, &expected)).context("after the churn")?;
    swarm.leave_all();
    all_see(&watchers, &names).context("when all had left")?;
    only_watchers_are_counted(group, watchers.len())?;
    for watcher in &watchers {
        watcher.was_treated_well()?;
    }
    // A killed member was started again: it is another process with other sockets beside its users'.
    if churn.kills == 0 {
        eventually("the members close their sockets", PATIENCE, || {
            let after = sockets(group)?;
            ensure!(
                after <= before + SPARE_SOCKETS,
                "{after} are open, {before} were before"
            );
            Ok(())
        })?;
    }
    Ok(done)
}

struct Crowd {
    random: StdRng,
    done: Done,
}

impl Crowd {
    fn churn(mut self, group: &Group, swarm: &mut Swarm, churn: &Churn) -> anyhow::Result<Done> {
        let started = now();
        let mut acted = started;
        let (mut kills, mut acts) = (0, 0);
        while started.elapsed() < churn.lasts || acts < churn.acts_min {
            if acted.elapsed() >= ACT_EVERY {
                acted = now();
                acts += 1;
                self.act(swarm)?;
            }
            if kills < churn.kills && started.elapsed() > churn.lasts * (kills + 1) / (churn.kills + 1) {
                kills += 1;
                group.kill_leader()?;
            }
            swarm.turn(ACT_EVERY, &mut |_, _, _| {})?;
        }
        Ok(self.done)
    }

    /// Somebody does something.
    fn act(&mut self, swarm: &mut Swarm) -> anyhow::Result<()> {
        let user = self.random.random_range(0..swarm.len());
        let other = self.random.random_range(0..swarm.len());
        if swarm.phase(user) != Phase::Normal {
            // One who is in its way already stays there; the others come.
            for who in [user, other] {
                if swarm.phase(who) == Phase::Away && swarm.in_flight < AT_ONCE {
                    self.done.joins += 1;
                    swarm.join(who)?;
                }
            }
            return Ok(());
        }
        let sid = swarm.sid(user).to_owned();
        match self.random.random_range(0..10) {
            0..=3 => {
                self.done.leaves += 1;
                swarm.leave(user);
            }
            4..=5 => {
                self.done.said += 1;
                swarm.send(user, format!("BMSG {sid} hello\\sfrom\\s{sid}\n").as_bytes());
            }
            6..=7 if swarm.phase(other) == Phase::Normal => {
                self.done.whispered += 1;
                let to = swarm.sid(other).to_owned();
                swarm.send(user, format!("DMSG {sid} {to} psst PM{sid}\n").as_bytes());
            }
            _ => {
                self.done.searched += 1;
                swarm.send(
                    user,
                    format!("BSCH {sid} ANnothing TO{}\n", self.done.searched).as_bytes(),
                );
            }
        }
        Ok(())
    }
}

/// Waits until nobody is on the way in any more.
fn arrive(swarm: &mut Swarm) -> anyhow::Result<()> {
    let started = now();
    loop {
        swarm.turn(Duration::from_millis(20), &mut |_, _, _| {})?;
        let waiting = swarm.waiting();
        if swarm.in_flight == 0 && waiting == 0 {
            return Ok(());
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{} users are still on their way, {waiting} wait to come back",
            swarm.in_flight
        );
    }
}

/// Looks again and again, and lets the users read meanwhile.
fn while_turning<T>(swarm: &mut Swarm, mut probe: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    // All have read what came so far; what comes now waits in the kernel until the look is over.
    for _ in 0..100 {
        swarm.turn(Duration::from_millis(1), &mut |_, _, _| {})?;
    }
    probe()
}

/// Waits until each watcher sees exactly these users, and none of them twice.
fn all_see(watchers: &[Air], expected: &BTreeSet<String>) -> anyhow::Result<()> {
    for watcher in watchers {
        eventually(&format!("{} sees who is there", watcher.nick()), PATIENCE, || {
            let view = watcher.view();
            ensure!(view.is_normal(), "it is not logged in");
            let seen = view.nicks();
            let missing: Vec<_> = expected.difference(&seen).take(5).collect();
            let too_many: Vec<_> = seen.difference(expected).take(5).collect();
            ensure!(
                seen == *expected && view.users.len() == expected.len(),
                "it sees {} users in {} places instead of {}: without {missing:?}, but with {too_many:?}",
                seen.len(),
                view.users.len(),
                expected.len()
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until each member counts all watchers as users of the hub, and one user and one connection of its own.
fn only_watchers_are_counted(group: &Group, watchers: usize) -> anyhow::Result<()> {
    let wanted = [
        ("quorate_adc_users", watchers),
        ("quorate_adc_member_users", 1),
        ("quorate_adc_connections", 1),
    ];
    for index in 0..watchers {
        let port = group.admin_port(u16::try_from(index).context("a member's number")?);
        eventually(&format!("member {index} keeps nobody else"), PATIENCE, || {
            let metrics = group.admin().get(port, "/metrics", "text/plain")?.body;
            for (name, wanted) in wanted {
                let is_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
                let found = metrics
                    .lines()
                    .find(is_it)
                    .and_then(|line| line.rsplit(' ').next());
                let found = found.unwrap_or_default();
                ensure!(
                    found == wanted.to_string(),
                    "{name} is {found:?} instead of {wanted}"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// How many files and sockets all members have open.
fn sockets(group: &Group) -> anyhow::Result<usize> {
    let pids = group
        .statuses()
        .iter()
        .flatten()
        .map(pid)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let open = |pid: &u32| {
        let path = format!("/proc/{pid}/fd");
        Ok(fs::read_dir(&path)
            .with_context(|| format!("reading {path}"))?
            .count())
    };
    pids.iter().map(open).sum()
}
