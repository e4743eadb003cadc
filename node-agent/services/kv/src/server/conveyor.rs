//! Carries requests to the leader, many in one log entry: whatever waits while others are under way goes together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use replication::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::link::{Failed, Link};
use super::numbers::Numbers;
use crate::state::{Caller, Change, Command, Outcome, Owner, Remembered, Request};

/// Requests that wait to be carried; further ones wait before they are taken in.
const QUEUE_MAX: usize = 4096;
/// Requests in one log entry.
const BATCH_REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one log entry, beyond which no further request is added.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Log entries under way at a time. With more, entries are smaller, and each costs.
const UNDER_WAY_MAX: usize = 3;

/// A request on its way.
struct Parcel {
    session: u64,
    seq: u64,
    floor: Option<u64>,
    owner: Owner,
    change: Change,
    confirmed: bool,
    taken: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Outcome, Failed>>,
}

/// Takes a request back.
#[derive(Clone)]
pub(super) struct Withdrawal(Arc<AtomicBool>);

/// A request that was put on the conveyor.
pub(super) struct Carried {
    withdrawal: Withdrawal,
    answer: oneshot::Receiver<Result<Outcome, Failed>>,
}

/// What is put on the conveyor.
pub(super) struct Load {
    pub(super) session: u64,
    pub(super) seq: u64,
    /// What the client says of its own session; none for this member's.
    pub(super) floor: Option<u64>,
    /// Whose request it is.
    pub(super) owner: Owner,
    pub(super) change: Change,
    /// Whether it must not be handed over to a leader that may be unable to order it.
    pub(super) confirmed: bool,
}

/// The way in.
#[derive(Clone)]
pub(super) struct Conveyor {
    queue: mpsc::Sender<Parcel>,
}

impl Conveyor {
    /// One that runs as a task, until nobody can put anything on it.
    pub(super) fn start(link: Arc<Link>, numbers: Arc<Numbers>, tasks: &TaskTracker) -> Self {
        let (queue, parcels) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(carry(link, numbers, parcels, tasks.clone()));
        Self { queue }
    }

    /// Puts a request on it; waits while it is full.
    pub(super) async fn put(&self, load: Load) -> Carried {
        let taken = Arc::new(AtomicBool::new(false));
        let (sender, answer) = oneshot::channel();
        let Load {
            session,
            seq,
            floor,
            owner,
            change,
            confirmed,
        } = load;
        let parcel = Parcel {
            session,
            seq,
            floor,
            owner,
            change,
            confirmed,
            taken: taken.clone(),
            answer: sender,
        };
        // Fails only while the process ends; the answer then fails too.
        self.queue.send(parcel).await.ok();
        Carried {
            withdrawal: Withdrawal(taken),
            answer,
        }
    }
}

impl Withdrawal {
    /// Takes the request back; false when it is too late for that.
    pub(super) fn withdraw(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Carried {
    /// What takes the request back.
    pub(super) fn withdrawal(&self) -> Withdrawal {
        self.withdrawal.clone()
    }

    /// What became of it.
    pub(super) async fn answer(&mut self) -> Result<Outcome, Failed> {
        (&mut self.answer).await.unwrap_or(Err(Failed::InDoubt))
    }
}

async fn carry(
    link: Arc<Link>,
    numbers: Arc<Numbers>,
    mut parcels: mpsc::Receiver<Parcel>,
    tasks: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut waiting: Option<Parcel> = None;
    loop {
        let first = match waiting.take() {
            Some(parcel) => parcel,
            None => match parcels.recv().await {
                Some(parcel) => parcel,
                None => return,
            },
        };
        let slot = slots.clone().acquire_owned().await;
        let slot = slot.expect("nobody closes the semaphore");
        let mut batch = Batch::default();
        batch.add(first);
        while batch.has_room() {
            match parcels.try_recv() {
                // What may wait for long must not hold up what may not.
                Ok(parcel) if parcel.confirmed != batch.confirmed => {
                    waiting = Some(parcel);
                    break;
                }
                Ok(parcel) => batch.add(parcel),
                Err(_) => break,
            }
        }
        if batch.answers.is_empty() {
            continue;
        }
        let (link, floor) = (link.clone(), numbers.floor());
        tasks.spawn(async move {
            batch.send(&link, floor).await;
            drop(slot);
        });
    }
}

#[derive(Default)]
struct Batch {
    requests: Vec<Request>,
    /// Those whose floor is this member's to say.
    own: Vec<bool>,
    answers: Vec<oneshot::Sender<Result<Outcome, Failed>>>,
    bytes: usize,
    confirmed: bool,
}

impl Batch {
    fn has_room(&self) -> bool {
        self.requests.len() < BATCH_REQUESTS_MAX && self.bytes < BATCH_BYTES_MAX
    }

    /// Takes a parcel in, unless it was withdrawn.
    fn add(&mut self, parcel: Parcel) {
        if self.requests.is_empty() {
            self.confirmed = parcel.confirmed;
        }
        if parcel.taken.swap(true, Ordering::AcqRel) {
            return;
        }
        self.bytes += size(&parcel.change);
        self.own.push(parcel.floor.is_none());
        let caller = Caller {
            owner: parcel.owner,
            has_numbered: parcel.floor.is_some(),
        };
        self.requests.push(Request {
            session: parcel.session,
            seq: parcel.seq,
            floor: parcel.floor.unwrap_or_default(),
            change: parcel.change.asked_by(caller),
        });
        self.answers.push(parcel.answer);
    }

    async fn send(mut self, link: &Link, (session, floor): (u64, u64)) {
        for (request, own) in self.requests.iter_mut().zip(self.own) {
            if own && request.session == session {
                request.floor = floor;
            }
        }
        let ordered = link.order(Command::Batch(self.requests), self.confirmed).await;
        match ordered {
            Ok(outcomes) => {
                for (answer, outcome) in self.answers.into_iter().zip(outcomes) {
                    // Fails when the client has gone.
                    answer.send(Ok(outcome)).ok();
                }
            }
            Err(failed) => {
                for answer in self.answers {
                    answer.send(Err(failed.clone())).ok();
                }
            }
        }
    }
}

/// The bytes of a change's keys and values.
pub(super) fn size(change: &Change) -> usize {
    match change {
        Change::Set { key, value } => key.len() + value.as_ref().len(),
        Change::Delete { key } => key.len(),
        Change::Swap { key, old, new } => key.len() + old.as_ref().len() + new.as_ref().len(),
        Change::SetFor { key, value, .. } => key.len() + value.as_ref().len(),
        Change::SwapFor { key, old, new, .. } => key.len() + old.as_ref().len() + new.as_ref().len(),
        Change::Append { journal, value } => journal.len() + value.as_ref().len(),
        Change::RemoveJournal { journal } => journal.len(),
        Change::Transact(transaction) => transaction.bytes(),
        Change::Open { .. }
        | Change::Cancel
        | Change::Grant { .. }
        | Change::KeepAlive { .. }
        | Change::Revoke { .. }
        | Change::Expire => 0,
        Change::Merge { remembered, .. } => remembered.iter().map(size_of_one).sum(),
        Change::MergeFor { remembered, .. } => remembered.iter().map(|(_, one)| size_of_one(one)).sum(),
        Change::By { change, .. } => size(change),
        Change::Extract { server, digests } => server.len() + digests.as_ref().len(),
    }
}

fn size_of_one(one: &Remembered) -> usize {
    one.key.len() + one.value.as_ref().map_or(0, |value| value.as_ref().len())
}

/// The member that opens a session for itself.
pub(super) fn open_session(member: NodeId) -> Load {
    Load {
        session: 0,
        seq: 0,
        floor: None,
        owner: Owner::NOBODY,
        change: Change::Open { member: Some(member) },
        confirmed: false,
    }
}
