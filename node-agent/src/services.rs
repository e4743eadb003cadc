//! The list of services: one closed `match` from the configuration to a running service.
//!
//! A service knows nothing of the agent. What it contributes to the admin port (its files, its part of the status) is
//! adapted here.

mod adc;
mod kv;
mod tftp;

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use futures::future::BoxFuture;
use listenfd::ListenFd;
use operator_api::AgentConfig;
use operator_api::config::{Durability, ServiceConfig, Timing};
use prometheus::Registry;
use replication::{Node, NodeOptions, Replica, ServeError, Service, Shutdown};
use tokio::sync::oneshot;

use crate::admin::files::FileStore;
use crate::admin::hub::HubDesk;
use crate::admin::{Detail, Lacks};
use crate::kubernetes::Route;

/// A service that is ready to run, and what it contributes.
pub(crate) struct Started {
    /// The member's Raft node; it runs already.
    pub node: Node,
    /// The service; it runs while this is polled.
    pub serving: BoxFuture<'static, Result<(), ServeError>>,
    /// Where clients reach the leader.
    pub client_address: String,
    /// What the service adds to the status.
    pub detail: Detail,
    /// What the service lacks before this member counts as ready; none when nothing.
    pub lacks: Lacks,
    /// Its files, if it has any.
    pub files: Option<Arc<dyn FileStore>>,
    /// The hub, if it is one.
    pub hub: Option<Arc<dyn HubDesk>>,
}

/// Starts the node and prepares the service that the configuration names.
pub(crate) async fn start(
    config: &AgentConfig,
    data_dir: &Path,
    sockets: ListenFd,
    metrics: &Registry,
    route: Option<Route>,
    until: Shutdown,
) -> anyhow::Result<Started> {
    match &config.service {
        ServiceConfig::Tftp(options) => {
            tftp::start(config, options, data_dir, sockets, metrics, route, until).await
        }
        ServiceConfig::Kv(options) => kv::start(config, options, data_dir, sockets, metrics, until).await,
        ServiceConfig::Adc(options) => adc::start(config, options, sockets, metrics, until).await,
    }
}

async fn start_node<S: Service>(config: &AgentConfig) -> anyhow::Result<(Node, Replica<S::State>)> {
    Node::start::<S::State>(node_options(config))
        .await
        .map_err(|error| anyhow!(error).context(format!("starting member {}", config.name)))
}

/// Runs a service on a thread of its own. A packet is answered by the thread that waited for it: between the threads of
/// a shared runtime, each packet would wake another one.
fn serve<S: Service>(
    options: S::Options,
    replica: Replica<S::State>,
    until: Shutdown,
) -> BoxFuture<'static, Result<(), ServeError>>
where
    S::Options: 'static,
{
    Box::pin(async move {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ServeError(format!("starting the service's runtime: {error}")))?;
        let (tell_end, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("service".to_owned())
            .spawn(move || {
                // Fails when nobody waits any more.
                tell_end
                    .send(runtime.block_on(S::serve(options, replica, until)))
                    .ok();
            })
            .map_err(|error| ServeError(format!("starting the service's thread: {error}")))?;
        end.await
            .unwrap_or_else(|_| Err(ServeError("the service's thread panicked".to_owned())))
    })
}

fn node_options(config: &AgentConfig) -> NodeOptions {
    NodeOptions {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        peer_listen: config.peer.listen,
        peer_advertise: config.peer.advertise.clone(),
        admin_advertise: config.admin.advertise.clone(),
        timing: match config.timing {
            Timing::Lan => replication::Timing::Lan,
            Timing::Edge => replication::Timing::Edge,
        },
        durability: match config.durability {
            Durability::Strict => replication::Durability::Strict,
            Durability::Relaxed => replication::Durability::Relaxed,
        },
        tls: config.peer_tls.as_ref().map(|tls| replication::PeerTls {
            ca_file: tls.ca_file.clone(),
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            server_name: tls.server_name.clone(),
        }),
        restore: config.restore_from.as_ref().map(|file| replication::RestoreFrom {
            file: file.clone(),
            service: config.service.kind().name().to_owned(),
        }),
    }
}
