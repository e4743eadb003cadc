//! Writes without a quorum. Each member has one writer with keys of its own, which counts upwards: what the member
//! accepted is shown by it at once, reaches the quorum once and in order, and is never lost silently.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::load::{Load, RETRY_PAUSE, lock};
use super::request::{Reply, Request, Ticket};

/// Keys of each writer.
const KEYS: usize = 2;

/// What one writer knows of one of its keys. Its values are counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promise {
    /// The newest that a quorum has.
    pub stored: u64,
    /// The newest that was accepted, by a quorum or by the member alone.
    pub accepted: u64,
    /// The newest that was asked for.
    pub asked: u64,
}

/// What all writers know.
#[derive(Debug)]
pub struct Remembered {
    promises: Mutex<BTreeMap<String, Promise>>,
    accepted_alone: Vec<AtomicU64>,
    members: usize,
    lost_disks: Vec<AtomicU64>,
}

impl Remembered {
    pub(super) fn new(members: usize) -> Self {
        let zeros = || (0..members).map(|_| AtomicU64::new(0)).collect();
        Self {
            promises: Mutex::default(),
            accepted_alone: zeros(),
            members,
            lost_disks: zeros(),
        }
    }

    /// How many writes the member accepted alone.
    pub fn accepted_alone(&self, member: usize) -> u64 {
        self.accepted_alone[member].load(Ordering::Relaxed)
    }

    /// What is promised of every key.
    pub fn promises(&self) -> BTreeMap<String, Promise> {
        lock(&self.promises).clone()
    }

    /// The member's disk is about to be emptied, or was: what only it had is lost, and that is no secret.
    pub fn disk_lost(&self, member: usize) {
        self.lost_disks[member].fetch_add(1, Ordering::SeqCst);
        let mut promises = lock(&self.promises);
        for key in (0..KEYS).map(|number| key(member, number)) {
            if let Some(promise) = promises.get_mut(&key) {
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
}

fn key(member: usize, number: usize) -> String {
    format!("m{member}-{number}")
}

/// Writes and reads at one member, without a quorum where there is none.
pub(super) async fn write_at_one_member(load: Arc<Load>, member: usize) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(member as u64);
    let Some(session) = load.session(&mut rng).await else {
        return Ok(());
    };
    for seq in 1.. {
        let key = key(member, rng.random_range(0..KEYS));
        let disks = load.remembered.lost_disks[member].load(Ordering::SeqCst);
        let number = load.remembered.update(&key, |promise| promise.asked += 1).asked;
        let ticket = Ticket {
            session: session.clone(),
            seq,
        };
        let request = Request::set(&key, number.to_string())
            .local()
            .ticket(Some(ticket));
        if !write(&load, member, &key, &request, number, disks).await? {
            return Ok(());
        }
        let promise = load.remembered.update(&key, |_| ());
        let reply = load.kv.ask(member, &Request::get(&key).local()).await;
        // A disk that was emptied meanwhile shows what it shows.
        let same_disk = load.remembered.lost_disks[member].load(Ordering::SeqCst) == disks;
        if let Reply::Answer(answer) = reply
            && same_disk
        {
            ensure!(
                answer.value == number.to_string() || promise.accepted < number,
                "member {member} accepted {key}={number} and then showed {answer:?}"
            );
        }
        tokio::time::sleep(RETRY_PAUSE / 2).await;
    }
    Ok(())
}

/// Sends a write until it is certain what became of it; false when the load ends before.
async fn write(
    load: &Load,
    member: usize,
    key: &str,
    request: &Request,
    number: u64,
    disks: u64,
) -> anyhow::Result<bool> {
    while !load.stopped() {
        match load.kv.ask(member, request).await {
            Reply::Answer(answer) if answer.valid => {
                let remembered = &load.remembered;
                // Accepted by a disk that is gone is not accepted.
                let alone = answer.remembered || answer.timeout;
                if remembered.lost_disks[member].load(Ordering::SeqCst) == disks || !alone {
                    remembered.update(key, |promise| {
                        promise.accepted = number;
                        if !alone {
                            promise.stored = number;
                        }
                    });
                }
                if alone {
                    remembered.accepted_alone[member].fetch_add(1, Ordering::Relaxed);
                }
                return Ok(true);
            }
            Reply::Refused(why) if why.starts_with("410") => {
                anyhow::bail!("the session of the writer at {member} was refused: {why}");
            }
            _ => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
    Ok(false)
}

/// Reads all the writers' keys consistently: their counts never fall.
pub(super) async fn watch_order(load: Arc<Load>) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    while !load.stopped() {
        let owner = rng.random_range(0..load.remembered.members);
        let key = key(owner, rng.random_range(0..KEYS));
        let member = rng.random_range(0..load.kv.members());
        if let Reply::Answer(answer) = load.kv.ask(member, &Request::get(&key)).await
            && answer.valid
            && !answer.timeout
        {
            let number: u64 = answer.value.parse()?;
            let last = seen.entry(key.clone()).or_default();
            ensure!(
                number >= *last,
                "{key} fell from {last} to {number}: a remembered write acted twice, or out of order"
            );
            *last = number;
        }
        tokio::time::sleep(RETRY_PAUSE / 4).await;
    }
    Ok(())
}
