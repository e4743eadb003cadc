//! The key-value front: HTTP on every member's own port, and on the leader's. The only part that opens sockets.

mod access;
mod answers;
mod bus;
mod conveyor;
mod disk;
mod features;
mod grpc;
mod http;
mod http2;
mod journal;
mod leases;
mod link;
mod listener;
mod logs;
mod metrics;
mod numbers;
mod operations;
mod quota;
mod range;
mod reads;
mod remember;
#[cfg(simulation)]
pub mod simulated;
mod told;
mod watching;
mod writes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use replication::{Leadership, Replica, ServeError, Service, Shutdown};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::state::{KvState, Policy};
use access::Access;
pub use access::AccessFiles;
use conveyor::Conveyor;
use link::Link;
use listener::Listener;
pub use metrics::Metrics;
use numbers::Numbers;
use reads::Reads;
use remember::Memory;

/// How long a leader that cannot bind its port waits before it tries again.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// How long a leader whose lease ran out waits before it looks again, while Raft has not named another.
const LEASE_RECHECK: Duration = Duration::from_millis(5);

/// What the service needs to know. Numbers are positive.
#[derive(Debug)]
pub struct Options {
    /// The TCP address that the leader serves.
    pub listen: SocketAddr,
    /// A socket bound to it already, held by a parent process so that the port is never closed between two leaders.
    pub socket: Option<std::net::TcpListener>,
    /// The TCP address that this member serves, whoever leads.
    pub member_listen: SocketAddr,
    /// The largest value.
    pub value_bytes_max: usize,
    /// The store takes nothing more beyond so many bytes of keys and values.
    pub quota_bytes: u64,
    /// Client connections on both addresses together.
    pub connections_max: usize,
    /// How long a caller whose request is in doubt waits after its timeout, before it is told that nobody knows.
    pub doubt: Duration,
    /// By key prefix, what happens to a remembered write when a quorum wrote the key meanwhile; the longest prefix counts.
    pub policies: Vec<(String, Policy)>,
    /// Where what is remembered is kept.
    pub outbox_file: PathBuf,
    /// Who is let in.
    pub access: AccessFiles,
    /// What is counted.
    pub metrics: Metrics,
    /// What the service shows of itself, once it runs.
    pub shown: Shown,
}

/// What a running service shows of itself.
#[derive(Clone, Default)]
pub struct Shown(Arc<OnceLock<(Memory, Access)>>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

/// The service.
pub struct Kv;

/// What the connections share.
struct Context {
    access: Access,
    metrics: Metrics,
    link: Arc<Link>,
    conveyor: Conveyor,
    reads: Reads,
    memory: Memory,
    numbers: Arc<Numbers>,
    /// This member's session, when one was opened.
    opened: watch::Sender<u64>,
    /// Told when the group has forgotten this member's session.
    session_lost: Notify,
    value_bytes_max: usize,
    quota_bytes: u64,
    /// Room for large bodies, in KiB.
    bodies: Semaphore,
    doubt: Duration,
    policies: Vec<(String, Policy)>,
}

impl Context {
    async fn open(
        options: &Options,
        replica: Replica<KvState>,
        tasks: &TaskTracker,
    ) -> Result<Self, ServeError> {
        let access = Access::open(&options.access, tasks).await?;
        let link = Arc::new(Link::new(replica.clone()));
        link.answer_peers();
        let numbers = Arc::new(Numbers::default());
        let conveyor = Conveyor::start(link.clone(), numbers.clone(), tasks);
        let memory = Memory::open(&options.outbox_file, replica, conveyor.clone(), tasks)
            .map_err(|error| ServeError(format!("opening {}: {error}", options.outbox_file.display())))?;
        // Fails when it is shown already.
        options.shown.0.set((memory.clone(), access.clone())).ok();
        Ok(Self {
            access,
            metrics: options.metrics.clone(),
            reads: Reads::start(link.clone(), tasks),
            link,
            conveyor,
            memory,
            numbers,
            opened: watch::channel(0).0,
            session_lost: Notify::new(),
            value_bytes_max: options.value_bytes_max,
            quota_bytes: options.quota_bytes,
            bodies: Semaphore::new(http::BODIES_KIB_MAX as usize),
            doubt: options.doubt,
            policies: options.policies.clone(),
        })
    }

    fn policy_of(&self, key: &str) -> Policy {
        let fitting = self
            .policies
            .iter()
            .filter(|(prefix, _)| key.starts_with(prefix.as_str()));
        fitting
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, policy)| *policy)
            .unwrap_or_default()
    }
}

impl Service for Kv {
    type Options = Options;
    type State = KvState;

    async fn serve(options: Options, replica: Replica<KvState>, until: Shutdown) -> Result<(), ServeError> {
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let tasks = TaskTracker::new();
        let context = Arc::new(Context::open(&options, replica, &tasks).await?);
        let own = Listener::bind(options.member_listen)
            .map_err(|error| ServeError(format!("binding {}: {error}", options.member_listen)))?;
        let connections = http::Connections::new(context.clone(), slots, until.clone());
        tokio::select! {
            () = connections.accept(&own) => {}
            () = lead(&options, &context.link.replica, &connections) => {}
            () = context.keep_session() => {}
            () = context.end_what_is_due() => {}
            () = until.requested() => {}
        }
        drop(own);
        connections.ended().await;
        Ok(())
    }
}

/// Accepts connections at the leader's address whenever this member leads.
async fn lead(options: &Options, replica: &Replica<KvState>, connections: &http::Connections) {
    let mut leadership = replica.leadership();
    let lease = replica.lease();
    loop {
        let now = *leadership.borrow_and_update();
        let Leadership::Leader { term } = now else {
            if leadership.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        if !lease.is_valid() {
            tokio::time::sleep(LEASE_RECHECK).await;
            continue;
        }
        match open(options) {
            Ok(listener) => {
                info!(address = %options.listen, "serving");
                replica.set_listening(Some(term));
                tokio::select! {
                    () = connections.accept(&listener) => {}
                    _ = leadership.changed() => {}
                }
                replica.set_listening(None);
            }
            // The old leader on the same machine may not have closed it yet.
            Err(error) => {
                warn!(address = %options.listen, %error, "cannot serve: is the port taken by another program?");
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    }
}

fn open(options: &Options) -> std::io::Result<Listener> {
    match &options.socket {
        Some(socket) => Listener::from_std(socket.try_clone()?),
        None => Listener::bind(options.listen),
    }
}

/// From so many bytes on the quota needs attention, while there is still some room.
#[must_use]
pub const fn alarm_at(quota_bytes: u64) -> u64 {
    quota_bytes - quota_bytes / 10
}

/// What the member holds, for the status page.
pub fn detail(
    replica: &Replica<KvState>,
    member_address: SocketAddr,
    quota_bytes: u64,
    shown: &Shown,
) -> serde_json::Value {
    let shown = shown.0.get();
    let (outbox, outbox_bytes, alarm) = shown.map(|(memory, _)| memory.summary()).unwrap_or_default();
    let access = shown.map(|(_, access)| access.describe());
    replica.local(|state| {
        serde_json::json!({
            "memberAddress": member_address.to_string(),
            "keys": state.keys(),
            "bytes": state.bytes(),
            "quotaBytes": quota_bytes,
            "quotaAlarm": (state.used() >= alarm_at(quota_bytes)).then(|| format!(
                "the store holds {} of {quota_bytes} bytes: remove something, or raise storageBytesMax", state.used()
            )),
            "leases": state.leases(),
            "journals": state.journals(),
            "journalTail": journal::tail(state),
            "revision": state.revision(),
            "sessions": state.sessions(),
            "outbox": outbox,
            "outboxBytes": outbox_bytes,
            "outboxDropped": state.dropped(),
            "outboxAlarm": alarm,
            "access": access,
        })
    })
}
