//! Linearizable reads on any member: one question to the leader for all readers that wait.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::link::Link;
use crate::peer::NotOrdered;

/// Readers that wait for a round to begin; further ones wait before they are taken in.
const QUEUE_MAX: usize = 4096;
/// Rounds under way at a time.
const ROUNDS_MAX: usize = 2;

type Reader = oneshot::Sender<Result<u64, NotOrdered>>;

/// Where readers wait.
#[derive(Clone)]
pub(super) struct Reads {
    queue: mpsc::Sender<Reader>,
}

impl Reads {
    /// Rounds that run as a task, until nobody can read any more.
    pub(super) fn start(link: Arc<Link>, tasks: &TaskTracker) -> Self {
        let (queue, readers) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(rounds(link, readers, tasks.clone()));
        Self { queue }
    }

    /// Up to which index this member must have applied the log, to see all that was acknowledged before the call.
    pub(super) async fn index(&self) -> Result<u64, NotOrdered> {
        let (reader, index) = oneshot::channel();
        // Fails only while the process ends.
        self.queue.send(reader).await.map_err(|_| NotOrdered::Stopping)?;
        index.await.unwrap_or(Err(NotOrdered::Stopping))
    }
}

async fn rounds(link: Arc<Link>, mut readers: mpsc::Receiver<Reader>, tasks: TaskTracker) {
    let slots = Arc::new(Semaphore::new(ROUNDS_MAX));
    while let Some(first) = readers.recv().await {
        let slot = slots.clone().acquire_owned().await;
        let slot = slot.expect("nobody closes the semaphore");
        let mut waiting = vec![first];
        while waiting.len() < QUEUE_MAX
            && let Ok(reader) = readers.try_recv()
        {
            waiting.push(reader);
        }
        let link = link.clone();
        tasks.spawn(async move {
            // Asked after every one of them had come: what it says holds for all.
            let index = link.read_index().await;
            for reader in waiting {
                // Fails when the reader has gone.
                reader.send(index.clone()).ok();
            }
            drop(slot);
        });
    }
}
