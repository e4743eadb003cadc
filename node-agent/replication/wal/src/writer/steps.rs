//! The writer without its thread.

use super::{Work, Writer};

impl Writer {
    /// One round, if there is anything to do; `idle`: a commit index that moved is enough.
    pub(crate) fn step(&mut self, idle: bool) {
        self.shared.prepare_now();
        let mut state = self.shared.lock();
        let moved = state.committed != state.committed_taken && state.failed.is_none();
        if state.queue.is_empty() && !(idle && moved) {
            return;
        }
        state.committed_taken = state.committed;
        let work = Work {
            requests: std::mem::take(&mut state.queue),
            committed: state.committed,
            stopping: state.stopping,
        };
        drop(state);
        self.round(work);
    }
}
