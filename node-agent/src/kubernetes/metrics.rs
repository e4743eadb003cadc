//! What can be seen of a slice's publication.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use operator_api::LeaderEpoch;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use serde_json::Value;
use tokio::time::Instant;

use super::api::ApiError;

/// The metrics of one slice. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct RouteMetrics {
    term: IntGauge,
    node_id: IntGauge,
    writes: IntCounterVec,
    write_seconds: Histogram,
    publish_seconds: Histogram,
    lag: Lag,
}

impl RouteMetrics {
    /// Registers the metrics of a slice.
    pub(super) fn register(registry: &Registry, slice: &str) -> Result<Self, prometheus::Error> {
        let options = |name: &str, help: &str| Opts::new(name, help).const_label("slice", slice);
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::from(options(name, help)).buckets(SECONDS.to_vec());
            Histogram::with_opts(options)
        };
        let metrics = Self {
            term: IntGauge::with_opts(options(
                "quorate_route_term",
                "The term of the leader that the slice names, as this member knows; 0 for none.",
            ))?,
            node_id: IntGauge::with_opts(options(
                "quorate_route_node_id",
                "The node id of the leader that the slice names, as this member knows; 0 for none.",
            ))?,
            writes: IntCounterVec::new(
                options(
                    "quorate_route_writes_total",
                    "Writes of the slice by this member, by result.",
                ),
                &["result"],
            )?,
            write_seconds: histogram(
                "quorate_route_write_seconds",
                "Time from a write of the slice to the API server's answer.",
            )?,
            publish_seconds: histogram(
                "quorate_route_publish_seconds",
                "Time from the leader's open listener, or a foreign change of the slice, to the slice that names it.",
            )?,
            lag: Lag::new(options(
                "quorate_route_lag_seconds",
                "For how long this member has led without the slice naming it; 0 when all is well.",
            ))?,
        };
        for result in RESULTS {
            metrics.writes.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.term.clone()))?;
        registry.register(Box::new(metrics.node_id.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.write_seconds.clone()))?;
        registry.register(Box::new(metrics.publish_seconds.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        Ok(metrics)
    }

    /// The slice names this leader.
    pub(super) fn observed(&self, epoch: Option<LeaderEpoch>) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.term.set(epoch.map_or(0, |epoch| signed(epoch.term)));
        self.node_id.set(epoch.map_or(0, |epoch| signed(epoch.node_id)));
    }

    /// A write ended.
    pub(super) fn wrote(&self, outcome: &Result<Value, ApiError>, took: Duration) {
        let result = match outcome {
            Ok(_) => "written",
            Err(ApiError::Conflict) => "conflict",
            Err(ApiError::NotFound) => "missing",
            Err(ApiError::Refused(_)) => "refused",
            Err(ApiError::Unreachable(_)) => "unreachable",
        };
        self.writes.with_label_values(&[result]).inc();
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// The slice names this leader, after this time.
    pub(super) fn published(&self, after: Duration) {
        self.publish_seconds.observe(after.as_secs_f64());
    }

    /// Since when this member leads without the slice naming it; none when it does not lead, or is named.
    pub(super) fn unpublished_since(&self, since: Option<Instant>) {
        *self.lag.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// A gauge that is read off the clock at each scrape.
#[derive(Debug, Clone)]
struct Lag {
    since: Arc<Mutex<Option<Instant>>>,
    gauge: Gauge,
}

impl Lag {
    fn new(options: Opts) -> Result<Self, prometheus::Error> {
        Ok(Self {
            since: Arc::default(),
            gauge: Gauge::with_opts(options)?,
        })
    }
}

impl Collector for Lag {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauge
            .set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        self.gauge.collect()
    }
}

const RESULTS: [&str; 5] = ["written", "conflict", "missing", "refused", "unreachable"];

/// From a write on a warm connection to an API server that is being restarted.
const SECONDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0,
];
