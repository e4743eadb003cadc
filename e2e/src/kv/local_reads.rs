//! Reads without a quorum: each member shows values that somebody stored, and never goes back while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use linearizability::{Action, Operation, Outcome};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::load::{Load, RETRY_PAUSE, lock};
use super::request::{Reply, Request};

/// A value somebody saw at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The revision that wrote it.
    pub revision: u64,
    /// The value.
    pub value: String,
    /// Who saw it.
    pub seen_by: String,
}

/// What all readers together know.
#[derive(Debug)]
pub struct LocalReads {
    /// How often each member was killed or lost its disk. What it shows may go back only then.
    lives: Vec<AtomicU64>,
    seen: Mutex<BTreeMap<(String, u64), Sighting>>,
    contradictions: Mutex<Vec<String>>,
    reads: Vec<AtomicU64>,
}

impl LocalReads {
    pub(super) fn new(members: usize) -> Self {
        let zeros = || (0..members).map(|_| AtomicU64::new(0)).collect();
        Self {
            lives: zeros(),
            seen: Mutex::default(),
            contradictions: Mutex::default(),
            reads: zeros(),
        }
    }

    /// The member is about to be killed, or was started again.
    pub fn new_life(&self, member: usize) {
        self.lives[member].fetch_add(1, Ordering::SeqCst);
    }

    /// How many reads the member answered.
    pub fn reads(&self, member: usize) -> u64 {
        self.reads[member].load(Ordering::Relaxed)
    }

    /// What contradicts that one revision wrote one value, or that members do not go back.
    pub fn contradictions(&self) -> Vec<String> {
        lock(&self.contradictions).clone()
    }

    /// Every value that was seen somewhere must have been asked for, and not by a request that never acted.
    pub fn values_from_nowhere(&self, history: &[Operation]) -> Vec<String> {
        let mut stored = BTreeSet::new();
        for operation in history
            .iter()
            .filter(|operation| operation.outcome != Outcome::Never)
        {
            match &operation.action {
                Action::Set(value) | Action::Swap { new: value, .. } => {
                    stored.insert((operation.key.as_str(), value.as_str()));
                }
                Action::Get | Action::Delete => {}
            }
        }
        let seen = lock(&self.seen);
        let nowhere = seen
            .iter()
            .filter(|((key, _), sighting)| !stored.contains(&(key.as_str(), sighting.value.as_str())));
        nowhere
            .map(|((key, _), sighting)| format!("{key}: {sighting:?}"))
            .collect()
    }

    /// One revision wrote one value, whoever tells.
    pub(super) fn agree(&self, key: &str, sighting: Sighting) {
        let mut seen = lock(&self.seen);
        let known = seen
            .entry((key.to_owned(), sighting.revision))
            .or_insert_with(|| sighting.clone());
        if known.value != sighting.value {
            lock(&self.contradictions).push(format!("{key}: {known:?}, but {sighting:?}"));
        }
    }
}

/// Reads from one member again and again, whether it has a quorum or not.
pub(super) async fn read_one_member(load: Arc<Load>, member: usize) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(member as u64);
    let reads = &load.local_reads;
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    let mut life = 0;
    while !load.stopped() {
        let before = reads.lives[member].load(Ordering::SeqCst);
        if before != life {
            highest.clear();
            life = before;
        }
        let key = load.key(&mut rng);
        let reply = load.kv.ask(member, &Request::get(&key).local()).await;
        let Reply::Answer(answer) = reply else {
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        };
        reads.reads[member].fetch_add(1, Ordering::Relaxed);
        // A key of the consistent clients is never remembered.
        let revision = answer.revision.filter(|_| answer.valid);
        if let Some(revision) = revision.filter(|_| reads.lives[member].load(Ordering::SeqCst) == life) {
            let last = highest.entry(key.clone()).or_default();
            if revision < *last {
                lock(&reads.contradictions).push(format!(
                    "member {member} went back from revision {last} to {revision} of {key}"
                ));
            }
            *last = revision;
            let seen_by = format!("a local get at {member}");
            reads.agree(
                &key,
                Sighting {
                    revision,
                    value: answer.value,
                    seen_by,
                },
            );
        }
        tokio::time::sleep(RETRY_PAUSE / 4).await;
    }
    Ok(())
}
