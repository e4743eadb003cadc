//! The outbox at work: on the disk before it is acknowledged, merged in order when a quorum is back.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replication::Replica;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::conveyor::{Conveyor, Load};
use super::disk::{Broken, Disk};
use super::numbers::Number;
use crate::outbox::{Draft, Outbox, Own, Shown, Stored};
use crate::state::{Change, Item, KvState, Outcome, Owner};

/// Writes that wait for one sync.
const QUEUE_MAX: usize = 4096;
/// Before a merge is tried again, unless leadership changes earlier.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The outbox of this member.
#[derive(Clone)]
pub(super) struct Memory {
    shared: Arc<Shared>,
    replica: Replica<KvState>,
    writer: mpsc::Sender<Job>,
}

struct Shared {
    held: Mutex<Held>,
    /// Ticks when something was remembered or merged.
    changed: watch::Sender<()>,
    is_damaged: bool,
}

#[derive(Default)]
struct Held {
    outbox: Outbox,
    /// Everything up to this number is on the disk.
    synced: u64,
    /// Requests that may have been ordered stay unanswered until they are merged.
    numbers: Vec<(u64, Number)>,
    /// Why nothing can be remembered any more.
    failed: Option<String>,
}

enum Job {
    Append(Own, oneshot::Sender<Result<(), String>>),
    /// Everything is merged: begin the file anew.
    Clear,
}

/// Room for a write; given back when it is dropped.
pub(super) struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.held().outbox.release(self.bytes);
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Reads the file, and begins to merge what it holds.
    pub(super) fn open(
        path: &Path,
        replica: Replica<KvState>,
        conveyor: Conveyor,
        tasks: &TaskTracker,
    ) -> io::Result<Self> {
        let (disk, recovered) = Disk::open(path)?;
        let outbox = Outbox::of(&recovered);
        if !outbox.is_empty() {
            info!(
                writes = outbox.len(),
                "the outbox holds writes that are not under quorum yet"
            );
        }
        let held = Held {
            synced: outbox.last(),
            outbox,
            ..Held::default()
        };
        let shared = Arc::new(Shared {
            held: Mutex::new(held),
            changed: watch::channel(()).0,
            is_damaged: recovered.is_damaged,
        });
        let (writer, jobs) = mpsc::channel(QUEUE_MAX);
        let memory = Self {
            shared: shared.clone(),
            replica: replica.clone(),
            writer,
        };
        tasks.spawn(write(disk, shared, replica, jobs));
        let forgetting = memory.clone();
        tasks.spawn(async move { forgetting.forget().await });
        let merging = memory.clone();
        tasks.spawn(async move { merging.merge(&conveyor).await });
        Ok(memory)
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.shared.held().outbox.is_empty()
    }

    /// Promises room for a write; none when there is none, and why.
    pub(super) fn room(&self, bytes: usize) -> Result<Room, String> {
        let mut held = self.shared.held();
        if let Some(failed) = &held.failed {
            return Err(failed.clone());
        }
        if !held.outbox.promise(bytes) {
            return Err(format!(
                "the outbox of this member is full: it holds {} writes of {} bytes that no quorum has taken yet",
                held.outbox.len(),
                held.outbox.bytes()
            ));
        }
        Ok(Room {
            shared: self.shared.clone(),
            bytes,
        })
    }

    /// Remembers a write: it is on the disk when this returns. `number` is that of the request under which it may have
    /// been ordered already.
    pub(super) async fn remember(
        &self,
        draft: Draft,
        number: Option<Number>,
        room: Room,
    ) -> Result<u64, String> {
        let (done, stored) = oneshot::channel();
        let own = self.replica.local(|state| {
            let mut held = self.shared.held();
            let merged = state.merged(draft.member);
            let present = state.get(&draft.key);
            let own = held.outbox.draw_up(draft, present, merged);
            held.outbox.keep(own.clone());
            held.numbers
                .extend(number.map(|number| (own.write.number, number)));
            own
        });
        drop(room);
        let at = own.write.number;
        // In the order of their numbers: the file's order is the order of the merge. Nothing is awaited between the
        // numbering and the queue on this single thread, unless the queue is full.
        let queued = self.writer.send(Job::Append(own, done)).await;
        let stored = match queued {
            Ok(()) => stored
                .await
                .unwrap_or_else(|_| Err("this member is stopping".to_owned())),
            Err(_) => Err("this member is stopping".to_owned()),
        };
        match stored {
            Ok(()) => {
                self.shared.changed.send_replace(());
                Ok(at)
            }
            Err(reason) => {
                let mut held = self.shared.held();
                held.outbox.forget(at);
                held.numbers.retain(|(number, _)| *number != at);
                Err(reason)
            }
        }
    }

    /// What is remembered of a key, if anything is; and the key's item otherwise.
    pub(super) fn shows(&self, key: &str) -> (Option<Shown>, Option<Item>) {
        self.replica.local(|state| {
            let present = state.get(key);
            let held = self.shared.held();
            (held.outbox.shows(key, present, held.synced), present.cloned())
        })
    }

    /// The keys of what is remembered, as far as they are wanted.
    pub(super) fn keys(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<Arc<str>> {
        let held = self.shared.held();
        let keys = held.outbox.writes().map(|own| &own.write.key);
        keys.filter(|key| is_wanted(key)).cloned().collect()
    }

    /// Waits until everything that is remembered now is merged.
    pub(super) async fn merged(&self) {
        let last = self
            .shared
            .held()
            .outbox
            .writes()
            .last()
            .map(|own| own.write.number);
        if let Some(last) = last {
            self.merged_to(last).await;
        }
    }

    /// Waits until everything up to a number is merged.
    pub(super) async fn merged_to(&self, number: u64) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let first = self
                .shared
                .held()
                .outbox
                .writes()
                .next()
                .map(|own| own.write.number);
            if first.is_none_or(|first| first > number) {
                return;
            }
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Drops what this member has seen merged. Not earlier: until then readers here would miss it.
    async fn forget(&self) {
        let mut applied = self.replica.applied();
        loop {
            let is_empty_now = self.replica.local(|state| {
                let mut held = self.shared.held();
                let done = held.outbox.merged(|member| state.merged(member));
                for number in &done {
                    held.outbox.forget(*number);
                }
                if done.is_empty() {
                    return None;
                }
                held.numbers.retain(|(number, _)| !done.contains(number));
                Some(held.outbox.is_empty())
            });
            if let Some(is_empty) = is_empty_now {
                self.shared.changed.send_replace(());
                if is_empty {
                    // A full queue: the next time will do.
                    self.writer.try_send(Job::Clear).ok();
                }
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands the writes over, in order, one entry after the other.
    async fn merge(&self, conveyor: &Conveyor) {
        let mut changed = self.shared.changed.subscribe();
        let mut leadership = self.replica.leadership();
        loop {
            changed.mark_unchanged();
            let batch = {
                let held = self.shared.held();
                held.outbox.first_batch(held.synced)
            };
            let Some((member, remembered)) = batch else {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let last = remembered.last().map_or(0, |(_, write)| write.number);
            let load = Load {
                session: 0,
                seq: 0,
                floor: None,
                owner: Owner::NOBODY,
                change: Change::merge(member, remembered.clone()),
                confirmed: false,
            };
            let mut carried = conveyor.put(load).await;
            match carried.answer().await {
                Ok(Outcome::Merged { stored, dropped }) => {
                    let all = remembered.iter().map(|(_, write)| write);
                    for lost in all.filter(|write| dropped.contains(&write.number)) {
                        warn!(key = &*lost.key, policy = ?lost.policy, number = lost.number,
                            "a remembered write lost a conflict and was dropped");
                    }
                    info!(
                        stored,
                        dropped = dropped.len(),
                        "remembered writes are under quorum"
                    );
                    self.merged_to(last).await;
                }
                _ => {
                    leadership.mark_unchanged();
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_AFTER) => {}
                        _ = leadership.changed() => {}
                    }
                }
            }
        }
    }

    /// What people see of it.
    pub(super) fn describe(&self, rows_max: usize) -> serde_json::Value {
        let held = self.shared.held();
        let rows: Vec<_> = held
            .outbox
            .writes()
            .take(rows_max)
            .map(|own| {
                serde_json::json!({
                    "number": own.write.number,
                    "key": &*own.write.key,
                    "deletes": own.write.value.is_none(),
                    "bytes": own.write.value.as_ref().map_or(0, |value| value.as_ref().len()),
                    "unixMs": own.write.unix_ms,
                    "policy": own.write.policy.name(),
                })
            })
            .collect();
        serde_json::json!({
            "pending": held.outbox.len(),
            "bytes": held.outbox.bytes(),
            "last": held.outbox.last(),
            "failed": held.failed,
            "damaged": self.shared.is_damaged,
            "writes": rows,
        })
    }

    /// How many writes are remembered, their bytes, and what needs help.
    pub(super) fn summary(&self) -> (usize, usize, Option<String>) {
        let held = self.shared.held();
        let alarm = held.failed.clone().or_else(|| {
            self.shared
                .is_damaged
                .then(|| "the outbox was damaged on the disk: acknowledged writes may be missing".to_owned())
        });
        (held.outbox.len(), held.outbox.bytes(), alarm)
    }
}

/// Appends what is remembered: whatever waits is synced together.
async fn write(disk: Disk, shared: Arc<Shared>, replica: Replica<KvState>, mut jobs: mpsc::Receiver<Job>) {
    let mut disk = Some(disk);
    while let Some(first) = jobs.recv().await {
        let mut batch = vec![first];
        while batch.len() < QUEUE_MAX
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let (mut records, mut waiting, mut last, mut clears) = (Vec::new(), Vec::new(), 0, false);
        for job in batch {
            match job {
                Job::Append(own, done) => {
                    last = last.max(own.write.number);
                    records.push(Stored::from(own));
                    waiting.push(done);
                }
                Job::Clear => clears = true,
            }
        }
        let outcome = match disk.take() {
            None => Err(shared.held().failed.clone().unwrap_or_default()),
            Some(mut taken) => {
                let anew = match shared.anew(clears, taken.is_long()) {
                    // What is left out was merged; this member shows it alone only once its log says so.
                    Some(all) if replica.keep_applied().await.is_ok() => Some(all),
                    _ => None,
                };
                let store = move || {
                    let outcome = match anew {
                        Some(all) => taken.begin(&all),
                        None => taken.append(&records),
                    };
                    (taken, outcome)
                };
                match blocking(store).await {
                    Ok((taken, outcome)) if !matches!(outcome, Err(Broken::ForGood(_))) => {
                        disk = Some(taken);
                        outcome.map_err(|broken| format!("nothing can be remembered at the moment: {broken}"))
                    }
                    Ok((_, Err(broken))) => Err(shared.fail(&broken.to_string())),
                    Ok((_, Ok(()))) => Ok(()),
                    Err(error) => Err(shared.fail(&error.to_string())),
                }
            }
        };
        if outcome.is_ok() {
            let mut held = shared.held();
            held.synced = held.synced.max(last);
        }
        for done in waiting {
            // Fails when the client has gone.
            done.send(outcome.clone()).ok();
        }
    }
}

/// Runs what blocks on the disk where it delays nobody.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    // In a simulation there is nobody to be delayed, and threads have no seed.
    #[cfg(simulation)]
    return Ok(run());
    #[cfg(not(simulation))]
    tokio::task::spawn_blocking(run).await.map_err(io::Error::other)
}

impl Shared {
    /// What the file is begun anew with, if it is time for that: all that is remembered.
    fn anew(&self, clears: bool, is_long: bool) -> Option<Vec<Stored>> {
        let held = self.held();
        let is_due = is_long || (clears && held.outbox.is_empty());
        is_due.then(|| {
            let writes = held.outbox.writes().cloned().map(Stored::from);
            std::iter::once(Stored::Last(held.outbox.last()))
                .chain(writes)
                .collect()
        })
    }

    /// Remembers nothing any more.
    fn fail(&self, reason: &str) -> String {
        let failed = format!("nothing is remembered any more until this member is restarted: {reason}");
        error!(failed, "the outbox failed");
        self.held().failed = Some(failed.clone());
        failed
    }
}
