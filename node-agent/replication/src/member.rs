//! One member of a group: its identity, its log, Raft on them, and its connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tracing::{info, warn};
use wal::Wal;

use crate::backup::Keeper;
use crate::compaction::Compaction;
use crate::identity::{DataDir, Identity, Stored};
use crate::raft::incoming::{self, TcpListener};
use crate::raft::leadership::{self, Lease};
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::peers::{MESSAGE_BYTES_MAX, Peers};
use crate::raft::proto::peer_server;
use crate::raft::server::PeerServer;
use crate::raft::snapshot::SnapshotFile;
use crate::raft::state_machine::{Machine, StateMachine};
use crate::raft::types::{MemberNode, TypeConfig};
use crate::runtime::RaftRuntime;
#[cfg(not(simulation))]
use crate::runtime::blocking;
use crate::space::Space;
use crate::timers::{config, timers};
use crate::tls::Certificates;
use crate::{Answerer, Durability, Leadership, NodeId, NodeOptions, StartError, Told};

/// Messages outside the log that wait for this member's service; further ones are dropped.
const TOLD_QUEUE_MAX: usize = 4096;
/// Bytes that must stay free on the disk beside a snapshot that is received.
const SPACE_MARGIN_BYTES: u64 = 16 << 20;
/// Below this the disk is called full: no further segment of the log and no snapshot worth the name fits.
const SPACE_ALARM_BYTES: u64 = 8 << 20;

/// A member that has joined its group.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) identity: Identity,
    pub(crate) raft: Raft<TypeConfig, StateMachine>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) wal: Wal,
    /// The last index that was known to be committed when the log was opened.
    pub(crate) committed_at_start: u64,
    space: Space,
}

impl Running {
    /// Refuses a snapshot that would not fit beside the old one.
    pub(crate) fn check_space_for(&self, bytes: usize) -> Result<(), tonic::Status> {
        if self.space.free_bytes() < bytes as u64 + SPACE_MARGIN_BYTES {
            return Err(tonic::Status::resource_exhausted(
                "the disk of this member is full",
            ));
        }
        Ok(())
    }

    /// Whether somebody should free space: the log may have prepared room for a while, the rest of the member has not.
    pub(crate) fn lacks_space(&self) -> bool {
        self.wal.space() != wal::Space::Ok || self.space.free_bytes() < SPACE_ALARM_BYTES
    }

    /// The addresses of `id`, as the effective membership records them.
    pub(crate) fn node(&self, id: NodeId) -> Option<MemberNode> {
        self.raft
            .metrics()
            .borrow_watched()
            .membership_config
            .membership()
            .get_node(&id)
            .cloned()
    }
}

/// One member, joined or not.
pub(crate) struct Member {
    pub(crate) options: NodeOptions,
    pub(crate) data: DataDir,
    /// What peers are shown, and who is trusted; plain TCP without it.
    pub(crate) certificates: Option<Certificates>,
    pub(crate) applied: Arc<dyn Machine>,
    pub(crate) lease: Lease,
    pub(crate) leadership: watch::Sender<Leadership>,
    /// The term for which the service serves clients.
    pub(crate) listening: watch::Sender<Option<u64>>,
    /// Who last handed its leadership to this member, and the term that it led in.
    pub(crate) handed_over: Mutex<Option<(u64, NodeId)>>,
    /// Ticks when anything in the status may have changed.
    pub(crate) changed: watch::Sender<()>,
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) alarm: Mutex<Option<String>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Held by whatever changes the identity or the membership: one step at a time.
    pub(crate) step: tokio::sync::Mutex<()>,
    running: OnceLock<Running>,
    answerer: OnceLock<Answerer>,
    keeper: OnceLock<Arc<dyn Keeper>>,
    told: mpsc::Sender<Told>,
    told_receiver: Mutex<Option<mpsc::Receiver<Told>>>,
    runtime: tokio::runtime::Handle,
    #[cfg(simulation)]
    pub(crate) simulated: crate::simulation::Simulated,
}

fn start_error(what: &str) -> impl Fn(std::io::Error) -> StartError + '_ {
    move |error| StartError(format!("{what}: {error}"))
}

impl Member {
    /// Opens the data directory, serves peers, and goes on as the member it was, if it was one.
    pub(crate) async fn start(
        options: NodeOptions,
        applied: Arc<dyn Machine>,
        #[cfg(simulation)] simulated: crate::simulation::Simulated,
    ) -> Result<(Arc<Self>, RaftRuntime), StartError> {
        let data = DataDir::open(&options.data_dir).map_err(start_error(&format!(
            "cannot use the data directory {}",
            options.data_dir.display()
        )))?;
        let runtime = RaftRuntime::start().map_err(start_error("cannot start Raft's threads"))?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut certificates = None;
        if let Some(files) = &options.tls {
            let (read, follow) = Certificates::open(files).await?;
            let follow = stop.clone().run_until_cancelled_owned(follow);
            tasks.spawn_on(follow, &runtime.handle());
            certificates = Some(read);
        }
        let (told, told_receiver) = mpsc::channel(TOLD_QUEUE_MAX);
        let member = Arc::new(Self {
            data,
            certificates,
            applied,
            lease: Lease::new(),
            leadership: watch::channel(Leadership::Follower { leader: None }).0,
            listening: watch::channel(None).0,
            handed_over: Mutex::new(None),
            changed: watch::channel(()).0,
            failure: watch::channel(None).0,
            alarm: Mutex::new(None),
            stop,
            tasks,
            step: tokio::sync::Mutex::new(()),
            running: OnceLock::new(),
            answerer: OnceLock::new(),
            keeper: OnceLock::new(),
            told,
            told_receiver: Mutex::new(Some(told_receiver)),
            runtime: runtime.handle(),
            options,
            #[cfg(simulation)]
            simulated,
        });
        member.serve_peers().await?;
        if let Some(stored) = member.usable_identity().await? {
            member.run(stored).await?;
        }
        Ok((member, runtime))
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    pub(crate) fn answerer(&self) -> Option<&Answerer> {
        self.answerer.get()
    }

    pub(crate) fn set_answerer(&self, answerer: Answerer) {
        if self.answerer.set(answerer).is_err() {
            warn!("a second answerer was installed and is ignored");
        }
    }

    pub(crate) fn keeper(&self) -> Option<Arc<dyn Keeper>> {
        self.keeper.get().cloned()
    }

    pub(crate) fn set_keeper(&self, keeper: Arc<dyn Keeper>) {
        if self.keeper.set(keeper).is_err() {
            warn!("a second keeper was installed and is ignored");
        }
    }

    pub(crate) fn note_handed_over(&self, term: u64, by: NodeId) {
        *self.handed_over.lock().unwrap_or_else(PoisonError::into_inner) = Some((term, by));
    }

    pub(crate) fn hear(&self, told: Told) {
        // Dropped when the service does not keep up: it is best effort by contract.
        let _ = self.told.try_send(told);
    }

    pub(crate) fn take_told(&self) -> Option<mpsc::Receiver<Told>> {
        self.told_receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn set_alarm(&self, alarm: String) {
        warn!(alarm, "this member needs help");
        *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
    }

    /// The stored identity, unless its log cannot be trusted: then it is given up, and the member waits to be
    /// admitted anew.
    async fn usable_identity(&self) -> Result<Option<Stored>, StartError> {
        let Some(stored) = self
            .data
            .identity()
            .map_err(start_error("cannot read the member's identity"))?
        else {
            // Whatever lies around without an identity belongs to nobody.
            self.data
                .give_up()
                .map_err(start_error("cannot clear the data directory"))?;
            return Ok(None);
        };
        let id = stored.identity.node_id;
        let distrust = if self
            .data
            .log_may_be_short()
            .map_err(start_error("cannot read boot.json"))?
        {
            Some("the machine went down and its log was not synced (relaxed durability)".to_owned())
        } else if !stored.founding && !self.data.log().is_dir() {
            Some("its log is missing".to_owned())
        } else {
            None
        };
        match distrust {
            None => Ok(Some(stored)),
            Some(why) => {
                self.set_alarm(format!(
                    "node {id} gave up its identity and waits to be admitted under a new one: {why}"
                ));
                self.data
                    .give_up()
                    .map_err(start_error("cannot clear the data directory"))?;
                Ok(None)
            }
        }
    }

    /// Starts Raft under a stored identity.
    pub(crate) async fn run(self: &Arc<Self>, stored: Stored) -> Result<(), StartError> {
        let Some(wal) = self.open_log(&stored).await? else {
            return Ok(());
        };
        self.data
            .mark(self.options.durability, false)
            .map_err(start_error("cannot write boot.json"))?;
        let identity = stored.identity;
        let committed_at_start = wal.committed().map_or(0, |position| position.index);
        let peers = Peers::new(
            identity,
            self.certificates.clone(),
            self.tasks.clone(),
            self.stop.clone(),
        );
        let network = Network::new(peers.clone(), identity.node_id, wal.clone());
        let log_store = LogStore::new(wal.clone());
        let state_machine = StateMachine::new(self.applied.clone(), SnapshotFile::new(self.data.path()));
        let config = Arc::new(config(self.options.timing, &identity.group_id)?);
        let start = Raft::new(identity.node_id, config, network, log_store, state_machine);
        let raft = self
            .runtime
            .spawn(start)
            .await
            .map_err(|error| StartError(format!("Raft did not start: {error}")))?
            .map_err(|error| StartError(format!("Raft did not start: {error}")))?;
        let running = Running {
            identity,
            raft,
            peers,
            wal,
            committed_at_start,
            #[cfg(not(simulation))]
            space: Space::new(self.data.path()),
            #[cfg(simulation)]
            space: Space::new(&self.simulated.disk),
        };
        if stored.founding {
            self.found(&running).await?;
        }
        info!(node = identity.node_id, group = %identity.group_id, "joined");
        self.spawn_watchers(&running);
        #[cfg(not(simulation))]
        self.announce(&running);
        self.running
            .set(running)
            .map_err(|_| StartError("the member runs already".to_owned()))?;
        self.changed.send_replace(());
        Ok(())
    }

    /// Opens the log; none when it is corrupt, and then the identity is given up.
    async fn open_log(&self, stored: &Stored) -> Result<Option<Wal>, StartError> {
        let options = wal::Options {
            durability: match self.options.durability {
                Durability::Strict => wal::Durability::Strict,
                Durability::Relaxed => wal::Durability::Relaxed,
            },
            ..wal::Options::default()
        };
        let path = self.data.log();
        #[cfg(not(simulation))]
        let opened = blocking(move || Wal::open(&path, options))
            .await
            .map_err(|error| StartError(format!("opening the log: {error}")))?;
        #[cfg(simulation)]
        let opened = self.simulated.open_log(&path, options);
        match opened {
            Ok((wal, recovered)) => {
                info!(last = ?recovered.last, committed = ?recovered.committed, cut = recovered.torn_bytes_cut, "log open");
                Ok(Some(wal))
            }
            Err(error @ wal::OpenError::Corrupt { .. }) => {
                // Never cut: entries this member acknowledged may be gone. It must not vote on what is left.
                let id = stored.identity.node_id;
                self.set_alarm(format!(
                    "node {id} gave up its identity and waits to be admitted under a new one: {error}"
                ));
                self.data
                    .give_up()
                    .map_err(start_error("cannot clear the data directory"))?;
                Ok(None)
            }
            Err(error) => Err(StartError(format!("cannot open the log: {error}"))),
        }
    }

    /// Writes the first entry of a new group, of which this member is the only voter.
    async fn found(&self, running: &Running) -> Result<(), StartError> {
        let fail = |error: String| StartError(format!("founding the group: {error}"));
        if !running
            .raft
            .is_initialized()
            .await
            .map_err(|error| fail(error.to_string()))?
        {
            let members = std::collections::BTreeMap::from([(running.identity.node_id, self.own_node())]);
            running
                .raft
                .initialize(members)
                .await
                .map_err(|error| fail(error.to_string()))?;
        }
        let stored = Stored {
            identity: running.identity,
            founding: false,
        };
        self.data
            .set_identity(&stored)
            .map_err(start_error("cannot store the member's identity"))
    }

    pub(crate) fn own_node(&self) -> MemberNode {
        MemberNode {
            name: self.options.name.clone(),
            peer_address: self.options.peer_advertise.clone(),
            admin_address: self.options.admin_advertise.clone(),
        }
    }

    fn spawn_watchers(self: &Arc<Self>, running: &Running) {
        let lease_time =
            Duration::from_millis(timers(self.options.timing).election_max).mul_f64(LEASE_MARGIN);
        let follow = leadership::follow(
            running.raft.metrics(),
            lease_time,
            self.lease.clone(),
            self.leadership.clone(),
            self.stop.clone(),
        );
        self.tasks.spawn_on(follow, &self.runtime);
        let (member, mut metrics) = (self.clone(), running.raft.metrics());
        let (running, snapshot) = (running.clone(), SnapshotFile::new(self.data.path()));
        let watch_metrics = async move {
            let mut membership = None;
            let mut compaction = None;
            loop {
                let seen = {
                    let metrics = metrics.borrow_and_update();
                    if let Err(error) = &metrics.running_state
                        && !member.stop.is_cancelled()
                    {
                        member.failure.send_replace(Some(error.to_string()));
                    }
                    if membership != Some(*metrics.membership_config.log_id()) {
                        membership = Some(*metrics.membership_config.log_id());
                        let nodes = metrics.membership_config.membership().nodes();
                        let members: BTreeSet<NodeId> = nodes.map(|(id, _)| *id).collect();
                        running.peers.retain(|id| members.contains(&id));
                    }
                    running.seen(&metrics)
                };
                let compaction = compaction.get_or_insert_with(|| {
                    let found = running.wal.bytes_after(seen.snapshot);
                    let compaction = Compaction::new(seen.snapshot, snapshot.bytes(), found);
                    #[cfg(simulation)]
                    let compaction = compaction.with_entries_max(member.simulated.snapshot_every);
                    compaction
                });
                if let Some(step) = compaction.step(seen, || snapshot.bytes()) {
                    running.compact(step).await;
                }
                member.changed.send_replace(());
                tokio::select! {
                    () = member.stop.cancelled() => return,
                    changed = metrics.changed() => if changed.is_err() { return },
                }
            }
        };
        self.tasks.spawn_on(watch_metrics, &self.runtime);
    }

    /// Tells all peers where this member is, in the background: their names for it may still lead to where it was.
    #[cfg(not(simulation))]
    fn announce(&self, running: &Running) {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        for (id, node) in metrics.membership_config.membership().nodes() {
            if *id == running.identity.node_id {
                continue;
            }
            let (id, address, peers) = (*id, node.peer_address.clone(), running.peers.clone());
            let announce = async move { peers.announce(id, &address).await };
            self.tasks.spawn_on(announce, &self.runtime);
        }
    }

    /// Binds the peer port and serves it in the background.
    async fn serve_peers(self: &Arc<Self>) -> Result<(), StartError> {
        let listen: SocketAddr = self.options.peer_listen;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            StartError(format!(
                "cannot listen for peers on {listen}: {error}; is the port taken?"
            ))
        })?;
        // The listener belongs to Raft's runtime from here on.
        #[cfg(not(simulation))]
        let listener = listener.into_std().map_err(start_error("peer port"))?;
        let service = peer_server::PeerServer::new(PeerServer::new(self.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let router = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(incoming::PING_EVERY))
            .add_service(service);
        let (stop, certificates) = (self.stop.clone(), self.certificates.clone());
        let serve = async move {
            #[cfg(not(simulation))]
            let listener = match TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return warn!(%error, "the peer port closed"),
            };
            if let Err(error) = router
                .serve_with_incoming_shutdown(
                    incoming::accept(listener, certificates),
                    stop.cancelled_owned(),
                )
                .await
            {
                warn!(%error, "the peer port closed");
            }
        };
        self.tasks.spawn_on(serve, &self.runtime);
        Ok(())
    }
}

/// The part of the followers' promise that the leader uses: the rest covers clocks that run at different speeds.
const LEASE_MARGIN: f64 = 0.9;
