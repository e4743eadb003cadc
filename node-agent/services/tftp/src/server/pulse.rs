//! Notices that this process stood still: what waits in its socket then is old, and its clients may be gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the clock is looked at.
const BEAT: Duration = Duration::from_millis(250);
/// Between two looks, this is a pause: more than a busy machine lets pass.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The pulse of this process. Clones share it.
#[derive(Clone)]
pub(super) struct Pulse(Arc<Mutex<Beat>>);

struct Beat {
    last: Instant,
    doubtful_until: Instant,
}

impl Beat {
    /// Looks at the clock; whether there was a pause a moment ago.
    fn look(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.last) > PAUSE_MIN {
            self.doubtful_until = now + BEAT;
        }
        self.last = now;
        now < self.doubtful_until
    }
}

impl Pulse {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Beat {
            last: now,
            doubtful_until: now,
        })))
    }

    /// Whether what is received now may have waited through a pause.
    pub(super) fn is_doubtful(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(Instant::now())
    }

    /// Keeps it going.
    pub(super) async fn keep(self) {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            beats.tick().await;
            self.is_doubtful();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_what_waited_is_doubtful_for_a_moment() {
        let begin = Instant::now();
        let mut beat = Beat {
            last: begin,
            doubtful_until: begin,
        };
        let after = |ms| begin + Duration::from_millis(ms);
        assert!(!beat.look(after(250)));
        assert!(!beat.look(after(1250)), "late, but no pause");
        assert!(beat.look(after(3000)));
        assert!(beat.look(after(3200)), "the queue is read in more than one go");
        assert!(!beat.look(after(3250)));
    }
}
