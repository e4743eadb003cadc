//! A thread that serves connections: it owns their sockets and sessions, and knows nothing of the other members.
//!
//! Whatever waits is taken in first, and then every user that something is for gets one write. What is for everybody may
//! wait for more of its kind, a fraction of the time that writing to everybody takes: see [`Round`].

mod connection;
mod pending;
mod socket;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Counters;
use super::events::{Admitted, ToHub, ToWorker};
use super::listener::Accepted;
use crate::message::{Line, Sid};
use crate::session::{Input, Settings};
use crate::state::{BanTarget, Departure, LinkId};
pub(super) use connection::Rules;
use connection::{Connection, ReadError};
use pending::Pending;
use socket::Sockets;

/// Batches from the hub that wait.
pub(super) const FROM_HUB_MAX: usize = 64;
/// Batches for the hub that wait, of all threads.
pub(super) const TO_HUB_MAX: usize = 64;
/// Requests to the hub beyond which nothing more is read from clients.
const BACKLOG_MAX: usize = 16_384;
/// After lines for everybody were written, further ones wait for this part of the time that it took, or for that long.
const REST_DIVISOR: u32 = 2;
const REST_MAX: Duration = Duration::from_millis(10);
/// A round that took less is followed by the next one at once.
const ROUND_MIN: Duration = Duration::from_millis(1);
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
        self.proxies.iter().any(|network| network.holds(address))
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
        let sockets = {
            let _inside = runtime.enter();
            Sockets::new()?
        };
        let (orders, from_hub) = mpsc::channel(FROM_HUB_MAX);
        std::thread::Builder::new()
            .name(format!("front-{number}"))
            .spawn(move || runtime.block_on(Worker::new(common, to_hub, sockets).run(from_hub)))?;
        Ok(Self {
            orders,
            outbox: Vec::new(),
        })
    }
}

/// Lines for everybody on their way out.
///
/// A write costs about the same for one line as for twenty, and a line for everybody is thousands of writes. So that lines
/// which come a moment later go along, the next round rests for half of the last one's time: a small hub never rests. What
/// comes meanwhile is [`Pending`].
#[derive(Default)]
struct Round {
    links: Vec<LinkId>,
    /// When it may begin.
    due: Option<Instant>,
}

impl Round {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    /// It took from then until now.
    fn took(&mut self, since: Instant) {
        let (now, took) = (Instant::now(), since.elapsed());
        self.due = (took >= ROUND_MIN).then(|| now + (took / REST_DIVISOR).min(REST_MAX));
    }
}

struct Worker {
    common: Arc<Common>,
    connections: BTreeMap<LinkId, Box<Connection>>,
    /// Those for which something waits.
    dirty: Vec<LinkId>,
    /// Those for which lines for everybody wait.
    round: Round,
    /// Further lines for everybody.
    pending: Pending,
    /// What the hub has not been told yet.
    backlog: Vec<ToHub>,
    to_hub: mpsc::Sender<Vec<ToHub>>,
    sockets: Sockets,
    /// There may be news of further sockets.
    has_news: bool,
    /// Connections that can be read from.
    unread: Vec<LinkId>,
    /// Connections that may be read from once the backlog is gone.
    held: Vec<LinkId>,
}

impl Worker {
    fn new(common: Arc<Common>, to_hub: mpsc::Sender<Vec<ToHub>>, sockets: Sockets) -> Self {
        Self {
            common,
            connections: BTreeMap::new(),
            dirty: Vec::new(),
            round: Round::default(),
            pending: Pending::default(),
            backlog: Vec::new(),
            to_hub,
            sockets,
            has_news: false,
            unread: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Ends when the hub has ended.
    async fn run(mut self, mut from_hub: mpsc::Receiver<Vec<ToWorker>>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let to_hub = self.to_hub.clone();
        loop {
            tokio::select! {
                orders = from_hub.recv() => match orders {
                    Some(orders) => self.obey(orders),
                    None => return,
                },
                () = self.sockets.wait() => {}
                // Others are not waited for when something is to be read, but may come first.
                () = tokio::task::yield_now(), if self.has_news || !self.unread.is_empty() => {}
                permit = to_hub.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(std::mem::take(&mut self.backlog));
                        self.grant_held();
                    }
                    Err(_) => return,
                },
                _ = tick.tick() => self.tick(),
                () = rest(self.round.due), if self.has_round() => {}
            }
            while let Ok(orders) = from_hub.try_recv() {
                self.obey(orders);
            }
            self.hear();
            self.read();
            self.flush();
        }
    }

    fn obey(&mut self, orders: Vec<ToWorker>) {
        for order in orders {
            // What is said to all before something else is said before it.
            if !matches!(order, ToWorker::All { .. }) {
                self.hand_out();
            }
            match order {
                ToWorker::Accept(accepted) => self.accept(accepted),
                ToWorker::Sid { link, sid, census } => self.input(
                    link,
                    census.map_or(Input::Sid(sid), |census| Input::SidForPinger(sid, census)),
                ),
                ToWorker::Account { link, account } => self.input(link, Input::Account(account)),
                ToWorker::Proved { link, result } => self.input(link, Input::Proved(result)),
                ToWorker::Hybrid { link } => self.input(link, Input::Hybrid),
                ToWorker::Refused { link, refusal } => self.input(link, Input::Refused(refusal)),
                ToWorker::Admitted(admitted) => self.admit(*admitted),
                ToWorker::All { lines, count } => {
                    if self.pending.add(lines, count) {
                        self.hand_out();
                    }
                }
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
                        connection.mark(&mut self.dirty);
                    }
                }
                ToWorker::Drain { spread_s } => self.drain(spread_s),
            }
        }
    }

    fn accept(&mut self, accepted: Accepted) {
        let link = accepted.link;
        // Fails when the process has no file descriptor left for it, or the client has gone already.
        if let Ok(connection) = Connection::open(accepted, &self.common, &self.sockets) {
            self.connections.insert(link, Box::new(connection));
        }
    }

    /// Takes note of what is new about the sockets.
    fn hear(&mut self) {
        let (news, has_more) = self.sockets.news();
        self.has_news = has_more;
        for news in news {
            let Some(connection) = self.connections.get_mut(&news.link) else {
                continue;
            };
            if connection.hear(news) {
                connection.mark(&mut self.dirty);
            }
            if connection.wants_to_read() {
                self.unread.push(news.link);
            }
        }
    }

    /// Reads once from each connection that can be read from.
    fn read(&mut self) {
        for link in std::mem::take(&mut self.unread) {
            let Some(connection) = self.connections.get_mut(&link) else {
                continue;
            };
            // It may be there twice, or may not be read from any more.
            if !connection.wants_to_read() {
                continue;
            }
            match connection.read(&mut self.sockets) {
                Ok(true) => self.proceed(link),
                Ok(false) => {}
                Err(ReadError::End) => self.gone(link),
                Err(ReadError::Refused(error)) => {
                    let reason = error.to_string();
                    let departure = Departure::Dropped { reason };
                    self.backlog.push(ToHub::Ended { link, departure });
                    connection.close();
                    connection.mark(&mut self.dirty);
                }
            }
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
        connection.mark(&mut self.dirty);
        let has_room = self.backlog.len() < BACKLOG_MAX;
        connection.set_reading(is_done && has_room);
        if is_done && !has_room {
            self.held.push(link);
        }
    }

    fn grant_held(&mut self) {
        for link in std::mem::take(&mut self.held) {
            if let Some(connection) = self.connections.get_mut(&link) {
                connection.set_reading(true);
                connection.mark(&mut self.dirty);
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

    /// Whether lines for everybody are on their way.
    const fn has_round(&self) -> bool {
        !self.round.links.is_empty() || !self.pending.is_empty()
    }

    /// Gives lines for everybody to the users.
    fn hand_out(&mut self) {
        let Some((lines, count)) = self.pending.take() else {
            return;
        };
        let mut users = 0;
        for connection in self.connections.values_mut() {
            if connection.is_user() {
                connection.hub_sends(lines.clone());
                connection.mark_for_round(&mut self.round.links);
                users += 1;
            }
        }
        self.common.counters.delivered(users * count);
    }

    fn selected(&mut self, features: &str, line: &Bytes) {
        let mut users = 0;
        for connection in self.connections.values_mut() {
            if connection.is_user() && connection.is_selected(features) {
                connection.hub_sends(line.clone());
                connection.mark(&mut self.dirty);
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
            connection.mark(&mut self.dirty);
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
                connection.mark(&mut self.dirty);
            }
        }
    }

    /// Writes what waits.
    fn flush(&mut self) {
        let limit = self.common.rules.queue_bytes_max;
        let limit = limit.max(self.common.counters.users() * QUEUE_BYTES_PER_USER);
        for link in std::mem::take(&mut self.dirty) {
            self.write(link, limit);
        }
        if self.has_round() && self.round.is_due() {
            self.hand_out();
            let since = Instant::now();
            for link in std::mem::take(&mut self.round.links) {
                self.write(link, limit);
            }
            self.round.took(since);
        }
    }

    /// Writes what waits for one user.
    fn write(&mut self, link: LinkId, limit: usize) {
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        let is_open = connection.write();
        if is_open && connection.wants_to_read() {
            self.unread.push(link);
        }
        if !is_open {
            self.gone(link);
        } else if connection.is_too_slow(limit) {
            self.common.counters.slow_reader();
            connection.give_up(&mut self.backlog);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (link, connection) in &mut self.connections {
            if connection.is_over(now) {
                over.push(*link);
            } else if connection.tick(now, &mut self.backlog) {
                connection.mark(&mut self.dirty);
            }
        }
        for link in over {
            self.gone(link);
        }
    }
}

async fn rest(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

/// What may wait for a user, for each user of the hub: a newcomer's list is some 200 bytes for each.
const QUEUE_BYTES_PER_USER: usize = 4096;
