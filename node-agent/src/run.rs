//! `quorate-agent run`: one member, from its configuration to its last answer.
//!
//! Order at the end, so that no client sees it: not ready, leadership handed over, the service drained, the node
//! stopped, the admin port closed last.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use operator_api::AgentConfig;
use replication::{Node, ServeError, Shutdown};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::admin::{self, Admin, Phase};
use crate::config::{self, DataDir};
use crate::group;
use crate::kubernetes::{Route, Routing};
use crate::services::{self, Started};
use crate::telemetry::{self, Metrics};

/// What `quorate-agent run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The member's configuration, JSON.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the member until it is asked to stop, or cannot go on.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = config::read(&args.config)?;
    telemetry::start_logging(config.log_format, &config.log_level)?;
    match Member::start(&config).await {
        Ok(member) => Ok(member.live(&config).await),
        Err(error) => {
            // The log is where a pod's errors are looked for; `main` must not say it once more.
            tracing::error!(
                member = config.name,
                error = format!("{error:#}"),
                "the member cannot start"
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A running member.
struct Member {
    node: Node,
    /// Ends when the service ends.
    service: JoinSet<Result<(), ServeError>>,
    /// Ends when the admin port is closed.
    admin: JoinSet<()>,
    phase: watch::Sender<Phase>,
    stop_service: Shutdown,
    stop_admin: Shutdown,
    stop: StopRequests,
    /// In a pod: where clients are sent.
    routing: Option<Routing>,
    /// Held until the process ends.
    _data_dir: DataDir,
}

/// Why the member ends.
enum End {
    /// It was asked to.
    Asked(&'static str),
    /// It cannot go on.
    Failed(String),
}

impl Member {
    async fn start(config: &AgentConfig) -> anyhow::Result<Self> {
        // First of all, so that a signal during the start is not lost.
        let mut stop = StopRequests::new(config.exit_with_stdin)?;
        let data_dir = take_data_dir(config, &mut stop).await?;
        let token = config
            .token_file
            .as_deref()
            .map(group::read_token)
            .transpose()
            .context("field tokenFile")?;
        let listener = admin::server::bind(config.admin.listen).await?;
        let kind = config.service.kind();
        let metrics = Arc::new(Metrics::new(kind, &config.name)?);
        let stop_service = Shutdown::new();
        let route = Route::new(config);
        let Started {
            node,
            serving,
            client_address,
            detail,
            lacks,
            files,
            hub,
        } = services::start(
            config,
            data_dir.path(),
            ListenFd::from_env(),
            metrics.registry(),
            route.clone(),
            stop_service.clone(),
        )
        .await
        .with_context(|| format!("starting the {kind} service"))?;
        let routing = Routing::start(config, route, &node, metrics.registry())
            .context("following the leader in Kubernetes")?;
        let (phase, phases) = watch::channel(Phase::Running);
        let routes = admin::router(Admin {
            service: kind,
            name: config.name.clone(),
            client_address: config.client_address.clone().unwrap_or(client_address),
            admin_address: config.admin.advertise.clone(),
            control: Arc::new(node.clone()),
            detail,
            lacks,
            files,
            hub,
            sent_backup: config.restore_from.clone().filter(|_| config.accepts_backup),
            metrics,
            token,
            phase: phases,
        });
        let stop_admin = Shutdown::new();
        tracing::info!(member = config.name, service = %kind, admin = %address(&listener), "the member runs");
        let mut service = JoinSet::new();
        service.spawn(serving);
        let mut admin = JoinSet::new();
        admin.spawn(admin::server::serve(listener, routes, stop_admin.clone()));
        Ok(Self {
            node,
            service,
            admin,
            phase,
            stop_service,
            stop_admin,
            stop,
            routing,
            _data_dir: data_dir,
        })
    }

    async fn live(mut self, config: &AgentConfig) -> ExitCode {
        let end = tokio::select! {
            // In this order: a node that failed makes its service end, and is the reason to tell.
            biased;
            reason = self.stop.requested() => End::Asked(reason),
            reason = self.node.failed() => End::Failed(reason),
            ended = self.service.join_next() => End::Failed(service_ended(ended)),
            _ = self.admin.join_next() => End::Failed("the admin port's task ended".to_owned()),
        };
        match end {
            End::Asked(reason) => {
                tracing::info!(member = config.name, reason, "stopping");
                self.end(config).await
            }
            End::Failed(reason) => {
                tracing::error!(member = config.name, reason, "the member cannot go on, and ends");
                self.phase.send_replace(Phase::Failed(reason));
                ExitCode::from(EXIT_FAILED)
            }
        }
    }

    /// Hands the work over and ends. A second request to stop ends the process at once.
    async fn end(mut self, config: &AgentConfig) -> ExitCode {
        self.phase.send_replace(Phase::Stopping);
        let drain = Duration::from_secs(config.drain_seconds.into());
        let orderly = async {
            // While the service still runs: it brings the new leader up to date, and follows it itself.
            let handed_over = self.node.status().serving && hand_over(&self.node, &config.name).await;
            let drain_end = Instant::now() + drain;
            if let Some(routing) = &self.routing {
                timeout_at(drain_end, unrouted(&routing.route, handed_over))
                    .await
                    .ok();
            }
            self.stop_service.request();
            match timeout_at(drain_end, self.service.join_next()).await {
                Ok(Some(Ok(Ok(()))) | None) => {}
                Ok(ended @ Some(_)) => {
                    tracing::warn!(
                        member = config.name,
                        reason = service_ended(ended),
                        "while stopping"
                    );
                }
                Err(_) => tracing::warn!(
                    member = config.name,
                    ?drain,
                    "work was cut at the end of drainSeconds"
                ),
            }
            self.service.shutdown().await;
            if tokio::time::timeout(NODE_STOP_TIMEOUT, self.node.stop())
                .await
                .is_err()
            {
                // What was acknowledged is on disk already; only an orderly mark is missing.
                tracing::warn!(member = config.name, "the node did not stop in time");
            }
            self.stop_admin.request();
            while self.admin.join_next().await.is_some() {}
        };
        tokio::select! {
            () = orderly => {
                tracing::info!(member = config.name, "stopped");
                ExitCode::SUCCESS
            }
            reason = self.stop.requested() => {
                tracing::warn!(member = config.name, reason, "stopped at once");
                ExitCode::FAILURE
            }
        }
    }
}

/// In a pod the member's predecessor may still hand its work over: a pod that is deleted by force is forgotten before its
/// processes have ended. To end here would cost a restart, with the kubelet's pause before it.
async fn take_data_dir(config: &AgentConfig, stop: &mut StopRequests) -> anyhow::Result<DataDir> {
    if config.kubernetes.is_some() {
        let end = Instant::now() + PREDECESSOR_ENDS;
        while Instant::now() < end {
            if let Some(taken) = DataDir::take_if_free(&config.data_dir)? {
                return Ok(taken);
            }
            tokio::select! {
                () = tokio::time::sleep(LOCK_LOOK_INTERVAL) => {}
                reason = stop.requested() => bail!("asked to stop ({reason}) before it began"),
            }
        }
    }
    DataDir::take(&config.data_dir)
}

/// Hands leadership over; whether another member leads now.
async fn hand_over(node: &Node, member: &str) -> bool {
    match tokio::time::timeout(TRANSFER_TIMEOUT, node.transfer(None)).await {
        Ok(Ok(())) => {
            tracing::info!(member, "leadership handed over");
            return true;
        }
        Ok(Err(error)) => tracing::warn!(member, %error, "no member took leadership over"),
        Err(_) => tracing::warn!(member, "no member took leadership over in time"),
    }
    false
}

/// Resolves when clients are sent elsewhere, also those of a Service that leads to all members. Until then the service
/// holds its ports: a client whose packet is on its way must not be told that there is no such port.
async fn unrouted(route: &Route, handed_over: bool) {
    if handed_over || route.is_leaving() {
        route.moved_away().await;
    }
    tokio::time::sleep(ROUTE_SETTLES).await;
}

fn service_ended(ended: Option<Result<Result<(), ServeError>, JoinError>>) -> String {
    match ended {
        Some(Ok(Ok(()))) | None => "the service ended by itself".to_owned(),
        Some(Ok(Err(error))) => format!("the service failed: {:#}", anyhow::Error::new(error)),
        Some(Err(error)) => format!("the service broke: {error}"),
    }
}

fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// The ways in which the process is asked to end.
struct StopRequests {
    terminate: Signal,
    interrupt: Signal,
    /// Resolves when standard input ends; none when that does not count, or has been counted.
    stdin: Option<oneshot::Receiver<()>>,
}

impl StopRequests {
    fn new(exit_with_stdin: bool) -> anyhow::Result<Self> {
        let listening = "listening to signals";
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context(listening)?,
            interrupt: signal(SignalKind::interrupt()).context(listening)?,
            stdin: exit_with_stdin.then(stdin_end),
        })
    }

    async fn requested(&mut self) -> &'static str {
        let stdin = &mut self.stdin;
        let stdin_end = async {
            match stdin {
                // A sender that is gone without a word could not read: no parent, then.
                Some(end) => drop(end.await),
                None => std::future::pending().await,
            }
            *stdin = None;
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin_end => "standard input ended",
        }
    }
}

/// Waits for the end of standard input on a thread of its own: a blocking read cannot be cancelled, and this thread
/// must not hold the runtime's end up.
fn stdin_end() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut ignored = [0; 256];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        sender.send(()).ok();
    });
    receiver
}

/// `EX_SOFTWARE` of sysexits.h: the member cannot go on, and says why in its log.
const EXIT_FAILED: u8 = 70;

/// Less than the pod's start-up probe waits.
const PREDECESSOR_ENDS: Duration = Duration::from_secs(45);

/// A lock tells nobody that it is free.
const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A transfer takes an election without its timeout; the node itself falls back to an election when it stalls.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// kube-proxy writes a change down at once when it has been idle, and after a second (its `minSyncPeriod`) when not. A pod that
/// is deleted without grace does not live that long.
const ROUTE_SETTLES: Duration = Duration::from_millis(1500);

/// For the last sync and the peers' connections.
const NODE_STOP_TIMEOUT: Duration = Duration::from_secs(5);
