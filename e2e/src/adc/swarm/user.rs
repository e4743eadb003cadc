//! One user of the swarm: a socket, and as much of ADC as getting in needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::Context;
use memchr::memchr;
use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::Identity;

/// Bytes of a SID in base32.
const SID_BYTES: usize = 4;

/// Where a user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not connected.
    Away,
    /// Its connection is being made.
    Connecting,
    /// It has said who it is, and waits for its own INF.
    Identifying,
    /// It is in.
    Normal,
}

/// What the hub said to the user itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing of importance.
    Nothing,
    /// Go, and come back in so many seconds.
    Quit(u64),
}

#[derive(Debug)]
pub(super) struct User {
    identity: Identity,
    number: usize,
    socket: Option<TcpStream>,
    pub(super) phase: Phase,
    sid: String,
    /// The part of a line that has come without its end.
    rest: Vec<u8>,
    unsent: Vec<u8>,
    pub(super) reads: bool,
    pub(super) retry_at: Option<Instant>,
}

impl User {
    pub(super) fn new(identity: Identity, number: usize) -> Self {
        Self {
            identity,
            number,
            socket: None,
            phase: Phase::Away,
            sid: String::new(),
            rest: Vec::new(),
            unsent: Vec::new(),
            reads: true,
            retry_at: None,
        }
    }

    pub(super) fn sid(&self) -> &str {
        &self.sid
    }

    /// Begins a connection from an address that is this user's own.
    pub(super) fn connect(&mut self, to: SocketAddr, epoll: &OwnedFd, key: usize) -> anyhow::Result<()> {
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("making a socket")?;
        socket.set_nonblocking(true).context("preparing a socket")?;
        socket.set_tcp_nodelay(true).context("preparing a socket")?;
        let from = SocketAddr::V4(SocketAddrV4::new(address(self.number), 0));
        socket
            .bind(&from.into())
            .with_context(|| format!("binding {from}"))?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error).with_context(|| format!("connecting to {to}")),
        }
        let socket: TcpStream = socket.into();
        self.phase = Phase::Connecting;
        self.retry_at = None;
        self.reads = true;
        self.rest = Vec::new();
        self.unsent = b"HSUP ADBAS0 ADBASE ADTIGR\n".to_vec();
        epoll::add(
            epoll,
            &socket,
            EventData::new_u64(key as u64),
            EventFlags::IN | EventFlags::OUT,
        )
        .context("watching a socket")?;
        self.socket = Some(socket);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.socket = None;
        self.phase = Phase::Away;
        self.rest = Vec::new();
        self.unsent = Vec::new();
        self.sid.clear();
    }

    /// Tells the kernel what this user waits for.
    pub(super) fn watch(&self, epoll: &OwnedFd, key: usize) -> rustix::io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut flags = EventFlags::empty();
        if self.reads {
            flags |= EventFlags::IN;
        }
        if !self.unsent.is_empty() {
            flags |= EventFlags::OUT;
        }
        epoll::modify(epoll, socket, EventData::new_u64(key as u64), flags)
    }

    pub(super) fn send(&mut self, line: &[u8], epoll: &OwnedFd, key: usize) -> std::io::Result<()> {
        if self.socket.is_none() {
            return Ok(());
        }
        let was_idle = self.unsent.is_empty();
        self.unsent.extend_from_slice(line);
        if was_idle {
            self.flush()?;
            if !self.unsent.is_empty() {
                self.watch(epoll, key)?;
            }
        }
        Ok(())
    }

    pub(super) fn writable(&mut self, epoll: &OwnedFd, key: usize) -> std::io::Result<()> {
        if let Some(socket) = &self.socket
            && self.phase == Phase::Connecting
            && let Some(error) = socket.take_error()?
        {
            return Err(error);
        }
        self.flush()?;
        if self.unsent.is_empty() {
            self.watch(epoll, key)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        while !self.unsent.is_empty() {
            match socket.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // Most users send seldom: thousands of empty buffers are memory, too.
        self.unsent = Vec::new();
        Ok(())
    }

    pub(super) fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.socket {
            Some(socket) => socket.read(chunk),
            None => Err(std::io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Handles what has come: `each` is told every line, `answers` takes what is to be sent.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        answers: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Heard {
        let mut heard = Heard::Nothing;
        if !self.rest.is_empty() {
            let Some(end) = memchr(b'\n', bytes) else {
                self.rest.extend_from_slice(bytes);
                return heard;
            };
            let mut line = std::mem::take(&mut self.rest);
            line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            each(&line);
            self.line(&line, answers, &mut heard);
        }
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            each(line);
            self.line(line, answers, &mut heard);
        }
        if !bytes.is_empty() {
            self.rest = bytes.to_vec();
        }
        heard
    }

    fn line(&mut self, line: &[u8], answers: &mut Vec<u8>, heard: &mut Heard) {
        match line.get(..5) {
            Some(b"BINF ") if self.phase == Phase::Identifying && self.is_own(line) => {
                self.phase = Phase::Normal
            }
            Some(b"IQUI ") if self.is_own(line) => *heard = Heard::Quit(pause(line)),
            Some(b"ISID ") => {
                self.sid = String::from_utf8_lossy(&line[5..]).trim_end().to_owned();
                self.phase = Phase::Identifying;
                answers.extend_from_slice(self.inf().as_bytes());
            }
            _ => {}
        }
    }

    fn is_own(&self, line: &[u8]) -> bool {
        line.get(5..5 + SID_BYTES) == Some(self.sid.as_bytes())
    }

    /// About 160 bytes without the PID, like the INF of a usual client.
    fn inf(&self) -> String {
        let (sid, number, identity) = (&self.sid, self.number, &self.identity);
        format!(
            "BINF {sid} ID{} PD{} NIuser{number:05} SL5 FS5 SS123456789 SF1234 HN1 HR0 HO0 VEswarm\\s1.0 SUTCP4,UDP4 \
             I40.0.0.0 U41234 US1310720\n",
            identity.cid, identity.pid
        )
    }
}

/// The seconds after which the hub wants the user back; one when it does not say.
fn pause(line: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(line);
    let value = text.split(' ').find_map(|param| param.strip_prefix("TL"));
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// The address of the user number `number`: all of 127.0.0.0/8 is this machine.
fn address(number: usize) -> Ipv4Addr {
    let part = |value: usize| u8::try_from(value % 250 + 1).unwrap_or(1);
    Ipv4Addr::new(
        127,
        part(number / 62_500).saturating_add(1),
        part(number / 250),
        part(number),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_they_are_cut() {
        let text = b"ISUP ADBASE\nISID AAAB\nBINF AAAC NIx\nBINF AAAB NIme\nIQUI AAAB TL3 MSgo\n";
        for size in 1..text.len() {
            let mut user = User::new(Identity::of("test", 0), 0);
            let (mut lines, mut answers, mut heard) = (0, Vec::new(), Heard::Nothing);
            for part in text.chunks(size) {
                if let Heard::Quit(seconds) = user.take(part, &mut answers, &mut |_| lines += 1) {
                    heard = Heard::Quit(seconds);
                }
            }
            assert_eq!(
                (lines, user.phase, heard),
                (5, Phase::Normal, Heard::Quit(3)),
                "cut at {size}"
            );
            assert!(answers.starts_with(b"BINF AAAB ID"), "{answers:?}");
        }
    }

    #[test]
    fn users_have_addresses_of_their_own() {
        let all: std::collections::BTreeSet<_> = (0..20_000).map(address).collect();
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }
}
