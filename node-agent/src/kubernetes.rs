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

use anyhow::{Context, anyhow};
use operator_api::config::KubernetesConfig;
use prometheus::Registry;
use replication::Node;
use tokio::sync::watch;
use tokio::task::JoinSet;

use api::ApiServer;
use metrics::RouteMetrics;
use publisher::Publisher;
use slice::Pod;

/// The publication of this member in every slice. It ends when it is dropped.
pub(crate) struct Routing {
    /// Whether clients are sent to this pod, one for each slice.
    named: Vec<watch::Receiver<bool>>,
    _publishers: JoinSet<()>,
}

impl Routing {
    /// Follows the leadership of `node`.
    pub(crate) fn start(config: &KubernetesConfig, node: &Node, metrics: &Registry) -> anyhow::Result<Self> {
        let api = Arc::new(ApiServer::new(config).context("reaching the API server")?);
        let pod = Arc::new(Pod::new(config).map_err(|reason| anyhow!("field kubernetes: {reason}"))?);
        let (mut named, mut publishers) = (Vec::new(), JoinSet::new());
        for slice in &config.leader_slices {
            let (sender, receiver) = watch::channel(false);
            named.push(receiver);
            let publisher = Publisher {
                api: api.clone(),
                pod: pod.clone(),
                slice: slice.clone(),
                node: node.clone(),
                metrics: RouteMetrics::register(metrics, slice).context("registering metrics")?,
                named: sender,
            };
            publishers.spawn(publisher.run());
        }
        Ok(Self {
            named,
            _publishers: publishers,
        })
    }

    /// Whether a slice sends clients to this pod.
    pub(crate) fn names_this_pod(&self) -> bool {
        self.named.iter().any(|named| *named.borrow())
    }

    /// Resolves once no slice sends clients to this pod.
    pub(crate) async fn moved_away(&self) {
        for named in &self.named {
            // An error: the publisher broke, and nobody knows any more.
            named.clone().wait_for(|named| !named).await.ok();
        }
    }
}
