//! When the leader is to be called again, and whom it calls then.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Leader, TELL_INTERVAL};
use crate::transfer::{End, Input};

impl Leader {
    /// Calls the downloads whose time has come.
    pub(super) fn fire(&mut self) {
        let now = self.now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(key) = self.keys.get(&id).copied() else {
                continue;
            };
            let Some(session) = self.sessions.get_mut(&key) else {
                continue;
            };
            if session.scheduled != at {
                continue;
            }
            session.scheduled = Duration::MAX;
            if session.is_asleep() && session.deadline() <= now {
                self.end(key, End::Idle);
                continue;
            }
            if !session.is_asleep() && session.transfer.deadline() <= now {
                session.transfer.handle(Input::Deadline, now);
            }
            self.carry_out(key);
        }
    }

    /// When there is something to do, if nothing comes.
    pub(super) fn next_wake(&self) -> Duration {
        let timer = self
            .timers
            .peek()
            .map_or(Duration::from_secs(3600), |Reverse((at, _))| *at);
        let tell = if self.moved.is_empty() {
            Duration::MAX
        } else {
            self.told_at + TELL_INTERVAL
        };
        let close = if self.closing.is_empty() || self.close_runs {
            Duration::MAX
        } else {
            self.close_at
        };
        timer
            .min(tell)
            .min(close)
            .min(self.incoming.deadline.unwrap_or(Duration::MAX))
    }
}
