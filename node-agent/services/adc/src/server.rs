//! The hub's front: TCP on every member's port, or the leader's alone. The only part that opens sockets.

mod conveyor;
mod counters;
mod desk;
mod events;
mod hub;
mod keeper;
mod link;
mod listener;
mod relays;
mod roster;
mod tls;
mod words;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use replication::{Leadership, Replica, ServeError, Service, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use counters::{Metrics, Shown};
pub use desk::{Desk, DeskError, Registration};
pub use keeper::Keeper;
pub use tls::Tls;

use crate::session::Settings;
use crate::state::{AdcState, BanTarget, Limits};
use crate::vault::{KEY_BYTES, Vault};
use counters::Counters;
use events::ToWorker;
use link::Link;
use listener::{Doorman, Listener};
use worker::{Common, TO_HUB_MAX, WorkerHandle};

/// How long a member that cannot bind its port waits before it tries again.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// How long a member waits before it looks again whether it leads, when nothing tells it: a lease ends and begins by time.
const LEASE_RECHECK: Duration = Duration::from_millis(10);
/// Threads that serve connections, whatever the machine has.
const THREADS_MAX: usize = 8;

/// What the service needs to know. Numbers are positive.
#[derive(Debug)]
pub struct Options {
    /// The TCP address for clients.
    pub listen: SocketAddr,
    /// A socket bound to it already, held by a parent process so that the port is never closed between two leaders.
    pub socket: Option<std::net::TcpListener>,
    /// The TCP address that only this member serves.
    pub member_listen: Option<SocketAddr>,
    /// Only the leader takes users in.
    pub leader_only: bool,
    /// What the directory keeps to.
    pub limits: Limits,
    /// What sessions keep to.
    pub settings: Settings,
    /// Connections of this member.
    pub connections_max: u32,
    /// Connections of one address; any number with 0.
    pub connections_per_address_max: u32,
    /// The longest line that a client may send.
    pub line_bytes_max: usize,
    /// Bytes that may wait for one user, in a small hub.
    pub send_queue_bytes_max: usize,
    /// How long a user may read nothing at all.
    pub slow_reader_max: Duration,
    /// After how much silence an empty line is sent.
    pub keep_alive: Duration,
    /// Remembered lines that are sent to each who comes in.
    pub history_lines_on_join: usize,
    /// The key of passwords at rest; without it nobody is registered.
    pub password_key: Option<PasswordKey>,
    /// Networks of load balancers, which begin each connection with a PROXY header.
    pub proxies: Vec<BanTarget>,
    /// The certificate; plain connections only, without.
    pub tls: Option<Tls>,
    /// Threads that serve connections; as many as there are processors, with 0.
    pub threads: usize,
    /// What is counted.
    pub metrics: Metrics,
}

/// The key of passwords at rest.
#[derive(Clone)]
pub struct PasswordKey(pub [u8; KEY_BYTES]);

impl std::fmt::Debug for PasswordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordKey(secret)")
    }
}

/// The service.
pub struct Adc;

impl Service for Adc {
    type Options = Options;
    type State = AdcState;

    async fn serve(options: Options, replica: Replica<AdcState>, until: Shutdown) -> Result<(), ServeError> {
        let counters = Arc::new(Counters::new(options.metrics.clone()));
        let common = Arc::new(Common {
            settings: Arc::new(options.settings.clone()),
            rules: worker::Rules {
                line_bytes_max: options.line_bytes_max,
                queue_bytes_max: options.send_queue_bytes_max,
                slow_reader_max: options.slow_reader_max,
                keep_alive: options.keep_alive,
            },
            tls: options.tls.as_ref().map(|tls| tls.config.clone()),
            proxies: options.proxies.clone(),
            counters: counters.clone(),
        });
        let (to_hub, from_workers) = mpsc::channel(TO_HUB_MAX);
        let workers = (0..threads(&options))
            .map(|number| WorkerHandle::start(number, common.clone(), to_hub.clone()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ServeError(format!("starting a thread for connections: {error}")))?;
        drop(to_hub);
        let front = Front {
            replica: replica.clone(),
            doorman: Doorman::new(
                options.connections_max,
                options.connections_per_address_max,
                counters.clone(),
            ),
            workers: workers.iter().map(|worker| worker.orders.clone()).collect(),
        };
        let (link, from_peers) = Link::new(replica.clone());
        let (ready, is_ready) = watch::channel(false);
        let parts = hub::Parts {
            replica,
            link,
            from_peers,
            workers,
            from_workers,
            limits: options.limits,
            settings: common.settings.clone(),
            history_on_join: options.history_lines_on_join,
            vault: options
                .password_key
                .as_ref()
                .map(|key| Arc::new(Vault::new(&key.0))),
            counters,
            ready,
            tasks: TaskTracker::new(),
        };
        let serving = async {
            tokio::join!(
                front.serve_all(&options, is_ready.clone()),
                front.serve_own(&options, is_ready.clone()),
            )
        };
        tokio::select! {
            _ = serving => {}
            () = hub::run(parts, &until) => {}
        }
        Ok(())
    }
}

fn threads(options: &Options) -> usize {
    match options.threads {
        0 => std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(THREADS_MAX),
        threads => threads,
    }
}

/// Takes connections in.
struct Front {
    replica: Replica<AdcState>,
    doorman: Doorman,
    workers: Vec<mpsc::Sender<Vec<ToWorker>>>,
}

impl Front {
    /// Hands connections to the threads as long as the hub is open. Does not end.
    async fn accept(&self, listener: &Listener, mut ready: watch::Receiver<bool>) {
        loop {
            // Fails when the hub has ended, and everything with it.
            if ready.wait_for(|ready| *ready).await.is_err() {
                return std::future::pending().await;
            }
            let accepted = self.doorman.accept(listener).await;
            let threads = self.workers.len() as u64;
            let number = usize::try_from(accepted.link % threads).unwrap_or_default();
            // Fails when the thread has panicked.
            let order = vec![ToWorker::Accept(accepted)];
            self.workers[number].send(order).await.ok();
        }
    }

    /// Serves this member's own address.
    async fn serve_own(&self, options: &Options, ready: watch::Receiver<bool>) {
        let Some(address) = options.member_listen else {
            return std::future::pending().await;
        };
        loop {
            match Listener::bind(address) {
                Ok(listener) => self.accept(&listener, ready.clone()).await,
                Err(error) => complain(address, &error),
            }
            tokio::time::sleep(BIND_RETRY).await;
        }
    }

    /// Serves the hub's address: always, or while this member leads.
    async fn serve_all(&self, options: &Options, ready: watch::Receiver<bool>) {
        let mut leadership = self.replica.leadership();
        loop {
            if options.leader_only && self.term().is_none() {
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                    () = tokio::time::sleep(LEASE_RECHECK) => {}
                }
                continue;
            }
            match open(options) {
                Ok(listener) => {
                    info!(address = %options.listen, "taking users in");
                    tokio::select! {
                        () = self.accept(&listener, ready.clone()) => {}
                        () = self.follow(leadership.clone(), options.leader_only) => {}
                    }
                }
                // Another member on the same machine has it, or had it a moment ago.
                Err(error) => {
                    complain(options.listen, &error);
                    tokio::time::sleep(BIND_RETRY).await;
                }
            }
        }
    }

    /// Says that the listener is open for the term that this member leads. Ends when it does not lead any more, if
    /// `leader_only`.
    async fn follow(&self, mut leadership: watch::Receiver<Leadership>, leader_only: bool) {
        loop {
            let term = self.term();
            self.replica.set_listening(term);
            if term.is_none() && leader_only {
                return;
            }
            let is_unsure =
                term.is_none() && matches!(*leadership.borrow_and_update(), Leadership::Leader { .. });
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(LEASE_RECHECK), if is_unsure => {}
            }
        }
    }

    /// The term that this member leads.
    fn term(&self) -> Option<u64> {
        match *self.replica.leadership().borrow() {
            Leadership::Leader { term } if self.replica.lease().is_valid() => Some(term),
            _ => None,
        }
    }
}

fn complain(address: SocketAddr, error: &std::io::Error) {
    warn!(%address, %error, "cannot take users in: is the port taken by another program?");
}

fn open(options: &Options) -> std::io::Result<Listener> {
    match &options.socket {
        Some(socket) => Listener::from_std(socket.try_clone()?),
        None => Listener::bind(options.listen),
    }
}

/// What the member holds, for the status page.
pub fn detail(
    replica: &Replica<AdcState>,
    member_address: Option<SocketAddr>,
    fingerprint: Option<&str>,
    shown: &Shown,
) -> serde_json::Value {
    replica.local(|state| {
        serde_json::json!({
            "memberAddress": member_address.map(|address| address.to_string()),
            "users": state.users().len(),
            "memberUsers": shown.own_users(),
            "keptPlaces": state.orphans(),
            "connections": shown.connections(),
            "deliveredLines": shown.delivered(),
            "registeredUsers": state.accounts().len(),
            "bans": state.bans().len(),
            "topic": state.topic(),
            "keyprint": fingerprint,
        })
    })
}
