//! What the service counts, in Prometheus' terms.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

use super::Shown;
use super::remember::Memory;
use crate::request::{Answer, Target};

/// The service's counters. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Registers the counters, and gauges of what the member remembers.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry, shown: Shown) -> Result<Self, prometheus::Error> {
        let requests = Opts::new(
            "quorate_kv_requests_total",
            "Requests that were answered, by operation and by what came of them.",
        );
        let seconds = HistogramOpts::new(
            "quorate_kv_request_seconds",
            "From a request's head to its answer, by operation, in seconds.",
        )
        .buckets(prometheus::exponential_buckets(0.000_1, 2.0, 18)?);
        let metrics = Self {
            requests: IntCounterVec::new(requests, &["operation", "outcome"])?,
            seconds: HistogramVec::new(seconds, &["operation"])?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(Held::new(shown)?))?;
        Ok(metrics)
    }

    pub(super) fn answered(&self, operation: &str, outcome: &str, took: Duration) {
        self.requests.with_label_values(&[operation, outcome]).inc();
        self.seconds
            .with_label_values(&[operation])
            .observe(took.as_secs_f64());
    }
}

/// The label of an operation.
pub(super) const fn operation(target: &Target) -> &'static str {
    match target {
        Target::Get(_) => "get",
        Target::Set(_) => "set",
        Target::Delete(_) => "delete",
        Target::Swap(_) => "swap",
        Target::OpenSession => "session",
        Target::Outcome => "outcome",
        Target::Cancel => "cancel",
        Target::Outbox => "outbox",
        Target::Extract(_) => "extract",
        Target::Range => "range",
        Target::Watch(_) => "watch",
        Target::Publish(_) => "publish",
        Target::Send(_) => "send",
        Target::Subscribe(_) => "subscribe",
        Target::Reply => "reply",
        Target::Append(_) | Target::ReadJournal(_) | Target::RemoveJournal(_) => "journal",
        Target::Transact => "txn",
        Target::GrantLease | Target::Lease(_) | Target::KeepAlive(_) | Target::Revoke(_) => "lease",
    }
}

/// The label of what came of it.
pub(super) const fn outcome(answer: &Answer) -> &'static str {
    match answer {
        Answer { error: Some(_), .. } => "refused",
        Answer { remembered: true, .. } => "remembered",
        Answer { unknown: true, .. } => "unknown",
        Answer { timeout: true, .. } => "timeout",
        Answer { valid: true, .. } => "ok",
        _ => "not_valid",
    }
}

/// What the member remembers, and whether it can follow its files, read when somebody looks.
struct Held {
    shown: Shown,
    pending: IntGauge,
    pending_bytes: IntGauge,
    access_alarm: IntGauge,
}

impl Held {
    fn new(shown: Shown) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("quorate_kv_{name}"), help);
        Ok(Self {
            shown,
            pending: gauge(
                "outbox_pending",
                "Writes that this member remembers and no quorum has stored yet.",
            )?,
            pending_bytes: gauge("outbox_bytes", "Bytes of those writes.")?,
            access_alarm: gauge(
                "access_alarm",
                "1 while a changed tokens file or certificate cannot be used.",
            )?,
        })
    }

    fn all(&self) -> [&IntGauge; 3] {
        [&self.pending, &self.pending_bytes, &self.access_alarm]
    }
}

fn number(value: usize) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

impl Collector for Held {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.shown.0.get();
        let (pending, pending_bytes, _) = shown
            .map(|(memory, _)| Memory::summary(memory))
            .unwrap_or_default();
        self.pending.set(number(pending));
        self.pending_bytes.set(number(pending_bytes));
        self.access_alarm.set(i64::from(
            shown.is_some_and(|(_, access)| access.alarm().is_some()),
        ));
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
