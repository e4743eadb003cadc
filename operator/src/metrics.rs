//! The operator's own port: metrics and probes. Does I/O.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;

/// What the operator counts. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    durations: HistogramVec,
    requests: IntCounterVec,
    leader: IntGauge,
    resources: IntGaugeVec,
    is_ready: Arc<AtomicBool>,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let reconciles = IntCounterVec::new(
            Opts::new(
                "quorate_operator_reconciles_total",
                "Rounds through a custom resource, by kind and by how they ended (ok, error).",
            ),
            &["kind", "result"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "quorate_operator_reconcile_seconds",
                "How long a round through a custom resource took.",
            )
            .buckets(vec![
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
            &["kind"],
        )?;
        let requests = IntCounterVec::new(
            Opts::new(
                "quorate_operator_api_requests_total",
                "Requests to the API server, by purpose (work, lease) and method. Everything but GET writes.",
            ),
            &["purpose", "method"],
        )?;
        for (purpose, method) in PURPOSES
            .iter()
            .flat_map(|purpose| METHODS.map(|method| (purpose, method)))
        {
            requests.with_label_values(&[purpose, method]);
        }
        let leader = IntGauge::new(
            "quorate_operator_leader",
            "Whether this operator works (1) or stands by (0).",
        )?;
        let resources = IntGaugeVec::new(
            Opts::new(
                "quorate_operator_resources",
                "Custom resources that are watched, by kind.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(leader.clone()))?;
        registry.register(Box::new(resources.clone()))?;
        Ok(Self {
            registry,
            reconciles,
            durations,
            requests,
            leader,
            resources,
            is_ready: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Counts one round.
    pub(crate) fn reconciled(&self, kind: &str, took: Duration, is_ok: bool) {
        let result = if is_ok { "ok" } else { "error" };
        self.reconciles.with_label_values(&[kind, result]).inc();
        self.durations
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
    }

    /// Counts one request to the API server.
    pub(crate) fn requested(&self, purpose: &str, method: &str) {
        self.requests.with_label_values(&[purpose, method]).inc();
    }

    /// Whether this operator holds the lease.
    pub(crate) fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// How many resources of a kind are watched.
    pub(crate) fn set_resources(&self, kind: &str, count: usize) {
        self.resources
            .with_label_values(&[kind])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// From now on `/readyz` answers well.
    pub(crate) fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }
}

/// For which there are clients of the API server: resources, and the Lease, which alone is written all the time.
pub(crate) const PURPOSES: [&str; 2] = ["work", "lease"];

/// From the start at 0, so that rates show the first one too.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Serves until the process ends.
pub(crate) async fn serve(address: SocketAddr, metrics: Metrics) -> anyhow::Result<()> {
    let listener = bind(address)
        .await
        .with_context(|| format!("binding {address} for metrics and probes (--listen)"))?;
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(metrics);
    axum::serve(listener, routes)
        .await
        .context("serving metrics and probes")
}

/// `[::]` takes both families, and IPv4 alone on nodes without IPv6.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(any).await
        }
        other => other,
    }
}

/// Ready means that it can take over: it reached the API server and found the custom resource definitions. Whether it
/// works or stands by does not matter.
async fn readyz(State(metrics): State<Metrics>) -> Response {
    if metrics.is_ready.load(Ordering::Relaxed) {
        "ok\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server was not reached yet\n",
        )
            .into_response()
    }
}

async fn render(State(metrics): State<Metrics>) -> Response {
    match TextEncoder::new().encode_to_string(&metrics.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
