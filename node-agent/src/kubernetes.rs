//! In a pod: the address of the leader's Service follows the leader.
//!
//! The Service has no selector; its EndpointSlices are made by the operator, and the leader writes itself into them.
//! Raft alone decides who leads. A slice is its mirror, so no answer of the API server ever changes what a member does
//! for clients, and an API server that is away delays the mirror only.

mod api;
mod metrics;
mod publisher;
mod slice;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use operator_api::AgentConfig;
use prometheus::Registry;
use replication::Node;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use api::ApiServer;
use metrics::RouteMetrics;
use publisher::Publisher;
use slice::{Place, Pod};

/// Where clients are sent, as the slices say. Clones share it.
#[derive(Clone)]
pub(crate) struct Route {
    /// For each slice: whether clients are sent to this pod, and since when.
    places: Vec<watch::Sender<(Place, Instant)>>,
    /// How long a leader that handed its work over stays in the slices.
    listed: Duration,
}

impl Route {
    /// A route of which nothing is known yet, in a pod.
    pub(crate) fn new(config: &AgentConfig) -> Option<Self> {
        let slices = &config.kubernetes.as_ref()?.leader_slices;
        let drain = Duration::from_secs(config.drain_seconds.into());
        let nowhere = || watch::channel((Place::Elsewhere, Instant::now())).0;
        Some(Self {
            places: slices.iter().map(|_| nowhere()).collect(),
            listed: drain.saturating_sub(NODES_FOLLOW),
        })
    }

    /// Whether this pod handed its work over and stays in a slice for a while.
    pub(crate) fn is_leaving(&self) -> bool {
        self.places.iter().any(|place| place.borrow().0 == Place::Leaving)
    }

    /// Whether packets of this pod get back to clients whose own come here.
    pub(crate) fn leads_back(&self) -> bool {
        self.places.iter().all(|place| {
            let (place, since) = *place.borrow();
            gets_back(place, since.elapsed(), self.listed)
        })
    }

    /// Resolves once no slice sends clients to this pod.
    pub(crate) async fn moved_away(&self) {
        for place in &self.places {
            let mut place = place.subscribe();
            // It never fails: the sender is here.
            place.wait_for(|(place, _)| *place == Place::Elsewhere).await.ok();
        }
    }
}

/// Whether packets of a pod get back that has been in its `place` for so long, and stays in a slice for `listed` after it handed
/// its work over. Not while the nodes forget the flows to it, nor shortly before: the answers to what came last have left by
/// then. What comes later was sent to the pod's own address.
fn gets_back(place: Place, lasts: Duration, listed: Duration) -> bool {
    match place {
        Place::Here => true,
        Place::Leaving => lasts < listed.saturating_sub(ANSWERS_LEAVE),
        Place::Elsewhere => lasts >= NODES_FOLLOW,
    }
}

/// The publication of this member in every slice. It ends when it is dropped.
pub(crate) struct Routing {
    pub(crate) route: Route,
    _publishers: JoinSet<()>,
}

impl Routing {
    /// In a pod: follows the leadership of `node`, and tells `route` what the slices say.
    pub(crate) fn start(
        config: &AgentConfig,
        route: Option<Route>,
        node: &Node,
        metrics: &Registry,
    ) -> anyhow::Result<Option<Self>> {
        let Some((config, route)) = config.kubernetes.as_ref().zip(route) else {
            return Ok(None);
        };
        let api = Arc::new(ApiServer::new(config).context("reaching the API server")?);
        let pod = Arc::new(Pod::new(config).map_err(|reason| anyhow!("field kubernetes: {reason}"))?);
        let mut publishers = JoinSet::new();
        for (slice, place) in config.leader_slices.iter().zip(&route.places) {
            let publisher = Publisher {
                api: api.clone(),
                pod: pod.clone(),
                slice: slice.clone(),
                node: node.clone(),
                metrics: RouteMetrics::register(metrics, slice).context("registering metrics")?,
                place: place.clone(),
                listed: route.listed,
            };
            publishers.spawn(publisher.run());
        }
        Ok(Some(Self {
            route,
            _publishers: publishers,
        }))
    }
}

/// How long before its end a leader that handed its work over leaves the slices: its place there is given up late, and the
/// nodes follow within a second.
const NODES_FOLLOW: Duration = Duration::from_secs(2);
/// The last packets that came to such a leader are answered within this.
const ANSWERS_LEAVE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_while_the_nodes_forget_the_flows() {
        let rows = [
            (Place::Here, 0, true),
            (Place::Here, 60_000, true),
            (Place::Leaving, 0, true),
            (Place::Leaving, 2_499, true),
            (Place::Leaving, 2_500, false),
            (Place::Leaving, 60_000, false),
            (Place::Elsewhere, 0, false),
            (Place::Elsewhere, 1_999, false),
            (Place::Elsewhere, 2_000, true),
        ];
        for (place, lasts, expected) in rows {
            let found = gets_back(place, Duration::from_millis(lasts), Duration::from_secs(3));
            assert_eq!(found, expected, "{place:?} for {lasts} ms");
        }
        assert!(!gets_back(Place::Leaving, Duration::ZERO, Duration::ZERO));
    }
}
