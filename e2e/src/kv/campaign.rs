//! Faults under load, then the checks: every key's history is linearizable, nobody saw what nobody stored, remembered
//! writes arrived once, in order, and none is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use linearizability::{History, Outcome};
use operator_api::config::ServiceKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::faults::{Fault, await_answers};
use super::load::{Load, LoadOptions, Running};
use super::request::{Kv, Request};
use crate::clock::{PATIENCE, eventually};
use crate::{Group, GroupOptions};

/// What a campaign does.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Members of the group.
    pub replicas: u16,
    /// How many faults.
    pub faults: u32,
    /// Which, one after the other, again and again; all by chance when empty.
    pub only: Vec<Fault>,
    /// What chance is drawn from.
    pub seed: u64,
    /// Clients with consistent operations.
    pub clients: u64,
    /// Whether some clients read and write without a quorum.
    pub local: bool,
}

/// What a campaign did and checked.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How often each fault happened.
    pub faults: BTreeMap<Fault, u32>,
    /// Keys whose histories were checked.
    pub keys: usize,
    /// Their operations.
    pub operations: usize,
    /// Of these, without an answer.
    pub unknown: usize,
    /// Of these, answered `timeout` or refused.
    pub never: usize,
    /// Writes that a member accepted without a quorum.
    pub accepted_alone: u64,
    /// Why requests were refused, and how often.
    pub refusals: BTreeMap<String, u64>,
}

/// How long the checker may take.
const CHECK_WITHIN: Duration = Duration::from_secs(120);

/// At most so many operations are answered between two faults.
const ANSWERS_BETWEEN_FAULTS: u64 = 60;

impl Campaign {
    /// Runs the campaign; an error carries the seed, and the part of the history that is wrong.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> anyhow::Result<Summary> {
        let seed = self.seed;
        self.run_seeded(&mut progress)
            .with_context(|| format!("seed {seed}"))
    }

    fn run_seeded(&self, progress: &mut impl FnMut(&str)) -> anyhow::Result<Summary> {
        let mut group = Group::start_with(GroupOptions {
            replicas: self.replicas,
            service: ServiceKind::Kv,
            ..GroupOptions::default()
        })?;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut summary = Summary::default();
        let running = Running::start(
            group.kv_member_ports(),
            LoadOptions {
                seed: self.seed,
                clients: self.clients,
                local: self.local,
            },
        )?;
        for (number, place) in (1..=self.faults).zip(0..) {
            group
                .all_ready()
                .with_context(|| format!("before fault {number}"))?;
            let broken = running.load.broken();
            ensure!(broken.is_empty(), "before fault {number}: {}", broken.join("; "));
            await_answers(&running.load, rng.random_range(20..ANSWERS_BETWEEN_FAULTS))?;
            let fault = match self.only.as_slice() {
                [] => Fault::draw(&mut rng),
                only => only[place % only.len()],
            };
            fault
                .happen(&group, &running.load, &mut rng)
                .with_context(|| format!("fault {number}, {fault:?}"))?;
            *summary.faults.entry(fault).or_default() += 1;
            progress(&format!(
                "fault {number}: {fault:?}, {} answers",
                running.load.answered()
            ));
        }
        let checked = check(&mut group, running)?;
        Ok(Summary {
            faults: summary.faults,
            ..checked
        })
    }
}

/// Ends a load once its group is whole again, and checks everything that it saw.
pub fn check(group: &mut Group, running: Running) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    group.all_ready().context("after the last fault")?;
    await_answers(&running.load, 20).context("after the last fault")?;
    let load = running.finish()?;
    let broken = load.broken();
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(read_everything(&load))?;
    check_history(&load, &mut summary)?;
    if load.is_local() {
        check_remembered(group, &load, &runtime)?;
        summary.accepted_alone = (0..load.kv.members())
            .map(|member| load.remembered.accepted_alone(member))
            .sum();
    }
    summary.refusals = load.refusals();
    Ok(summary)
}

/// Every key is read once more at every member, consistently: the ends of all histories.
async fn read_everything(load: &Load) -> anyhow::Result<()> {
    let keys: std::collections::BTreeSet<String> = load
        .history()
        .into_iter()
        .map(|operation| operation.key)
        .collect();
    for key in keys {
        for member in 0..load.kv.members() {
            let request = Request::get(&key).within(PATIENCE);
            let answer = load.operate("end", member, &request).await.answer();
            let answer = answer.with_context(|| format!("reading {key} at member {member} at the end"))?;
            ensure!(
                !answer.timeout && !answer.unknown,
                "{key} cannot be read at the end: {answer:?}"
            );
        }
    }
    Ok(())
}

fn check_history(load: &Load, summary: &mut Summary) -> anyhow::Result<()> {
    let history = History {
        operations: load.history(),
    };
    let checked = linearizability::check(&history, CHECK_WITHIN)?;
    let contradictions = load.local_reads.contradictions();
    ensure!(contradictions.is_empty(), "{}", contradictions.join("\n"));
    let nowhere = load.local_reads.values_from_nowhere(&history.operations);
    ensure!(nowhere.is_empty(), "nobody stored these: {}", nowhere.join("\n"));
    let never = history
        .operations
        .iter()
        .filter(|operation| operation.outcome == Outcome::Never);
    summary.never = never.count();
    (summary.keys, summary.operations, summary.unknown) = (checked.keys, checked.operations, checked.unknown);
    Ok(())
}

/// What was accepted is there once the quorum is; and what is written afterwards is not undone by a restart of all.
fn check_remembered(group: &mut Group, load: &Load, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let kv = &load.patient;
    let promises = load.remembered.promises();
    ensure!(!promises.is_empty(), "nobody wrote without a quorum");
    for (key, promise) in &promises {
        eventually(&format!("{key} holds what was accepted"), PATIENCE, || {
            let value = read_number(kv, runtime, key)?;
            ensure!(
                (promise.accepted..=promise.asked).contains(&value),
                "it is {value}; {promise:?}"
            );
            Ok(())
        })?;
    }
    let after = |key: &str| (promises[key].asked + 1).to_string();
    for key in promises.keys() {
        let request = Request::set(key, after(key)).within(PATIENCE);
        let answer = runtime.block_on(kv.ask(0, &request)).answer()?;
        ensure!(
            answer.valid && !answer.timeout,
            "{key} cannot be set at the end: {answer:?}"
        );
    }
    group.kill_all_members()?;
    group.all_ready()?;
    // Outboxes are replayed when members find their quorum, so before a member answers its own consistent reads.
    for key in promises.keys() {
        for member in 0..kv.members() {
            let request = Request::get(key).within(PATIENCE);
            let answer = runtime.block_on(kv.ask(member, &request)).answer()?;
            if answer.value != after(key) {
                bail!(
                    "{key} was {} and fell to {:?} after a restart of all",
                    after(key),
                    answer.value
                );
            }
        }
    }
    Ok(())
}

fn read_number(kv: &Kv, runtime: &tokio::runtime::Runtime, key: &str) -> anyhow::Result<u64> {
    let answer = runtime
        .block_on(kv.ask(0, &Request::get(key).within(PATIENCE)))
        .answer()?;
    ensure!(!answer.timeout, "the read timed out");
    if !answer.valid {
        return Ok(0);
    }
    answer
        .value
        .parse()
        .with_context(|| format!("{key} holds {:?}", answer.value))
}
