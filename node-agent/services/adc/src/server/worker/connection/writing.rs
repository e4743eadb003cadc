//! What waits for a connection's client, on its way out.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;

use bytes::{Buf as _, Bytes};
use tokio::time::Instant;

use super::super::socket;
use super::Connection;
use crate::message::{Line, Sid};
use crate::server::events::ToHub;
use crate::state::Departure;

/// Pieces for which an idle connection keeps room.
const QUEUE_KEPT: usize = 4;
/// Bytes of lines that are encrypted before they are written: what waits for a slow reader is shared with the others.
const ENCRYPTED_MAX: usize = 64 << 10;
/// Seconds after which a user that read too slowly may come back.
const SLOW_RETRY_S: u64 = 30;

impl Connection {
    /// Writes what waits, as far as the socket takes it; whether the connection lives.
    pub(in crate::server::worker) fn write(&mut self) -> bool {
        self.is_marked = false;
        self.is_in_round = false;
        if self.blocked.is_some() {
            return true;
        }
        while self.has_more() {
            let waiting = if self.wire.is_tls() {
                &self.records
            } else {
                &self.queue
            };
            match socket::write(&self.stream, waiting.iter()) {
                Ok(0) => return false,
                Ok(length) => self.sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Some(Instant::now());
                    return true;
                }
                Err(_) => return false,
            }
        }
        // Bursts leave no memory behind.
        if self.queue.capacity() > QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
        if self.is_ended && !std::mem::replace(&mut self.is_shut, true) {
            // Fails when the client is gone already.
            socket2::SockRef::from(&self.stream)
                .shutdown(Shutdown::Write)
                .ok();
        }
        true
    }

    /// Whether something is to be written; encrypts what has to be.
    fn has_more(&mut self) -> bool {
        if self.queue.is_empty() && self.closing.is_some() && !std::mem::replace(&mut self.is_ended, true) {
            self.wire.end();
        }
        if !self.wire.is_tls() {
            return !self.queue.is_empty();
        }
        while self.records.is_empty() {
            if let Some(records) = self.wire.outgoing() {
                self.records.push_back(records);
            } else if let Some(mut lines) = self.queue.pop_front() {
                let now = lines.split_to(lines.len().min(ENCRYPTED_MAX));
                self.queued_bytes -= now.len();
                self.wire.encrypt(&now);
                self.is_split = !lines.is_empty();
                if self.is_split {
                    self.queue.push_front(lines);
                }
            } else {
                return false;
            }
        }
        true
    }

    fn sent(&mut self, length: usize) {
        self.written = Instant::now();
        if self.wire.is_tls() {
            consume(&mut self.records, length);
        } else {
            self.queued_bytes -= length;
            self.sent_bytes += length as u64;
            self.is_split = consume(&mut self.queue, length);
        }
    }

    /// Whether more waits than may wait.
    pub(in crate::server::worker) fn is_too_slow(&self, queue_bytes_max: usize) -> bool {
        self.closing.is_none() && self.queued_bytes > queue_bytes_max
    }

    /// Drops a user that reads too slowly, with what waits for it but a line that was begun.
    pub(in crate::server::worker) fn give_up(&mut self, to_hub: &mut Vec<ToHub>) {
        let text = "You read too slowly";
        // Nothing can be said in the middle of compressed lines.
        let is_packed = self.sent_bytes < self.packed_until;
        let begun = self.queue.pop_front().filter(|_| self.is_split && !is_packed);
        self.queue.clear();
        if let Some(begun) = begun {
            let end = begun.iter().position(|byte| *byte == b'\n');
            self.queue
                .push_back(begun.slice(..end.map_or(begun.len(), |end| end + 1)));
        }
        self.queued_bytes = self.queue.iter().map(Bytes::len).sum();
        let sid = self.session.sid().unwrap_or(Sid::NOBODY);
        let quit = Line::new(&format!("IQUI {sid}"))
            .named("MS", text)
            .named("TL", SLOW_RETRY_S);
        if !is_packed {
            self.sends(quit.end().into());
        }
        self.close();
        to_hub.push(ToHub::Ended {
            link: self.link,
            departure: Departure::Dropped {
                reason: "read too slowly".to_owned(),
            },
        });
    }
}

/// Takes what was sent off a queue; whether its first piece was sent in part.
fn consume(queue: &mut VecDeque<Bytes>, mut length: usize) -> bool {
    while let Some(first) = queue.front_mut() {
        if length < first.len() {
            first.advance(length);
            return length > 0;
        }
        length -= first.len();
        queue.pop_front();
    }
    false
}
