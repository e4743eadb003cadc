//! What the service counts, in Prometheus' terms.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::server::positions::Board;
use crate::state::SessionId;
use crate::transfer::End;

/// The service's counters. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    transfers: IntCounterVec,
    uploads: IntCounterVec,
    uploaded_bytes: IntCounter,
    bytes: IntCounter,
    packets: IntCounter,
    received: IntCounter,
    relayed: IntCounter,
    resumed: IntCounter,
    sessions: IntGauge,
    leading: IntGauge,
    open_seconds: Histogram,
    board: Board,
}

impl Metrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("quorate_tftp_{name}"), help);
        let by = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(format!("quorate_tftp_{name}"), help), &[label])
        };
        let gauge = |name: &str, help: &str| IntGauge::new(format!("quorate_tftp_{name}"), help);
        let open_seconds = HistogramOpts::new(
            "quorate_tftp_open_seconds",
            "From a request to its replicated session, in seconds.",
        )
        .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 14)?);
        let metrics = Self {
            requests: by(
                "requests_total",
                "Requests that were answered, by what came of them.",
                "result",
            )?,
            transfers: by("transfers_total", "Transfers that ended, by how.", "end")?,
            uploads: by("uploads_total", "Uploads that ended, by how.", "end")?,
            uploaded_bytes: counter("uploaded_bytes_total", "Bytes of files received.")?,
            bytes: counter("sent_bytes_total", "Bytes of files sent, repeated ones included.")?,
            packets: counter("sent_packets_total", "Packets sent.")?,
            received: counter("received_packets_total", "Packets received.")?,
            relayed: counter(
                "relayed_packets_total",
                "Packets that were passed on to the leader, as they reached this member instead.",
            )?,
            resumed: counter(
                "resumed_transfers_total",
                "Transfers taken over from another leader.",
            )?,
            sessions: gauge("sessions", "Transfers that this member serves now.")?,
            leading: gauge("leading", "Whether this member owns the listener.")?,
            open_seconds: Histogram::with_opts(open_seconds)?,
            board: Board::default(),
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.transfers.clone()))?;
        registry.register(Box::new(metrics.uploads.clone()))?;
        for counter in [
            &metrics.bytes,
            &metrics.uploaded_bytes,
            &metrics.packets,
            &metrics.received,
            &metrics.relayed,
            &metrics.resumed,
        ] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(metrics.sessions.clone()))?;
        registry.register(Box::new(metrics.leading.clone()))?;
        registry.register(Box::new(metrics.open_seconds.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn request(&self, result: &str) {
        self.requests.with_label_values(&[result]).inc();
    }

    pub(crate) fn ended(&self, end: End) {
        self.transfers.with_label_values(&[end_name(end)]).inc();
    }

    pub(crate) fn uploaded(&self, end: &str) {
        self.uploads.with_label_values(&[end]).inc();
    }

    pub(crate) fn uploaded_bytes(&self, bytes: u64) {
        self.uploaded_bytes.inc_by(bytes);
    }

    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        self.packets.inc_by(packets);
        self.bytes.inc_by(bytes);
    }

    pub(crate) fn received(&self, packets: u64) {
        self.received.inc_by(packets);
    }

    pub(crate) fn relayed(&self, packets: u64) {
        self.relayed.inc_by(packets);
    }

    pub(crate) fn resumed(&self) {
        self.resumed.inc();
    }

    pub(crate) fn sessions(&self, sessions: usize) {
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    pub(crate) fn opened_after(&self, seconds: f64) {
        self.open_seconds.observe(seconds);
    }

    /// The board of positions that belongs to these counters' service.
    pub(crate) fn board(&self) -> Board {
        self.board.clone()
    }

    /// The last block that the client of a session is known to have.
    pub(crate) fn position(&self, id: SessionId) -> u64 {
        match self.board.position(id) {
            Some(crate::transfer::Position::Acked(block)) => block,
            _ => 0,
        }
    }
}

/// The label of an end.
pub(crate) fn end_name(end: End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::ClientFinishedEarly { .. } => "client_finished_early",
        End::ClientError { .. } => "client_error",
        End::GaveUp { .. } => "gave_up",
        End::Idle => "idle",
    }
}
