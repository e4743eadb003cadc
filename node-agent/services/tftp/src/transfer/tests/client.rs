//! Models of real clients: what they do with blocks they do not expect, and when they repeat themselves.

use std::time::Duration;

use crate::transfer::wire_number;

/// How a client treats what it does not expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// RFC 1350 to the letter: acknowledges the last block again, ignores older ones; repeats its ACK after 5 s.
    Plain,
    /// tftp-hpa: the same, and an unexpected block makes it throw away all that has arrived meanwhile.
    Hpa,
    /// curl: like `Plain` but repeats after 72 s; an OACK at any time makes it start at block 1 again.
    Curl,
    /// GRUB: acknowledges old blocks by their own number, never repeats an ACK, only the request.
    Grub,
    /// UEFI, iPXE: acknowledges its last block on anything unexpected; repeats after 4 s.
    Uefi,
    /// atftp: like `Plain`, and gives up on a second OACK.
    Atftp,
    /// RFC 7440: acknowledges its last block once per gap, ignores old blocks; repeats after 5 s.
    Windowed,
}

/// To the client.
#[derive(Debug, Clone)]
pub(super) enum Packet {
    Oack,
    Data { number: u16, payload: Vec<u8> },
}

/// From the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Request,
    Ack(u16),
}

/// The byte of the file at an offset.
pub(super) fn content(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// One client that downloads a file whose bytes are [`content`], and panics at the first wrong one.
#[derive(Debug)]
pub(super) struct Client {
    kind: Kind,
    length: u64,
    block_size: u64,
    window: u64,
    /// Blocks received in order; what curl's counter says.
    pub(super) block: u64,
    /// Bytes written.
    written: u64,
    /// Whether it still waits for its OACK.
    awaits_oack: bool,
    answered: bool,
    last_acked: u64,
    /// The gap already complained about.
    gap_acked: Option<u64>,
    retry_at: Duration,
    deaf_until: Duration,
    pub(super) timeouts: u32,
    pub(super) finished: bool,
}

impl Client {
    pub(super) fn new(kind: Kind, length: u64, block_size: u16, window: u16, has_oack: bool) -> Self {
        let mut client = Self {
            kind,
            length,
            block_size: block_size.into(),
            window: window.into(),
            block: 0,
            written: 0,
            awaits_oack: has_oack,
            answered: false,
            last_acked: 0,
            gap_acked: None,
            retry_at: Duration::ZERO,
            deaf_until: Duration::ZERO,
            timeouts: 0,
            finished: false,
        };
        client.rearm(Duration::ZERO);
        client
    }

    pub(super) fn deadline(&self) -> Duration {
        if self.finished {
            Duration::MAX
        } else {
            self.retry_at
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) -> Answer {
        self.timeouts += 1;
        self.rearm(now);
        if self.answered {
            self.ack(self.block)
        } else {
            Answer::Request
        }
    }

    pub(super) fn receive(&mut self, packet: &Packet, now: Duration) -> Option<Answer> {
        if self.finished || now < self.deaf_until {
            return None;
        }
        match packet {
            Packet::Oack => {
                assert!(
                    self.kind != Kind::Atftp || self.awaits_oack,
                    "a second OACK: atftp gives up"
                );
                if self.block > 0 && self.kind != Kind::Curl {
                    return None;
                }
                self.awaits_oack = false;
                self.answered = true;
                self.block = 0;
                self.rearm(now);
                Some(self.ack(0))
            }
            Packet::Data { number, payload } => {
                assert!(
                    !self.awaits_oack,
                    "DATA {number} before the OACK: taken for an answer without options"
                );
                self.receive_data(*number, payload, now)
            }
        }
    }

    fn receive_data(&mut self, number: u16, payload: &[u8], now: Duration) -> Option<Answer> {
        if number == wire_number(self.block + 1) {
            return self.accept(payload, now);
        }
        let ahead = number.wrapping_sub(wire_number(self.block));
        let is_old = ahead == 0 || ahead > 32_767;
        match self.kind {
            Kind::Plain | Kind::Hpa | Kind::Curl | Kind::Atftp => {
                if self.kind == Kind::Hpa {
                    self.deaf_until = now + Duration::from_micros(200);
                }
                (ahead == 0 && self.answered).then(|| self.ack(self.block))
            }
            Kind::Grub => (is_old && self.answered).then_some(Answer::Ack(number)),
            Kind::Uefi => self.answered.then(|| self.ack(self.block)),
            Kind::Windowed => {
                let complain = !is_old && self.gap_acked != Some(self.block);
                complain.then(|| {
                    self.gap_acked = Some(self.block);
                    self.ack(self.block)
                })
            }
        }
    }

    fn accept(&mut self, payload: &[u8], now: Duration) -> Option<Answer> {
        let length = self.block_size.min(self.length - self.written.min(self.length));
        assert_eq!(payload.len() as u64, length, "length of block {}", self.block + 1);
        for &byte in payload {
            assert_eq!(byte, content(self.written), "byte {}", self.written);
            self.written += 1;
        }
        self.block += 1;
        self.answered = true;
        self.gap_acked = None;
        self.rearm(now);
        if length < self.block_size {
            assert_eq!(self.written, self.length);
            self.finished = true;
        }
        (self.finished || self.block - self.last_acked >= self.window).then(|| self.ack(self.block))
    }

    fn ack(&mut self, block: u64) -> Answer {
        self.last_acked = block;
        Answer::Ack(wire_number(block))
    }

    fn rearm(&mut self, now: Duration) {
        let patience = match self.kind {
            Kind::Curl => Duration::from_secs(72),
            Kind::Uefi => Duration::from_secs(4),
            Kind::Grub if self.answered => return self.retry_at = Duration::MAX,
            _ => Duration::from_secs(5),
        };
        self.retry_at = now + patience;
    }
}
