//! How much a user may send: token buckets.

use std::time::Duration;

/// So many at once, and one more each `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many at once.
    pub burst: u32,
    /// How long until one more is allowed.
    pub every: Duration,
}

/// Rates for each kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Lines to all.
    pub chat: Rate,
    /// Lines to one.
    pub private: Rate,
    /// Searches. A passive client of the DC++ family sends each of them twice, to different audiences.
    pub search: Rate,
    /// Changes of `INF`.
    pub info: Rate,
    /// Everything else: results, requests to connect.
    pub other: Rate,
}

/// Counts what was sent. Holds one number: the time at which it would be full again.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: Rate,
    full_at: Duration,
    /// Whether the last message was refused: who is told, is told once.
    refusing: bool,
}

/// Whether a message may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Pass,
    /// It may not, and this is the first.
    First,
    /// It may not.
    Again,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self {
            rate,
            full_at: Duration::ZERO,
            refusing: false,
        }
    }

    pub(super) fn take(&mut self, now: Duration) -> Verdict {
        let full_at = self.full_at.max(now) + self.rate.every;
        if full_at > now + self.rate.every * self.rate.burst {
            return if std::mem::replace(&mut self.refusing, true) {
                Verdict::Again
            } else {
                Verdict::First
            };
        }
        self.full_at = full_at;
        self.refusing = false;
        Verdict::Pass
    }
}

pub(super) struct Buckets {
    pub(super) chat: Bucket,
    pub(super) private: Bucket,
    pub(super) search: Bucket,
    pub(super) info: Bucket,
    pub(super) other: Bucket,
}

impl Buckets {
    pub(super) const fn new(rates: &Rates) -> Self {
        Self {
            chat: Bucket::new(rates.chat),
            private: Bucket::new(rates.private),
            search: Bucket::new(rates.search),
            info: Bucket::new(rates.info),
            other: Bucket::new(rates.other),
        }
    }
}
