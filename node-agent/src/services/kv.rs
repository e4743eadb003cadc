//! The key-value service in the agent's terms: its options, its metrics and its part of the status.

mod gauges;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kv::server::Shown;
use kv::state::Policy;
use kv::{AccessFiles, Kv, Metrics, Options};
use listenfd::ListenFd;
use operator_api::AgentConfig;
use operator_api::config::{KvConfig, KvConflictPolicy};
use prometheus::Registry;
use replication::Shutdown;

use super::{Started, serve, start_node};
use gauges::Gauges;

/// Starts the node and prepares the service.
pub(super) async fn start(
    config: &AgentConfig,
    kv: &KvConfig,
    data_dir: &Path,
    mut sockets: ListenFd,
    registry: &Registry,
    until: Shutdown,
) -> anyhow::Result<Started> {
    let (node, replica) = start_node::<Kv>(config).await?;
    let socket = sockets
        .take_tcp_listener(0)
        .context("taking the client socket passed by the parent")?;
    let client_address = match &socket {
        Some(socket) => socket
            .local_addr()
            .context("reading the address of the passed socket")?,
        None => kv.listen,
    };
    let shown = Shown::default();
    let metrics = Metrics::register(registry, shown.clone()).context("registering metrics")?;
    let options = Options {
        listen: client_address,
        socket,
        member_listen: kv.member_listen,
        value_bytes_max: usize::try_from(kv.value_bytes_max).context("kv option valueBytesMax")?,
        quota_bytes: kv.storage_bytes_max,
        connections_max: usize::try_from(kv.connections_max).context("kv option connectionsMax")?,
        doubt: Duration::from_secs(kv.unknown_after_seconds.into()),
        policies: kv
            .conflicts
            .iter()
            .map(|some| (some.prefix.clone(), policy(some.policy)))
            .collect(),
        outbox_file: data_dir.join("outbox"),
        access: AccessFiles {
            tokens: kv.tokens_file.clone(),
            tls: kv
                .tls
                .as_ref()
                .map(|tls| (tls.cert_file.clone(), tls.key_file.clone())),
        },
        metrics,
        shown,
    };
    let (state, member_address, shown) = (replica.clone(), kv.member_listen, options.shown.clone());
    let quota = kv.storage_bytes_max;
    registry
        .register(Box::new(Gauges::new(replica.clone(), quota)?))
        .context("registering metrics")?;
    Ok(Started {
        node,
        serving: serve::<Kv>(options, replica, until),
        client_address: client_address.to_string(),
        detail: Arc::new(move || kv::server::detail(&state, member_address, quota, &shown)),
        lacks: Arc::new(|| None),
        files: None,
        hub: None,
    })
}

const fn policy(policy: KvConflictPolicy) -> Policy {
    match policy {
        KvConflictPolicy::Arrival => Policy::Arrival,
        KvConflictPolicy::Base => Policy::Base,
        KvConflictPolicy::Latest => Policy::Latest,
        KvConflictPolicy::KeepQuorum => Policy::KeepQuorum,
    }
}
