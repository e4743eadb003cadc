//! Logs and metrics of one member.
//!
//! Metrics carry the labels `service` and `member`. A service registers its own collectors, named
//! `quorate_<service>_...`, in the same registry, so that one scrape shows the whole member.

mod process;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use operator_api::ServiceKind;
use operator_api::config::LogFormat;
use prometheus::core::Collector;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use replication::{NodeStatus, Role};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use process::ProcessMetrics;

/// Starts logging to standard error, and makes panics log lines.
pub(crate) fn start_logging(format: LogFormat, level: &str) -> anyhow::Result<()> {
    // openraft reports each failed call to a peer that is down, many a second; what it means is in our own lines. A
    // filter that names openraft takes precedence.
    let filter: Targets = format!("openraft=error,{level}")
        .parse()
        .with_context(|| format!("reading the log filter `{level}`"))?;
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // It would report a line that cannot be written by `eprintln!`, which panics: a full disk or a closed pipe
        // under the log must not end the member.
        .log_internal_errors(false);
    match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            registry().with(lines).with(filter).try_init()
        }
        LogFormat::Text => registry().with(lines.with_ansi(false)).with(filter).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("starting the log: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "a task of this process panicked; this is a bug, please report it");
    }));
    Ok(())
}

/// The metrics of one member.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Gauges are set and gathered under this lock, so that two scrapes at once do not mix.
    gauges: Mutex<Gauges>,
}

#[derive(Debug)]
struct Gauges {
    values: Vec<(IntGauge, Read)>,
    role: IntGaugeVec,
    lag: IntGaugeVec,
    ready: IntGauge,
    process: ProcessMetrics,
}

impl Metrics {
    /// Registers the metrics that every member has.
    pub(crate) fn new(service: ServiceKind, member: &str) -> Result<Self, prometheus::Error> {
        #[expect(
            clippy::disallowed_types,
            reason = "the registry's own signature; its order is never observed"
        )]
        let labels = std::collections::HashMap::from([
            ("service".to_owned(), service.name().to_owned()),
            ("member".to_owned(), member.to_owned()),
        ]);
        let registry = Registry::new_custom(None, Some(labels))?;
        let mut values = Vec::new();
        for &(name, help, value) in VALUES {
            values.push((register(&registry, IntGauge::new(name, help)?)?, value));
        }
        let role = IntGaugeVec::new(
            Opts::new("quorate_role", "1 for the role the member has."),
            &["role"],
        )?;
        let lag = IntGaugeVec::new(
            Opts::new(
                "quorate_member_lag_entries",
                "Log entries a member lacks, as its leader knows.",
            ),
            &["peer"],
        )?;
        let build = IntGaugeVec::new(Opts::new("quorate_build_info", "Always 1."), &["version"])?;
        register(&registry, build)?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let gauges = Gauges {
            values,
            role: register(&registry, role)?,
            lag: register(&registry, lag)?,
            ready: register(
                &registry,
                IntGauge::new(
                    "quorate_ready",
                    "1 when the member has joined, caught up, and is not stopping.",
                )?,
            )?,
            process: ProcessMetrics::new(&registry)?,
        };
        Ok(Self {
            registry,
            gauges: Mutex::new(gauges),
        })
    }

    /// Where a service registers its own collectors.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything, in Prometheus' text format.
    pub(crate) fn render(&self, status: &NodeStatus, ready: bool) -> Result<String, prometheus::Error> {
        // A panic while the lock was held leaves gauges that are set again right here.
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set(status, ready);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Gauges {
    fn set(&self, status: &NodeStatus, ready: bool) {
        for (gauge, value) in &self.values {
            gauge.set(signed(value(status)));
        }
        for (role, name) in ROLES {
            self.role
                .with_label_values(&[name])
                .set((status.role == role).into());
        }
        self.ready.set(ready.into());
        // Only the leader knows what the others hold: a follower has no such series.
        self.lag.reset();
        let known: BTreeMap<&str, u64> = status
            .members
            .iter()
            .filter_map(|member| Some((member.name.as_str(), member.matched_index?)))
            .collect();
        for (name, matched) in known {
            self.lag
                .with_label_values(&[name])
                .set(signed(status.last_log_index.saturating_sub(matched)));
        }
        self.process.refresh();
    }
}

/// Registers a collector and keeps a handle of it.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(members: impl Iterator) -> u64 {
    u64::try_from(members.count()).unwrap_or(u64::MAX)
}

const ROLES: [(Role, &str); 4] = [
    (Role::Leader, "leader"),
    (Role::Follower, "follower"),
    (Role::Learner, "learner"),
    (Role::Candidate, "candidate"),
];

/// Reads one number from the status.
type Read = fn(&NodeStatus) -> u64;

/// Name, help and value of the gauges that are read from the status.
const VALUES: &[(&str, &str, Read)] = &[
    (
        "quorate_term",
        "The highest Raft term the member knows.",
        |status| status.term,
    ),
    (
        "quorate_commit_index",
        "The last log index known to be committed.",
        |status| status.commit_index,
    ),
    ("quorate_applied_index", "The last log index applied.", |status| {
        status.applied_index
    }),
    (
        "quorate_first_log_index",
        "The first log index still held.",
        |status| status.first_log_index,
    ),
    ("quorate_last_log_index", "The last log index held.", |status| {
        status.last_log_index
    }),
    (
        "quorate_snapshot_index",
        "The last log index of the newest snapshot.",
        |status| status.snapshot_index,
    ),
    ("quorate_members", "Members of the group.", |status| {
        count(status.members.iter())
    }),
    ("quorate_voters", "Members that vote.", |status| {
        count(status.members.iter().filter(|member| member.voter))
    }),
    (
        "quorate_serving",
        "1 when the member leads and a quorum hears it.",
        |status| status.serving.into(),
    ),
    (
        "quorate_leader_known",
        "1 when the member knows a leader.",
        |status| status.leader.is_some().into(),
    ),
    (
        "quorate_alarm",
        "1 when the member needs help; its status says why.",
        |status| status.alarm.is_some().into(),
    ),
];

#[cfg(test)]
mod tests {
    use replication::MemberInfo;

    use super::*;

    fn status(role: Role) -> NodeStatus {
        let member = |id, voter, matched_index| MemberInfo {
            id,
            name: format!("tftp-{id}"),
            peer_address: String::new(),
            admin_address: String::new(),
            voter,
            matched_index,
        };
        NodeStatus {
            group_id: None,
            node_id: Some(1),
            role,
            term: 7,
            commit_index: 90,
            applied_index: 89,
            first_log_index: 2,
            last_log_index: 100,
            snapshot_index: 1,
            leader: Some(1),
            serving: true,
            ready: true,
            members: vec![
                member(1, true, Some(100)),
                member(2, true, (role == Role::Leader).then_some(60)),
                member(3, false, None),
            ],
            alarm: None,
            peer_certificates: None,
        }
    }

    /// A scrape as series and values. The order of labels means nothing and is not stable: here they are sorted.
    fn series(text: &str) -> BTreeMap<String, f64> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap();
                let mut labels: Vec<&str> = labels.split(',').collect();
                labels.sort_unstable();
                assert!(
                    labels.contains(&r#"member="tftp-0""#) && labels.contains(&r#"service="tftp""#),
                    "{line}"
                );
                labels.retain(|label| !label.starts_with("member=") && !label.starts_with("service="));
                (format!("{name}{{{}}}", labels.join(",")), value.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn scrape_names_every_metric_with_service_and_member() {
        let metrics = Metrics::new(ServiceKind::Tftp, "tftp-0").unwrap();
        let text = metrics.render(&status(Role::Leader), true).unwrap();
        let series = series(&text);
        for (name, value) in [
            ("quorate_role{role=\"leader\"}", 1.0),
            ("quorate_role{role=\"follower\"}", 0.0),
            ("quorate_role{role=\"learner\"}", 0.0),
            ("quorate_role{role=\"candidate\"}", 0.0),
            ("quorate_term{}", 7.0),
            ("quorate_commit_index{}", 90.0),
            ("quorate_applied_index{}", 89.0),
            ("quorate_first_log_index{}", 2.0),
            ("quorate_last_log_index{}", 100.0),
            ("quorate_snapshot_index{}", 1.0),
            ("quorate_members{}", 3.0),
            ("quorate_voters{}", 2.0),
            ("quorate_serving{}", 1.0),
            ("quorate_leader_known{}", 1.0),
            ("quorate_ready{}", 1.0),
            ("quorate_alarm{}", 0.0),
            ("quorate_member_lag_entries{peer=\"tftp-1\"}", 0.0),
            ("quorate_member_lag_entries{peer=\"tftp-2\"}", 40.0),
            (
                concat!("quorate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
                1.0,
            ),
        ] {
            assert_eq!(series.get(name), Some(&value), "{name}");
        }
        assert!(series["process_resident_memory_bytes{}"] > 100_000.0);
        assert!(series["process_open_fds{}"] > 2.0);
        assert!(series["process_cpu_seconds_total{}"] > 0.0);
        assert!(
            text.contains("# TYPE process_cpu_seconds_total counter"),
            "{text}"
        );
    }

    #[test]
    fn deposed_leader_stops_reporting_lag() {
        let metrics = Metrics::new(ServiceKind::Tftp, "tftp-0").unwrap();
        metrics.render(&status(Role::Leader), true).unwrap();
        let series = series(&metrics.render(&status(Role::Follower), false).unwrap());
        assert_eq!(series.get("quorate_member_lag_entries{peer=\"tftp-2\"}"), None);
        assert_eq!(series["quorate_role{role=\"leader\"}"], 0.0);
        assert_eq!(series["quorate_ready{}"], 0.0);
    }

    #[test]
    fn services_add_their_own_collectors() {
        let metrics = Metrics::new(ServiceKind::Tftp, "tftp-0").unwrap();
        let own = IntGauge::new("quorate_tftp_sessions", "Running transfers.").unwrap();
        metrics.registry().register(Box::new(own)).unwrap();
        let series = series(&metrics.render(&status(Role::Leader), true).unwrap());
        assert_eq!(series["quorate_tftp_sessions{}"], 0.0);
    }
}
