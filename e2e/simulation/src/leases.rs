//! Leases: each has two keys, which nobody else changes. They end together, and for good. When they do cannot be told, as
//! clocks jump; that they do is looked at when the group is whole again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv::request::Terms;
use kv::state::{Change, Lifetime, Value};
use linearizability::Action;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::clients::session;
use crate::member::{Inside, Machine, Reply};
use crate::pairs::{self, halves};
use crate::records::{Certain, certain};
use crate::world::{World, lock};

/// Clients with leases.
const HOLDERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(60);
const TIMEOUT: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// How far all clocks are ahead at the end: no clock was before, not even with a lease's time.
const LATEST_MS: i64 = 65_000;
/// For leases to end after the last fault.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is known of all leases.
#[derive(Default)]
pub(crate) struct Leases {
    /// How many were seen to have ended by themselves.
    ended: AtomicUsize,
    /// The keys that were left alive at the end, with their value.
    left: std::sync::Mutex<Vec<(u64, String)>>,
}

impl Leases {
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Starts the clients.
pub(crate) fn start(world: &Arc<World>) -> Vec<tokio::task::JoinHandle<()>> {
    let hold = |number| tokio::task::spawn_local(hold(world.clone(), number));
    (0..HOLDERS).map(hold).collect()
}

/// The name of a holder's two keys.
fn pair(holder: u64) -> String {
    format!("l{holder}")
}

struct Holder {
    world: Arc<World>,
    number: u64,
    rng: StdRng,
    session: u64,
    seq: u64,
}

/// Has one lease after the other.
async fn hold(world: Arc<World>, number: u64) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ (0x40 + number) << 32);
    let Some(session) = session(&world, &mut rng).await else {
        return;
    };
    let mut holder = Holder {
        world,
        number,
        rng,
        session,
        seq: 0,
    };
    while !holder.world.stopped() {
        if holder.one().await.is_none() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Holder {
    /// Carries a change out once; none when the session is lost.
    async fn change(&mut self, change: Change) -> Option<Certain> {
        self.seq += 1;
        let ask = async |machine: &Machine, terms: Terms| {
            let change = change.clone();
            let asked = machine.ask(ANSWER_WITHIN, move |inside: Inside| {
                Box::pin(async move { inside.front.change(change, &terms).await })
            });
            Reply::from(asked.await)
        };
        certain(&self.world, &mut self.rng, (self.session, self.seq), ask).await
    }

    /// The whole life of one lease; none when the session is lost, or the simulation ends.
    async fn one(&mut self) -> Option<()> {
        let ttl_ms = self.rng.random_range(200..2000);
        let lease = match self.change(Change::Grant { ttl_ms }).await? {
            Certain::Answer(answer) => answer.lease,
            Certain::NotThere => None,
        };
        // It timed out.
        let Some(lease) = lease else { return Some(()) };
        let text = format!("{}-{}", self.number, self.seq);
        let mut bound = 0;
        for key in halves(&pair(self.number)) {
            let change = Change::SetFor {
                key,
                value: Value::from(text.as_str()),
                lifetime: Lifetime::Lease(lease),
            };
            match self.change(change).await? {
                Certain::Answer(answer) if answer.timeout => {}
                Certain::Answer(_) => bound += 1,
                // It has ended already.
                Certain::NotThere => return Some(()),
            }
        }
        let is_whole = bound == halves(&pair(self.number)).len();
        let mut is_over = !is_whole;
        for _ in 0..self.rng.random_range(0..8) {
            if is_over || self.world.stopped() {
                break;
            }
            match self.rng.random_range(0..3) {
                0 => is_over = !self.keeps_alive(lease).await?,
                1 => is_over = self.is_gone(&text).await?,
                _ => {
                    let pause = Duration::from_millis(self.rng.random_range(20..600));
                    tokio::time::sleep(pause).await;
                }
            }
        }
        if !is_whole || self.rng.random_bool(0.2) {
            // Until it is certain.
            while let Certain::Answer(answer) = self.change(Change::Revoke { lease }).await?
                && answer.timeout
            {}
        } else {
            while !is_over {
                if self.world.stopped() {
                    lock(&self.world.leases.left).push((self.number, text));
                    return None;
                }
                tokio::time::sleep(PAUSE).await;
                is_over = self.is_gone(&text).await?;
            }
            self.world.leases.ended.fetch_add(1, Ordering::Relaxed);
        }
        // For good.
        if is_whole && !self.is_gone(&text).await? {
            self.broke(lease, "is over, and its keys are there");
        }
        if self.keeps_alive(lease).await? {
            self.broke(lease, "is over, and is kept alive");
        }
        Some(())
    }

    fn broke(&self, lease: u64, how: &str) {
        self.world
            .broke(format!("lease {lease} of holder {} {how}", self.number));
    }

    /// Whether the lease is there to be kept alive. What timed out says nothing, and is asked again.
    async fn keeps_alive(&mut self, lease: u64) -> Option<bool> {
        loop {
            match self.change(Change::KeepAlive { lease }).await? {
                Certain::Answer(answer) if answer.timeout => {}
                Certain::Answer(_) => return Some(true),
                Certain::NotThere => return Some(false),
            }
        }
    }

    /// Whether both keys are gone; none when the simulation ends before a member answers.
    async fn is_gone(&mut self, text: &str) -> Option<bool> {
        loop {
            let machine = self.world.machines[self.rng.random_range(0..self.world.machines.len())].clone();
            let by_range = self.rng.random_bool(0.5);
            match gone(&self.world, &machine, self.number, text, by_range).await {
                Some(gone) => return Some(gone),
                None if self.world.stopped() => return None,
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Whether both keys are gone, as a member shows them; none when it does not answer.
async fn gone(world: &World, machine: &Machine, holder: u64, text: &str, by_range: bool) -> Option<bool> {
    let asked = machine.ask(ANSWER_WITHIN, move |inside: Inside| {
        let terms = Terms {
            // What has a time of its own is asked for as a range.
            timeout: by_range.then_some(TIMEOUT),
            ..Terms::default()
        };
        Box::pin(async move { pairs::ask(&inside.front, &Action::Get, &pair(holder), &terms).await })
    });
    let answer = match Reply::from(asked.await) {
        Reply::Answer(answer) if !answer.timeout && !answer.unknown => answer,
        _ => return None,
    };
    if answer.valid && answer.value != text {
        let found = &answer.value;
        world.broke(format!("holder {holder} has {found}, and not {text}"));
    }
    Some(!answer.valid)
}

/// At the end what is left ends, too.
pub(crate) async fn end(world: &World) {
    let left = std::mem::take(&mut *lock(&world.leases.left));
    // Whatever a clock said that was ahead of all others.
    for machine in &world.machines {
        machine.skew_ms.store(LATEST_MS, Ordering::Relaxed);
    }
    let until = Instant::now() + PATIENCE;
    for (holder, text) in left {
        loop {
            // The log's clock counts: it is the one that jumps.
            match gone(world, &world.machines[0], holder, &text, false).await {
                Some(true) => {
                    world.leases.ended.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                _ if Instant::now() > until => {
                    break world.broke(format!("{text} of holder {holder} does not end"));
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
