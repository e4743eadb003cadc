//! The key-value service's own metrics, read from its state whenever they are asked for.

use kv::server::alarm_at;
use kv::state::KvState;
use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use replication::Replica;

type Read = fn(&KvState) -> u64;

/// Name, meaning, value.
const VALUES: [(&str, &str, Read); 6] = [
    ("quorate_kv_keys", "Keys of the store.", |state| {
        state.keys() as u64
    }),
    (
        "quorate_kv_storage_bytes",
        "Bytes of keys, values and journals, which count against the quota.",
        KvState::used,
    ),
    (
        "quorate_kv_revision",
        "Changes of the store so far.",
        KvState::revision,
    ),
    ("quorate_kv_sessions", "Sessions that are open.", |state| {
        state.sessions() as u64
    }),
    ("quorate_kv_leases", "Leases that are held.", |state| {
        state.leases() as u64
    }),
    (
        "quorate_kv_outbox_dropped",
        "Remembered writes that lost a conflict.",
        KvState::dropped,
    ),
];

/// The gauges of one member.
pub(super) struct Gauges {
    replica: Replica<KvState>,
    quota_bytes: u64,
    values: Vec<(IntGauge, Read)>,
    quota: IntGauge,
    alarm: IntGauge,
}

impl Gauges {
    pub(super) fn new(replica: Replica<KvState>, quota_bytes: u64) -> Result<Self, prometheus::Error> {
        let mut values = Vec::new();
        for (name, help, read) in VALUES {
            values.push((IntGauge::new(name, help)?, read));
        }
        Ok(Self {
            replica,
            quota_bytes,
            values,
            quota: IntGauge::new("quorate_kv_storage_bytes_max", "The storage quota.")?,
            alarm: IntGauge::new(
                "quorate_kv_storage_alarm",
                "1 when nine tenths of the storage quota are used.",
            )?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &IntGauge> {
        let values = self.values.iter().map(|(gauge, _)| gauge);
        values.chain([&self.quota, &self.alarm])
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.all().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.replica.local(|state| {
            for (gauge, read) in &self.values {
                gauge.set(i64::try_from(read(state)).unwrap_or(i64::MAX));
            }
            self.alarm
                .set((state.used() >= alarm_at(self.quota_bytes)).into());
        });
        self.quota
            .set(i64::try_from(self.quota_bytes).unwrap_or(i64::MAX));
        self.all().flat_map(Collector::collect).collect()
    }
}
