//! Listening TCP sockets, and who may connect.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

use super::Counters;
use crate::state::LinkId;

/// Connections that wait to be accepted; Linux grants at most `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;
/// How long a listener that has no file descriptors left waits.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// TCP's own keep-alive: when a peer is probed that is silent, how often, how many times. Clients that vanished are
/// noticed after four minutes at the latest.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(120), Duration::from_secs(30), 4);
/// What one connection too many is told.
const TOO_MANY: &[u8] =
    b"ISTA 230 Too\\smany\\sconnections\\sfrom\\syour\\saddress\nIQUI AAAA MSToo\\smany\\sconnections TL60\n";

/// A listening TCP socket. Others may accept from the same one.
pub(super) struct Listener(TcpListener);

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of an earlier life that are not forgotten yet must not keep the port.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::from_std(socket.into())
    }

    pub(super) fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket).map(Self)
    }
}

/// A connection that may stay.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) link: LinkId,
    pub(super) stream: std::net::TcpStream,
    /// Where it comes from; IPv4 addresses that came in IPv6 are IPv4.
    pub(super) address: IpAddr,
    /// Held as long as the connection is there.
    pub(super) place: Place,
}

/// Counts connections and gives them numbers.
#[derive(Debug)]
pub(super) struct Doorman {
    connections_max: u32,
    per_address_max: u32,
    next: AtomicU64,
    counters: Arc<Counters>,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    all: u32,
    by_address: BTreeMap<IpAddr, u32>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    counters: Arc<Counters>,
    inside: Arc<Mutex<Inside>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.all -= 1;
        self.counters.set_connections(inside.all);
        if let Some(count) = inside.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

impl Doorman {
    /// Lets so many in; any number of one address with 0.
    pub(super) fn new(connections_max: u32, per_address_max: u32, counters: Arc<Counters>) -> Self {
        Self {
            connections_max,
            per_address_max,
            next: AtomicU64::new(0),
            counters,
            inside: Arc::default(),
        }
    }

    fn place(&self, address: IpAddr) -> Option<Place> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = inside.by_address.get(&address).copied().unwrap_or(0);
        let is_full = inside.all >= self.connections_max
            || (self.per_address_max > 0 && of_address >= self.per_address_max);
        if is_full {
            return None;
        }
        inside.all += 1;
        self.counters.set_connections(inside.all);
        inside.by_address.insert(address, of_address + 1);
        Some(Place {
            address,
            counters: self.counters.clone(),
            inside: self.inside.clone(),
        })
    }

    /// The next connection that may stay. Does not end.
    pub(super) async fn accept(&self, listener: &Listener) -> Accepted {
        loop {
            match listener.0.accept().await {
                Ok((stream, address)) => {
                    if let Some(accepted) = self.greet(stream, address) {
                        return accepted;
                    }
                }
                // Some errors are one client's, such as a reset before it was accepted; others are ours.
                Err(error) => {
                    debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn greet(&self, stream: TcpStream, address: SocketAddr) -> Option<Accepted> {
        let address = address.ip().to_canonical();
        let mut stream = stream.into_std().ok()?;
        let Some(place) = self.place(address) else {
            // Fits into the empty buffer of a new connection.
            stream.write_all(TOO_MANY).ok();
            self.counters.turned_away();
            return None;
        };
        let socket = socket2::SockRef::from(&stream);
        let (after, every, times) = KEEP_ALIVE;
        let keep_alive = TcpKeepalive::new()
            .with_time(after)
            .with_interval(every)
            .with_retries(times);
        socket.set_tcp_keepalive(&keep_alive).ok()?;
        socket.set_tcp_nodelay(true).ok()?;
        Some(Accepted {
            link: self.next.fetch_add(1, Ordering::Relaxed),
            stream,
            address,
            place,
        })
    }
}
