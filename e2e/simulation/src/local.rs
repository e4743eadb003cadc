//! Reads and writes without a quorum, and what they promise: a member's reads never go back while it lives; what a member
//! accepted it shows at once, and it reaches the quorum once, in order, and is never lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv::request::{Answer, Terms};
use linearizability::Action;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clients::{ask, session};
use crate::member::{NoAnswer, Reply};
use crate::world::{World, lock};

/// Keys of each member's writer.
const KEYS: usize = 2;
const PAUSE: Duration = Duration::from_millis(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

/// What one writer knows of one of its keys. Its values are counts.
#[derive(Debug, Clone, Copy, Default)]
struct Promise {
    /// The newest that a quorum has.
    stored: u64,
    /// The newest that was accepted.
    accepted: u64,
    /// The newest that was asked for.
    asked: u64,
}

/// What all of them know.
pub(crate) struct Local {
    promises: Mutex<BTreeMap<String, Promise>>,
    pub(crate) accepted_alone: AtomicU64,
    lost_disks: Vec<AtomicU64>,
    lives: Vec<AtomicU64>,
    /// By key and revision, the value.
    sightings: Mutex<BTreeMap<(String, u64), String>>,
}

impl Local {
    pub(crate) fn new(members: usize) -> Self {
        let zeros = || (0..members).map(|_| AtomicU64::new(0)).collect();
        Self {
            promises: Mutex::default(),
            accepted_alone: AtomicU64::new(0),
            lost_disks: zeros(),
            lives: zeros(),
            sightings: Mutex::default(),
        }
    }

    pub(crate) fn new_life(&self, member: usize) {
        self.lives[member].fetch_add(1, Ordering::Relaxed);
    }

    /// What only this member had is gone.
    pub(crate) fn disk_lost(&self, member: usize) {
        self.lost_disks[member].fetch_add(1, Ordering::Relaxed);
        let mut promises = lock(&self.promises);
        for number in 0..KEYS {
            if let Some(promise) = promises.get_mut(&key(member, number)) {
                promise.accepted = promise.stored;
            }
        }
    }

    fn update(&self, key: &str, change: impl FnOnce(&mut Promise)) -> Promise {
        let mut promises = lock(&self.promises);
        let promise = promises.entry(key.to_owned()).or_default();
        change(promise);
        *promise
    }

    /// By key and revision, every value that anybody saw.
    pub(crate) fn sightings(&self) -> BTreeMap<(String, u64), String> {
        lock(&self.sightings).clone()
    }

    fn life(&self, member: usize) -> (u64, u64) {
        (
            self.lives[member].load(Ordering::Relaxed),
            self.lost_disks[member].load(Ordering::Relaxed),
        )
    }
}

fn key(member: usize, number: usize) -> String {
    format!("m{member}-{number}")
}

fn here() -> Terms {
    Terms {
        local: true,
        ..Terms::default()
    }
}

/// All members agree on the value that a revision wrote.
pub(crate) fn agree(world: &World, key: &str, action: &Action, answer: &Answer, seen_by: &str) {
    let value = match action {
        Action::Get => &answer.value,
        Action::Set(value) | Action::Swap { new: value, .. } => value,
        Action::Delete => return,
    };
    let Some(revision) = answer.revision else {
        return;
    };
    let mut sightings = lock(&world.local.sightings);
    let known = sightings
        .entry((key.to_owned(), revision))
        .or_insert_with(|| value.clone());
    if known != value {
        world.broke(format!(
            "revision {revision} of {key} is {known:?}, and to {seen_by} {value:?}"
        ));
    }
}

/// Reads the clients' keys at one member, without a quorum.
pub(crate) async fn read_one_member(world: Arc<World>, member: usize) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ (member as u64) << 8);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut life = world.local.life(member);
    while !world.stopped() {
        let key = format!("r{}-{}", 0, rng.random_range(0..4));
        let before = world.local.life(member);
        let reply = ask(&world.machines[member], Action::Get, &key, here(), ANSWER_WITHIN).await;
        if before != life {
            seen.clear();
            life = before;
        }
        if let Reply::Answer(answer) = reply
            && world.local.life(member) == before
            && answer.valid
            && let Some(revision) = answer.revision
        {
            let last = seen.entry(key.clone()).or_default();
            if revision < *last {
                world.broke(format!(
                    "{key} went back from revision {last} to {revision} at member {member}"
                ));
            }
            *last = revision;
            agree(
                &world,
                &key,
                &Action::Get,
                &answer,
                &format!("a reader of {member}"),
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes counts at one member, without a quorum where there is none.
pub(crate) async fn write_at_one_member(world: Arc<World>, member: usize) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ (member as u64) << 16);
    let Some(session) = session(&world, &mut rng).await else {
        return;
    };
    for seq in 1.. {
        let key = key(member, rng.random_range(0..KEYS));
        let disks = world.local.life(member).1;
        let number = world.local.update(&key, |promise| promise.asked += 1).asked;
        let terms = Terms {
            request: Some((session, seq)),
            ..here()
        };
        if !write(&world, member, &key, number, &terms, disks).await {
            return;
        }
        let reply = ask(&world.machines[member], Action::Get, &key, here(), ANSWER_WITHIN).await;
        let promise = world.local.update(&key, |_| ());
        if let Reply::Answer(answer) = reply
            && world.local.life(member).1 == disks
            && promise.accepted >= number
            && answer.value != number.to_string()
        {
            world.broke(format!(
                "member {member} accepted {key}={number} and then showed {answer:?}"
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends a write until it is certain what became of it; false when the simulation ends before.
async fn write(world: &World, member: usize, key: &str, number: u64, terms: &Terms, disks: u64) -> bool {
    while !world.stopped() {
        let action = Action::Set(number.to_string());
        match ask(&world.machines[member], action, key, terms.clone(), ANSWER_WITHIN).await {
            Reply::Answer(answer) if answer.valid => {
                let alone = answer.remembered || answer.timeout;
                // Accepted by a disk that is gone is not accepted.
                if world.local.life(member).1 == disks || !alone {
                    world.local.update(key, |promise| {
                        promise.accepted = number;
                        if !alone {
                            promise.stored = number;
                        }
                    });
                }
                if alone {
                    world.local.accepted_alone.fetch_add(1, Ordering::Relaxed);
                }
                return true;
            }
            Reply::Refused(410, why) => {
                world.broke(format!(
                    "the session of the writer at {member} was refused: {why}"
                ));
                return false;
            }
            Reply::Answer(_)
            | Reply::Refused(..)
            | Reply::NoAnswer(NoAnswer::Closed | NoAnswer::Lost | NoAnswer::Late) => {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    false
}

/// Reads all the writers' keys consistently: their counts never fall.
pub(crate) async fn watch_order(world: Arc<World>) {
    let mut rng = StdRng::seed_from_u64(world.plan.seed ^ 0xff);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    while !world.stopped() {
        let key = key(
            rng.random_range(0..world.machines.len()),
            rng.random_range(0..KEYS),
        );
        let member = rng.random_range(0..world.machines.len());
        let reply = ask(
            &world.machines[member],
            Action::Get,
            &key,
            Terms::default(),
            ANSWER_WITHIN,
        )
        .await;
        if let Reply::Answer(answer) = reply
            && answer.valid
            && !answer.timeout
        {
            let number = answer.value.parse().unwrap_or(0);
            let last = seen.entry(key.clone()).or_default();
            if number < *last {
                world.broke(format!(
                    "{key} fell from {last} to {number}: a remembered write acted twice, or out of order"
                ));
            }
            *last = number;
        }
        tokio::time::sleep(PAUSE / 2).await;
    }
}

/// At the end every key holds what was accepted last.
pub(crate) async fn run(world: &Arc<World>) {
    let promises = lock(&world.local.promises).clone();
    for (key, promise) in promises {
        for machine in &world.machines {
            let terms = Terms {
                blocking: true,
                ..Terms::default()
            };
            let reply = ask(machine, Action::Get, &key, terms, ANSWER_WITHIN).await;
            let held: Option<u64> = match &reply {
                Reply::Answer(answer) if !answer.timeout => Some(answer.value.parse().unwrap_or(0)),
                _ => None,
            };
            if !held.is_some_and(|held| (promise.accepted..=promise.asked).contains(&held)) {
                world.broke(format!(
                    "{key} at {}: {promise:?}, and it holds {reply:?}",
                    machine.name
                ));
            }
        }
    }
}
