//! The load: clients in closed loop, or requests at a given rate, from one thread.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::grpc::{Api, Grpc};
use super::http::Http;
use super::latency::Latencies;
use super::wire::{Answered, Operation, Request, Wire};
use crate::clock::now;

/// How many keys are in use.
pub const KEYS: u64 = 10_000;

/// Read from one connection at a time.
const READ_BYTES: usize = 64 << 10;

/// Answers that come later than this after the last request was sent are not waited for.
const DRAIN: Duration = Duration::from_secs(10);

/// The longest sleep, so that the end of a phase is noticed.
const NAP: Duration = Duration::from_millis(20);

/// etcd's own benchmark spreads a thousand clients over a hundred connections (`--conns=100 --clients=1000`).
const GRPC_CONNECTIONS_MAX: usize = 100;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and JSON, a connection a client.
    Http,
    /// gRPC, clients sharing connections.
    Grpc(Api),
}

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The parts of the operations; a put in how many of 100.
    pub mix: Mix,
    /// The bytes of every value.
    pub value_bytes: usize,
    /// How many clients there are: the most requests under way.
    pub clients: usize,
    /// When a request is sent.
    pub pace: Pace,
    /// Not counted.
    pub warm_up: Duration,
    /// What ends it.
    pub until: Until,
}

/// Which operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// One only.
    Only(Operation),
    /// Puts and consistent gets, one as likely as the other.
    Half,
}

/// When a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When its client has the answer to the last one.
    Closed,
    /// So many a second, whatever was answered; a request for which no client is free waits, and its time counts.
    Open(u32),
}

/// What ends a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So long after the warm-up.
    Time(Duration),
    /// So many requests.
    Count(u64),
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Right answers after the warm-up: how long each took.
    pub latencies: Latencies,
    /// The time in which they came.
    pub seconds: f64,
    /// Right answers, those in the warm-up and after the end too.
    pub right: u64,
    /// Wrong answers, likewise.
    pub wrong: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// Right answers in each second since the first request.
    pub by_second: Vec<u64>,
}

impl Outcome {
    /// Right answers a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        self.latencies.total() as f64 / self.seconds
    }
}

/// Puts a load on the servers at these ports of loopback, clients evenly among them.
///
/// # Errors
/// When a server cannot be reached, ends a connection, or speaks another protocol.
pub fn run(protocol: Protocol, ports: &[u16], load: &Load) -> anyhow::Result<Outcome> {
    Generator::new(protocol, ports, load)?.run()
}

/// A request that was sent.
#[derive(Debug)]
struct UnderWay {
    ticket: u32,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    wire: Box<dyn Wire>,
    input: Vec<u8>,
    output: Vec<u8>,
    under_way: Vec<UnderWay>,
}

struct Generator<'a> {
    load: &'a Load,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// For each free client, its connection.
    free: VecDeque<usize>,
    chance: u64,
    key: String,
    value: Vec<u8>,
    /// What is read goes here first: a buffer of each connection's own would be filled with zeros before each read.
    read: Box<[u8]>,
    answered: Vec<Answered>,
    sent: u64,
    started: Instant,
    outcome: Outcome,
}

impl fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generator({} connections)", self.connections.len())
    }
}

impl<'a> Generator<'a> {
    fn new(protocol: Protocol, ports: &[u16], load: &'a Load) -> anyhow::Result<Self> {
        let count = match protocol {
            Protocol::Http => load.clients,
            Protocol::Grpc(_) => load.clients.min(GRPC_CONNECTIONS_MAX),
        };
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("making an epoll")?;
        let connect = |index: usize| -> anyhow::Result<Connection> {
            let port = ports[index % ports.len()];
            let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("connecting to port {port}"))?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
            Ok(Connection {
                socket,
                wire: match protocol {
                    Protocol::Http => Box::new(Http::default()),
                    Protocol::Grpc(api) => Box::new(Grpc::new(api)),
                },
                input: Vec::new(),
                output: Vec::new(),
                under_way: Vec::new(),
            })
        };
        let connections = (0..count).map(connect).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            load,
            epoll,
            free: (0..load.clients).map(|client| client % count).collect(),
            connections,
            chance: 0x9e37_79b9_7f4a_7c15,
            key: String::new(),
            value: (b'!'..=b'~')
                .filter(|byte| !br#"\""#.contains(byte))
                .cycle()
                .take(load.value_bytes)
                .collect(),
            read: vec![0; READ_BYTES].into(),
            answered: Vec::new(),
            sent: 0,
            started: now(),
            outcome: Outcome::default(),
        })
    }

    fn run(mut self) -> anyhow::Result<Outcome> {
        self.started = now();
        loop {
            let is_over = self.is_over();
            if !is_over {
                self.send()?;
            }
            if is_over && self.free.len() == self.load.clients {
                break;
            }
            if is_over && self.idle_for() > DRAIN {
                self.outcome.lost = (self.load.clients - self.free.len()) as u64;
                break;
            }
            self.wait_and_hear()?;
        }
        if let Until::Time(time) = self.load.until {
            self.outcome.seconds = time.as_secs_f64();
        } else {
            let counted = self.started.elapsed().saturating_sub(self.load.warm_up);
            self.outcome.seconds = counted.as_secs_f64();
        }
        Ok(self.outcome)
    }

    fn is_over(&self) -> bool {
        match self.load.until {
            Until::Time(time) => self.started.elapsed() >= self.load.warm_up + time,
            Until::Count(count) => self.sent >= count,
        }
    }

    /// Since the youngest request was sent.
    fn idle_for(&self) -> Duration {
        let all = self
            .connections
            .iter()
            .flat_map(|connection| &connection.under_way);
        all.map(|one| one.since.elapsed()).min().unwrap_or_default()
    }

    /// Sends what is due.
    fn send(&mut self) -> anyhow::Result<()> {
        let left = match self.load.until {
            Until::Count(count) => count - self.sent,
            Until::Time(_) => u64::MAX,
        };
        match self.load.pace {
            Pace::Closed => {
                for _ in 0..left.min(self.free.len() as u64) {
                    self.send_one(now())?;
                }
            }
            Pace::Open(rate) => {
                while !self.free.is_empty() {
                    let due = self.started + Duration::from_secs_f64(self.due_after(rate));
                    if due > now() {
                        break;
                    }
                    self.send_one(due)?;
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    fn due_after(&self, rate: u32) -> f64 {
        self.sent as f64 / f64::from(rate)
    }

    fn send_one(&mut self, since: Instant) -> anyhow::Result<()> {
        let index = self.free.pop_front().expect("the caller saw a free client");
        self.sent += 1;
        let drawn = self.draw();
        // What fills a store leaves no key out.
        let key = match self.load.until {
            Until::Count(_) => self.sent,
            Until::Time(_) => drawn,
        };
        write_key(&mut self.key, key % KEYS);
        let operation = match self.load.mix {
            Mix::Only(operation) => operation,
            Mix::Half if drawn & (1 << 40) == 0 => Operation::Put,
            Mix::Half => Operation::Get,
        };
        // Every value is another one.
        let number = format!("{:016x}", self.sent);
        self.value[..16].copy_from_slice(number.as_bytes());
        let connection = &mut self.connections[index];
        let request = Request {
            operation,
            key: &self.key,
            value: &self.value,
        };
        let was_empty = connection.output.is_empty();
        let ticket = connection.wire.ask(request, &mut connection.output);
        connection.under_way.push(UnderWay { ticket, since });
        if was_empty {
            self.flush(index)?;
        }
        Ok(())
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn flush(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let mut written = 0;
        while written < connection.output.len() {
            match connection.socket.write(&connection.output[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("writing to a server"),
            }
        }
        let was_blocked = written < connection.output.len();
        connection.output.drain(..written);
        let flags = if was_blocked {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        if was_blocked {
            epoll::modify(
                &self.epoll,
                &connection.socket,
                EventData::new_u64(index as u64),
                flags,
            )?;
        }
        Ok(())
    }

    fn wait_and_hear(&mut self) -> anyhow::Result<()> {
        let nap = match self.load.pace {
            Pace::Open(rate) if !self.free.is_empty() && !self.is_over() => {
                let due = self.started + Duration::from_secs_f64(self.due_after(rate));
                due.saturating_duration_since(now()).min(NAP)
            }
            _ => NAP,
        };
        let timeout = Timespec::try_from(nap).context("a short time")?;
        let mut events: Vec<Event> = Vec::with_capacity(256);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for answers"),
        }
        for event in events {
            let (index, flags) = (event.data.u64(), event.flags);
            let index = usize::try_from(index)?;
            if flags.contains(EventFlags::OUT) {
                let socket = &self.connections[index].socket;
                epoll::modify(
                    &self.epoll,
                    socket,
                    EventData::new_u64(index as u64),
                    EventFlags::IN,
                )?;
                self.flush(index)?;
            }
            self.hear(index)?;
        }
        Ok(())
    }

    fn hear(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let read = match connection.socket.read(&mut self.read) {
            Ok(0) => bail!("a server closed a connection"),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error).context("reading from a server"),
        };
        connection.input.extend_from_slice(&self.read[..read]);
        let taken = connection
            .wire
            .hear(&connection.input, &mut connection.output, &mut self.answered)?;
        connection.input.drain(..taken);
        let mut answered = std::mem::take(&mut self.answered);
        for answer in answered.drain(..) {
            self.count(index, answer)?;
        }
        self.answered = answered;
        if !self.connections[index].output.is_empty() {
            self.flush(index)?;
        }
        Ok(())
    }

    fn count(&mut self, index: usize, Answered { ticket, is_right }: Answered) -> anyhow::Result<()> {
        let under_way = &mut self.connections[index].under_way;
        let place = under_way.iter().position(|one| one.ticket == ticket);
        ensure!(place.is_some(), "an answer to nothing");
        let since = under_way.swap_remove(place.unwrap_or_default()).since;
        self.free.push_back(index);
        if !is_right {
            self.outcome.wrong += 1;
            return Ok(());
        }
        self.outcome.right += 1;
        let at = self.started.elapsed();
        let second = usize::try_from(at.as_secs())?;
        if self.outcome.by_second.len() <= second {
            self.outcome.by_second.resize(second + 1, 0);
        }
        self.outcome.by_second[second] += 1;
        let is_late = matches!(self.load.until, Until::Time(time) if at >= self.load.warm_up + time);
        // At a given rate a late answer is the one that matters: it counts where it was due.
        let counts = match self.load.pace {
            Pace::Closed => !is_late,
            Pace::Open(_) => true,
        };
        if counts && at >= self.load.warm_up {
            self.outcome.latencies.add(since.elapsed());
        }
        Ok(())
    }
}

fn write_key(key: &mut String, number: u64) {
    use std::fmt::Write as _;
    key.clear();
    write!(key, "bench/{number:08}").expect("a string takes everything");
}
