//! The sockets of a thread: one epoll for all of them, so that an idle connection costs nothing but its socket, and a
//! message one call to read it.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::state::LinkId;

/// Bytes that are read at once, before other connections have their turn.
const READ_BYTES: usize = 16 << 10;
/// Sockets whose news are asked for at once.
const EVENTS_MAX: usize = 1024;
/// Pieces in one write.
const PIECES_MAX: usize = 64;

/// What is new about a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    pub(super) link: LinkId,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// The other end is closed, or broken: there is an end to be read.
    pub(super) ends: bool,
}

/// The sockets of a thread, edge-triggered: news come once.
pub(super) struct Sockets {
    epoll: AsyncFd<OwnedFd>,
    buffer: Box<[u8]>,
}

impl Sockets {
    /// None yet. Only in a runtime.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; this descriptor is never exchanged for another one"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll: AsyncFd::with_interest(epoll, Interest::READABLE)?,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        })
    }

    /// Watches a socket until it is closed.
    pub(super) fn add(&self, link: LinkId, stream: &TcpStream) -> io::Result<()> {
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, stream, epoll::EventData::new_u64(link), flags)?;
        Ok(())
    }

    /// Waits until there may be news.
    pub(super) async fn wait(&self) {
        if let Ok(mut ready) = self.epoll.readable().await {
            // What comes from now on is told again.
            ready.clear_ready();
        }
    }

    /// The news, without waiting; whether there may be more.
    pub(super) fn news(&self) -> (Vec<News>, bool) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Fails when a signal comes: nothing is lost.
        let is_asked = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)).is_ok();
        let has_more = !is_asked || events.len() == EVENTS_MAX;
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let news = |event: &epoll::Event| {
            // Copied out of a packed structure.
            let (flags, data) = (event.flags, event.data);
            News {
                link: data.u64(),
                is_readable: flags.intersects(epoll::EventFlags::IN | end),
                is_writable: flags.intersects(epoll::EventFlags::OUT | end),
                ends: flags.intersects(end),
            }
        };
        (events.iter().map(news).collect(), has_more)
    }

    /// Reads what is there; whether that was less than may be read at once.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; others when the connection is gone.
    pub(super) fn read(&mut self, mut stream: &TcpStream) -> io::Result<(&[u8], bool)> {
        let length = stream.read(&mut self.buffer)?;
        Ok((&self.buffer[..length], length < READ_BYTES))
    }
}

/// Writes as many pieces of a queue as go in one call; how many bytes were taken.
///
/// # Errors
/// `WouldBlock` when nothing is taken; others when the connection is gone.
pub(super) fn write<'a>(
    mut stream: &TcpStream,
    waiting: impl Iterator<Item = &'a Bytes>,
) -> io::Result<usize> {
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    let mut used = 0;
    for (piece, bytes) in pieces.iter_mut().zip(waiting) {
        *piece = IoSlice::new(bytes);
        used += 1;
    }
    loop {
        let written = match &pieces[..used] {
            [piece] => stream.write(piece),
            pieces => stream.write_vectored(pieces),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}
