//! Thousands of users in one thread: connected, counted, made to talk. Lines are looked at no deeper than their first
//! letters, so that the hub is measured and not this.

mod user;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Identity;
use crate::clock::now;
pub use user::Phase;
use user::{Heard, User};

/// Bytes that are read of one user before the next one has its turn.
const CHUNK: usize = 256 << 10;

/// Users whose sockets are looked at in one go.
const EVENTS: usize = 1024;

/// The pause after which a user connects again whose hub said nothing, or refused it: shorter than any client's own
/// (15 s and more), so that the hub is measured and not the pause.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Users that are on one hub, each from an address of its own on loopback.
#[derive(Debug)]
pub struct Swarm {
    epoll: OwnedFd,
    users: Vec<User>,
    ports: Vec<u16>,
    chunk: Box<[u8]>,
    began: Instant,
    /// Users that are on their way in.
    pub in_flight: usize,
    /// Users that are in.
    pub normal: usize,
    /// Connections that ended although nobody closed them here.
    pub losses: u64,
    /// Lines that came, of all kinds.
    pub lines: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Whether users whose connection ended come back by themselves.
    pub returning: bool,
}

impl Swarm {
    /// `count` users who are nowhere yet; user `i` will connect to the port number `i` modulo the number of ports.
    pub fn new(ports: Vec<u16>, count: usize) -> anyhow::Result<Self> {
        ensure!(!ports.is_empty(), "users need a port");
        raise_limit_of_files(count)?;
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll")?,
            users: (0..count)
                .map(|number| User::new(Identity::of("swarm", number), number))
                .collect(),
            ports,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            began: now(),
            in_flight: 0,
            normal: 0,
            losses: 0,
            lines: 0,
            bytes: 0,
            returning: false,
        })
    }

    /// How many users there are, wherever they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Microseconds since the swarm was made: what messages carry.
    #[must_use]
    pub fn clock(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Where a user is.
    #[must_use]
    pub fn phase(&self, user: usize) -> Phase {
        self.users[user].phase
    }

    /// The SID of a user who is in.
    #[must_use]
    pub fn sid(&self, user: usize) -> &str {
        self.users[user].sid()
    }

    /// How many lost their connection and wait to come back.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let waits = |user: &&User| user.phase == Phase::Away && user.retry_at.is_some();
        self.users.iter().filter(waits).count()
    }

    /// Logs in all who are not in, `at_once` of them at a time; the time it took, to the last own INF.
    pub fn log_in_all(&mut self, at_once: usize, within: Duration) -> anyhow::Result<Duration> {
        let started = now();
        let mut next = 0;
        while self.normal < self.users.len() {
            while self.in_flight < at_once && next < self.users.len() {
                if self.users[next].phase == Phase::Away {
                    self.join(next)?;
                }
                next += 1;
            }
            if next == self.users.len() {
                // Who was refused is tried again.
                self.join_due(at_once)?;
            }
            self.turn(Duration::from_millis(20), &mut |_, _, _| {})?;
            ensure!(
                started.elapsed() < within,
                "{} of {} users are in after {:.0} s; {} connections were lost",
                self.normal,
                self.users.len(),
                within.as_secs_f64(),
                self.losses
            );
        }
        Ok(started.elapsed())
    }

    /// Lets a user who is away connect.
    pub fn join(&mut self, user: usize) -> anyhow::Result<()> {
        let port = self.ports[user % self.ports.len()];
        let to = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let epoll = &self.epoll;
        self.users[user].connect(to, epoll, user)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Closes a user's connection without a word.
    pub fn leave(&mut self, user: usize) {
        self.forget(user);
        self.users[user].close();
        self.users[user].retry_at = None;
    }

    /// Closes all connections at once.
    pub fn leave_all(&mut self) {
        for user in 0..self.users.len() {
            self.leave(user);
        }
    }

    /// Sends a line (with its `\n`) for a user.
    pub fn send(&mut self, user: usize, line: &[u8]) {
        if self.users[user].send(line, &self.epoll, user).is_err() {
            self.lose(user);
        }
    }

    /// Lets a user read, or not.
    pub fn set_reading(&mut self, user: usize, reads: bool) -> anyhow::Result<()> {
        self.users[user].reads = reads;
        self.users[user]
            .watch(&self.epoll, user)
            .context("changing what is watched")
    }

    /// Waits for at most `wait`, and handles what has come. `watch` is told every message, search and
    /// result, and when it was read by [`Self::clock`].
    pub fn turn(&mut self, wait: Duration, watch: &mut dyn FnMut(usize, &[u8], u64)) -> anyhow::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for sockets"),
        }
        for event in events {
            // An event's own number fits: this program gave it.
            let user = usize::try_from(event.data.u64()).unwrap_or(0);
            self.handle(user, event.flags, watch);
        }
        if self.returning {
            self.join_due(self.users.len())?;
        }
        Ok(())
    }

    fn handle(&mut self, user: usize, flags: epoll::EventFlags, watch: &mut dyn FnMut(usize, &[u8], u64)) {
        if flags.contains(epoll::EventFlags::OUT) && self.users[user].writable(&self.epoll, user).is_err() {
            return self.lose(user);
        }
        let ends = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if !flags.intersects(epoll::EventFlags::IN | ends) {
            return;
        }
        let count = match self.users[user].read(&mut self.chunk) {
            Ok(0) => return self.lose(user),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => return self.lose(user),
        };
        self.bytes += count as u64;
        let clock = self.clock();
        let was = self.users[user].phase;
        let mut answers = Vec::new();
        let heard = {
            let lines = &mut self.lines;
            self.users[user].take(&self.chunk[..count], &mut answers, &mut |line| {
                *lines += 1;
                if matches!(line.get(1..4), Some(b"MSG" | b"SCH" | b"RES")) {
                    watch(user, line, clock);
                }
            })
        };
        if was != Phase::Normal && self.users[user].phase == Phase::Normal {
            self.in_flight -= 1;
            self.normal += 1;
        }
        if !answers.is_empty() {
            self.send(user, &answers);
        }
        if let Heard::Quit(seconds) = heard {
            self.lose(user);
            self.users[user].retry_at = Some(now() + Duration::from_secs(seconds));
        }
    }

    /// Lets those come back whose time it is, as long as no more than `at_once` are on their way.
    fn join_due(&mut self, at_once: usize) -> anyhow::Result<()> {
        if self.normal + self.in_flight == self.users.len() {
            return Ok(());
        }
        let now = now();
        for user in 0..self.users.len() {
            if self.in_flight >= at_once {
                break;
            }
            let state = &self.users[user];
            if state.phase == Phase::Away && state.retry_at.is_some_and(|at| at <= now) {
                self.join(user)?;
            }
        }
        Ok(())
    }

    /// A connection that ended by itself.
    fn lose(&mut self, user: usize) {
        if self.users[user].phase == Phase::Away {
            return;
        }
        self.losses += 1;
        self.forget(user);
        self.users[user].close();
        self.users[user].retry_at = Some(now() + RETRY_AFTER);
    }

    fn forget(&mut self, user: usize) {
        match self.users[user].phase {
            Phase::Away => {}
            Phase::Normal => self.normal -= 1,
            Phase::Connecting | Phase::Identifying => self.in_flight -= 1,
        }
    }
}

/// Raises the limit of open files of this process, and of those that it starts afterwards, to what a hub with so many users
/// needs, and some more.
pub fn raise_limit_of_files(users: usize) -> anyhow::Result<()> {
    let users = users as u64;
    // Half of them may be closing an old connection while they open a new one.
    let needed = users + users / 2 + 1_000;
    let limit = getrlimit(Resource::Nofile);
    let enough = |value: Option<u64>| value.is_none_or(|value| value >= needed);
    if enough(limit.current) {
        return Ok(());
    }
    let maximum = if enough(limit.maximum) {
        limit.maximum
    } else {
        Some(needed)
    };
    let raised = Rlimit {
        current: Some(needed),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("raising the limit of open files to {needed}"))
}
