//! `quorate-operator run`: waits for the lease, then looks after every kind until it is asked to stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::client::ClientBuilder;
use kube::runtime::events::{Recorder, Reporter};
use operator_api::resources::{AdcHub, KvCluster, TftpCluster};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tower::util::MapRequestLayer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use crate::build::pod_monitor_resource;
use crate::controller::{self, Shared};
use crate::election::Candidate;
use crate::kinds::Group;
use crate::members::Members;
use crate::metrics::{self, Metrics};
use crate::validate::{IpFamily, Settings};

/// What `quorate-operator run` takes. Every option may come from the environment.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The namespaces to look after, separated by commas; all without it.
    #[arg(
        long,
        env = "WATCH_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    namespaces: Vec<String>,
    /// Where metrics and probes are served.
    #[arg(long, env = "LISTEN", default_value = "[::]:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The agent's image for resources that name none.
    #[arg(long, env = "AGENT_IMAGE", value_name = "IMAGE")]
    agent_image: Option<String>,
    /// The domain of the cluster's names.
    #[arg(
        long,
        env = "CLUSTER_DOMAIN",
        default_value = "cluster.local",
        value_name = "DOMAIN"
    )]
    cluster_domain: String,
    /// The address of the API server's Service, which every pod is told: a Service that asks for no family has this one's.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", value_name = "ADDRESS")]
    service_host: Option<String>,
    /// This operator's own name, its pod's; by chance without it.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// The namespace of the lease; that of the credentials without it.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The lease that says which of several operators works.
    #[arg(
        long,
        env = "LEASE_NAME",
        default_value = "quorate-operator",
        value_name = "NAME"
    )]
    lease: String,
    /// Which log lines are written (`info`, `info,kube=debug`).
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    log_level: String,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Plain text for people.
    Text,
}

/// Runs until it is asked to stop, or loses its lease.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    start_logging(&args)?;
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut terminate = signal(SignalKind::terminate()).context("listening to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to signals")?;
    let asked = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(asked);
    let metrics = Metrics::new()?;
    let mut port = JoinSet::new();
    port.spawn(metrics::serve(args.listen, metrics.clone()));
    let (shared, mut candidate) = tokio::select! {
        reason = &mut asked => {
            tracing::info!(reason, "asked to stop while another operator works, or none can");
            return Ok(ExitCode::SUCCESS);
        }
        ended = port.join_next() => return Err(port_ended(ended)),
        ready = stand_by(&args, metrics) => ready?,
    };
    let mut controllers = JoinSet::new();
    for scope in scopes(&args.namespaces) {
        controllers.spawn(controller::run::<TftpCluster>(shared.clone(), scope.clone()));
        controllers.spawn(controller::run::<KvCluster>(shared.clone(), scope.clone()));
        controllers.spawn(controller::run::<AdcHub>(shared.clone(), scope));
    }
    tokio::select! {
        reason = &mut asked => {
            tracing::info!(reason, "asked to stop");
            Ok(end(controllers, candidate).await)
        }
        // Another one may work by now: this one must not do anything more.
        () = candidate.keep() => Ok(ExitCode::FAILURE),
        ended = port.join_next() => Err(port_ended(ended)),
        _ = controllers.join_next() => bail!("a controller ended"),
    }
}

fn port_ended(ended: Option<Result<anyhow::Result<()>, JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        _ => anyhow!("the port for metrics and probes ended"),
    }
}

/// From the first contact with the API server until this operator holds the lease.
async fn stand_by(args: &Args, metrics: Metrics) -> anyhow::Result<(Shared, Candidate)> {
    let [work, lease] = metrics::PURPOSES;
    let client = connect(&metrics, work).await?;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    reach::<TftpCluster>(&client, &args.namespaces).await;
    reach::<KvCluster>(&client, &args.namespaces).await;
    reach::<AdcHub>(&client, &args.namespaces).await;
    metrics.set_ready();
    let identity = args
        .pod_name
        .clone()
        .unwrap_or_else(|| format!("operator-{}", uuid::Uuid::new_v4()));
    let reporter = Reporter {
        controller: "quorate.dev/operator".to_owned(),
        instance: Some(identity.clone()),
    };
    // With connections of its own: the lease must not wait behind the work.
    let own = connect(&metrics, lease).await?;
    let mut candidate = Candidate::new(own, &namespace, args.lease.clone(), identity);
    candidate.acquire().await;
    metrics.set_leader(true);
    let shared = Shared {
        recorder: Recorder::new(client.clone(), reporter),
        members: Members::new().context("preparing requests to members")?,
        has_pod_monitors: has_pod_monitors(&client).await,
        settings: Settings {
            agent_image: args.agent_image.clone(),
            cluster_domain: args.cluster_domain.clone(),
            ip_family: IpFamily::of(args.service_host.as_deref()),
        },
        metrics,
        client,
    };
    Ok((shared, candidate))
}

/// A client whose requests are counted.
async fn connect(metrics: &Metrics, purpose: &'static str) -> anyhow::Result<Client> {
    let config = kube::Config::infer()
        .await
        .context("reading the credentials for the API server (in a pod, or KUBECONFIG)")?;
    let metrics = metrics.clone();
    let count = move |request: axum::http::Request<kube::client::Body>| {
        metrics.requested(purpose, request.method().as_str());
        request
    };
    let client = ClientBuilder::try_from(config)
        .context("preparing requests to the API server")?
        .with_layer(&MapRequestLayer::new(count))
        .build();
    Ok(client)
}

/// Stops working, then lets another operator work at once.
async fn end(mut controllers: JoinSet<()>, mut candidate: Candidate) -> ExitCode {
    controllers.shutdown().await;
    if tokio::time::timeout(RELEASE_TIMEOUT, candidate.release())
        .await
        .is_err()
    {
        tracing::warn!("the lease was not given back in time");
    }
    ExitCode::SUCCESS
}

/// One scope for each namespace, or one for all.
fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    let named: std::collections::BTreeSet<_> = namespaces
        .iter()
        .map(|namespace| namespace.trim())
        .filter(|namespace| !namespace.is_empty())
        .collect();
    if named.is_empty() {
        return vec![None];
    }
    named.into_iter().map(|name| Some(name.to_owned())).collect()
}

/// Waits until resources of a kind can be listed, and says what is missing until then.
async fn reach<K: Group>(client: &Client, namespaces: &[String]) {
    let api: Api<K> = match scopes(namespaces).into_iter().next().flatten() {
        Some(namespace) => Api::namespaced(client.clone(), &namespace),
        None => Api::all(client.clone()),
    };
    let mut said = String::new();
    loop {
        let Err(error) = api.list_metadata(&ListParams::default().limit(1)).await else {
            return;
        };
        let error = error.to_string();
        if said != error {
            tracing::warn!(
                kind = %K::kind(&()),
                error,
                "the resources cannot be listed yet: are the custom resource definitions installed, and may this \
                 operator read them?"
            );
            said = error;
        }
        tokio::time::sleep(REACH_INTERVAL).await;
    }
}

/// Whether the Prometheus operator's definitions are installed. Asked once: after they were installed the operator
/// needs a restart.
async fn has_pod_monitors(client: &Client) -> bool {
    let resource = pod_monitor_resource();
    match client
        .list_api_group_resources(&format!("{}/{}", resource.group, resource.version))
        .await
    {
        Ok(list) => list.resources.iter().any(|found| found.name == resource.plural),
        Err(_) => false,
    }
}

fn start_logging(args: &Args) -> anyhow::Result<()> {
    let filter: Targets = args
        .log_level
        .parse()
        .with_context(|| format!("--log-level `{}` is no filter such as `info`", args.log_level))?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Json => registry()
            .with(lines.json().flatten_event(true))
            .with(filter)
            .init(),
        LogFormat::Text => registry().with(lines).with(filter).init(),
    }
    Ok(())
}

/// The API server or the definitions may come later than the operator.
const REACH_INTERVAL: Duration = Duration::from_secs(2);

/// The lease ends by itself otherwise.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);
