//! What a member counts, for its status and in Prometheus' terms.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::state::Refusal;

/// The counters in Prometheus' terms. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    users: IntGauge,
    own_users: IntGauge,
    connections: IntGauge,
    delivered: IntCounter,
    refused: IntCounterVec,
    turned_away: IntCounter,
    slow_readers: IntCounter,
}

impl Metrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("quorate_adc_{name}"), help);
        let gauge = |name: &str, help: &str| IntGauge::new(format!("quorate_adc_{name}"), help);
        let metrics = Self {
            users: gauge("users", "Users of the hub, those included whose place is kept.")?,
            own_users: gauge("member_users", "Users that this member serves.")?,
            connections: gauge("connections", "Connections that this member has.")?,
            delivered: counter("delivered_lines_total", "Lines sent to users of this member.")?,
            refused: IntCounterVec::new(
                Opts::new(
                    "quorate_adc_refused_logins_total",
                    "Clients that were not let in, by reason.",
                ),
                &["reason"],
            )?,
            turned_away: counter("turned_away_connections_total", "Connections beyond a limit.")?,
            slow_readers: counter("slow_readers_total", "Users dropped since they read too slowly.")?,
        };
        registry.register(Box::new(metrics.users.clone()))?;
        registry.register(Box::new(metrics.own_users.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.delivered.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.turned_away.clone()))?;
        registry.register(Box::new(metrics.slow_readers.clone()))?;
        Ok(metrics)
    }
}

/// What a member counts.
#[derive(Debug)]
pub(super) struct Counters(Metrics);

impl Counters {
    pub(super) const fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }

    pub(super) fn delivered(&self, lines: u64) {
        self.0.delivered.inc_by(lines);
    }

    pub(super) fn slow_reader(&self) {
        self.0.slow_readers.inc();
    }

    pub(super) fn turned_away(&self) {
        self.0.turned_away.inc();
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        let reason = match refusal {
            Refusal::Full => "full",
            Refusal::NickTaken => "nick",
            Refusal::CidTaken => "cid",
            Refusal::SidTaken => "sid",
            Refusal::PasswordNeeded => "password",
            Refusal::RegisteredOnly => "unregistered",
            Refusal::Banned { .. } => "banned",
        };
        self.0.refused.with_label_values(&[reason]).inc();
    }

    pub(super) fn set_connections(&self, connections: u32) {
        self.0.connections.set(connections.into());
    }

    pub(super) fn connections(&self) -> u64 {
        self.0.connections.get().unsigned_abs()
    }

    pub(super) fn set_users(&self, users: usize, own: usize) {
        self.0.users.set(i64::try_from(users).unwrap_or(i64::MAX));
        self.0.own_users.set(i64::try_from(own).unwrap_or(i64::MAX));
    }

    /// Users of the hub.
    pub(super) fn users(&self) -> usize {
        usize::try_from(self.0.users.get()).unwrap_or_default()
    }
}

/// What a running member shows of itself.
#[derive(Debug, Clone)]
pub struct Shown(Metrics);

impl Shown {
    /// Of these counters.
    #[must_use]
    pub const fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }

    /// Users that this member serves.
    #[must_use]
    pub fn own_users(&self) -> u64 {
        self.0.own_users.get().unsigned_abs()
    }

    /// Connections that this member has.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.0.connections.get().unsigned_abs()
    }

    /// Lines sent to users of this member since it runs.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.0.delivered.get()
    }
}
