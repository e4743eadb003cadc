//! What all parts of one simulation share, and its loop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, ensure};
use linearizability::Operation;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::faults::{Count, Faults};
use crate::leases::Leases;
use crate::local::Local;
use crate::member::Machine;
use crate::records::Records;
use crate::watchers::Watched;
use crate::{checks, clients, leases, local, membership, records};

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Three or five.
    pub(crate) members: usize,
    /// How long faults happen, in virtual time.
    pub(crate) lasts: Duration,
    /// Clients with consistent operations.
    pub(crate) clients: u64,
}

/// What all parts share.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) machines: Vec<Arc<Machine>>,
    history: Mutex<Vec<Operation>>,
    pub(crate) begun: AtomicU64,
    pub(crate) local: Local,
    pub(crate) watched: Watched,
    pub(crate) records: Records,
    pub(crate) leases: Leases,
    broken: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// All members are up, joined, vote, and remember nothing.
    pub(crate) whole: AtomicBool,
    /// What the faults want of the group's keeper.
    pub(crate) wishes: AtomicU64,
    /// The leader, as far as the group's keeper knows.
    pub(crate) leader: AtomicUsize,
    /// Each member's node id, as far as the group's keeper knows; 0 when it has none.
    pub(crate) node_ids: Vec<AtomicU64>,
    /// Members that the group's keeper wants to start anew with an empty disk.
    pub(crate) resets: Mutex<BTreeSet<usize>>,
    pub(crate) snapshots: AtomicU64,
    last_ns: AtomicU64,
}

/// The virtual time between two steps, where no member's is at hand.
static STEPPED_NS: AtomicU64 = AtomicU64::new(0);

/// How far all clocks go in one step.
const TICK: Duration = Duration::from_millis(1);

/// Virtual nanoseconds since the simulation began, also where a member's own clock has just jumped.
pub(crate) fn clock_ns() -> u64 {
    let stepped = STEPPED_NS.load(Ordering::Relaxed);
    turmoil::sim_elapsed().map_or(stepped, |elapsed| {
        let latest = Duration::from_nanos(stepped) + TICK;
        u64::try_from(elapsed.min(latest).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// What happened, for people who read a failure.
static EVENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes what happened.
pub(crate) fn event(what: impl Into<String>) {
    let at = Duration::from_nanos(clock_ns());
    lock(&EVENTS).push(format!("{:>9.3} {}", at.as_secs_f64(), what.into()));
}

/// All that happened.
pub(crate) fn events() -> String {
    lock(&EVENTS).join("\n")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one simulation did.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) operations: usize,
    pub(crate) unknown: usize,
    pub(crate) never: usize,
    pub(crate) accepted_alone: u64,
    /// Changes that watchers were told, records that were handed out, and entries of the journal.
    pub(crate) watched: usize,
    pub(crate) records: usize,
    pub(crate) entries: usize,
    /// Leases that ended by themselves.
    pub(crate) leases: usize,
    pub(crate) lives: i64,
    pub(crate) faults: Count,
    pub(crate) snapshots: u64,
    /// Of everything that the clients saw.
    pub(crate) digest: u32,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            operations,
            unknown,
            never,
            accepted_alone,
            watched,
            records,
            entries,
            leases,
            lives,
            faults,
            snapshots,
            digest,
        } = self;
        write!(
            f,
            "{operations} operations ({unknown} unknown, {never} timed out or refused), {accepted_alone} accepted alone, \
             {watched} changes watched, {records} records handed out, {entries} entries, {leases} leases ended, {} faults, {} votes lost, {} pauses, {lives} lives, snapshot of entry {snapshots}, digest {digest:08x}",
            faults.faults, faults.lost_votes, faults.stalls,
        )
    }
}

impl World {
    /// Nanoseconds of one clock; no two are the same.
    pub(crate) fn now(&self) -> u64 {
        let elapsed = clock_ns();
        let last = self.last_ns.load(Ordering::Relaxed);
        let now = elapsed.max(last + 1);
        self.last_ns.store(now, Ordering::Relaxed);
        now
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Something that a client found wrong at once.
    pub(crate) fn broke(&self, how: String) {
        lock(&self.broken).push(how);
    }

    pub(crate) fn broken(&self) -> Vec<String> {
        lock(&self.broken).clone()
    }

    pub(crate) fn note(&self, operation: Operation) {
        lock(&self.history).push(operation);
    }

    pub(crate) fn history(&self) -> Vec<Operation> {
        lock(&self.history).clone()
    }
}

/// How long a group may take to be whole again after the last fault, in virtual time.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// How long clients may take to end their last operations.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Runs one simulation. What went wrong is an error that says so.
pub(crate) fn run(plan: Plan) -> anyhow::Result<Summary> {
    let root = tempfile::tempdir()?;
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let snapshot_every = rng.random_range(20..200);
    let machines: Vec<_> = (0..plan.members)
        .map(|number| Machine::new(number, root.path(), plan.seed, snapshot_every))
        .collect();
    let world = Arc::new(World {
        plan,
        local: Local::new(plan.members),
        watched: Watched::default(),
        records: Records::default(),
        leases: Leases::default(),
        machines,
        history: Mutex::default(),
        begun: AtomicU64::new(0),
        broken: Mutex::default(),
        stop: AtomicBool::new(false),
        whole: AtomicBool::new(false),
        wishes: AtomicU64::new(0),
        leader: AtomicUsize::new(usize::MAX),
        node_ids: (0..plan.members).map(|_| AtomicU64::new(0)).collect(),
        resets: Mutex::default(),
        snapshots: AtomicU64::new(0),
        last_ns: AtomicU64::new(0),
    });
    let failed =
        |error: anyhow::Error| anyhow!("{error:#}\n\nwhat happened (virtual seconds):\n{}", events());
    simulate(&world, &mut rng).map_err(failed)
}

fn simulate(world: &Arc<World>, rng: &mut StdRng) -> anyhow::Result<Summary> {
    let plan = world.plan;
    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.random())
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(24 * 3600))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(Duration::from_millis(rng.random_range(1..12)))
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    for machine in &world.machines {
        let machine = machine.clone();
        sim.host(machine.name.clone(), move || machine.clone().live());
    }
    let shared = world.clone();
    sim.client("membership", async move { membership::keep(shared).await });
    let shared = world.clone();
    sim.client("clients", async move {
        clients::run(&shared).await;
        records::end(&shared).await;
        local::run(&shared).await;
        leases::end(&shared).await;
        Ok(())
    });
    let mut faults = Faults::new(world.clone(), rng);
    let mut until = None;
    let mut ends = None;
    loop {
        let finished = sim
            .step()
            .map_err(|error| anyhow!("a member or client ended: {error}"))?;
        if finished {
            break;
        }
        let now = sim.elapsed();
        STEPPED_NS.store(u64::try_from(now.as_nanos())?, Ordering::Relaxed);
        let broken = world.broken();
        ensure!(broken.is_empty(), "{}", broken.join("\n"));
        let Some(ends) = ends else {
            ensure!(
                now < HEALS_WITHIN,
                "the group was not formed within {HEALS_WITHIN:?}"
            );
            ends = world.whole.load(Ordering::Relaxed).then(|| now + plan.lasts);
            continue;
        };
        if now < ends {
            faults.step(&mut sim, now);
            continue;
        }
        match until {
            None => {
                faults.end(&mut sim, now);
                world.whole.store(false, Ordering::Relaxed);
                event("the last fault is over");
                until = Some(now + HEALS_WITHIN);
            }
            Some(latest) if !world.stopped() => {
                faults.revive(&mut sim, now);
                if world.whole.load(Ordering::Relaxed) {
                    event("the group is whole");
                    world.stop.store(true, Ordering::Relaxed);
                    until = Some(now + ENDS_WITHIN);
                } else {
                    ensure!(
                        now < latest,
                        "the group is not whole {HEALS_WITHIN:?} after the last fault"
                    );
                }
            }
            Some(latest) => {
                faults.revive(&mut sim, now);
                ensure!(now < latest, "some operation did not end within {ENDS_WITHIN:?}");
            }
        }
    }
    checks::check(world, faults.count())
}
