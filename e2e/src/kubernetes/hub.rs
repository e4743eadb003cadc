//! An AdcHub, as its users see it, and addresses from which they come.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::process::Command;

use anyhow::{Context, ensure};
use operator_api::admin::hub::HubUser;

use super::cluster::run;
use super::{ADMIN_PORT, PATIENCE, Resource, Space};
use crate::Admin;
use crate::clock::eventually;

/// The network that joins the nodes of `e2e/cluster`, where clients outside the pod network are.
const LAB: &str = "lab0";

/// An AdcHub in a namespace.
#[derive(Debug)]
pub struct AdcHub<'a> {
    resource: Resource<'a>,
    admin: Admin,
}

impl<'a> Deref for AdcHub<'a> {
    type Target = Resource<'a>;

    fn deref(&self) -> &Self::Target {
        &self.resource
    }
}

impl<'a> AdcHub<'a> {
    /// Applies a manifest that holds one named `name`, and waits until it is ready.
    pub fn apply(space: &'a Space<'a>, name: &str, manifest: &str) -> anyhow::Result<Self> {
        Ok(Self {
            resource: Resource::apply(space, "adchub", name, manifest)?,
            admin: Admin::new()?,
        })
    }

    /// Waits until nothing is left to do for its newest generation: no pod is to be replaced any more.
    pub fn await_complete(&self) -> anyhow::Result<()> {
        self.space()
            .await_object("adchub", self.name(), PATIENCE, |object| {
                let conditions = object["status"]["conditions"].as_array();
                let mut progressing = conditions.into_iter().flatten();
                let progressing = progressing.find(|found| found["type"] == "Progressing");
                let progressing = progressing.context("it has no condition Progressing")?;
                ensure!(progressing["reason"] == "Complete", "{progressing}");
                let generation = &object["metadata"]["generation"];
                ensure!(
                    progressing["observedGeneration"] == *generation,
                    "generation {generation} is not observed yet"
                );
                Ok(())
            })
    }

    /// Where clients outside the pod network reach a member: the node port of the Service at its node. With the traffic
    /// policy `Local` it leads to no other one.
    pub fn door(&self, pod: &str) -> anyhow::Result<String> {
        let service = self.space().get("service", self.name())?;
        ensure!(
            service["spec"]["externalTrafficPolicy"] == "Local",
            "the Service leads on to other nodes: {service}"
        );
        let port = &service["spec"]["ports"][0]["nodePort"];
        let port = port.as_u64().context("the Service has no node port")?;
        let node = self.node_of(pod)?;
        Ok(format!(
            "adc://{}:{port}",
            self.space().cluster().node_address(&node)?
        ))
    }

    /// Who is on the hub, as a member knows.
    pub fn users(&self, pod: &str) -> anyhow::Result<Vec<HubUser>> {
        let address = format!("{}:{ADMIN_PORT}", self.address_of(pod)?);
        let reply = self.admin.get_as(&address, "/v1/adc/users", &self.token()?)?;
        ensure!(
            reply.status == 200,
            "{pod} answers {}: {}",
            reply.status,
            reply.body
        );
        serde_json::from_str(&reply.body).with_context(|| format!("reading {}", reply.body))
    }

    /// Waits until each of these nicks is connected, to a member that lives, and returns them in that order.
    pub fn await_connected(&self, nicks: &[&str]) -> anyhow::Result<Vec<HubUser>> {
        eventually("all users are connected", PATIENCE, || {
            let users = self.users(&self.leader()?)?;
            let connected = |nick: &&str| {
                let user = users.iter().find(|user| user.nick == **nick);
                let user = user.with_context(|| format!("{nick} is not among {users:?}"))?;
                ensure!(user.member.is_some(), "the place of {nick} is only kept");
                Ok(user.clone())
            };
            nicks.iter().map(connected).collect()
        })
    }
}

/// One more address of this machine, on the network that joins the nodes.
#[derive(Debug)]
pub struct OwnAddress(Ipv4Addr);

impl OwnAddress {
    /// Takes it.
    pub fn take(address: Ipv4Addr) -> anyhow::Result<Self> {
        ip(&["add", &format!("{address}/32"), "dev", LAB])?;
        Ok(Self(address))
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0
    }
}

impl Drop for OwnAddress {
    fn drop(&mut self) {
        if let Err(error) = ip(&["del", &format!("{}/32", self.0), "dev", LAB]) {
            eprintln!("{error:#}");
        }
    }
}

/// `ip address`, in the network that this process is in: that of the cluster's own machine.
fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("ip");
    command.arg("address").args(arguments);
    run(command, None)
}
