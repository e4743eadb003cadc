//! One write transfer, seen from the server: which packet to send when (RFC 1350, 2347, 7440).
//!
//! Pure. It owns no bytes, reads no clock and sends nothing: the driver tells it what happened, drains
//! [`Upload::poll_output`], and calls again at [`Upload::deadline`]. Times are durations since any epoch, the same for
//! all calls.
//!
//! - The last block is acknowledged only once the file is stored by a quorum ([`Upload::stored`]): a client that got
//!   its last ACK can switch itself off. Until then its repetitions of the last block are not answered.
//! - Blocks are counted from 1 in 64 bits; on the wire only the low 16 bits appear, and only the next block is taken.
//! - A block that was taken before is acknowledged again, since that ACK may have been lost; a *sender* must not repeat
//!   DATA for it (RFC 1123 §4.2.3.1), and ours never does.
//! - With a window (RFC 7440 §4), a gap is answered by one ACK, of the last block in order, after which the client
//!   starts its next window there.
//! - No further window is asked for before there is room for it ([`Output::MakeRoom`]): the disk slows the client down.
//! - After its end an upload stays for [`LINGER`], to answer a client that missed the last ACK (RFC 1350 §6).
//!
//! An upload belongs to its leader. What the others know of it is the finished file, so when the leader dies the client
//! has to send it again, and is told so (ERROR 5) instead of waiting in vain.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::transfer::{Limits, wire_number};

/// Before the last packet is sent again, unless the client asked for another interval (RFC 2349).
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// The longest interval after back-off: below the patience of common clients (25 s).
const REPEAT_AFTER_MAX: Duration = Duration::from_secs(8);
/// For how long the last ACK is repeated to a client that sends its last block again: longer than the 5 s after which
/// tftp-hpa and atftp do.
pub const LINGER: Duration = Duration::from_secs(20);

/// What was agreed with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of each block but the last.
    pub block_size: u16,
    /// Blocks between two ACKs.
    pub window_size: u16,
    /// The retransmission interval that the client asked for (RFC 2349).
    pub timeout: Option<Duration>,
    /// Whether the first packet is an OACK, and not ACK 0.
    pub has_oack: bool,
    /// The largest file that is taken, in bytes as sent.
    pub bytes_max: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send the OACK.
    SendOack,
    /// Send ACK with this number.
    SendAck(u16),
    /// Have room for a window of blocks, then call [`Upload::room`].
    MakeRoom,
    /// All bytes are there: store the file, then call [`Upload::stored`].
    Store,
    /// The upload is over; forget it.
    Closed(End),
}

/// How an upload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The file is stored, and the client has had time to learn it.
    Complete,
    /// The client gave up.
    ClientError {
        /// As sent.
        code: u16,
    },
    /// Nothing came from the client for too long.
    Idle,
    /// The file is larger than it may be. To be answered with an ERROR.
    TooLarge,
    /// A block is longer than agreed. To be answered with an ERROR.
    BlockTooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Blocks come.
    Receiving,
    /// All blocks are there, and the file is being stored.
    Storing,
    /// The last block is acknowledged.
    Stored,
    Closed,
}

/// One write transfer. See the module for the rules.
#[derive(Debug)]
pub struct Upload {
    terms: Terms,
    limits: Limits,
    phase: Phase,
    /// Blocks taken, in order and without a gap.
    received: u64,
    bytes: u64,
    /// The last block that was acknowledged.
    acked: u64,
    /// Whether an ACK waits for room.
    waits_for_room: bool,
    /// The block that was answered by the ACK of `received`, although it was not the next one.
    told: Option<u16>,
    repetitions: u32,
    repeat_after: Duration,
    repeat_at: Duration,
    heard_at: Duration,
    outputs: VecDeque<Output>,
}

impl Upload {
    /// An upload that was just agreed on. The first output is the OACK, or ACK 0.
    #[must_use]
    pub fn open(terms: Terms, limits: Limits, now: Duration) -> Self {
        assert!(
            terms.block_size > 0 && terms.window_size > 0,
            "negotiation gives positive sizes"
        );
        let repeat_after = terms.timeout.unwrap_or(REPEAT_AFTER);
        let mut upload = Self {
            terms,
            limits,
            phase: Phase::Receiving,
            received: 0,
            bytes: 0,
            acked: 0,
            waits_for_room: false,
            told: None,
            repetitions: 0,
            repeat_after,
            repeat_at: now + repeat_after,
            heard_at: now,
            outputs: VecDeque::new(),
        };
        upload.push_ack();
        upload
    }

    /// DATA came. Returns whether its payload is the next part of the file; then the driver keeps it.
    #[must_use]
    pub fn data(&mut self, number: u16, length: usize, now: Duration) -> bool {
        self.heard_at = now;
        match self.phase {
            Phase::Receiving => {}
            // The last ACK was lost.
            Phase::Stored if number == wire_number(self.received) => {
                self.push_ack();
                return false;
            }
            Phase::Storing | Phase::Stored | Phase::Closed => return false,
        }
        if number != wire_number(self.received + 1) {
            self.unexpected(number, now);
            return false;
        }
        if length > usize::from(self.terms.block_size) {
            self.close(End::BlockTooLong);
            return false;
        }
        self.bytes += length as u64;
        if self.bytes > self.terms.bytes_max {
            self.close(End::TooLarge);
            return false;
        }
        self.received += 1;
        self.told = None;
        self.progress(now);
        if length < usize::from(self.terms.block_size) {
            self.phase = Phase::Storing;
            self.outputs.push_back(Output::Store);
        } else if self.received - self.acked >= u64::from(self.terms.window_size) {
            self.ask_for_room();
        }
        true
    }

    /// There is room for another window.
    pub fn room(&mut self, now: Duration) {
        if std::mem::take(&mut self.waits_for_room) && self.phase == Phase::Receiving {
            self.push_ack();
            self.repeat_at = now + self.repeat_after;
        }
    }

    /// A quorum has stored the file.
    pub fn stored(&mut self, now: Duration) {
        if self.phase == Phase::Storing {
            self.phase = Phase::Stored;
            self.heard_at = now;
            self.push_ack();
        }
    }

    /// ERROR with this code came.
    pub fn peer_error(&mut self, code: u16) {
        match self.phase {
            // RFC 1350 §6: an error after the last ACK changes nothing any more.
            Phase::Stored => self.close(End::Complete),
            _ => self.close(End::ClientError { code }),
        }
    }

    /// The same request came again. Returns false when it begins another upload: this one has gone on.
    #[must_use]
    pub fn repeated_request(&mut self, now: Duration) -> bool {
        if self.phase != Phase::Receiving || self.received > 0 {
            return false;
        }
        self.heard_at = now;
        self.push_ack();
        true
    }

    /// It is [`Upload::deadline`], or later.
    pub fn fire(&mut self, now: Duration) {
        match self.phase {
            Phase::Stored if now >= self.heard_at + LINGER => self.close(End::Complete),
            Phase::Receiving if now >= self.heard_at + self.limits.idle_max => self.close(End::Idle),
            Phase::Receiving if now >= self.repeat_at && !self.waits_for_room => {
                if self.repetitions >= self.limits.retransmissions_max {
                    return self.close(End::Idle);
                }
                self.repetitions += 1;
                self.repeat_after = (self.repeat_after * 2).min(REPEAT_AFTER_MAX.max(self.first_repeat()));
                self.repeat_at = now + self.repeat_after;
                self.push_ack();
            }
            _ => {}
        }
    }

    /// When to call [`Upload::fire`]; changes with each call. `Duration::MAX` while the file is being stored.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        match self.phase {
            Phase::Receiving if self.waits_for_room => self.heard_at + self.limits.idle_max,
            Phase::Receiving => self.repeat_at.min(self.heard_at + self.limits.idle_max),
            Phase::Stored => self.heard_at + LINGER,
            Phase::Storing | Phase::Closed => Duration::MAX,
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether it only waits for its client's repetitions.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.phase == Phase::Stored
    }

    /// Bytes taken so far, as sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn first_repeat(&self) -> Duration {
        self.terms.timeout.unwrap_or(REPEAT_AFTER)
    }

    fn progress(&mut self, now: Duration) {
        self.repetitions = 0;
        self.repeat_after = self.first_repeat();
        self.repeat_at = now + self.repeat_after;
    }

    /// A block that is not the next one: an old one, or one after a gap.
    fn unexpected(&mut self, number: u16, now: Duration) {
        let behind = wire_number(self.received).wrapping_sub(number);
        let is_old = behind < u16::MAX / 2;
        if self.waits_for_room {
            return;
        }
        if self.terms.window_size > 1 {
            // Once: each block that follows in the window says the same. The same block again is the client's next attempt.
            if self.told.is_some_and(|told| told != number) {
                return;
            }
            self.told = Some(number);
        } else if !is_old {
            // In lockstep nobody can be ahead of us.
            return;
        }
        self.push_ack();
        self.repeat_at = now + self.repeat_after;
    }

    fn ask_for_room(&mut self) {
        self.waits_for_room = true;
        self.outputs.push_back(Output::MakeRoom);
    }

    fn push_ack(&mut self) {
        self.acked = self.received;
        self.outputs
            .push_back(if self.received == 0 && self.terms.has_oack {
                Output::SendOack
            } else {
                Output::SendAck(wire_number(self.received))
            });
    }

    fn close(&mut self, end: End) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.outputs.clear();
            self.outputs.push_back(Output::Closed(end));
        }
    }
}
