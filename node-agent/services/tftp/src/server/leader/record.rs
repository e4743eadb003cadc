//! What the others must know: checkpoints and ended sessions through the log, exact positions beside it.

use futures::FutureExt as _;
use tracing::info;

use super::{Done, Leader, TELL_INTERVAL};
use crate::server::positions;
use crate::server::session::Session;
use crate::state::Command;

/// Positions in one message.
const TOLD_MAX: usize = 8192;

impl Leader {
    /// Proposes what has gathered: one batch of checkpoints and one of closed sessions at a time.
    pub(super) fn propose(&mut self) {
        if !self.checkpoint_runs && !self.checkpoints.is_empty() {
            self.checkpoint_runs = true;
            let positions: Vec<_> = std::mem::take(&mut self.checkpoints).into_iter().collect();
            let replica = self.context.replica.clone();
            let job = async move {
                let result = replica
                    .propose(Command::Checkpoint {
                        positions: positions.clone(),
                    })
                    .await;
                Done::Checkpointed(positions, result)
            };
            self.jobs.push(job.boxed());
        }
        if !self.close_runs && !self.closing.is_empty() && self.now() >= self.close_at {
            self.close_runs = true;
            let sessions = std::mem::take(&mut self.closing);
            let replica = self.context.replica.clone();
            let job = async move {
                let result = replica
                    .propose(Command::Close {
                        sessions: sessions.clone(),
                    })
                    .await;
                Done::Closed(sessions, result)
            };
            self.jobs.push(job.boxed());
        }
    }

    /// Tells the other members how far the clients are, not more often than they can use it.
    pub(super) fn tell(&mut self) {
        let now = self.now();
        if self.moved.is_empty() || now < self.told_at + TELL_INTERVAL {
            return;
        }
        self.told_at = now;
        let mut acked = Vec::with_capacity(self.moved.len());
        for key in self.moved.drain(..) {
            if let Some(session) = self.sessions.get_mut(&key)
                && let Some(block) = session.acked()
            {
                session.moved = false;
                self.context.board.note(session.id, block);
                acked.push((session.id, block));
            }
        }
        for part in acked.chunks(TOLD_MAX) {
            self.context
                .replica
                .tell(positions::message(part.to_vec(), false));
        }
    }

    /// The last positions: nothing was sent after them. They are exact only if nothing will be (a member whose lease ran out
    /// may serve on in the same term), and if this leader knew itself where its clients are (one that led for a moment may
    /// not have heard them yet): a successor that took these for exact would never find clients that are further.
    pub(super) fn say_last_words(&mut self, is_over: bool) {
        self.context.options.metrics.sessions(0);
        let acked: Vec<_> = self
            .sessions
            .values()
            .filter_map(|session| Some((session.id, session.acked()?)))
            .collect();
        info!(
            term = self.term,
            sessions = self.sessions.len(),
            "serving no longer"
        );
        // Also for this member itself, which may lead on in the same term when only its lease had run out.
        for (id, block) in &acked {
            self.context.board.note(*id, *block);
        }
        // One message, since one of several might be dropped: the last words must not come without the positions.
        let is_exact = is_over && self.sessions.values().all(Session::is_position_exact);
        self.context.replica.tell(positions::message(acked, is_exact));
    }
}
