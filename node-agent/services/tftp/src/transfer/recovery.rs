//! What a transfer does when something was lost: gaps, time-outs, and the walk of a new leader.

use std::time::Duration;

use super::{AMBIGUITY_MAX, End, Position, Transfer};

/// Retransmissions to a peer that never answered: its address may be forged (RFC 8085 §3.1, amplification).
const FIRST_RETRANSMISSIONS_MAX: u32 = 3;
/// Between two candidates of the walk to a lockstep client: time enough for it to read one and empty its socket.
pub(super) const WALK_GAP: Duration = Duration::from_millis(1);
/// Blocks per [`WALK_GAP`] to a client with a window: it expects bursts, so only the rate is bounded.
const WALK_WINDOW_BLOCKS: u16 = 8;
/// Blocks of the first round of the walk: what a lockstep client on a fast LAN reads in 5 ms.
const WALK_SPAN: u64 = 128;
/// The longest round towards a peer that never answered.
const WALK_SPAN_UNHEARD_MAX: u64 = 512;
/// The shortest wait before an OACK is repeated unasked to a client that may not bear it: atftp repeats its own packet
/// after 5 s, or after the time-out (RFC 2349) that it asked for.
const ONE_OACK_PATIENCE: Duration = Duration::from_secs(5);
/// What such a client's packet may be late.
const ONE_OACK_MARGIN: Duration = Duration::from_secs(1);

/// The walk upward from a position that may be old.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    pub(super) next: u64,
    pub(super) end: u64,
}

impl Transfer {
    /// The last block that may be sent: see "Blocks" of the module.
    pub(super) fn send_limit(&self) -> u64 {
        match self.committed {
            Position::Unheard => 0,
            Position::Acked(block) => self
                .last_block
                .min(block + AMBIGUITY_MAX - u64::from(self.terms.window_size)),
        }
    }

    /// Whether the client has nothing beyond its position but what this leader sent: a client that was taken over may be
    /// further, and answers old blocks all the same, until it has acknowledged all that a former leader can have sent.
    pub fn is_position_exact(&self) -> bool {
        self.acked() >= self.doubtful_to
    }

    /// Whether an ACK with this number can be the client's.
    pub fn can_be_at(&self, number: u16) -> bool {
        !self.closed && self.block_of(number) <= self.ceiling
    }

    /// Whether a repeated ACK says that the first block of the window was lost: the one gap that shows no progress.
    ///
    /// It counts once per window, and only when it can be an answer to the window: one that the link merely repeated
    /// follows its original sooner.
    pub(super) fn is_gap_at_window_start(&self, now: Duration) -> bool {
        let answers = self
            .timer
            .round_trip()
            .is_some_and(|trip| now.saturating_sub(self.window_at) >= trip / 2);
        let under_way = self.sent > self.acked() + 1;
        self.terms.window_size > 1 && answers && under_way && !self.resent && self.gap != Some(self.acked())
    }

    /// The block after the last ACK was lost: the window starts there again, more slowly.
    pub(super) fn handle_gap(&mut self) {
        self.gap = Some(self.acked());
        self.restart_at(self.acked());
        self.burst = (self.burst / 2).max(1);
        self.bursts_since_ack = 0;
    }

    /// How long to wait for an answer to the OACK.
    pub(super) fn first_timeout(&self) -> Duration {
        if self.terms.one_oack {
            let patience = self.terms.timeout.unwrap_or_default().max(ONE_OACK_PATIENCE);
            return self.timer.timeout().max(patience + ONE_OACK_MARGIN);
        }
        self.timer.timeout()
    }

    /// No answer came in time.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        let waits_for_oack = self.position == Position::Unheard && self.terms.has_oack;
        if !waits_for_oack && self.sent == self.acked() && self.walk.is_none() {
            // Nothing is under way: only a commit is missing, and the client is not to blame.
            return self.checkpoint(now);
        }
        let max = match self.position {
            Position::Unheard => self.limits.retransmissions_max.min(FIRST_RETRANSMISSIONS_MAX),
            Position::Acked(_) => self.limits.retransmissions_max,
        };
        if self.retransmissions >= max {
            return self.close(End::GaveUp {
                retransmissions: self.retransmissions,
            });
        }
        self.retransmissions += 1;
        self.timer.back_off();
        self.burst = (self.burst / 2).max(1);
        self.timed = None;
        self.resent = true;
        if waits_for_oack {
            self.send_first(now);
        } else {
            self.send_again(now);
        }
    }

    /// Sends again from the last ACK: one window when that is all the client can have, else a round of the walk.
    ///
    /// Right after progress one plain window comes first: most likely that was lost, and not the ACKs of all that a
    /// walk sent.
    pub(super) fn send_again(&mut self, now: Duration) {
        let plain_first = self.retransmissions == 1 && self.walk.is_none();
        let reach = self.reach();
        if plain_first || reach <= self.window_end() {
            self.walk = None;
            self.restart_at(self.acked());
            return self.fill(now);
        }
        let window = u64::from(self.terms.window_size);
        let mut span = (WALK_SPAN.max(window * 4) << (3 * self.walk_round).min(12)).min(AMBIGUITY_MAX);
        if self.position == Position::Unheard {
            span = span.min(WALK_SPAN_UNHEARD_MAX);
        }
        self.walk_round += 1;
        self.sent = self.acked();
        self.burst_at = None;
        let end = (self.acked() + span).min(reach);
        self.step(
            Walk {
                next: self.acked() + 1,
                end,
            },
            now,
        );
    }

    /// The last block that a walk tries.
    fn reach(&self) -> u64 {
        // One more window than the client has acknowledged may have arrived, its ACK lost. Lockstep clients hear their
        // last block again; a client with a window may be deaf to all of it, and hears only the next one.
        let windows = if self.terms.window_size == 1 { 1 } else { 2 };
        let deaf = self.acked() + u64::from(self.terms.window_size) * windows;
        self.ceiling.max(deaf).min(self.send_limit())
    }

    /// The next candidate, or window of candidates, of the walk.
    pub(super) fn step(&mut self, walk: Walk, now: Duration) {
        let count = (walk.end + 1 - walk.next).min(u64::from(self.burst));
        self.push_data(walk.next, count);
        let next = walk.next + count;
        self.walk = Some(Walk { next, ..walk });
        let gap = WALK_GAP * u32::from(self.burst.div_ceil(WALK_WINDOW_BLOCKS));
        self.retransmit_at = now
            + if next <= walk.end {
                gap
            } else {
                self.timer.timeout()
            };
    }
}
