//! One read transfer, seen from the server: which packet to send when (RFC 1350, 2347, 7440).
//!
//! Pure. It owns no bytes, reads no clock and sends nothing: the driver tells it what happened by
//! [`Transfer::handle`], drains [`Transfer::poll_output`], and calls again at [`Transfer::deadline`]. Times are
//! durations since any epoch, the same for all calls.
//!
//! # Blocks
//!
//! Blocks are counted from 1 in 64 bits; block `k` holds the bytes from `(k - 1) * block_size`, and the last one is
//! shorter than `block_size`, perhaps empty. On the wire only the low 16 bits appear. A 16-bit ACK means the one block
//! in `acked..=acked + 32_767` that ends so, if that block can have been sent; anything else is old or nonsense and is
//! ignored. For this to hold after a change of leader too, nothing is sent beyond `checkpoint + 32_767 - window_size`,
//! where the checkpoint is a position that a quorum has stored ([`Output::Checkpoint`],
//! [`Input::CheckpointCommitted`]).
//!
//! # The handshake is a checkpoint
//!
//! After an OACK, DATA 1 waits until a quorum knows that the client acknowledged it (checkpoint 0). A new leader must
//! know this for certain, because both mistakes destroy the download: a client that has not seen the OACK takes DATA 1
//! for an answer without options and reads blocks of the wrong size; and curl, when an OACK comes late, starts to
//! count from block 1 again and writes the same bytes twice. One commit per transfer buys that certainty.
//!
//! # Loss
//!
//! - A repeated ACK sends nothing (RFC 1123 §4.2.3.1, Sorcerer's Apprentice); only new ACKs and the timer do.
//! - RFC 7440 §4: an ACK inside the window says that the block after it was lost; the next window starts there. An ACK
//!   exactly one window after the previous one is no such sign, nor is the first ACK after a retransmission: the client
//!   may have acknowledged a block that it had twice, and the rest is under way. When the first block of a window is
//!   lost, the sign is a repetition of the last ACK; it is heeded once per window, and never in lockstep.
//! - After a second time-out in a row the window is followed by one more: the client may have the whole window, its ACK
//!   lost, and be deaf to all of it.
//! - A client acknowledges a window only when it is full, so to shrink the window after loss would make it wait for
//!   its own time-out. Instead a window is sent in bursts, one per round trip: bursts halve on loss and grow by one
//!   per round trip (RFC 7440 §6, RFC 8085 §3.1).
//! - Until the peer has answered once, only the first packet is sent, at most three times
//!   again: its address may be forged.
//!
//! # A new leader
//!
//! [`Transfer::resume`] sends at once, since GRUB never repeats an ACK and curl does so after 72 s. The position that
//! it knows may be some blocks old, and then the client is ahead. What clients do with a block they do not expect
//! differs: tftp-hpa, curl and busybox answer only the last block they have and the next one, and are deaf to all
//! others; UEFI and iPXE acknowledge the last block they have; GRUB acknowledges the old block by its own number. So:
//!
//! - candidates are walked upward, one by one, never skipping one, until an ACK shows progress. Each deaf client thus
//!   hears the one block that it understands, and old firmware that stores whatever comes gets no hole;
//! - lockstep candidates are a millisecond apart, not in one burst: tftp-hpa empties its socket buffer whenever it sees
//!   an unexpected block, and would throw away the right candidate with the wrong ones;
//! - what the client accepts during the walk is in order and correct, so an exact position loses nothing by it;
//! - the first round is short, since positions are rarely older than a few milliseconds; each silent round is eight
//!   times as long as the one before, up to all that the old leader can have sent, with back-off between them, and
//!   starts again from the known position, since a candidate may be lost;
//! - an ACK ahead of the known position is accepted, up to the last block that the old leader can have sent. An ACK of
//!   exactly the known position starts plainly from there; if that leads nowhere (it was an old one), the timer walks
//!   again. The position never moves back.
//!
//! While only the OACK is under way there is no walk, only the OACK again: DATA was not sent yet, see above. A planned
//! hand-over knows the position exactly and sends one window, as any time-out would.
//!
//! atftp takes a second OACK for an error and ends. To a client like it ([`Terms::one_oack`]) the OACK is repeated only
//! when it asks again, or has been silent for longer than it ever is: it repeats its ACK, or its request if it missed
//! the OACK, after 5 s. A new leader that does not know whether the OACK was acknowledged waits for that too.
//!
//! Given up for this: firmware so old that it stores whatever block comes (U-Boot of 2018) gets a hole if the link loses
//! a block of the walk.

mod events;
mod recovery;
mod rtt;

use std::collections::VecDeque;
use std::time::Duration;

pub use events::{End, Input, Known, Limits, Output, Outstanding, Position, Terms};
use recovery::{WALK_GAP, Walk};
use rtt::RetransmitTimer;

/// Half of the 16-bit block numbers, less one: positions closer than this are told apart.
const AMBIGUITY_MAX: u64 = 32_767;
/// Blocks between two checkpoints: a quarter of the above, so that a slow commit rarely stalls the transfer.
const CHECKPOINT_INTERVAL: u64 = 8_192;
/// How often a checkpoint that holds up the transfer is asked for again.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(1);
/// The first time-out of a resumed transfer: the client has waited long enough already.
const RESUMED_TIMEOUT: Duration = Duration::from_millis(250);

/// The number of a block on the wire: 65,536 is 0 again.
#[expect(clippy::cast_possible_truncation, reason = "the wire carries the low 16 bits")]
pub fn wire_number(block: u64) -> u16 {
    block as u16
}

/// One read transfer. See the module for the rules.
#[derive(Debug)]
pub struct Transfer {
    terms: Terms,
    limits: Limits,
    last_block: u64,
    position: Position,
    /// Of the quorum.
    committed: Position,
    /// The last checkpoint asked for.
    asked: Position,
    /// The last block under way: sent since the last retransmission, or known to be acknowledged.
    sent: u64,
    /// The last block that this leader ever sent.
    sent_ever: u64,
    /// The last block that any leader can ever have sent.
    ceiling: u64,
    /// A former leader may have sent this block, and the client may have it.
    doubtful_to: u64,
    /// The rest of the walk, if one is going on.
    walk: Option<Walk>,
    walk_round: u32,
    /// Whether blocks under way were sent before, so that an early ACK is no sign of loss.
    resent: bool,
    /// The last ACK that was taken for a sign of loss.
    gap: Option<u64>,
    /// When the window after the last ACK was begun.
    window_at: Duration,
    burst: u16,
    bursts_since_ack: u16,
    timer: RetransmitTimer,
    /// A block sent once, and when.
    timed: Option<(u64, Duration)>,
    retransmissions: u32,
    retransmit_at: Duration,
    /// When the next burst of the window is due.
    burst_at: Option<Duration>,
    heard_at: Duration,
    closed: bool,
    outputs: VecDeque<Output>,
}

impl Transfer {
    /// A transfer that was just agreed on. The first output is the OACK, or DATA 1.
    pub fn open(terms: Terms, limits: Limits, now: Duration) -> Self {
        let mut transfer = Self::new(terms, limits, now);
        transfer.committed = transfer.start();
        transfer.asked = transfer.committed;
        transfer.send_first(now);
        transfer
    }

    /// A transfer that another leader began. Sends at once what the client may wait for.
    pub fn resume(terms: Terms, limits: Limits, known: Known, now: Duration) -> Self {
        let mut transfer = Self::new(terms, limits, now);
        transfer.committed = known.checkpoint.max(transfer.start());
        transfer.asked = transfer.committed;
        transfer.position = known
            .position
            .max(known.checkpoint)
            .min(Position::Acked(transfer.last_block));
        transfer.sent = transfer.acked();
        transfer.ceiling = transfer.send_limit();
        if known.exact {
            transfer.ceiling = transfer.window_end();
        } else {
            transfer.doubtful_to = transfer.ceiling;
        }
        transfer.resent = true;
        if transfer.position != Position::Unheard {
            transfer.timer.hurry(RESUMED_TIMEOUT);
        }
        match transfer.position {
            Position::Unheard if terms.one_oack => transfer.retransmit_at = now + transfer.first_timeout(),
            Position::Unheard if terms.has_oack => transfer.send_first(now),
            Position::Acked(block) if block == transfer.last_block => transfer.close(End::Complete),
            _ if transfer.committed == Position::Unheard => transfer.checkpoint(now),
            _ => {
                transfer.checkpoint_if_due(now);
                transfer.send_again(now);
            }
        }
        transfer
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, input: Input, now: Duration) {
        if self.closed {
            return;
        }
        match input {
            Input::Ack(number) => self.handle_ack(number, now),
            Input::PeerError { code } => self.close(self.end_of_error(code)),
            Input::RepeatedRequest if self.position == Position::Unheard => {
                self.heard_at = now;
                self.push_first();
                if self.terms.one_oack {
                    self.retransmit_at = now + self.first_timeout();
                }
            }
            Input::RepeatedRequest => {}
            Input::Deadline => self.handle_deadline(now),
            Input::CheckpointCommitted(block) => self.handle_committed(Position::Acked(block), now),
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Deadline`]; changes with each input. `Duration::MAX` once closed.
    pub fn deadline(&self) -> Duration {
        if self.closed {
            return Duration::MAX;
        }
        let idle_at = self.heard_at + self.limits.idle_max;
        self.burst_at
            .unwrap_or(Duration::MAX)
            .min(self.retransmit_at)
            .min(idle_at)
    }

    /// How far the client is: what the followers should know.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What the client may be waiting for or already have.
    pub fn outstanding(&self) -> Outstanding {
        if self.position == Position::Unheard && self.terms.has_oack {
            return Outstanding::Oack;
        }
        Outstanding::Blocks {
            first: self.acked() + 1,
            count: self.sent - self.acked(),
        }
    }

    fn new(terms: Terms, limits: Limits, now: Duration) -> Self {
        assert!(
            terms.block_size > 0 && terms.window_size > 0,
            "negotiation gives positive sizes"
        );
        assert!(
            u64::from(terms.window_size) <= CHECKPOINT_INTERVAL,
            "negotiation caps the window"
        );
        assert!(
            terms.window_size == 1 || terms.has_oack,
            "a window must have been agreed on"
        );
        assert!(terms.has_oack || !terms.one_oack, "no OACK is not one OACK");
        Self {
            terms,
            limits,
            last_block: terms.length / u64::from(terms.block_size) + 1,
            position: Position::Unheard,
            committed: Position::Unheard,
            asked: Position::Unheard,
            sent: 0,
            sent_ever: 0,
            ceiling: 0,
            doubtful_to: 0,
            walk: None,
            walk_round: 0,
            resent: false,
            gap: None,
            window_at: now,
            burst: terms.window_size,
            bursts_since_ack: 0,
            timer: RetransmitTimer::new(terms.timeout),
            timed: None,
            retransmissions: 0,
            retransmit_at: now,
            burst_at: None,
            heard_at: now,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// The checkpoint that every transfer has: without an OACK, DATA 1 is the first packet and waits for nobody.
    fn start(&self) -> Position {
        if self.terms.has_oack {
            Position::Unheard
        } else {
            Position::Acked(0)
        }
    }

    fn acked(&self) -> u64 {
        self.position.block()
    }

    fn window_end(&self) -> u64 {
        (self.acked() + u64::from(self.terms.window_size)).min(self.send_limit())
    }

    fn send_first(&mut self, now: Duration) {
        if self.terms.has_oack {
            self.timed = (!self.resent).then_some((0, now));
            self.push_first();
            self.retransmit_at = now + self.first_timeout();
        } else {
            self.fill(now);
        }
    }

    /// Repeats the first packet, without touching any timer.
    fn push_first(&mut self) {
        if self.outputs.contains(&Output::SendOack) {
            return; // Waits to be sent anyway.
        }
        self.outputs.push_back(if self.terms.has_oack {
            Output::SendOack
        } else {
            Output::SendData { first: 1, count: 1 }
        });
    }

    fn end_of_error(&self, code: u16) -> End {
        match code {
            0 => End::ClientFinishedEarly { code },
            // RFC 2347: ERROR 8 refuses the OACK. UEFI asks for the size that way.
            8 if self.terms.has_oack && self.acked() == 0 => End::ClientFinishedEarly { code },
            _ => End::ClientError { code },
        }
    }

    fn handle_ack(&mut self, number: u16, now: Duration) {
        let block = self.block_of(number);
        if block > self.ceiling {
            return; // Nobody sent that block.
        }
        self.heard_at = now;
        let position = Position::Acked(block);
        // Without an OACK there is nothing that ACK 0 could mean.
        let means_something = block > 0 || self.terms.has_oack;
        if position > self.position && means_something {
            self.handle_progress(block, now);
        } else if self.walk.is_some() && position == self.position {
            // The client itself says that the known position is right.
            self.walk = None;
            self.restart_at(self.acked());
            self.fill(now);
        } else if position == self.position && self.is_gap_at_window_start(now) {
            self.handle_gap();
            self.fill(now);
        }
    }

    /// The block in `acked..=acked + 65_535` whose number ends so. Beyond `acked + 32_767` it is really an old one, and
    /// beyond the ceiling too.
    fn block_of(&self, number: u16) -> u64 {
        self.acked() + u64::from(number.wrapping_sub(wire_number(self.acked())))
    }

    fn handle_progress(&mut self, block: u64, now: Duration) {
        if let Some((timed, at)) = self.timed
            && timed == block
        {
            self.timer.measured(now.saturating_sub(at));
        }
        self.timed = self.timed.filter(|&(timed, _)| timed > block);
        let window = u64::from(self.terms.window_size);
        let window_full = block == self.acked() + window;
        let gap = window > 1 && block < self.sent && !window_full && !self.resent;
        if self.resent {
            // More of the same ACK will follow, one for each block that the client had already.
            self.gap = Some(block);
        }
        self.position = Position::Acked(block);
        self.sent = self.sent.max(block);
        // A new leader finds ACKs waiting before it has sent anything: an OACK that was acknowledged already must not
        // go out again (atftp gives up on a second one).
        self.outputs.retain(|output| *output != Output::SendOack);
        self.walk = None;
        self.walk_round = 0;
        self.retransmissions = 0;
        self.resent = false;
        if gap {
            self.handle_gap();
        } else if window_full {
            self.burst = self
                .burst
                .saturating_add(self.bursts_since_ack)
                .min(self.terms.window_size);
        }
        self.bursts_since_ack = 0;
        self.burst_at = None;
        if block == self.last_block {
            return self.close(End::Complete);
        }
        self.checkpoint_if_due(now);
        self.fill(now);
    }

    fn handle_committed(&mut self, checkpoint: Position, now: Duration) {
        self.committed = self
            .committed
            .max(checkpoint)
            .min(Position::Acked(self.last_block));
        self.asked = self.asked.max(self.committed);
        if self.committed > self.position {
            // Only after a change of leader: the log knew more than we did.
            self.ceiling = self.ceiling.max(self.committed.block());
            self.handle_progress(self.committed.block(), now);
        } else if self.walk.is_none() {
            self.fill(now);
        }
    }

    fn handle_deadline(&mut self, now: Duration) {
        if now >= self.heard_at + self.limits.idle_max {
            self.close(End::Idle);
        } else if self.burst_at.is_some_and(|at| now >= at) {
            self.burst_at = None;
            self.fill(now);
        } else if now >= self.retransmit_at {
            match self.walk {
                Some(walk) if walk.next <= walk.end => self.step(walk, now),
                _ => self.handle_timeout(now),
            }
        }
    }

    /// Forgets what is under way beyond `block`.
    fn restart_at(&mut self, block: u64) {
        self.sent = block;
        self.burst_at = None;
        self.timed = None;
    }

    /// Sends what the window and the checkpoint allow, a burst at a time.
    fn fill(&mut self, now: Duration) {
        if self.burst_at.is_some_and(|at| now < at) {
            return;
        }
        let end = self.window_end();
        if self.sent < end {
            let count = (end - self.sent).min(u64::from(self.burst));
            if self.sent == self.acked() {
                self.window_at = now;
            }
            let sent_before = self.sent_ever;
            self.push_data(self.sent + 1, count);
            self.bursts_since_ack = self.bursts_since_ack.saturating_add(1);
            if self.sent > sent_before {
                self.timed = Some((self.sent, now));
            }
            let round_trip = self.timer.round_trip().unwrap_or(WALK_GAP);
            self.burst_at = (self.sent < end).then(|| now + round_trip);
        }
        let waits_for_commit = self.sent == self.acked();
        self.retransmit_at = now
            + if waits_for_commit {
                CHECKPOINT_RETRY
            } else {
                self.timer.timeout()
            };
    }

    fn push_data(&mut self, first: u64, count: u64) {
        let last = first + count - 1;
        assert!(
            first > self.acked() && last <= self.send_limit(),
            "every ACK must mean one block"
        );
        let count = u16::try_from(count).expect("a window has at most 65,535 blocks");
        self.outputs.push_back(Output::SendData { first, count });
        self.sent = self.sent.max(last);
        self.sent_ever = self.sent_ever.max(last);
        self.ceiling = self.ceiling.max(last);
    }

    fn checkpoint_if_due(&mut self, now: Duration) {
        let due = match self.asked {
            Position::Unheard => self.position > Position::Unheard,
            Position::Acked(asked) => self.acked() - asked >= CHECKPOINT_INTERVAL,
        };
        if due {
            self.checkpoint(now);
        }
    }

    fn checkpoint(&mut self, now: Duration) {
        self.asked = self.position;
        self.outputs.push_back(Output::Checkpoint(self.acked()));
        self.retransmit_at = now + CHECKPOINT_RETRY;
    }

    fn close(&mut self, end: End) {
        self.closed = true;
        self.walk = None;
        self.outputs.clear();
        self.outputs.push_back(Output::Closed(end));
    }
}

#[cfg(test)]
mod tests;
