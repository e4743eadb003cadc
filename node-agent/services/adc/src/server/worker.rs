//! A thread that serves connections: it owns their sockets and sessions, and knows nothing of the other members.
//!
//! Whatever waits is taken in first, and then every user that something is for gets one write.

mod connection;
mod socket;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use super::Counters;
use super::events::{Admitted, ToHub, ToWorker};
use super::listener::Accepted;
use crate::message::{Cid, Line, Sid};
use crate::session::{Input, Settings};
use crate::state::{BanTarget, Departure, LinkId};
use connection::Connection;
pub(super) use connection::Rules;
use socket::Heard;

/// Batches from the hub that wait.
pub(super) const FROM_HUB_MAX: usize = 64;
/// Batches for the hub that wait, of all threads.
pub(super) const TO_HUB_MAX: usize = 64;
/// What was read from sockets and waits: one read of each connection at most, in any case.
const HEARD_MAX: usize = 1024;
/// Events that are taken in before something is written.
const TAKEN_IN_MAX: usize = 512;
/// Requests to the hub beyond which nothing more is read from clients.
const BACKLOG_MAX: usize = 16_384;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(500);

/// What all connections of a member have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Arc<Settings>,
    pub(super) rules: Rules,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// Networks of load balancers.
    pub(super) proxies: Vec<BanTarget>,
    pub(super) counters: Arc<Counters>,
}

impl Common {
    /// Whether a load balancer connects from there.
    fn is_proxy(&self, address: IpAddr) -> bool {
        let nobody = Cid([0; 24]);
        self.proxies
            .iter()
            .any(|network| network.hits("", &nobody, address))
    }
}

/// The end of a thread that the hub holds.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub(super) orders: mpsc::Sender<Vec<ToWorker>>,
    /// What the hub has for it and has not sent.
    pub(super) outbox: Vec<ToWorker>,
}

impl WorkerHandle {
    /// Starts a thread.
    pub(super) fn start(
        number: usize,
        common: Arc<Common>,
        to_hub: mpsc::Sender<Vec<ToHub>>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (orders, from_hub) = mpsc::channel(FROM_HUB_MAX);
        std::thread::Builder::new()
            .name(format!("front-{number}"))
            .spawn(move || runtime.block_on(Worker::new(common, to_hub).run(from_hub)))?;
        Ok(Self {
            orders,
            outbox: Vec::new(),
        })
    }
}

struct Worker {
    common: Arc<Common>,
    connections: BTreeMap<LinkId, Box<Connection>>,
    /// Those for which something waits.
    dirty: Vec<LinkId>,
    /// What the hub has not been told yet.
    backlog: Vec<ToHub>,
    to_hub: mpsc::Sender<Vec<ToHub>>,
    hear: mpsc::Sender<(LinkId, Heard)>,
    heard: Option<mpsc::Receiver<(LinkId, Heard)>>,
    /// Connections whose next read is granted once the backlog is gone.
    held: Vec<LinkId>,
    tasks: TaskTracker,
}

impl Worker {
    fn new(common: Arc<Common>, to_hub: mpsc::Sender<Vec<ToHub>>) -> Self {
        let (hear, heard) = mpsc::channel(HEARD_MAX);
        Self {
            common,
            connections: BTreeMap::new(),
            dirty: Vec::new(),
            backlog: Vec::new(),
            to_hub,
            hear,
            heard: Some(heard),
            held: Vec::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Ends when the hub has ended.
    async fn run(mut self, mut from_hub: mpsc::Receiver<Vec<ToWorker>>) {
        let Some(mut heard) = self.heard.take() else {
            return;
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let to_hub = self.to_hub.clone();
        loop {
            tokio::select! {
                orders = from_hub.recv() => match orders {
                    Some(orders) => self.obey(orders),
                    None => return,
                },
                Some((link, what)) = heard.recv() => self.hear(link, what),
                permit = to_hub.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(std::mem::take(&mut self.backlog));
                        self.grant_held();
                    }
                    Err(_) => return,
                },
                _ = tick.tick() => self.tick(),
            }
            for _ in 0..TAKEN_IN_MAX {
                let mut idle = true;
                if let Ok(orders) = from_hub.try_recv() {
                    self.obey(orders);
                    idle = false;
                }
                if let Ok((link, what)) = heard.try_recv() {
                    self.hear(link, what);
                    idle = false;
                }
                if idle {
                    break;
                }
            }
            self.flush();
        }
    }

    fn obey(&mut self, orders: Vec<ToWorker>) {
        for order in orders {
            match order {
                ToWorker::Accept(accepted) => self.accept(accepted),
                ToWorker::Sid { link, sid, census } => self.input(
                    link,
                    census.map_or(Input::Sid(sid), |census| Input::SidForPinger(sid, census)),
                ),
                ToWorker::Account { link, account } => self.input(link, Input::Account(account)),
                ToWorker::Refused { link, refusal } => self.input(link, Input::Refused(refusal)),
                ToWorker::Admitted(admitted) => self.admit(*admitted),
                ToWorker::All { lines, count } => self.all(&lines, count),
                ToWorker::Selected { features, line } => self.selected(&features, &line),
                ToWorker::One { link, lines } => self.one(link, lines),
                ToWorker::Features { link, features } => {
                    if let Some(connection) = self.connections.get_mut(&link) {
                        connection.set_features(&features);
                    }
                }
                ToWorker::Close { link, lines } => {
                    if let Some(connection) = self.connections.get_mut(&link) {
                        connection.hub_sends(lines);
                        connection.close();
                        self.dirty.push(link);
                    }
                }
                ToWorker::Drain { spread_s } => self.drain(spread_s),
            }
        }
    }

    fn accept(&mut self, accepted: Accepted) {
        let link = accepted.link;
        // Fails when the process has no file descriptor left for it, or the client has gone already.
        if let Ok(connection) = Connection::open(accepted, &self.common, &self.tasks, &self.hear) {
            self.connections.insert(link, Box::new(connection));
        }
    }

    fn hear(&mut self, link: LinkId, what: Heard) {
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        match what {
            Heard::Bytes(bytes) => {
                if let Err(error) = connection.take_in(&bytes) {
                    let reason = error.to_string();
                    let departure = Departure::Dropped { reason };
                    self.backlog.push(ToHub::Ended { link, departure });
                    connection.close();
                    self.dirty.push(link);
                    return;
                }
                self.proceed(link);
            }
            Heard::Writable => {
                connection.unblock();
                self.dirty.push(link);
            }
            Heard::End => self.gone(link),
        }
    }

    /// The other end is gone.
    fn gone(&mut self, link: LinkId) {
        if let Some(connection) = self.connections.remove(&link)
            && !connection.is_closing()
        {
            let departure = Departure::Left;
            self.backlog.push(ToHub::Ended { link, departure });
        }
    }

    fn input(&mut self, link: LinkId, input: Input<'_>) {
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.handle(input, &mut self.backlog);
            self.proceed(link);
        }
    }

    /// Goes on with the lines of a connection, as far as its session takes them.
    fn proceed(&mut self, link: LinkId) {
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        let is_done = connection.take_lines(&mut self.backlog);
        self.dirty.push(link);
        if !is_done {
            return;
        }
        if self.backlog.len() < BACKLOG_MAX {
            connection.read_on();
        } else {
            self.held.push(link);
        }
    }

    fn grant_held(&mut self) {
        for link in std::mem::take(&mut self.held) {
            if let Some(connection) = self.connections.get(&link) {
                connection.read_on();
            }
        }
    }

    fn admit(&mut self, admitted: Admitted) {
        let link = admitted.link;
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        connection.admit(admitted, &mut self.backlog);
        self.proceed(link);
    }

    fn all(&mut self, lines: &Bytes, count: u32) {
        let mut users = 0;
        for (link, connection) in &mut self.connections {
            if connection.is_user() {
                connection.hub_sends(lines.clone());
                self.dirty.push(*link);
                users += 1;
            }
        }
        self.common.counters.delivered(users * u64::from(count));
    }

    fn selected(&mut self, features: &str, line: &Bytes) {
        let mut users = 0;
        for (link, connection) in &mut self.connections {
            if connection.is_user() && connection.is_selected(features) {
                connection.hub_sends(line.clone());
                self.dirty.push(*link);
                users += 1;
            }
        }
        self.common.counters.delivered(users);
    }

    fn one(&mut self, link: LinkId, lines: Bytes) {
        if let Some(connection) = self.connections.get_mut(&link)
            && connection.is_user()
        {
            connection.hub_sends(lines);
            self.dirty.push(link);
            self.common.counters.delivered(1);
        }
    }

    fn drain(&mut self, spread_s: u64) {
        for (link, connection) in &mut self.connections {
            if !connection.is_closing() {
                let sid = connection.sid().unwrap_or(Sid::NOBODY);
                let quit = Line::new(&format!("IQUI {sid}"))
                    .named("MS", "The hub moves: you are connected again in a moment")
                    .named("TL", 1 + link % (spread_s + 1));
                connection.sends(quit.end().into());
                connection.close();
                self.dirty.push(*link);
            }
        }
    }

    /// Writes what waits.
    fn flush(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        let limit = self.common.rules.queue_bytes_max;
        let limit = limit.max(self.common.counters.users() * QUEUE_BYTES_PER_USER);
        for link in dirty {
            let Some(connection) = self.connections.get_mut(&link) else {
                continue;
            };
            let is_open = connection.write(link, &self.tasks, &self.hear);
            if !is_open {
                self.gone(link);
            } else if connection.is_too_slow(limit) {
                self.common.counters.slow_reader();
                connection.give_up(&mut self.backlog);
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (link, connection) in &mut self.connections {
            if connection.is_over(now) {
                over.push(*link);
            } else if connection.tick(now, &mut self.backlog) {
                self.dirty.push(*link);
            }
        }
        for link in over {
            self.gone(link);
        }
    }
}

/// What may wait for a user, for each user of the hub: a newcomer's list is some 200 bytes for each.
const QUEUE_BYTES_PER_USER: usize = 4096;
