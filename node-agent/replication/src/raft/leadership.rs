//! Who serves: turns Raft's metrics into [`Leadership`] and the [`Lease`] that fences a deposed leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::raft::types::TypeConfig;
use crate::{Leadership, NodeId};

type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Whether this member may answer clients now. Cheap to ask, and to be asked before each answer: a process that was
/// paused still believes that it leads.
#[derive(Clone)]
pub struct Lease {
    epoch: Instant,
    /// Microseconds after the epoch until which a quorum has promised not to elect another; 0 for a follower.
    until_us: Arc<AtomicU64>,
    /// Set while leadership is being handed over: nothing is served from then on.
    handing_over: Arc<AtomicBool>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            until_us: Arc::default(),
            handing_over: Arc::default(),
        }
    }

    /// Whether this member leads, is heard by a quorum, and is not handing over.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let until = self.until_us.load(Ordering::Acquire);
        until != 0 && !self.handing_over.load(Ordering::Acquire) && micros(self.epoch.elapsed()) < until
    }

    pub(crate) fn set_handing_over(&self, handing_over: bool) {
        self.handing_over.store(handing_over, Ordering::Release);
    }

    fn set_until(&self, until: Option<Instant>) {
        let until = until.map_or(0, |until| {
            micros(until.saturating_duration_since(self.epoch)).max(1)
        });
        self.until_us.store(until, Ordering::Release);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Until when `metrics` let this member serve; none when it does not lead.
///
/// `RaftState::Leader` is no proof. What is needed besides: an entry of the own term is applied (so that everything
/// acknowledged by earlier leaders is), and a quorum has answered within `lease`.
fn serves_until(metrics: &Metrics, lease: Duration, now: Instant) -> Option<Instant> {
    let own_term = metrics
        .last_applied
        .is_some_and(|id| id.leader_id.node_id == metrics.id && id.leader_id.term == metrics.current_term);
    if metrics.state != ServerState::Leader || !own_term {
        return None;
    }
    let alone = metrics
        .membership_config
        .membership()
        .voter_ids()
        .eq([metrics.id]);
    if alone {
        // A group of one hears nobody and needs nobody.
        return Some(now + Duration::from_secs(24 * 3600));
    }
    let age = metrics.last_quorum_acked.as_ref()?.elapsed();
    (now + lease).checked_sub(age)
}

/// Follows `metrics` and publishes who serves, until `stop`. `lease` is how long followers keep their promise not to
/// elect another, less a margin for clocks that run at different speeds.
pub(crate) async fn follow(
    mut metrics: openraft::alias::WatchReceiverOf<TypeConfig, Metrics>,
    lease_time: Duration,
    lease: Lease,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    loop {
        let now = Instant::now();
        let (until, term, leader) = {
            let metrics = metrics.borrow_and_update();
            let until = serves_until(&metrics, lease_time, now);
            let leader: Option<NodeId> = metrics.current_leader.filter(|leader| *leader != metrics.id);
            lease.set_until(until);
            (until, metrics.current_term, leader)
        };
        leadership.send_if_modified(|current| {
            // Asked in here: whoever hands over ends the lease first and says so afterwards, and has the last word.
            let state = match until {
                Some(_) if lease.is_valid() => Leadership::Leader { term },
                _ => Leadership::Follower { leader },
            };
            std::mem::replace(current, state) != state
        });
        let until = until.filter(|until| *until > now);
        let expiry = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
            () = expiry => {}
        }
    }
}
