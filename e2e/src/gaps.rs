//! What a conversation looked like from the client's side: progress, silences, repeats.

use std::time::{Duration, Instant};

use crate::wire::{Packet, unwrap_block};

/// Silences shorter than this are not worth keeping: they are the machine's scheduling.
const SILENCE_KEPT: Duration = Duration::from_millis(2);

/// How soon a client answers a packet. The client that repeats itself soonest, busybox, waits longer than this.
const ANSWERED_WITHIN: Duration = Duration::from_millis(40);

/// One client's transfer as a proxy saw it.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// When the first request passed.
    pub started: Instant,
    /// When the last DATA passed that the client did not have yet.
    pub progress_at: Instant,
    /// Blocks that reached the client, in order.
    pub blocks: u64,
    /// The silences between two steps of progress, longer than a few milliseconds: when each ended and its length.
    pub silences: Vec<(Instant, Duration)>,
    /// Packets the client sent twice with nothing from the server in between: its retransmission time-outs.
    pub client_time_outs: u32,
    /// DATA that the client had been sent before.
    pub server_repeats: u32,
    /// How far behind the newest block the oldest repeated DATA was. A server that resends what is outstanding stays
    /// within its window; one that was deposed long ago and still speaks does not.
    pub farthest_repeat: u64,
    /// ERROR packets from the server.
    pub errors: Vec<(u16, String)>,
    last_from_client: Vec<u8>,
    /// When the server's packet passed that the client has said nothing after.
    unanswered: Option<Instant>,
    excuse: Option<Excuse>,
}

/// Packets of the server that brought nothing new, which a client may answer by repeating itself (RFC 1123 section
/// 4.2.3.1 is about what follows when a server does not expect that).
#[derive(Debug, Clone, Copy)]
struct Excuse {
    blocks: u64,
    count: u32,
    until: Instant,
}

impl Conversation {
    /// A conversation that starts with a request at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            progress_at: now,
            blocks: 0,
            silences: Vec::new(),
            client_time_outs: 0,
            server_repeats: 0,
            farthest_repeat: 0,
            errors: Vec::new(),
            last_from_client: Vec::new(),
            unanswered: None,
            excuse: None,
        }
    }

    /// Notes a datagram from the client.
    pub fn from_client(&mut self, now: Instant, datagram: &[u8]) {
        // Some clients leave repeated DATA unanswered: what they repeat long after it is a time-out all the same.
        let answers = self
            .unanswered
            .is_some_and(|spoken| spoken + ANSWERED_WITHIN >= now);
        if self.last_from_client == datagram && !answers && !self.is_excused(now) {
            self.client_time_outs += 1;
        }
        self.last_from_client.clear();
        self.last_from_client.extend_from_slice(datagram);
        self.unanswered = None;
    }

    /// Notes a packet on its way to the client.
    pub fn from_server(&mut self, now: Instant, packet: &Packet<'_>) {
        self.unanswered = Some(now);
        match packet {
            Packet::Data { block, .. } => {
                let block = unwrap_block(*block, self.blocks);
                if block == self.blocks + 1 {
                    self.blocks = block;
                    self.note_progress(now);
                } else if block <= self.blocks {
                    self.note_excuse(now);
                    self.server_repeats += 1;
                    self.farthest_repeat = self.farthest_repeat.max(self.blocks - block);
                }
            }
            Packet::Oack { .. } if self.blocks == 0 => {
                self.note_progress(now);
                self.note_excuse(now);
            }
            Packet::Error { code, message } => self.errors.push((*code, message.clone())),
            _ => {}
        }
    }

    /// The longest time without progress that ended after `since`; zero when there was none worth keeping.
    #[must_use]
    pub fn longest_silence_since(&self, since: Instant) -> Duration {
        let ended_later = self.silences.iter().filter(|(ended, _)| *ended >= since);
        ended_later.map(|(_, length)| *length).max().unwrap_or_default()
    }

    fn note_excuse(&mut self, now: Instant) {
        let earlier = self
            .excuse
            .filter(|excuse| excuse.blocks == self.blocks)
            .map_or(0, |excuse| excuse.count);
        self.excuse = Some(Excuse {
            blocks: self.blocks,
            count: earlier + 1,
            until: now + ANSWERED_WITHIN,
        });
    }

    /// Whether a repeat of the client's last packet answers a repeat of the server's; each excuses one.
    fn is_excused(&mut self, now: Instant) -> bool {
        let valid = |excuse: &&mut Excuse| excuse.count > 0 && excuse.until >= now;
        let Some(excuse) = self.excuse.as_mut().filter(valid) else {
            return false;
        };
        excuse.count -= 1;
        true
    }

    fn note_progress(&mut self, now: Instant) {
        let silence = now.duration_since(self.progress_at);
        if silence >= SILENCE_KEPT {
            self.silences.push((now, silence));
        }
        self.progress_at = now;
    }
}

/// In a line, for the message of a failed test.
impl std::fmt::Display for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            blocks,
            client_time_outs,
            server_repeats,
            farthest_repeat,
            errors,
            ..
        } = self;
        let longest = self.longest_silence_since(self.started);
        write!(
            f,
            "{blocks} blocks, longest silence {longest:?}, {client_time_outs} time-outs of the client, \
             {server_repeats} repeats of the server (the farthest {farthest_repeat} blocks back), errors {errors:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    fn data(block: u16) -> Packet<'static> {
        Packet::Data { block, bytes: b"" }
    }

    #[test]
    fn silence_lasts_from_progress_to_progress() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut seen = Conversation::new(start);
        seen.from_server(at(1), &data(1));
        seen.from_server(at(300), &data(1));
        seen.from_server(at(501), &data(2));
        seen.from_server(at(502), &data(3));
        assert_eq!(seen.longest_silence_since(at(100)), Duration::from_millis(500));
        assert_eq!(seen.longest_silence_since(at(502)), Duration::ZERO);
        assert_eq!((seen.blocks, seen.server_repeats), (3, 1));
    }

    #[test]
    fn time_out_is_a_repeat_without_a_cause() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut seen = Conversation::new(start);
        seen.from_server(at(0), &data(1));
        seen.from_client(at(1), b"ack 1");
        seen.from_client(at(101), b"ack 1");
        assert_eq!(seen.client_time_outs, 1);
        // The server repeats DATA 1: the client's second and third ACK are answers, although they leave together.
        seen.from_server(at(102), &data(1));
        seen.from_server(at(102), &data(1));
        seen.from_client(at(103), b"ack 1");
        seen.from_client(at(103), b"ack 1");
        assert_eq!(seen.client_time_outs, 1);
        seen.from_client(at(203), b"ack 1");
        assert_eq!(
            seen.client_time_outs, 2,
            "an old repeat of the server is no excuse for ever"
        );
    }
}
