//! The TFTP front: runs on every member, serves on the leader. The only part that opens sockets and reads clocks.
//!
//! A follower keeps the content and listens to the leader's positions, so that it can take over at any moment. The
//! leader owns the socket: one task, one loop, no locks shared between transfers.

mod leader;
mod metrics;
mod open;
mod positions;
mod pulse;
mod relay;
mod session;
mod socket;
mod uploads;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use replication::{Leadership, NodeId, Replica, ServeError, Service, Shutdown};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::content::ContentStore;
use crate::files::Files;
use crate::state::TftpState;
use crate::transfer::Limits;

pub use metrics::Metrics;
pub use socket::bind;
pub use uploads::{UploadRule, Uploads};

use leader::Leader;
use positions::Board;
use pulse::Pulse;
use relay::{Broken, Relayed};
use socket::{Batch, ServerSocket};

/// How long a leader whose lease ran out waits before it looks again, while Raft has not named another.
const LEASE_RECHECK: Duration = Duration::from_millis(5);
/// How long a leader that cannot bind its port waits before it tries again.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// How long a member waits before it passes datagrams on to the leader again, after that failed.
const RELAY_RETRY: Duration = Duration::from_millis(100);
/// How long datagrams wait for a leader. A client that got no answer for that long has asked again.
const LEADERLESS_MAX: Duration = Duration::from_secs(2);

/// Where an address leads that moves to whoever leads, as that of a Kubernetes Service does.
#[derive(Clone)]
pub struct MovingAddress {
    /// This member's own addresses, one of a family at most, to which the nodes lead clients: packets leave from them, and not
    /// from another address of the machine that happens to be nearer to the client. Without one, the kernel chooses.
    pub leads_to: Vec<IpAddr>,
    /// Says whether a packet that leaves from this member now gets back to a client whose packets reach it, under the address
    /// that the client sent to. It is asked for each batch of packets.
    pub gets_back: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What the service needs to know. Numbers are positive.
pub struct Options {
    /// The UDP address that the leader serves.
    pub listen: SocketAddr,
    /// A socket bound to it already, held by a parent process so that the port is never closed between two leaders.
    pub socket: Option<std::net::UdpSocket>,
    /// Given where the address that clients send to is not this member's own, but moves to whoever leads, as a Kubernetes
    /// Service does. Then it is no part of what a transfer is known by, and a member that does not lead holds its port
    /// open and passes on to the leader what comes there: clients are still sent to it for a while.
    pub address_moves: Option<MovingAddress>,
    /// The files.
    pub files: Files,
    /// Their content on this member.
    pub store: ContentStore,
    /// Running transfers in all.
    pub sessions_max: u32,
    /// Running transfers of one client address.
    pub sessions_per_client_max: u32,
    /// When a silent client is given up.
    pub limits: Limits,
    /// The largest `blksize` that is granted.
    pub block_size_max: u16,
    /// The largest `windowsize` that is granted.
    pub window_size_max: u16,
    /// What clients may write.
    pub uploads: Uploads,
    /// Where transfers are counted.
    pub metrics: Metrics,
}

impl Options {
    /// The addresses that packets leave from when their client's own went to one that says nothing.
    fn sources(&self) -> Vec<IpAddr> {
        let moving = self.address_moves.as_ref();
        moving.map(|moving| moving.leads_to.clone()).unwrap_or_default()
    }

    /// Buffers for what the listener receives.
    fn batch(&self) -> Batch {
        Batch::new(self.address_moves.is_some(), !self.uploads.rules.is_empty())
    }
}

/// The service.
pub struct Tftp;

/// What the parts of the front share.
struct Context {
    options: Options,
    replica: Replica<TftpState>,
    board: Board,
}

impl Service for Tftp {
    type Options = Options;
    type State = TftpState;

    async fn serve(options: Options, replica: Replica<TftpState>, until: Shutdown) -> Result<(), ServeError> {
        let files = options.files.clone();
        let (answerer, mut relayed) = relay::answerer(&files);
        replica.answer_with(answerer);
        let board = options.metrics.board();
        let context = Arc::new(Context {
            options,
            replica,
            board,
        });
        let told = context.replica.told();
        // Tasks of their own, so that a packet wakes only the loop that it is for.
        let mut beside = JoinSet::new();
        let keeping_until = until.clone();
        beside.spawn(async move { files.run(keeping_until).await });
        beside.spawn(listen(context.clone(), told));
        beside.spawn(forget(context.clone()));
        let pulse = Pulse::new();
        if context.options.address_moves.is_some() {
            beside.spawn(pulse.clone().keep());
        }
        tokio::select! {
            Some(ended) = beside.join_next() => ended.map_err(|error| ServeError(error.to_string())),
            served = alternate(context, &mut relayed, pulse, &until) => served,
        }
    }
}

/// Leads whenever this member leads, until `until`.
async fn alternate(
    context: Arc<Context>,
    relayed: &mut mpsc::Receiver<Relayed>,
    pulse: Pulse,
    until: &Shutdown,
) -> Result<(), ServeError> {
    let mut leadership = context.replica.leadership();
    let lease = context.replica.lease();
    let mut port = Port::new(&context.options, pulse);
    while !until.is_requested() {
        let now = *leadership.borrow_and_update();
        let term = match now {
            Leadership::Leader { term } => term,
            Leadership::Follower { leader } => {
                context.options.metrics.leading(false);
                tokio::select! {
                    () = until.requested() => {}
                    changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                    () = port.follow(&context.replica, leader) => {}
                }
                continue;
            }
        };
        if !lease.is_valid() {
            tokio::select! {
                () = until.requested() => {}
                () = tokio::time::sleep(LEASE_RECHECK) => {}
            }
            continue;
        }
        match port.serve() {
            Ok(socket) => {
                context.options.metrics.leading(true);
                context.replica.set_listening(Some(term));
                Leader::new(context.clone(), socket, term)
                    .run(&mut leadership, relayed, until)
                    .await;
                context.replica.set_listening(None);
            }
            // The old leader on the same machine may not have closed it yet.
            Err(error) => {
                warn!(address = %context.options.listen, %error, "cannot serve: is the port taken by another program?");
                tokio::select! {
                    () = until.requested() => {}
                    () = tokio::time::sleep(BIND_RETRY) => {}
                }
            }
        }
    }
    Ok(())
}

/// The clients' port on this member.
struct Port<'a> {
    options: &'a Options,
    /// Kept while another member leads; none before it could be bound, or where the port is the leader's alone.
    held: Option<std::net::UdpSocket>,
    pulse: Pulse,
}

impl<'a> Port<'a> {
    fn new(options: &'a Options, pulse: Pulse) -> Self {
        Self {
            options,
            held: None,
            pulse,
        }
    }

    /// Opens the socket for a leader.
    fn serve(&mut self) -> io::Result<ServerSocket> {
        let socket = if self.options.address_moves.is_some() {
            self.hold()?
        } else {
            match &self.options.socket {
                Some(socket) => socket.try_clone()?,
                None => bind(self.options.listen)?,
            }
        };
        info!(address = %socket.local_addr()?, "serving");
        ServerSocket::new(socket, self.options.sources())
    }

    /// A handle on the socket that is held.
    fn hold(&mut self) -> io::Result<std::net::UdpSocket> {
        let socket = match self.held.take() {
            Some(socket) => socket,
            None => bind(self.options.listen)?,
        };
        self.held.insert(socket).try_clone()
    }

    /// Passes on to the leader what comes while another member leads. Resolves when it is to be called anew.
    async fn follow(&mut self, replica: &Replica<TftpState>, leader: Option<NodeId>) {
        let options = self.options;
        let Some(moving) = &options.address_moves else {
            return std::future::pending().await;
        };
        let following = async {
            let mut socket = ServerSocket::new(self.hold()?, options.sources())?;
            let mut batch = self.options.batch();
            if let Some(leader) = leader {
                let way = relay::Conditions {
                    pulse: &self.pulse,
                    gets_back: &*moving.gets_back,
                };
                let port = (&mut socket, &mut batch);
                return relay::run(replica, leader, port, &way, &self.options.metrics).await;
            }
            // What comes meanwhile waits in the socket for the next leader, unless that takes long: an answer to what
            // its client has forgotten would only begin a transfer with nobody.
            tokio::time::sleep(LEADERLESS_MAX).await;
            loop {
                socket.readable().await?;
                socket.try_receive(&mut batch)?;
            }
        };
        match following.await {
            Ok(()) => {}
            Err(Broken::Leader(reason)) => {
                debug!(reason, "what comes to this member does not reach the leader");
                tokio::time::sleep(RELAY_RETRY).await;
            }
            Err(Broken::Port(error)) => {
                warn!(address = %self.options.listen, %error, "the port is not open: is it taken by another program?");
                self.held = None;
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    }
}

/// Writes down what leaders tell of their clients' positions.
async fn listen(context: Arc<Context>, told: Option<mpsc::Receiver<replication::Told>>) {
    let Some(mut told) = told else {
        return std::future::pending().await;
    };
    while let Some(told) = told.recv().await {
        context.board.hear(&told);
    }
    std::future::pending().await
}

/// Keeps the board as small as the sessions are.
async fn forget(context: Arc<Context>) {
    let mut applied = context.replica.applied();
    while applied.changed().await.is_ok() {
        context.replica.local(|state| {
            context
                .board
                .forget_unless(state.sessions().len(), |id| state.session(id).is_some());
        });
    }
    std::future::pending().await
}

/// The running transfers as this member knows them, for the status page: the newest first, at most `rows_max`.
pub fn transfers(replica: &Replica<TftpState>, metrics: &Metrics, rows_max: usize) -> serde_json::Value {
    replica.local(|state| {
        let rows: Vec<_> = state
            .sessions()
            .rev()
            .take(rows_max)
            .map(|record| {
                let fixed = &record.fixed;
                let blocks = fixed.size / u64::from(fixed.block_size) + 1;
                let acked = metrics
                    .position(record.id)
                    .max(record.acked.unwrap_or(0))
                    .min(blocks);
                let bytes = (acked * u64::from(fixed.block_size)).min(fixed.size);
                serde_json::json!({
                    "client": fixed.key.peer().to_string(),
                    "file": fixed.path.as_str(),
                    "bytes": bytes,
                    "size": fixed.size,
                    "blockSize": fixed.block_size,
                    "windowSize": fixed.window_size,
                })
            })
            .collect();
        serde_json::Value::Array(rows)
    })
}
