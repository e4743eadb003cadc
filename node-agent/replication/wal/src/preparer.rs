//! The background thread that has the next segment ready before it is needed, and puts freed ones aside.

use std::io;
use std::sync::{Arc, PoisonError};

use crate::segment::{self, Segment, spare_name, used_name};
use crate::shared::{Shared, State};

/// Spare files kept for later segments: as many as a snapshot every 40 MiB of log frees. The rest is removed.
const SPARES_MAX: usize = 4;

pub(crate) struct Preparer {
    shared: Arc<Shared>,
    /// Names of spare files.
    spares: Vec<String>,
}

enum Job {
    Free(Arc<Segment>),
    Prepare(u64),
}

impl Preparer {
    pub(crate) fn new(shared: Arc<Shared>, spares: Vec<String>) -> Self {
        Self { shared, spares }
    }

    /// Works until the writer has stopped.
    pub(crate) fn run(mut self) {
        let _guard = PanicGuard(self.shared.clone());
        let mut failed = false;
        while let Some(job) = self.next_job(failed) {
            failed = match job {
                Job::Free(segment) => self.free(segment),
                Job::Prepare(sequence) => self.prepare(sequence),
            }
            .is_err();
        }
    }

    /// Does what there is to do. After a failure the rest waits for the next call.
    #[cfg(simulation)]
    pub(crate) fn step(&mut self) {
        loop {
            let job = {
                let mut state = self.shared.lock();
                let job = state.freed.pop_front().map(Job::Free);
                let wanted = state.prepared.is_none() && state.failed.is_none();
                job.or(wanted.then_some(Job::Prepare(state.next_sequence)))
            };
            let done = match job {
                Some(Job::Free(segment)) => self.free(segment),
                Some(Job::Prepare(sequence)) => self.prepare(sequence),
                None => return,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Waits for something to do; after a failure a while longer, unless a purge frees something.
    fn next_job(&self, failed: bool) -> Option<Job> {
        let mut state = self.shared.lock();
        if failed {
            let freed = state.freed.len();
            let wait = self.shared.options.retry_after;
            let waiting = |state: &mut State| state.freed.len() == freed && !state.stopped;
            state = self
                .shared
                .prepare
                .wait_timeout_while(state, wait, waiting)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        loop {
            if state.stopped {
                return None;
            }
            if let Some(segment) = state.freed.pop_front() {
                return Some(Job::Free(segment));
            }
            if state.prepared.is_none() && state.failed.is_none() {
                return Some(Job::Prepare(state.next_sequence));
            }
            state = self
                .shared
                .prepare
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn free(&mut self, segment: Arc<Segment>) -> io::Result<()> {
        let disk = &*self.shared.disk;
        let used = used_name(segment.sequence);
        let fits = segment
            .file
            .bytes()
            .is_ok_and(|b| b >= self.shared.options.segment_bytes_checked());
        let keep = fits && self.spares.len() < SPARES_MAX;
        let spare = spare_name(segment.sequence);
        let gone = if keep {
            disk.rename(&used, &spare)
        } else {
            disk.remove(&used)
        };
        // The names are synced one by one: were the removals of two segments to reach the disk in the wrong order,
        // the gap would look like a lost segment. And a spare's header may only change when its name has.
        match gone.and_then(|()| disk.sync_names()) {
            Ok(()) => {
                // After an unclean stop a sequence number is used again, and its old spare is overwritten here.
                if keep && !self.spares.contains(&spare) {
                    self.spares.push(spare);
                }
                Ok(())
            }
            Err(error) => {
                tracing::warn!(segment = used, %error, "cannot put a segment aside; trying again");
                // If the rename was done and only its sync failed, the next attempt finds no such file.
                if error.kind() != io::ErrorKind::NotFound {
                    self.shared.lock().freed.push_front(segment);
                }
                Err(error)
            }
        }
    }

    fn prepare(&mut self, sequence: u64) -> io::Result<()> {
        let disk = &*self.shared.disk;
        let bytes = self.shared.options.segment_bytes_checked();
        let spare = self.spares.pop();
        let made = match &spare {
            Some(spare) => segment::reuse(disk, spare, sequence, bytes),
            None => segment::create(disk, sequence, bytes),
        };
        let mut state = self.shared.lock();
        let result = match made {
            Ok(segment) => {
                if state.full.take().is_some() {
                    tracing::info!("the write-ahead log has room again");
                }
                state.prepared = Some(segment);
                state.next_sequence = sequence + 1;
                if spare.is_some() {
                    state.stats.segments_recycled += 1;
                } else {
                    state.stats.segments_created += 1;
                }
                Ok(())
            }
            Err(error) => {
                if state.full.is_none() {
                    tracing::warn!(%error, "cannot prepare the write-ahead log's next segment; free disk space");
                }
                state.full = Some(error.to_string());
                Err(error)
            }
        };
        drop(state);
        if result.is_err()
            && let Some(spare) = spare
        {
            // Whatever is wrong with it, the next attempt makes a new file.
            let _ = disk.remove(&spare);
        }
        self.shared.prepared.notify_all();
        result
    }
}

/// Without a preparer the writer would wait for ever.
struct PanicGuard(Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the thread that prepares segments has panicked");
        }
    }
}
