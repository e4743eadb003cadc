//! Timers and limits that openraft is configured with.

use openraft::{Config, SnapshotPolicy};
use uuid::Uuid;

use crate::{StartError, Timing};

/// Entries in one message to a peer; with the largest commands they stay below the message's limit.
const APPEND_ENTRIES_MAX: u64 = 64;

/// Milliseconds of a named profile.
pub(crate) struct Timers {
    pub(crate) heartbeat: u64,
    pub(crate) election_min: u64,
    pub(crate) election_max: u64,
}

pub(crate) fn timers(timing: Timing) -> Timers {
    match timing {
        Timing::Lan => Timers {
            heartbeat: 30,
            election_min: 100,
            election_max: 200,
        },
        Timing::Edge => Timers {
            heartbeat: 100,
            election_min: 300,
            election_max: 600,
        },
    }
}

/// openraft's configuration.
pub(crate) fn config(timing: Timing, group: &Uuid) -> Result<Config, StartError> {
    let timers = timers(timing);
    let config = Config {
        cluster_name: group.to_string(),
        heartbeat_interval: timers.heartbeat,
        election_timeout_min: timers.election_min,
        election_timeout_max: timers.election_max,
        // Alternates silence and probes when a quorum is lost, so that a stale leader cannot keep a connected quorum
        // from electing; openraft asks for at least the lease plus the election time-out.
        quorum_loss_probe_interval: Some(2 * timers.election_max),
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(false),
        // A restarted leader is elected again like any other: safe whatever its commit index says.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        // `compaction.rs` decides about both.
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: 30_000,
        // A member that was restarted is found again soon.
        backoff: "20ms 40ms 80ms ...500ms".to_owned(),
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| StartError(format!("Raft's configuration: {error}")))
}
