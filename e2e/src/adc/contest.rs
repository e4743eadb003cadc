//! One hub in the benchmark, ours or uhub, and what is measured of it with a number of users.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use operator_api::config::ServiceKind;
use serde::Serialize;
use serde_json::json;

use super::load::{Loss, Probes, Rate, broadcast, broadcast_beside, relay, resident, survive};
use super::{Swarm, Uhub};
use crate::adc_user::AdcIdentity;
use crate::clock::{PATIENCE, eventually, now};
use crate::group::pid;
use crate::process::processor_time;
use crate::{AdcUser, Group, GroupOptions};

/// Users on their way in at any time of a wave of logins.
const WAVE_AT_ONCE: usize = 100;

/// The same in a storm, when all come back at the same moment.
const STORM_AT_ONCE: usize = 500;

/// Lines to all that are on their way at any time.
const BROADCAST_WINDOW: usize = 20;

/// Lines to one that are on their way at any time.
const RELAY_WINDOW: usize = 500;

/// Connections that say nothing in the case of probes.
const PROBES: usize = 10_000;

/// One user of so many does not read in the case of slow readers.
const ONE_SLOW_OF: usize = 100;

/// A hub that took longer than this for its first wave is not asked for a storm and a loss of as many users again.
const PATIENCE_WITH_WAVES: Duration = Duration::from_secs(150);

/// A hub in the benchmark.
pub enum Hub {
    /// Ours, with one member or several.
    Quorate(Box<Group>, u16),
    /// Debian's uhub.
    Uhub(Uhub),
}

/// How long each case lasts, and on which processors.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seconds for which messages are sent in each case.
    pub seconds: u64,
    /// The seconds after which a wave of logins is given up.
    pub wave_seconds_max: u64,
    /// Processors of the hub, as `taskset -c` takes them.
    pub hub_cores: String,
    /// Processors of the users.
    pub swarm_cores: String,
    /// Threads of each of our members.
    pub threads: u16,
}

/// What was measured of one hub with one number of users. What is none was not reached.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Which hub.
    pub hub: String,
    /// How many users.
    pub users: usize,
    /// From the first connection to the last own INF, in seconds.
    pub wave_seconds: Option<f64>,
    /// Processor time of the hub for that, in seconds.
    pub wave_processor_seconds: Option<f64>,
    /// Resident memory that each idle user costs, of all members together, in KiB.
    pub idle_kib_per_user: Option<f64>,
    /// The same of the member with the most users, divided by its users.
    pub idle_kib_per_user_of_a_member: Option<f64>,
    /// Lines to all.
    pub broadcast: Option<Rate>,
    /// Lines to one.
    pub relay: Option<Rate>,
    /// Lines to all while one user in a hundred does not read.
    pub broadcast_with_slow_readers: Option<Rate>,
    /// Lines to all while ten thousand connections come that say nothing.
    pub broadcast_with_probes: Option<Rate>,
    /// SIDs that the hub gave to those connections.
    pub sids_spent_on_probes: Option<u32>,
    /// All connections closed at once, and opened again: to the last own INF, in seconds.
    pub storm_seconds: Option<f64>,
    /// Resident memory after the storm, in MiB.
    pub storm_mib: Option<f64>,
    /// The loss of the hub's process, or of the leader's.
    pub loss: Option<Loss>,
    /// Why something is missing.
    pub failure: Option<String>,
}

impl Hub {
    /// Starts a group of ours that limits nothing.
    pub fn quorate(replicas: u16, plan: &Plan) -> anyhow::Result<Self> {
        pin_self(&plan.hub_cores)?;
        let group = Group::start_with(GroupOptions {
            replicas,
            service: ServiceKind::Adc,
            adc_options: Some(unlimited(plan.threads)),
            ..GroupOptions::default()
        });
        pin_self(&plan.swarm_cores)?;
        Ok(Self::Quorate(Box::new(group?), replicas))
    }

    /// Starts uhub.
    pub fn uhub(plan: &Plan) -> anyhow::Result<Self> {
        pin_self(&plan.swarm_cores)?;
        Ok(Self::Uhub(Uhub::start_on(Some(&plan.hub_cores))?))
    }

    /// What it is called in tables.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Quorate(_, 1) => "quorate, 1 member".to_owned(),
            Self::Quorate(_, replicas) => format!("quorate, {replicas} members"),
            Self::Uhub(_) => "uhub".to_owned(),
        }
    }

    fn ports(&self) -> Vec<u16> {
        match self {
            Self::Quorate(group, _) => group.adc_member_ports(),
            Self::Uhub(uhub) => vec![uhub.port()],
        }
    }

    fn pids(&self) -> anyhow::Result<Vec<u32>> {
        match self {
            Self::Quorate(group, replicas) => eventually("all members answer", PATIENCE, || {
                // A member with much to do answers late.
                let found = group
                    .statuses()
                    .iter()
                    .flatten()
                    .map(pid)
                    .collect::<anyhow::Result<Vec<_>>>()?;
                ensure!(
                    found.len() == usize::from(*replicas),
                    "{} members answer",
                    found.len()
                );
                Ok(found)
            }),
            Self::Uhub(uhub) => Ok(vec![uhub.pid().context("uhub does not run")?]),
        }
    }

    /// Kills the hub, or the leader; it is started again at once, as whoever keeps services up does.
    fn strike(&mut self, leader: Option<u32>) -> anyhow::Result<()> {
        match (self, leader) {
            (Self::Uhub(uhub), _) => uhub.launch(),
            (Self::Quorate(..), Some(leader)) => {
                crate::process::signal(leader, rustix::process::Signal::KILL)
            }
            (Self::Quorate(..), None) => anyhow::bail!("no leader"),
        }
    }

    fn leader(&self) -> anyhow::Result<Option<u32>> {
        match self {
            Self::Quorate(group, _) => Ok(Some(pid(&group.all_ready()?)?)),
            Self::Uhub(_) => Ok(None),
        }
    }
}

/// Measures everything, as far as it gets.
pub fn measure(hub: &mut Hub, users: usize, plan: &Plan) -> Measured {
    let mut measured = Measured {
        hub: hub.name(),
        users,
        ..Measured::default()
    };
    if let Err(error) = cases(hub, plan, &mut measured) {
        measured.failure = Some(format!("{error:#}"));
    }
    measured
}

fn cases(hub: &mut Hub, plan: &Plan, measured: &mut Measured) -> anyhow::Result<()> {
    let users = measured.users;
    let mut swarm = Swarm::new(hub.ports(), users)?;
    let within = Duration::from_secs(plan.wave_seconds_max);
    let lasts = Duration::from_secs(plan.seconds);
    let pids = hub.pids()?;
    let processor_time = || {
        pids.iter()
            .copied()
            .map(processor_time)
            .sum::<anyhow::Result<Duration>>()
    };
    let empty = memory(&pids)?;
    let used = processor_time()?;
    let wave = swarm
        .log_in_all(WAVE_AT_ONCE, within)
        .context("the wave of logins")?;
    measured.wave_seconds = Some(wave.as_secs_f64());
    measured.wave_processor_seconds = Some(processor_time()?.saturating_sub(used).as_secs_f64());
    settle(&mut swarm)?;
    let full = memory(&pids)?;
    let growth: Vec<u64> = full
        .iter()
        .zip(&empty)
        .map(|(full, empty)| full.saturating_sub(*empty))
        .collect();
    measured.idle_kib_per_user = Some(kib(growth.iter().sum()) / count(users));
    let most = growth.iter().max().copied().unwrap_or(0);
    measured.idle_kib_per_user_of_a_member = Some(kib(most) / count(users.div_ceil(growth.len().max(1))));
    let all: Vec<usize> = (0..users).collect();
    measured.broadcast = Some(broadcast(&mut swarm, &all, BROADCAST_WINDOW, lasts).context("lines to all")?);
    measured.relay = Some(relay(&mut swarm, RELAY_WINDOW, lasts).context("lines to one")?);
    let (slow, fast): (Vec<usize>, Vec<usize>) = all.iter().partition(|user| *user % ONE_SLOW_OF == 0);
    for user in &slow {
        swarm.set_reading(*user, false)?;
    }
    let with_slow = broadcast(&mut swarm, &fast, BROADCAST_WINDOW, lasts).context("slow readers")?;
    measured.broadcast_with_slow_readers = Some(with_slow);
    for user in &slow {
        swarm.set_reading(*user, true)?;
    }
    settle(&mut swarm)?;
    probe(&mut swarm, hub.ports()[0], &all, lasts, measured).context("probes")?;
    if wave > PATIENCE_WITH_WAVES {
        return Ok(());
    }
    swarm.leave_all();
    let storm = swarm.log_in_all(STORM_AT_ONCE, within).context("the storm")?;
    measured.storm_seconds = Some(storm.as_secs_f64());
    measured.storm_mib = Some(kib(resident(&pids)?) / 1024.0);
    settle(&mut swarm)?;
    let leader = hub.leader()?;
    let loss = survive(&mut swarm, within, || hub.strike(leader)).context("the loss")?;
    measured.loss = Some(loss);
    Ok(())
}

/// Lets probes come while people talk, and counts the SIDs that they cost.
fn probe(
    swarm: &mut Swarm,
    port: u16,
    readers: &[usize],
    lasts: Duration,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let sid = |nick: &str| {
        let user = AdcUser::log_in(port, &AdcIdentity::new(nick))?;
        sid_number(&user.sid).context("a SID is base32")
    };
    let before = sid("before the probes")?;
    settle(swarm)?;
    let mut probes = Probes::new(port, PROBES);
    let rate = broadcast_beside(swarm, readers, BROADCAST_WINDOW, lasts, &mut probes)?;
    measured.broadcast_with_probes = Some(rate);
    let after = sid("after the probes")?;
    settle(swarm)?;
    // A hub that gives SIDs again tells nothing of how many it spent.
    measured.sids_spent_on_probes = after.checked_sub(before + 1);
    Ok(())
}

/// The number of a SID; numbers are given in order.
fn sid_number(sid: &str) -> Option<u32> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    sid.bytes().try_fold(0, |number, byte| {
        let digit = digits.iter().position(|digit| *digit == byte)?;
        Some(number << 5 | u32::try_from(digit).ok()?)
    })
}

/// Waits until nothing has come for a moment, and the hub has nothing to do.
fn settle(swarm: &mut Swarm) -> anyhow::Result<()> {
    let (started, mut quiet, mut lines) = (now(), now(), swarm.lines);
    while quiet.elapsed() < Duration::from_secs(2) {
        swarm.turn(Duration::from_millis(50), &mut |_, _, _| {})?;
        if swarm.lines != lines {
            (quiet, lines) = (now(), swarm.lines);
        }
        ensure!(
            started.elapsed() < Duration::from_secs(120),
            "the hub never becomes quiet"
        );
    }
    Ok(())
}

fn memory(pids: &[u32]) -> anyhow::Result<Vec<u64>> {
    pids.iter().map(|pid| resident(&[*pid])).collect()
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "some thousand users")]
fn count(users: usize) -> f64 {
    users as f64
}

/// The options of a hub of ours that limits as little as uhub's configuration here.
#[must_use]
pub fn unlimited(threads: u16) -> serde_json::Value {
    let rate = json!({"burst": 1_000_000, "intervalMilliseconds": 0});
    json!({
        "usersMax": 50_000,
        "connectionsMax": 50_000,
        "connectionsPerAddressMax": 0,
        "sendQueueBytesMax": 128 << 20,
        "historyLinesOnJoin": 0,
        "historyLinesMax": 0,
        "threads": threads,
        "floodLimits": {"chat": rate, "private": rate, "search": rate, "info": rate, "other": rate},
    })
}

/// Runs this process, and what it starts from now on, on these processors only.
pub fn pin_self(cores: &str) -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", cores, &own])
        .output()
        .context("running taskset")?;
    ensure!(
        output.status.success(),
        "taskset -c -p {cores}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
