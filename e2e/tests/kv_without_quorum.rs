//! One member of a group is left: it reads and remembers, says `timeout` to what needs a quorum, and keeps its promises
//! through a restart and when the others are back.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::clock::{PATIENCE, eventually};
use e2e::group::pid;
use e2e::kv::{Answer, Kv, Reply, Request};
use e2e::process::signal;
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;
use rustix::process::Signal;
use tokio::runtime::Runtime;

struct Setup {
    group: Group,
    kv: Kv,
    runtime: Runtime,
}

impl Setup {
    fn start(replicas: u16) -> Self {
        let group = Group::start_with(GroupOptions {
            replicas,
            service: ServiceKind::Kv,
            ..GroupOptions::default()
        })
        .unwrap();
        let kv = Kv::new(group.kv_member_ports(), PATIENCE * 2).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self { group, kv, runtime }
    }

    fn ask(&self, member: usize, request: &Request) -> Reply {
        self.runtime.block_on(self.kv.ask(member, request))
    }

    fn answer(&self, member: usize, request: &Request) -> Answer {
        let reply = self.ask(member, request);
        reply
            .answer()
            .unwrap_or_else(|error| panic!("{request:?}: {error:#}"))
    }

    /// What the member shows without a quorum, as soon as it answers at all.
    fn shown(&self, member: usize, key: &str) -> anyhow::Result<String> {
        let answer = self.ask(member, &Request::get(key).local()).answer()?;
        ensure!(!answer.timeout, "it is still starting");
        Ok(answer.value)
    }

    /// Kills all members but one, for as long as the supervisor is paused.
    fn leave_alone(&self, member: usize) {
        self.group.supervisor().unwrap().signal(Signal::STOP).unwrap();
        for (place, status) in self.group.statuses().into_iter().enumerate() {
            if place != member {
                self.group.kill(&status.unwrap()).unwrap();
            }
        }
    }
}

/// Long enough for an answer, short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

fn last_member_standing(replicas: u16) {
    let setup = Setup::start(replicas);
    let stored = setup.answer(0, &Request::set("stored", "before").blocking());
    assert!(stored.valid && !stored.timeout, "{stored:?}");
    for member in 0..usize::from(replicas) {
        eventually("every member has learned it", PATIENCE, || {
            let shown = setup.shown(member, "stored")?;
            ensure!(shown == "before", "it shows {shown:?}");
            Ok(())
        })
        .unwrap();
    }
    let alone = 1;
    setup.leave_alone(alone);

    assert_eq!(setup.shown(alone, "stored").unwrap(), "before");
    let remembered = setup.answer(alone, &Request::set("remembered", "meanwhile").local());
    assert!(
        remembered.valid && remembered.remembered,
        "not remembered: {remembered:?}"
    );
    assert_eq!(setup.shown(alone, "remembered").unwrap(), "meanwhile");
    let swap = Request::swap("stored", "before", "never").within(SHORT);
    let swap = setup.answer(alone, &swap);
    assert!(swap.timeout && !swap.valid, "a swap without a quorum: {swap:?}");
    let get = setup.answer(alone, &Request::get("stored").within(SHORT));
    assert!(
        get.timeout && !get.valid,
        "a consistent get without a quorum: {get:?}"
    );
    let set = setup.answer(alone, &Request::set("stored", "never, too").within(SHORT));
    assert!(
        set.timeout && !set.valid,
        "a consistent set without a quorum: {set:?}"
    );

    restart_alone(&setup, alone);
    eventually("the member shows what it promised", PATIENCE, || {
        let shown = setup.shown(alone, "remembered")?;
        ensure!(shown == "meanwhile", "it shows {shown:?}");
        let shown = setup.shown(alone, "stored")?;
        ensure!(shown == "before", "it shows {shown:?} of what was stored");
        Ok(())
    })
    .unwrap();

    for pid in paused(&setup) {
        signal(pid, Signal::CONT).unwrap();
    }
    setup.group.all_ready().unwrap();
    for member in 0..usize::from(replicas) {
        let remembered = Request::get("remembered").blocking();
        eventually("what was remembered is stored", PATIENCE, || {
            let answer = setup.answer(member, &remembered);
            ensure!(answer.value == "meanwhile", "{answer:?}");
            Ok(())
        })
        .unwrap();
        let stored = setup.answer(member, &Request::get("stored").blocking());
        assert_eq!(stored.value, "before", "a request that had timed out acted");
    }
}

/// Kills the last member, too, and lets only it start again: the others are stopped as soon as they exist.
fn restart_alone(setup: &Setup, alone: usize) {
    let mut statuses = setup.group.statuses();
    let status = statuses.remove(alone).unwrap();
    let others: Vec<String> = (0..=statuses.len())
        .filter(|member| *member != alone)
        .map(|member| format!("kv-{member}"))
        .collect();
    setup.group.kill(&status).unwrap();
    setup.group.supervisor().unwrap().signal(Signal::CONT).unwrap();
    eventually("only the last member is started again", PATIENCE, || {
        for name in &others {
            let running = running(setup, name);
            ensure!(!running.is_empty(), "{name} does not run yet");
            for pid in running {
                signal(pid, Signal::STOP)?;
            }
        }
        let now = setup
            .group
            .statuses()
            .remove(alone)
            .context("it does not answer")?;
        ensure!(pid(&now)? != pid(&status)?, "it is still the old process");
        Ok(())
    })
    .unwrap();
}

/// The processes of one member. A child of the supervisor is nobody's until its own program runs in it: who stopped
/// it before would stop any member, and the supervisor, which waits for that moment.
fn running(setup: &Setup, name: &str) -> Vec<u32> {
    e2e::process::all_running_on(&setup.group.member_dir(name))
}

fn paused(setup: &Setup) -> Vec<u32> {
    e2e::process::all_running_on(&setup.group.dir())
}

#[test]
fn last_of_three_reads_and_remembers() {
    last_member_standing(3);
}

#[test]
fn last_of_five_reads_and_remembers() {
    last_member_standing(5);
}
