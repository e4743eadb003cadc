//! Keeps one EndpointSlice true: whoever leads writes itself into it, and repairs it.
//!
//! Every member watches the slice, so that the one that is elected knows its version and has an open connection: it
//! publishes with a single write. The service itself never waits for any of this.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use operator_api::LeaderEpoch;
use replication::{Node, NodeId};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::api::{ApiError, ApiServer, Change};
use super::metrics::RouteMetrics;
use super::slice::{Decision, Place, Pod, decide, epoch_of, is_older, place};

/// What the publisher of a slice works with.
pub(super) struct Publisher {
    pub(super) api: Arc<ApiServer>,
    pub(super) pod: Arc<Pod>,
    pub(super) slice: String,
    pub(super) node: Node,
    pub(super) metrics: RouteMetrics,
    /// Told whether clients are sent to this pod, and since when.
    pub(super) place: watch::Sender<(Place, Instant)>,
    /// How long a leader that handed its work over stays in the slice.
    pub(super) listed: Duration,
}

impl Publisher {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let (changes, observed) = mpsc::channel(CHANGES_MAX);
        let watching = watch_slice(self.api.clone(), self.slice.clone(), changes);
        let state = State {
            listening: self.node.listening(),
            observed: None,
            led: None,
            failures: 0,
            not_before: Instant::now(),
            complaint: String::new(),
            publisher: self,
        };
        tokio::join!(watching, state.run(observed));
    }
}

struct State {
    publisher: Publisher,
    listening: watch::Receiver<Option<u64>>,
    /// The slice as last seen; none when it is unknown or gone.
    observed: Option<Value>,
    led: Option<Led>,
    /// Requests that failed one after the other.
    failures: u32,
    /// No request before this.
    not_before: Instant,
    /// What was last complained about in the log; each thing is said once.
    complaint: String,
}

/// What this member leads as, and what of it is published.
#[derive(Clone, Copy)]
struct Led {
    epoch: LeaderEpoch,
    since: Instant,
    is_published: bool,
    /// Who handed its work over to this member, and is not done yet.
    drains: Option<NodeId>,
    /// Until when it stays in the slice; none before it is published that it does not lead any more.
    drains_until: Option<Instant>,
}

/// What to wait for.
enum Next {
    /// A change of the slice or of the leadership.
    Change,
    /// That, or this moment.
    Until(Instant),
}

impl State {
    async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        loop {
            self.look_whether_led();
            let next = self.act().await;
            let retry = async {
                match next {
                    Next::Change => std::future::pending().await,
                    Next::Until(at) => tokio::time::sleep_until(at).await,
                }
            };
            tokio::select! {
                changed = self.listening.changed() => if changed.is_err() { return },
                change = changes.recv() => match change {
                    Some(change) => self.observe(change),
                    None => return,
                },
                () = retry => {}
            }
        }
    }

    /// Notes whether the service's listener is open, and for which term.
    fn look_whether_led(&mut self) {
        let term = *self.listening.borrow_and_update();
        let epoch = term.and_then(|term| {
            let node_id = self.publisher.node.status().node_id?;
            Some(LeaderEpoch { term, node_id })
        });
        if self.led.map(|led| led.epoch) != epoch {
            let publisher = &self.publisher;
            self.led = epoch.map(|epoch| Led {
                epoch,
                since: Instant::now(),
                is_published: false,
                drains: (publisher.node)
                    .handed_over_by(epoch.term)
                    .filter(|_| !publisher.listed.is_zero()),
                drains_until: None,
            });
            // A new leader waits for nothing.
            (self.failures, self.not_before) = (0, Instant::now());
            self.publisher
                .metrics
                .unpublished_since(self.led.map(|led| led.since));
        }
    }

    fn observe(&mut self, change: Change) {
        let seen = match change {
            Change::Gone => None,
            // What a write or a read answered may be newer than what the watch tells.
            Change::Is(seen) if self.observed.as_ref().is_some_and(|known| is_older(&seen, known)) => return,
            Change::Is(seen) => Some(seen),
        };
        self.see(seen);
    }

    fn see(&mut self, seen: Option<Value>) {
        let publisher = &self.publisher;
        publisher.metrics.observed(seen.as_ref().and_then(epoch_of));
        let place = (seen.as_ref()).map_or(Place::Elsewhere, |slice| place(slice, &publisher.pod));
        publisher.place.send_if_modified(|(known, since)| {
            let changes = *known != place;
            if changes {
                (*known, *since) = (place, Instant::now());
            }
            changes
        });
        self.observed = seen;
    }

    /// Does what has to be done now.
    async fn act(&mut self) -> Next {
        let Some(led) = self.led else {
            return Next::Change;
        };
        let Some(observed) = &self.observed else {
            // The watch would tell, but after an outage it waits longer than a leader should.
            if Instant::now() >= self.not_before {
                self.read().await;
            }
            return Next::Until(self.not_before.max(Instant::now()));
        };
        let is_gone = led.drains.is_some() && self.publisher.node.handed_over_by(led.epoch.term).is_none();
        let is_drained = is_gone || led.drains_until.is_some_and(|until| until <= Instant::now());
        let drains = led.drains.filter(|_| !is_drained);
        match decide(observed, &self.publisher.pod, led.epoch, drains) {
            Decision::Keep => self.keep(led, drains),
            Decision::Deposed(later) => {
                let epoch = led.epoch;
                self.complain(&format!(
                    "a later leader ({later}) has published itself; this one is {epoch}"
                ));
                Next::Change
            }
            Decision::Unable(why) => {
                self.complain(&why);
                Next::Change
            }
            Decision::Write(_) if Instant::now() < self.not_before => Next::Until(self.not_before),
            // A process that was paused may not know yet that it was deposed.
            Decision::Write(_) if !self.publisher.node.status().serving => {
                Next::Until(Instant::now() + LEASE_RECHECK)
            }
            Decision::Write(slice) => {
                let changes_itself = is_drained && led.drains.is_some();
                if led.is_published && !changes_itself {
                    tracing::warn!(
                        slice = self.publisher.slice,
                        "somebody changed the slice; repairing it"
                    );
                    self.led = Some(Led {
                        since: Instant::now(),
                        is_published: false,
                        ..led
                    });
                    self.publisher.metrics.unpublished_since(Some(Instant::now()));
                }
                self.write(&slice).await;
                Next::Until(Instant::now())
            }
        }
    }

    /// The slice is as it should be, with the leader that `drains` in it or without.
    fn keep(&mut self, led: Led, drains: Option<NodeId>) -> Next {
        if !led.is_published {
            let metrics = &self.publisher.metrics;
            metrics.unpublished_since(None);
            metrics.published(led.since.elapsed());
            let (epoch, after) = (led.epoch, led.since.elapsed());
            tracing::info!(slice = self.publisher.slice, %epoch, ?after, "published");
        }
        let until =
            drains.map(|_| (led.drains_until).unwrap_or_else(|| Instant::now() + self.publisher.listed));
        self.led = Some(Led {
            is_published: true,
            drains,
            drains_until: until,
            ..led
        });
        self.complaint.clear();
        until.map_or(Next::Change, |until| {
            Next::Until(until.min(Instant::now() + DRAIN_LOOK))
        })
    }

    async fn write(&mut self, slice: &Value) {
        let began = Instant::now();
        let outcome = self.publisher.api.replace(&self.publisher.slice, slice).await;
        self.publisher.metrics.wrote(&outcome, began.elapsed());
        match outcome {
            Ok(written) => {
                self.failures = 0;
                // Whoever changes it back at once is not answered at once.
                self.not_before = Instant::now() + REPAIR_PAUSE;
                self.see(Some(written));
            }
            Err(error) => {
                if error != ApiError::Conflict {
                    self.complain(&error.to_string());
                }
                self.failures = self.failures.saturating_add(1);
                self.not_before = Instant::now() + self.pause(&error);
                // It says whether the write arrived after all, and what to write next.
                match self.publisher.api.get(&self.publisher.slice).await {
                    Ok(seen) => self.see(Some(seen)),
                    Err(ApiError::NotFound) => self.see(None),
                    Err(_) => {}
                }
            }
        }
    }

    /// Reads a slice of which nothing is known, or which was gone.
    async fn read(&mut self) {
        match self.publisher.api.get(&self.publisher.slice).await {
            Ok(seen) => {
                self.failures = 0;
                self.see(Some(seen));
            }
            Err(error) => {
                self.complain(&error.to_string());
                self.failures = self.failures.saturating_add(1);
                self.not_before = Instant::now() + self.pause(&error);
            }
        }
    }

    fn pause(&self, error: &ApiError) -> Duration {
        let max = match error {
            // Another writer was quicker, and may be an earlier leader.
            ApiError::Conflict if self.failures == 1 => return Duration::ZERO,
            // Only a person or the operator can change that.
            ApiError::Refused(_) => REFUSED_PAUSE_MAX,
            _ => PAUSE_MAX,
        };
        let exponent = self.failures.saturating_sub(1).min(30);
        PAUSE_MIN
            .mul_f64(PAUSE_GROWTH.powi(exponent.cast_signed()))
            .min(max)
    }

    /// Says each thing once.
    fn complain(&mut self, what: &str) {
        if self.complaint != what {
            what.clone_into(&mut self.complaint);
            tracing::warn!(
                slice = self.publisher.slice,
                reason = what,
                "the leader's address is not published"
            );
        }
    }
}

/// Tells every change of the slice, for ever.
async fn watch_slice(api: Arc<ApiServer>, slice: String, changes: mpsc::Sender<Change>) {
    let mut failures = 0u32;
    while !changes.is_closed() {
        let opened = Instant::now();
        let ended = watch_once(&api, &slice, &changes).await;
        // A watch that lasted for a while is as good as one that ended in time.
        failures = match ended {
            Err(_) if opened.elapsed() < WATCH_PAUSE_MAX => failures.saturating_add(1),
            _ => 0,
        };
        match ended {
            Err(error) if failures == 1 => tracing::warn!(slice, %error, "the slice cannot be watched"),
            Err(error) => tracing::debug!(slice, %error, "the slice cannot be watched"),
            Ok(()) => {}
        }
        let pause = WATCH_PAUSE_MIN
            .saturating_mul(1 << failures.min(10))
            .min(WATCH_PAUSE_MAX);
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

/// Tells what the slice is, and then every change, until the watch ends.
async fn watch_once(api: &ApiServer, slice: &str, changes: &mpsc::Sender<Change>) -> Result<(), ApiError> {
    let (found, version) = api.list(slice).await?;
    let first = found.map_or(Change::Gone, Change::Is);
    if changes.send(first).await.is_err() {
        return Ok(());
    }
    // Not all members at once.
    let duration = WATCH_TIME.mul_f64(rand::random_range(0.8..1.2));
    let mut seen = api.watch(slice, &version, duration).await?;
    while let Some(change) = seen.next().await {
        if changes.send(change?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Changes of the slice that may wait.
const CHANGES_MAX: usize = 16;

/// The pause after a failed request of a leader, its growth with each further one, and its bound.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_GROWTH: f64 = 1.5;
const PAUSE_MAX: Duration = Duration::from_secs(1);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Between two writes of one leader that both succeeded.
const REPAIR_PAUSE: Duration = Duration::from_millis(500);

/// How often a leader looks whether the one that handed its work over is still there.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How often a leader whose lease ran out looks again before it writes.
const LEASE_RECHECK: Duration = Duration::from_millis(50);

/// How long a watch lasts; then the slice is read anew.
const WATCH_TIME: Duration = Duration::from_secs(300);

/// The pause before a watch is opened again, and its bound while the API server does not answer.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(100);
const WATCH_PAUSE_MAX: Duration = Duration::from_secs(10);
