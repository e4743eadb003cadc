//! One member: its machine, which outlives it, and the door through which clients reach it while it lives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use kv::request::Answer;
use kv::server::simulated::Front;
use kv::state::KvState;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use replication::simulation::{Disk, Simulated};
use replication::{Durability, Node, NodeOptions, Timing};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::world::clock_ns;

/// Where members listen for each other.
const PEER_PORT: u16 = 7000;

/// How often a stalled member looks whether it still is.
const STALL_STEP: Duration = Duration::from_millis(1);

/// What is asked of a member: something that runs in it.
pub(crate) type Job = Box<dyn FnOnce(Inside) -> LocalBoxFuture<'static, ()> + Send>;

/// What runs in a living member.
#[derive(Clone)]
pub(crate) struct Inside {
    pub(crate) front: Front,
    pub(crate) node: Node,
}

/// A member's machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) disk: Disk,
    pub(crate) skew_ms: Arc<AtomicI64>,
    snapshot_every: u64,
    /// What clients ask waits.
    stalled: AtomicBool,
    door: Mutex<Option<mpsc::UnboundedSender<Job>>>,
    jumps: Mutex<Option<mpsc::UnboundedSender<Duration>>>,
    /// Counts its starts.
    pub(crate) lives: AtomicI64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The member does not run: it has not heard the question.
    Closed,
    /// It ended before it answered.
    Lost,
    /// It did not answer in time.
    Late,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    pub(crate) fn new(number: usize, root: &std::path::Path, seed: u64, snapshot_every: u64) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed ^ (number as u64 + 1));
        // Mostly quick, sometimes not: in nanoseconds.
        let latency = Box::new(move || match rng.random_range(0..20) {
            0 => rng.random_range(5_000_000..30_000_000),
            _ => rng.random_range(200_000..4_000_000),
        });
        Arc::new(Self {
            name: format!("member-{number}"),
            directory: root.join(number.to_string()),
            disk: Disk::new(Arc::new(clock_ns), latency),
            skew_ms: Arc::default(),
            snapshot_every,
            stalled: AtomicBool::new(false),
            door: Mutex::new(None),
            jumps: Mutex::new(None),
            lives: AtomicI64::new(0),
        })
    }

    fn options(&self) -> NodeOptions {
        NodeOptions {
            name: self.name.clone(),
            data_dir: self.directory.clone(),
            peer_listen: SocketAddr::from(([0, 0, 0, 0], PEER_PORT)),
            peer_advertise: format!("{}:{PEER_PORT}", self.name),
            admin_advertise: format!("{}:1", self.name),
            timing: Timing::Lan,
            durability: Durability::Strict,
            tls: None,
            restore: None,
        }
    }

    /// The member's whole life: until it fails, or is killed.
    pub(crate) async fn live(self: Arc<Self>) -> turmoil::Result {
        self.lives.fetch_add(1, Ordering::Relaxed);
        let simulated = Simulated {
            disk: self.disk.clone(),
            skew_ms: self.skew_ms.clone(),
            snapshot_every: self.snapshot_every,
        };
        let (node, replica) = match Node::start::<KvState>(self.options(), simulated).await {
            Ok(started) => started,
            // Its process exits, and is started again.
            Err(error) => {
                tracing::warn!(name = self.name, %error, "did not start");
                return Ok(());
            }
        };
        let tasks = TaskTracker::new();
        let opened = Front::open(self.directory.join("outbox"), replica.clone(), &tasks);
        let front = match opened.await {
            Ok(front) => front,
            Err(error) => {
                tracing::warn!(name = self.name, %error, "did not open its front");
                return Ok(());
            }
        };
        let (door, mut jobs) = mpsc::unbounded_channel::<Job>();
        *lock(&self.door) = Some(door);
        let (sender, mut jumps) = mpsc::unbounded_channel();
        *lock(&self.jumps) = Some(sender);
        tokio::task::spawn_local(async move {
            while let Some(by) = jumps.recv().await {
                tokio::time::advance(by).await;
            }
        });
        let inside = Inside {
            front: front.clone(),
            node: node.clone(),
        };
        let serve = async {
            while let Some(job) = jobs.recv().await {
                while self.stalled.load(Ordering::Relaxed) {
                    tokio::time::sleep(STALL_STEP).await;
                }
                tokio::task::spawn_local(job(inside.clone()));
            }
        };
        tokio::select! {
            () = serve => {}
            () = front.run() => {}
            why = node.failed() => tracing::warn!(name = self.name, why, "failed"),
        }
        self.close();
        Ok(())
    }

    /// The member does not live any more.
    pub(crate) fn close(&self) {
        *lock(&self.door) = None;
        *lock(&self.jumps) = None;
        self.stall(false);
    }

    /// The member does not do what it is asked, until it is told to go on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// The member's own clock goes on by so much at once: everything that was due by then is due now.
    pub(crate) fn jump(&self, by: Duration) {
        // It comes in by a door of its own: what was asked before waits.
        if let Some(jumps) = &*lock(&self.jumps) {
            jumps.send(by).ok();
        }
    }

    /// Lets something run in the member, and waits for what it says.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        run: impl FnOnce(Inside) -> LocalBoxFuture<'static, T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let door = lock(&self.door).clone().ok_or(NoAnswer::Closed)?;
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |inside| {
            Box::pin(async move {
                // Nobody waits any more when it was too late.
                sender.send(run(inside).await).ok();
            })
        });
        door.send(job).map_err(|_| NoAnswer::Closed)?;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(_)) => Err(NoAnswer::Lost),
            Err(_) => Err(NoAnswer::Late),
        }
    }
}

/// What a request came to.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Answer(Answer),
    /// It was refused, and has not acted.
    Refused(u16, String),
    NoAnswer(NoAnswer),
}

impl From<Result<Result<Answer, kv::request::Refusal>, NoAnswer>> for Reply {
    fn from(said: Result<Result<Answer, kv::request::Refusal>, NoAnswer>) -> Self {
        match said {
            Ok(Ok(answer)) => Self::Answer(answer),
            Ok(Err(refusal)) => Self::Refused(refusal.status.as_u16(), refusal.sentence),
            Err(no) => Self::NoAnswer(no),
        }
    }
}
