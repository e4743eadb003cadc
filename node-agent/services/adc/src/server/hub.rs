//! The owner of everything that the connections of a member share. It orders what they want, and tells them what the
//! directory says, each effect once and in order.

mod bot;
mod clients;
mod duties;
mod hybrid;
mod tell;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use replication::{NodeId, Replica, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;
use tracing::info;

use super::Counters;
use super::conveyor::{Carried, Conveyor, Opened};
use super::events::{ToHub, ToWorker};
use super::link::{Asked, FromPeers, Incoming, Link};
use super::relays::{Passed, Relays};
use super::roster::Roster;
use super::worker::WorkerHandle;
use crate::message::{Sid, SidBlock};
use crate::session::Settings;
use crate::state::{AdcState, Claim, Event, Limits, LinkId};
use crate::vault::Vault;
use duties::Duties;

/// How often the hub looks after what nobody tells it.
const TICK: Duration = Duration::from_millis(50);
/// How long a member that stops waits until its users have read its last words.
const DRAIN_MAX: Duration = Duration::from_millis(2500);
/// Users that come back in one second after a planned move: each of them is sent the whole list.
const DRAIN_USERS_PER_SECOND: u64 = 500;
/// SIDs that are borrowed at once, and below how many more are borrowed. Few enough that restarts do not use them up.
const BORROW: u32 = 1024;
const BORROW_BELOW: u64 = 512;

/// What the hub is started with.
pub(super) struct Parts {
    pub(super) replica: Replica<AdcState>,
    pub(super) link: Arc<Link>,
    pub(super) from_peers: FromPeers,
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) from_workers: mpsc::Receiver<Vec<ToHub>>,
    pub(super) limits: Limits,
    pub(super) settings: Arc<Settings>,
    pub(super) history_on_join: usize,
    pub(super) vault: Option<Arc<Vault>>,
    pub(super) counters: Arc<Counters>,
    /// Told when connections may be accepted.
    pub(super) ready: watch::Sender<bool>,
    pub(super) tasks: TaskTracker,
}

/// A connection that asked for a place.
enum Client {
    /// Its claim is ordered.
    Claiming {
        claim: Box<Claim>,
        since: Instant,
        /// When to order the claim again: its place belongs to a front that may be gone.
        again_at: Option<Instant>,
        /// The connection has ended meanwhile.
        is_gone: bool,
    },
    /// It is let in.
    User { sid: Sid },
}

/// The owner.
pub(super) struct Hub {
    replica: Replica<AdcState>,
    me: NodeId,
    workers: Vec<WorkerHandle>,
    clients: BTreeMap<LinkId, Client>,
    roster: Roster,
    /// The number of the next effect to tell.
    cursor: u64,
    /// Lines for everybody that are not handed to the threads yet.
    lines: BytesMut,
    lines_count: u32,
    conveyor: Conveyor,
    relays: Relays,
    /// Lines of peers whose senders are not known here yet.
    held: Vec<Incoming>,
    sids: VecDeque<SidBlock>,
    is_borrowing: bool,
    waiting_for_sid: VecDeque<LinkId>,
    orphans: clients::Orphans,
    duties: Duties,
    seconds: hybrid::Seconds,
    heal_at: Instant,
    limits: Limits,
    settings: Arc<Settings>,
    started: Instant,
    history_on_join: usize,
    vault: Option<Arc<Vault>>,
    counters: Arc<Counters>,
    ready: watch::Sender<bool>,
}

/// What comes to the hub, but for what connections want.
struct Results {
    carried: mpsc::Receiver<Carried>,
    passed: mpsc::Receiver<Passed>,
    pulses: mpsc::Receiver<(NodeId, bool)>,
    incoming: mpsc::Receiver<Incoming>,
    proofs: mpsc::Receiver<Asked>,
    proved: mpsc::Receiver<hybrid::Proved>,
}

/// Runs the hub until its member stops.
pub(super) async fn run(parts: Parts, until: &Shutdown) {
    let replica = parts.replica.clone();
    tokio::select! {
        () = joined(&replica) => {}
        () = until.requested() => return,
    }
    let (mut hub, mut from_workers, mut results) = Hub::new(parts);
    hub.compare();
    let mut applied = replica.applied();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drained: Option<Instant> = None;
    loop {
        tokio::select! {
            Some(batch) = from_workers.recv() => hub.hear(batch),
            _ = applied.changed() => {}
            Some(result) = results.carried.recv() => hub.carried(result),
            Some(result) = results.passed.recv() => hub.relays.passed(result),
            Some(result) = results.pulses.recv() => hub.duties.pulse(result),
            Some(lines) = results.incoming.recv() => hub.held.push(lines),
            Some(proved) = results.proved.recv() => hub.proved(proved),
            // Fails when the peer has given up asking.
            Some((proof, done)) = results.proofs.recv() => drop(done.send(hub.prove(&proof))),
            _ = tick.tick() => hub.tick(),
            () = until.requested(), if drained.is_none() => {
                info!(users = hub.users(), "telling the users to come back");
                hub.drain();
                drained = Some(Instant::now() + DRAIN_MAX);
            }
        }
        // What else waits goes along.
        while let Ok(batch) = from_workers.try_recv() {
            hub.hear(batch);
        }
        hub.go_on().await;
        // A front that was given up for a moment takes newcomers in all the same.
        let is_ready = drained.is_none() && (*hub.ready.borrow() || hub.is_open_here());
        hub.ready
            .send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
        let is_quiet = hub.conveyor.is_empty() && hub.counters.connections() == 0;
        if drained.is_some_and(|until| is_quiet || until <= Instant::now()) {
            return;
        }
    }
}

/// Waits until this member is in its group and has applied what it knew when it started.
async fn joined(replica: &Replica<AdcState>) {
    const RECHECK: Duration = Duration::from_millis(20);
    while replica.id() == 0 || !replica.has_recovered() {
        tokio::time::sleep(RECHECK).await;
    }
}

impl Hub {
    fn new(parts: Parts) -> (Self, mpsc::Receiver<Vec<ToHub>>, Results) {
        let (me, epoch) = (parts.replica.id(), rand::random());
        let (link, limits, tasks) = (parts.link, parts.limits, parts.tasks);
        let (conveyor, carried) = Conveyor::new(link.clone(), me, epoch, limits, tasks.clone());
        let (relays, passed) = Relays::new(link.clone(), me, epoch, tasks.clone());
        let (seconds, proved) = hybrid::Seconds::new(link.clone(), tasks.clone());
        let (duties, pulses) = Duties::new(link, me, limits, tasks);
        let hub = Self {
            replica: parts.replica,
            me,
            workers: parts.workers,
            clients: BTreeMap::new(),
            roster: Roster::default(),
            cursor: 0,
            lines: BytesMut::new(),
            lines_count: 0,
            conveyor,
            relays,
            held: Vec::new(),
            sids: VecDeque::new(),
            is_borrowing: false,
            waiting_for_sid: VecDeque::new(),
            orphans: clients::Orphans::default(),
            duties,
            seconds,
            heal_at: Instant::now(),
            limits,
            settings: parts.settings,
            started: Instant::now(),
            history_on_join: parts.history_on_join,
            vault: parts.vault,
            counters: parts.counters,
            ready: parts.ready,
        };
        let results = Results {
            carried,
            passed,
            pulses,
            incoming: parts.from_peers.lines,
            proofs: parts.from_peers.proofs,
            proved,
        };
        (hub, parts.from_workers, results)
    }

    /// Does what follows from what came.
    async fn go_on(&mut self) {
        self.tell();
        let relays = &mut self.relays;
        self.replica.local(|state| relays.set_peers(state.fronts()));
        self.prove_early();
        self.deliver_held();
        self.conveyor.start();
        self.relays.start(self.cursor);
        self.flush().await;
    }

    /// Whether the front is open, and the directory here says so, too: the users of the last run are orphans then, and
    /// those who come back are given their own SIDs.
    fn is_open_here(&self) -> bool {
        let here = |state: &AdcState| self.conveyor.is_open_in(state.front(self.me));
        self.conveyor.is_open() && self.replica.local(here)
    }

    fn users(&self) -> usize {
        let users = self.clients.values();
        users
            .filter(|client| matches!(client, Client::User { .. }))
            .count()
    }

    /// The connection of a user of this member.
    fn link_of(&self, sid: Sid) -> Option<LinkId> {
        let (front, link) = self.roster.get(sid)?.home?;
        let is_its = |client: &Client| matches!(client, Client::User { sid: user } if *user == sid);
        // A user of this member's last run had a connection whose number may be another's now.
        (front == self.me && self.clients.get(&link).is_some_and(is_its)).then_some(link)
    }

    /// Queues an order for the thread that serves a connection.
    fn order(&mut self, link: LinkId, order: ToWorker) {
        let threads = self.workers.len() as u64;
        let number = usize::try_from(link % threads).unwrap_or_default();
        self.workers[number].outbox.push(order);
    }

    /// Queues lines for everybody.
    fn all(&mut self, lines: &[u8]) {
        self.lines.extend_from_slice(lines);
        self.lines_count += 1;
    }

    /// Hands the lines for everybody over, before something that must not come earlier or later.
    fn seal(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let lines: Bytes = self.lines.split().freeze();
        let count = std::mem::take(&mut self.lines_count);
        for worker in &mut self.workers {
            worker.outbox.push(ToWorker::All {
                lines: lines.clone(),
                count,
            });
        }
    }

    /// Hands everything to the threads. They always take it: nothing that they do waits for the hub.
    async fn flush(&mut self) {
        self.seal();
        for worker in &mut self.workers {
            if !worker.outbox.is_empty() {
                // Fails when the thread has panicked; its connections are gone then.
                worker.orders.send(std::mem::take(&mut worker.outbox)).await.ok();
            }
        }
    }

    fn carried(&mut self, carried: Carried) {
        if self.conveyor.carried(carried) == Opened::Anew {
            info!(front = self.me, "the front is open");
            let claims = self.claims_of_users();
            self.conveyor.put_first(claims);
            self.borrow();
        }
    }

    fn borrow(&mut self) {
        let left: u64 = self.sids.iter().map(|block| u64::from(block.count)).sum();
        if left < BORROW_BELOW && !self.is_borrowing {
            self.is_borrowing = true;
            self.conveyor.put(Event::Borrow { count: BORROW });
        }
    }

    fn take_sid(&mut self) -> Option<Sid> {
        let block = self.sids.front_mut()?;
        let sid = Sid::from_number(block.first);
        block.first = block.first.wrapping_add(1);
        block.count -= 1;
        if block.count == 0 {
            self.sids.pop_front();
        }
        self.borrow();
        Some(sid)
    }

    fn tick(&mut self) {
        self.check_front();
        self.claim_again();
        let fronts: Vec<_> = self.replica.local(|state| state.fronts().collect());
        self.duties.tick(&self.replica, &fronts);
        self.counters.set_users(self.roster.len(), self.users());
    }

    /// Says good-bye to all users of this member, and lets their places go.
    fn drain(&mut self) {
        self.seal();
        let spread_s = self.users() as u64 / DRAIN_USERS_PER_SECOND;
        for worker in &mut self.workers {
            worker.outbox.push(ToWorker::Drain { spread_s });
        }
        for (_, client) in std::mem::take(&mut self.clients) {
            if let Client::User { sid } = client {
                self.conveyor.put(Event::Release { sid });
            }
        }
    }
}
