//! A UDP link on loopback between TFTP clients and a server: it watches every packet, can tell when a block passes,
//! and can lose, repeat, delay and reorder packets, the same way for the same seed.
//!
//! The client sees a server that answers from one port. Each client gets a socket of its own towards the server, so
//! the server sees as many clients as there are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::now;
use crate::gaps::Conversation;
use crate::wire::{Packet, decode};

/// What the link does to packets, in both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// The part of packets that is lost, 0 to 1.
    pub loss: f64,
    /// The part of packets that arrives twice.
    pub duplicate: f64,
    /// The part of packets that is overtaken by later ones.
    pub reorder: f64,
    /// How long every packet travels.
    pub delay: Duration,
    /// What chance is drawn from.
    pub seed: u64,
}

/// How much later than its time a reordered packet arrives.
const REORDER_DELAY: Duration = Duration::from_millis(3);

/// The longest the link sleeps before it looks whether it should stop.
const WAKE_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A running link. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    watched: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Watched {
    conversations: BTreeMap<SocketAddr, Conversation>,
    triggers: Vec<(u64, Sender<Instant>)>,
}

impl Proxy {
    /// Starts a link to the server on `server_port` of loopback.
    pub fn start(server_port: u16, link: Link) -> anyhow::Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding the proxy's port")?;
        front
            .set_nonblocking(true)
            .context("making the proxy's socket non-blocking")?;
        let port = front.local_addr().context("reading the proxy's port")?.port();
        let watched = Arc::new(Mutex::new(Watched::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut relay = Relay {
            front,
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, server_port)),
            link,
            rng: StdRng::seed_from_u64(link.seed),
            peers: Vec::new(),
            waiting: BinaryHeap::new(),
            sequence: 0,
            watched: Arc::clone(&watched),
        };
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("udp-proxy".to_owned())
            .spawn(move || {
                while !stopping.load(Ordering::Relaxed) {
                    relay.turn();
                }
            })
            .context("starting the proxy's thread")?;
        Ok(Self {
            port,
            watched,
            stop,
            thread: Some(thread),
        })
    }

    /// The port that clients talk to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Tells once when a client has been sent block `block` (0: when its request passes).
    #[must_use]
    pub fn at_block(&self, block: u64) -> Receiver<Instant> {
        let (sender, receiver) = channel();
        lock(&self.watched).triggers.push((block, sender));
        receiver
    }

    /// What passed so far, a conversation for each client.
    #[must_use]
    pub fn conversations(&self) -> Vec<Conversation> {
        lock(&self.watched).conversations.values().cloned().collect()
    }

    /// The only conversation; an error when there were none or several.
    pub fn conversation(&self) -> anyhow::Result<Conversation> {
        let mut all = self.conversations();
        anyhow::ensure!(
            all.len() == 1,
            "{} conversations instead of one passed the proxy",
            all.len()
        );
        all.pop().context("no conversation passed the proxy")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the relay has already been printed; the test fails by itself when packets are missing.
            thread.join().ok();
        }
    }
}

/// A client and the socket that stands for it towards the server.
struct Peer {
    client: SocketAddr,
    back: UdpSocket,
    /// Where the server answers from, once it did (RFC 1350 section 4: it chooses its own TID).
    tid: Option<SocketAddr>,
}

/// A packet that is still travelling.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    due: Instant,
    sequence: u64,
    peer: usize,
    to_client: bool,
    datagram: Vec<u8>,
}

/// The link's own thread.
struct Relay {
    front: UdpSocket,
    server: SocketAddr,
    link: Link,
    rng: StdRng,
    peers: Vec<Peer>,
    waiting: BinaryHeap<Reverse<Travelling>>,
    sequence: u64,
    watched: Arc<Mutex<Watched>>,
}

impl Relay {
    /// Waits for something to do and does it.
    fn turn(&mut self) {
        self.wait();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok((len, client)) = self.front.recv_from(&mut buffer) {
            self.take_from_client(client, &buffer[..len]);
        }
        for index in 0..self.peers.len() {
            while let Ok((len, from)) = self.peers[index].back.recv_from(&mut buffer) {
                self.peers[index].tid = Some(from);
                self.travel(index, true, &buffer[..len]);
            }
        }
        self.deliver_due();
    }

    fn wait(&self) {
        let timeout = match self.waiting.peek() {
            Some(Reverse(next)) => {
                let left = next
                    .due
                    .saturating_duration_since(now())
                    .min(Duration::from_millis(50));
                Timespec {
                    tv_sec: 0,
                    tv_nsec: i64::from(left.subsec_nanos()),
                }
            }
            None => WAKE_UP,
        };
        let mut sockets: Vec<PollFd<'_>> = std::iter::once(&self.front)
            .chain(self.peers.iter().map(|peer| &peer.back))
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        // An interrupted wait is a short wait.
        poll(&mut sockets, Some(&timeout)).ok();
    }

    fn take_from_client(&mut self, client: SocketAddr, datagram: &[u8]) {
        let index = match self.peers.iter().position(|peer| peer.client == client) {
            Some(index) => index,
            None => match open_back() {
                Ok(back) => {
                    self.peers.push(Peer {
                        client,
                        back,
                        tid: None,
                    });
                    self.peers.len() - 1
                }
                // Out of sockets: the packet is lost, as on a real link.
                Err(_) => return,
            },
        };
        let is_request = matches!(decode(datagram), Ok(Packet::Request { .. }));
        if is_request {
            self.peers[index].tid = None;
        }
        let reached = {
            let mut watched = lock(&self.watched);
            let seen = watched
                .conversations
                .entry(client)
                .or_insert_with(|| Conversation::new(now()));
            seen.from_client(now(), datagram);
            seen.blocks
        };
        self.travel(index, false, datagram);
        if is_request {
            fire(&self.watched, reached);
        }
    }

    /// Lets chance decide what becomes of a packet.
    fn travel(&mut self, peer: usize, to_client: bool, datagram: &[u8]) {
        if self.rng.random_bool(self.link.loss) {
            return;
        }
        let copies = if self.rng.random_bool(self.link.duplicate) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let late = if self.rng.random_bool(self.link.reorder) {
                REORDER_DELAY
            } else {
                Duration::ZERO
            };
            let delay = self.link.delay + late;
            if delay.is_zero() {
                self.deliver(peer, to_client, datagram);
                continue;
            }
            self.sequence += 1;
            self.waiting.push(Reverse(Travelling {
                due: now() + delay,
                sequence: self.sequence,
                peer,
                to_client,
                datagram: datagram.to_vec(),
            }));
        }
    }

    fn deliver_due(&mut self) {
        while self.waiting.peek().is_some_and(|Reverse(next)| next.due <= now()) {
            if let Some(Reverse(next)) = self.waiting.pop() {
                self.deliver(next.peer, next.to_client, &next.datagram);
            }
        }
    }

    fn deliver(&mut self, peer: usize, to_client: bool, datagram: &[u8]) {
        let Peer { client, back, tid } = &self.peers[peer];
        if !to_client {
            // A refusal or a full buffer is a lost packet: a link knows no errors.
            back.send_to(datagram, tid.unwrap_or(self.server)).ok();
            return;
        }
        self.front.send_to(datagram, client).ok();
        let Ok(packet) = decode(datagram) else { return };
        let reached = {
            let mut watched = lock(&self.watched);
            let Some(seen) = watched.conversations.get_mut(client) else {
                return;
            };
            seen.from_server(now(), &packet);
            seen.blocks
        };
        fire(&self.watched, reached);
    }
}

fn open_back() -> io::Result<UdpSocket> {
    // Not connected: a server may answer from another port.
    let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    back.set_nonblocking(true)?;
    Ok(back)
}

/// Tells whoever waits for a block up to `reached`.
fn fire(watched: &Mutex<Watched>, reached: u64) {
    lock(watched).triggers.retain(|(block, sender)| {
        let wait_on = *block > reached;
        if !wait_on {
            // Whoever waited may have gone.
            sender.send(now()).ok();
        }
        wait_on
    });
}

/// A poisoned lock only means that another thread's test has failed already.
fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}
