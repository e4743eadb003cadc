//! What is done to members under load.

use std::fs;

use anyhow::{Context, ensure};
use operator_api::{MemberStatus, Role};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::load::Load;
use crate::Group;
use crate::clock::{PATIENCE, eventually};
use crate::group::pid;
use crate::process::signal;

/// One thing that happens to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the leader.
    KillLeader,
    /// `kill -9` of another member.
    KillFollower,
    /// `kill -9` of every member at once.
    KillAll,
    /// SIGSTOP of the leader, and SIGCONT when the others have answered without it.
    PauseLeader,
    /// The same with another member.
    PauseFollower,
    /// SIGTERM of the leader, which hands over first.
    TerminateLeader,
    /// Leadership handed over by command.
    Transfer,
    /// All but one killed, and started again when the one has answered alone.
    OneAlone,
    /// The leader killed, and its disk emptied before it is started again.
    EmptyDisk,
}

impl Fault {
    /// All of them, the more interesting ones more often.
    const DRAWN: [Self; 14] = [
        Self::KillLeader,
        Self::KillLeader,
        Self::KillLeader,
        Self::KillFollower,
        Self::KillAll,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::TerminateLeader,
        Self::Transfer,
        Self::OneAlone,
        Self::OneAlone,
        Self::EmptyDisk,
    ];

    /// One by chance.
    pub fn draw(rng: &mut StdRng) -> Self {
        Self::DRAWN[rng.random_range(0..Self::DRAWN.len())]
    }

    /// Does it to a group whose members are all ready. Returns when the load has gone on during what lasts.
    pub fn happen(self, group: &Group, load: &Load, rng: &mut StdRng) -> anyhow::Result<()> {
        let leader = group.leader()?;
        let members: Vec<MemberStatus> = group.statuses().into_iter().flatten().collect();
        let followers: Vec<&MemberStatus> = members
            .iter()
            .filter(|member| member.role != Role::Leader)
            .collect();
        ensure!(!followers.is_empty(), "a leader without followers");
        let follower = followers[rng.random_range(0..followers.len())];
        match self {
            Self::KillLeader => kill(group, load, &[&leader]),
            Self::KillFollower => kill(group, load, &[follower]),
            Self::KillAll => kill(group, load, &members.iter().collect::<Vec<_>>()),
            Self::PauseLeader => pause(load, &leader),
            Self::PauseFollower => pause(load, follower),
            Self::TerminateLeader => {
                new_lives(group, load, &[&leader])?;
                signal(pid(&leader)?, Signal::TERM)
            }
            Self::Transfer => group.transfer(),
            Self::OneAlone => leave_alone(group, load, &members, rng),
            Self::EmptyDisk => empty_disk(group, load, &leader),
        }
    }
}

/// A member's place in the group's lists.
fn index(group: &Group, member: &MemberStatus) -> anyhow::Result<usize> {
    let place = group
        .statuses()
        .iter()
        .position(|status| status.as_ref().is_some_and(|status| status.name == member.name));
    // One that is down is found by the number in its name.
    let number = || {
        member
            .name
            .rsplit('-')
            .next()
            .and_then(|number| number.parse().ok())
    };
    place
        .or_else(number)
        .with_context(|| format!("{} is no member", member.name))
}

fn new_lives(group: &Group, load: &Load, members: &[&MemberStatus]) -> anyhow::Result<()> {
    for member in members {
        load.local_reads.new_life(index(group, member)?);
    }
    Ok(())
}

fn kill(group: &Group, load: &Load, members: &[&MemberStatus]) -> anyhow::Result<()> {
    new_lives(group, load, members)?;
    for member in members {
        group.kill(member)?;
    }
    // Reads that began before the kill belong to no life.
    new_lives(group, load, members)
}

/// Consistent operations that the others must answer before a paused member goes on.
const ANSWERS_DURING_A_PAUSE: u64 = 20;

fn pause(load: &Load, member: &MemberStatus) -> anyhow::Result<()> {
    let pid = pid(member)?;
    signal(pid, Signal::STOP)?;
    let gone_on = await_answers(load, ANSWERS_DURING_A_PAUSE);
    signal(pid, Signal::CONT)?;
    gone_on.with_context(|| format!("while {} was paused", member.name))
}

/// Waits until so many more consistent operations are answered.
pub fn await_answers(load: &Load, more: u64) -> anyhow::Result<()> {
    let wanted = load.answered() + more;
    eventually("the load goes on", PATIENCE, || {
        let answered = load.answered();
        ensure!(answered >= wanted, "{answered} answers, waiting for {wanted}");
        Ok(())
    })
}

/// Local reads and remembered writes that a member alone must answer.
const ANSWERS_ALONE: u64 = 5;

fn leave_alone(group: &Group, load: &Load, members: &[MemberStatus], rng: &mut StdRng) -> anyhow::Result<()> {
    let alone = &members[rng.random_range(0..members.len())];
    let place = index(group, alone)?;
    let others: Vec<&MemberStatus> = members
        .iter()
        .filter(|member| member.name != alone.name)
        .collect();
    // A paused supervisor starts nobody.
    let supervisor = group.supervisor()?;
    supervisor.signal(Signal::STOP)?;
    let answered = kill(group, load, &others).and_then(|()| {
        let reads = load.local_reads.reads(place) + ANSWERS_ALONE;
        let writes = load.remembered.accepted_alone(place) + ANSWERS_ALONE;
        eventually(&format!("{} answers alone", alone.name), PATIENCE, || {
            let (read, written) = (
                load.local_reads.reads(place),
                load.remembered.accepted_alone(place),
            );
            ensure!(read >= reads, "{read} local reads, waiting for {reads}");
            ensure!(
                written >= writes,
                "{written} remembered writes, waiting for {writes}"
            );
            Ok(())
        })
    });
    supervisor.signal(Signal::CONT)?;
    answered
}

fn empty_disk(group: &Group, load: &Load, member: &MemberStatus) -> anyhow::Result<()> {
    let place = index(group, member)?;
    let dir = group.member_dir(&member.name);
    ensure!(dir.is_dir(), "{} is not a directory", dir.display());
    let supervisor = group.supervisor()?;
    supervisor.signal(Signal::STOP)?;
    load.remembered.disk_lost(place);
    let emptied = kill(group, load, &[member])
        .and_then(|()| fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display())));
    // What was accepted between the first note and the kill is gone, too.
    load.remembered.disk_lost(place);
    supervisor.signal(Signal::CONT)?;
    emptied
}
