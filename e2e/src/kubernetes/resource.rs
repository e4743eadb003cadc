//! A custom resource of any kind, as its users see it, and the members of its group.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use operator_api::{MemberStatus, Role};
use serde_json::Value;

use super::{PATIENCE, Space};
use crate::Admin;
use crate::clock::eventually;

/// Where every member's admin port is.
pub const ADMIN_PORT: u16 = 9400;

/// A custom resource in a namespace.
#[derive(Debug)]
pub struct Resource<'a> {
    space: &'a Space<'a>,
    kind: &'static str,
    name: String,
    slice: String,
    admin: Admin,
}

impl<'a> Resource<'a> {
    /// Applies a manifest that holds one of `kind` (`tftpcluster`) named `name`, and waits until it is ready.
    pub fn apply(
        space: &'a Space<'a>,
        kind: &'static str,
        name: &str,
        manifest: &str,
    ) -> anyhow::Result<Self> {
        space.apply(manifest)?;
        let families = &space.get(kind, name)?["spec"]["service"]["ipFamilies"];
        let family = if families[0] == "IPv6" { "ipv6" } else { "ipv4" };
        let resource = Self {
            space,
            kind,
            name: name.to_owned(),
            slice: format!("{name}-leader-{family}"),
            admin: Admin::new()?,
        };
        resource.await_ready()?;
        Ok(resource)
    }

    /// Its name, which is its Service's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace it is in.
    #[must_use]
    pub fn space(&self) -> &'a Space<'a> {
        self.space
    }

    /// Waits until it is ready, in its newest generation.
    pub fn await_ready(&self) -> anyhow::Result<()> {
        self.space
            .await_condition(self.kind, &self.name, "Ready", PATIENCE)
    }

    /// Waits until one of its conditions is true for that reason, and returns its message.
    pub fn await_reason(&self, condition: &str, reason: &str, within: Duration) -> anyhow::Result<String> {
        self.space.await_object(self.kind, &self.name, within, |object| {
            let conditions = object["status"]["conditions"].as_array();
            let found = conditions
                .into_iter()
                .flatten()
                .find(|found| found["type"] == condition)
                .with_context(|| format!("it has no condition {condition}"))?;
            ensure!(found["status"] == "True" && found["reason"] == reason, "{found}");
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Changes its specification with a JSON merge patch.
    pub fn change(&self, spec: &Value) -> anyhow::Result<()> {
        let patch = serde_json::json!({ "spec": spec }).to_string();
        self.space
            .kubectl(&["patch", self.kind, &self.name, "--type=merge", "-p", &patch])
            .map(drop)
    }

    /// `kubectl scale`.
    pub fn scale(&self, replicas: u32) -> anyhow::Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.space
            .kubectl(&["scale", self.kind, &self.name, &replicas])
            .map(drop)
    }

    /// The resource as it is now.
    pub fn get(&self) -> anyhow::Result<Value> {
        self.space.get(self.kind, &self.name)
    }

    /// The pod that the clients' address leads to.
    pub fn leader(&self) -> anyhow::Result<String> {
        named_in(&self.space.get("endpointslice", self.slice())?)
    }

    /// The node that it runs on.
    pub fn leader_node(&self) -> anyhow::Result<String> {
        self.node_of(&self.leader()?)
    }

    /// The node that a pod runs on.
    pub fn node_of(&self, pod: &str) -> anyhow::Result<String> {
        let pod = self.space.get("pod", pod)?;
        let node = pod["spec"]["nodeName"].as_str();
        node.map(str::to_owned).context("the pod is on no node")
    }

    /// The name of the slice of its first family that the leader writes itself into.
    #[must_use]
    pub fn slice(&self) -> &str {
        &self.slice
    }

    /// The UID of a pod, to tell it from later ones of its name.
    pub fn uid(&self, pod: &str) -> anyhow::Result<Value> {
        Ok(self.space.get("pod", pod)?["metadata"]["uid"].clone())
    }

    /// Waits until the clients' address leads to another pod than the one with this UID.
    pub fn await_leader_after(&self, uid: &Value) -> anyhow::Result<String> {
        self.space
            .await_object("endpointslice", self.slice(), PATIENCE, |slice| {
                let now = &slice["endpoints"][0]["targetRef"]["uid"];
                ensure!(!now.is_null() && now != uid, "it still names the pod {now}");
                named_in(slice)
            })
    }

    /// Its pods as they are now.
    pub fn pods(&self) -> anyhow::Result<Vec<Value>> {
        let instance = format!("app.kubernetes.io/instance={}", self.name);
        self.space.list("pods", &instance)
    }

    /// The address of a pod.
    pub fn address_of(&self, pod: &str) -> anyhow::Result<String> {
        let pod = self.space.get("pod", pod)?;
        let address = pod["status"]["podIP"].as_str();
        address.map(str::to_owned).context("the pod has no address")
    }

    /// What a member says of itself.
    pub fn status_of(&self, pod: &str) -> anyhow::Result<MemberStatus> {
        self.admin
            .status_at(&format!("{}:{ADMIN_PORT}", self.address_of(pod)?))
    }

    /// Waits until the members themselves agree that all of them vote, have caught up, and that the one leads whom the
    /// clients' address leads to. Unlike a condition it cannot be of yesterday.
    pub fn await_settled(&self) -> anyhow::Result<()> {
        eventually(&format!("all of {} have caught up", self.name), PATIENCE, || {
            let wanted = self.get()?["spec"]["replicas"].as_u64().unwrap_or(3);
            let pods = self.pods()?;
            ensure!(
                pods.len() as u64 == wanted,
                "{} of {wanted} pods are there",
                pods.len()
            );
            let route = self.leader()?;
            for pod in &pods {
                let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
                let status = self.status_of(pod)?;
                let detail = status.detail.context("no detail")?;
                ensure!(detail.ready, "{pod} is not ready");
                let voters = detail.members.iter().filter(|member| member.voter).count();
                ensure!(
                    voters as u64 == wanted,
                    "{pod} knows {voters} voters, not {wanted}"
                );
                let leads = status.role == Role::Leader && detail.serving;
                ensure!(
                    leads == (pod == route),
                    "{pod} leads: {leads}; the route is {route}"
                );
            }
            Ok(())
        })
    }

    /// The token of requests that change something.
    pub fn token(&self) -> anyhow::Result<String> {
        self.space.kubectl(&[
            "get",
            "secret",
            &format!("{}-token", self.name),
            "-o",
            "go-template={{.data.token | base64decode}}",
        ])
    }

    /// Lets the leader hand leadership over, and returns the pod that leads now.
    pub fn transfer(&self) -> anyhow::Result<String> {
        let leader = self.leader()?;
        let (uid, address) = (self.uid(&leader)?, self.address_of(&leader)?);
        self.hand_over(&format!("{address}:{ADMIN_PORT}"), &self.token()?)?;
        self.await_leader_after(&uid)
    }

    /// Asks a leader's admin port to hand leadership over.
    pub fn hand_over(&self, leader: &str, token: &str) -> anyhow::Result<()> {
        let reply = self
            .admin
            .change(leader, "/v1/membership/transfer", token, "{}")?;
        if !(200..300).contains(&reply.status) {
            bail!(
                "{leader} did not hand over: {} {}",
                reply.status,
                reply.body.trim()
            );
        }
        Ok(())
    }
}

fn named_in(slice: &Value) -> anyhow::Result<String> {
    let name = slice["endpoints"][0]["targetRef"]["name"].as_str();
    name.map(str::to_owned).context("the slice names no pod")
}
