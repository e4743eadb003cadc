//! The end of a log: with its last handle.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

#[cfg(simulation)]
use crate::Done;
use crate::shared::Shared;

/// What all clones of a log share; the last one stops it.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    #[cfg(simulation)]
    pub(crate) stepper: Option<crate::simulation::Stepper>,
}

#[cfg(simulation)]
impl Handle {
    pub(crate) fn defer(&self, done: Done) -> Done {
        match &self.stepper {
            Some(stepper) => stepper.defer(done),
            None => done,
        }
    }

    pub(crate) fn note_vote(&self, vote: crate::Vote) {
        if let Some(stepper) = &self.stepper {
            stepper.note_vote(vote);
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(stepper) = &self.stepper {
            stepper.wake();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        // A callback may hold the last handle: then this is the writer, which cannot wait for itself.
        if self
            .threads
            .iter()
            .any(|thread| thread.thread().id() == thread::current().id())
        {
            return;
        }
        for thread in self.threads.drain(..) {
            // A panic has been noted by the thread's guard.
            let _ = thread.join();
        }
    }
}
