//! Clients outside the pod network, and the load balancer that leads them to the leader's node.

use std::io::BufReader;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::cluster::run;
use super::{Cluster, PATIENCE, Resource};
use crate::clock::eventually;

/// An address for a Service of type `LoadBalancer` with the traffic policy `Local`, beside the cluster of `e2e/cluster`.
///
/// It does what load balancers on bare metal do: it announces one address, at the node that the Service's slice names, and
/// no other node. Here an announcement is a route of the network that joins the nodes.
#[derive(Debug)]
pub struct LoadBalancer {
    address: String,
    watch: Child,
    thread: Option<JoinHandle<()>>,
}

impl LoadBalancer {
    /// Gives the resource's Service an address, and waits until it leads somewhere.
    pub fn give(resource: &Resource<'_>, address: &str) -> anyhow::Result<Self> {
        let space = resource.space();
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}).to_string();
        let patch = ["--subresource=status", "--type=merge", "-p", &status];
        space.kubectl(&[&["patch", "service", resource.name()], &patch[..]].concat())?;
        let nodes = nodes(space.cluster())?;
        let slice = format!("metadata.name={}", resource.slice());
        let arguments = [
            "get",
            "endpointslice",
            "--watch",
            "-o",
            "json",
            "--field-selector",
            &slice,
        ];
        let mut watch = space
            .cluster()
            .command(&space.here(&arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("watching a slice")?;
        let output = watch.stdout.take().context("kubectl has no output")?;
        let announced = address.to_owned();
        let thread = std::thread::spawn(move || {
            let slices = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>();
            for slice in slices.map_while(Result::ok) {
                let node = slice["endpoints"][0]["nodeName"].as_str().unwrap_or_default();
                if let Some((_, gateway)) = nodes.iter().find(|(name, _)| name == node)
                    && let Err(error) = route(&["replace", &announced, "via", gateway])
                {
                    eprintln!("{error:#}");
                }
            }
        });
        let balancer = Self {
            address: address.to_owned(),
            watch,
            thread: Some(thread),
        };
        eventually("the address leads to a node", PATIENCE, || {
            let routes = route(&["show", address])?;
            ensure!(!routes.trim().is_empty(), "no route to {address}");
            Ok(())
        })?;
        Ok(balancer)
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        self.watch.kill().ok();
        self.watch.wait().ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        if let Err(error) = route(&["del", &self.address]) {
            eprintln!("{error:#}");
        }
    }
}

/// All nodes with their addresses.
fn nodes(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let names = cluster.nodes()?.into_iter();
    names
        .map(|node| {
            let address = cluster.node_address(&node)?;
            Ok((node, address))
        })
        .collect()
}

/// `ip route`, in the network that this process is in: that of the cluster's own machine.
fn route(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("ip");
    command.arg("route").args(arguments);
    run(command, None)
}
