//! Many clients of all members at once, and everything they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use linearizability::{Action, Operation, Outcome};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::local_reads::{self, LocalReads, Sighting};
use super::remembered::{self, Remembered};
use super::request::{Kv, Reply, Request, Ticket};
use crate::clock::{PATIENCE, now};

/// What the load is made of.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// What chance is drawn from.
    pub seed: u64,
    /// Clients with consistent operations.
    pub clients: u64,
    /// Whether some clients read and write without a quorum.
    pub local: bool,
}

/// How many keys are in use at a time: few, so that clients meet.
const KEYS: u64 = 6;

/// New keys are taken after so many operations: the checker's work grows faster than a key's history.
const OPERATIONS_A_ROUND: u64 = 6000;

/// How long an answer may take. A paused member takes requests and answers none.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

/// The pause between two operations of a client: the history shall hold many faults, not many operations.
const THINK_TIME: Duration = Duration::from_millis(3);

/// The pause after a request that nobody took.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What all clients share.
#[derive(Debug)]
pub struct Load {
    pub(super) kv: Kv,
    /// The same for requests that wait for a group to heal.
    pub(super) patient: Kv,
    options: LoadOptions,
    started: Instant,
    history: Mutex<Vec<Operation>>,
    /// Operations that began: a client's part of the keys, and of unique values.
    begun: AtomicU64,
    answered: AtomicU64,
    refusals: Mutex<BTreeMap<String, u64>>,
    /// Reads without a quorum, and what they must agree with.
    pub local_reads: LocalReads,
    /// Writes without a quorum.
    pub remembered: Remembered,
    broken: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// A running load.
#[derive(Debug)]
pub struct Running {
    /// What its clients share.
    pub load: Arc<Load>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    /// Starts the clients.
    pub fn start(ports: Vec<u16>, options: LoadOptions) -> anyhow::Result<Self> {
        let members = ports.into_iter().map(|port| format!("127.0.0.1:{port}"));
        Self::start_at(members.collect(), options)
    }

    /// The same at these addresses with their ports.
    pub fn start_at(addresses: Vec<String>, options: LoadOptions) -> anyhow::Result<Self> {
        let members = addresses.len();
        let load = Arc::new(Load {
            kv: Kv::at(addresses.clone(), ANSWER_WITHIN)?,
            patient: Kv::at(addresses, PATIENCE * 2)?,
            options,
            started: now(),
            history: Mutex::default(),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refusals: Mutex::default(),
            local_reads: LocalReads::new(members),
            remembered: Remembered::new(members),
            broken: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let shared = load.clone();
        let thread = std::thread::spawn(move || run(&shared));
        Ok(Self {
            load,
            thread: Some(thread),
        })
    }

    /// Ends the clients, each after its present operation.
    pub fn finish(mut self) -> anyhow::Result<Arc<Load>> {
        self.end()?;
        Ok(self.load.clone())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.load.stop.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("a client panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end().ok();
    }
}

fn run(load: &Arc<Load>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the clients' runtime")?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..load.options.clients {
            clients.spawn(Client::new(load.clone(), number).run());
        }
        if load.options.local {
            for member in 0..load.kv.members() {
                clients.spawn(local_reads::read_one_member(load.clone(), member));
                clients.spawn(remembered::write_at_one_member(load.clone(), member));
            }
            clients.spawn(remembered::watch_order(load.clone()));
        }
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended.context("a client's task ended").flatten() {
                load.broke(format!("{error:#}"));
            }
        }
    });
    Ok(())
}

impl Load {
    /// How many consistent operations were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether some clients read and write without a quorum.
    pub(super) fn is_local(&self) -> bool {
        self.options.local
    }

    /// What a client found wrong at once.
    pub fn broken(&self) -> Vec<String> {
        lock(&self.broken).clone()
    }

    /// Why requests were refused, and how often.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        lock(&self.refusals).clone()
    }

    /// The history of the consistent operations so far.
    pub fn history(&self) -> Vec<Operation> {
        lock(&self.history).clone()
    }

    /// Nanoseconds since the load began.
    pub fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A key that is in use now.
    pub(super) fn key(&self, rng: &mut StdRng) -> String {
        let round = self.begun.load(Ordering::Relaxed) / OPERATIONS_A_ROUND;
        format!("r{round}-{}", rng.random_range(0..KEYS))
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn broke(&self, how: String) {
        lock(&self.broken).push(how);
    }

    fn refused(&self, why: &str) {
        // The reason without what differs from one to the next.
        let reason: String = why.chars().filter(|c| !c.is_ascii_digit()).take(80).collect();
        *lock(&self.refusals).entry(reason).or_default() += 1;
    }

    /// Opens a session, however long that takes; none when the load ends before.
    pub(super) async fn session(&self, rng: &mut StdRng) -> Option<String> {
        while !self.stopped() {
            let member = rng.random_range(0..self.kv.members());
            if let Ok(session) = self.kv.open_session(member).await {
                return Some(session);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        None
    }

    /// Asks a member, with patience, and writes down what both saw.
    pub async fn operate(&self, client: &str, member: usize, request: &Request) -> Reply {
        let called = self.elapsed();
        let reply = self.patient.ask(member, request).await;
        self.note(client, member, request, called, &reply, false);
        reply
    }

    /// Writes an operation down. `doubtful`: an earlier copy of the request may have acted, so a refusal of this one
    /// says nothing.
    fn note(
        &self,
        client: &str,
        member: usize,
        request: &Request,
        called: u64,
        reply: &Reply,
        doubtful: bool,
    ) {
        let outcome = match reply {
            Reply::Refused(_) if doubtful => Outcome::Unknown,
            reply => reply.outcome(),
        };
        if let Reply::Refused(why) = reply {
            self.refused(why);
        }
        if let Outcome::Answered { .. } = outcome {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        if let Reply::Answer(answer) = reply
            && let (Outcome::Answered { valid, value }, Some(revision)) = (&outcome, answer.revision)
            && *valid
        {
            let value = match &request.action {
                Action::Get => Some(value),
                Action::Set(value) | Action::Swap { new: value, .. } => Some(value),
                Action::Delete => None,
            };
            if let Some(value) = value {
                let sighting = Sighting {
                    revision,
                    value: value.clone(),
                    seen_by: client.to_owned(),
                };
                self.local_reads.agree(&request.key, sighting);
            }
        }
        lock(&self.history).push(Operation {
            client: format!("{client} at {member}"),
            key: request.key.clone(),
            action: request.action.clone(),
            called,
            returned: self.elapsed(),
            outcome,
        });
    }
}

/// Locks what a panicking client may have held: its numbers are still true.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One client with consistent operations. Every second one has a session and repeats what was not answered.
struct Client {
    load: Arc<Load>,
    name: String,
    rng: StdRng,
    member: usize,
    session: Option<String>,
    seq: u64,
    seen: BTreeMap<String, String>,
}

impl Client {
    fn new(load: Arc<Load>, number: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(load.options.seed.wrapping_add(number));
        Self {
            member: rng.random_range(0..load.kv.members()),
            name: format!("c{number}{}", if number.is_multiple_of(2) { "s" } else { "" }),
            load,
            rng,
            session: None,
            seq: 0,
            seen: BTreeMap::new(),
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        if self.name.ends_with('s') {
            self.session = self.load.session(&mut self.rng).await;
        }
        while !self.load.stopped() {
            if self.rng.random_bool(0.3) {
                self.member = self.rng.random_range(0..self.load.kv.members());
            }
            let request = self.draw();
            let reply = self.ask(&request).await;
            self.learn(&request, &reply);
            tokio::time::sleep(THINK_TIME).await;
        }
        Ok(())
    }

    fn draw(&mut self) -> Request {
        let number = self.load.begun.fetch_add(1, Ordering::Relaxed);
        let key = self.load.key(&mut self.rng);
        let value = format!("{number}");
        let request = match self.rng.random_range(0..100) {
            0..35 => Request::get(key),
            35..60 => Request::set(key, value),
            60..95 => {
                let old = self.seen.get(&key).cloned().unwrap_or_default();
                Request::swap(key, old, value)
            }
            _ => Request::new(key, Action::Delete),
        };
        self.seq += 1;
        let ticket = self.session.clone().filter(|_| request.action != Action::Get);
        let ticket = ticket.map(|session| Ticket {
            session,
            seq: self.seq,
        });
        let request = request.ticket(ticket);
        match self.rng.random_range(0..10) {
            0 => request.blocking(),
            1..4 => request.within(Duration::from_millis(self.rng.random_range(20..500))),
            _ => request,
        }
    }

    /// Asks, and with a session asks again until the answer says what happened.
    async fn ask(&mut self, request: &Request) -> Reply {
        let called = self.load.elapsed();
        let mut doubtful = false;
        loop {
            let copy = Request {
                first: !doubtful,
                ..request.clone()
            };
            let reply = self.load.kv.ask(self.member, &copy).await;
            let again = match &reply {
                Reply::Lost(_) => true,
                Reply::Answer(answer) => answer.unknown,
                Reply::Refused(_) => doubtful,
            };
            if !again || request.ticket.is_none() || self.load.stopped() {
                let load = &self.load;
                load.note(&self.name, self.member, request, called, &reply, doubtful);
                if !matches!(reply, Reply::Answer(_)) {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                return reply;
            }
            doubtful |= !matches!(reply, Reply::Refused(_));
            tokio::time::sleep(RETRY_PAUSE).await;
            self.member = self.rng.random_range(0..self.load.kv.members());
        }
    }

    fn learn(&mut self, request: &Request, reply: &Reply) {
        if let Outcome::Answered { valid, value } = reply.outcome() {
            let value = match (&request.action, valid) {
                (Action::Set(value), _) | (Action::Swap { new: value, .. }, true) => value.clone(),
                (Action::Delete, _) => String::new(),
                (Action::Get | Action::Swap { .. }, _) => value,
            };
            self.seen.insert(request.key.clone(), value);
        }
    }
}
