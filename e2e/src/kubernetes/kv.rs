//! A KvCluster, as its users see it.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, ensure};
use linearizability::{Checked, History};

use super::{Resource, Space};
use crate::kv::load::{LoadOptions, Running};

/// How long the checker may take.
const CHECK_WITHIN: Duration = Duration::from_secs(120);

/// Clients of a load.
const CLIENTS: u64 = 4;

/// A KvCluster in a namespace.
#[derive(Debug)]
pub struct KvCluster<'a>(Resource<'a>);

impl<'a> Deref for KvCluster<'a> {
    type Target = Resource<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a> KvCluster<'a> {
    /// Applies a manifest that holds one named `name`, and waits until it is ready.
    pub fn apply(space: &'a Space<'a>, name: &str, manifest: &str) -> anyhow::Result<Self> {
        Resource::apply(space, "kvcluster", name, manifest).map(Self)
    }

    /// Where clients outside the pod network reach the leader of a Service of type `NodePort`: at every node.
    pub fn node_ports(&self) -> anyhow::Result<Vec<String>> {
        let service = self.space().get("service", self.name())?;
        let port = service["spec"]["ports"][0]["nodePort"]
            .as_u64()
            .context("the Service has no node port")?;
        let cluster = self.space().cluster();
        let nodes = cluster.nodes()?.into_iter();
        nodes
            .map(|node| Ok(format!("{}:{port}", cluster.node_address(&node)?)))
            .collect()
    }

    /// Starts clients outside the pod network, which write down everything they see.
    pub fn load(&self) -> anyhow::Result<Running> {
        let options = LoadOptions {
            seed: rand::random(),
            clients: CLIENTS,
            local: false,
        };
        Running::start_at(self.node_ports()?, options)
    }
}

/// Ends a load and checks that one order of all operations explains what its clients saw.
pub fn end_and_check(load: Running) -> anyhow::Result<Checked> {
    let load = load.finish()?;
    let broken = load.broken();
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    let operations = load.history();
    let checked = linearizability::check(&History { operations }, CHECK_WITHIN)?;
    ensure!(load.answered() > 0, "nothing was answered: {:?}", load.refusals());
    Ok(checked)
}
