//! What goes wrong in clusters, on purpose. What is taken away comes back when the guard is dropped.

use std::time::Duration;

use anyhow::Context;

use super::{Cluster, Space};

/// Deletes a pod without grace: the API server forgets it at once. The kubelet still sends SIGTERM first, and SIGKILL some
/// tenths of a second later, so that its program has a last word; see [`kill_processes`].
pub fn kill_pod(space: &Space<'_>, pod: &str) -> anyhow::Result<()> {
    space
        .kubectl(&[
            "delete",
            "pod",
            pod,
            "--grace-period=0",
            "--force",
            "--wait=false",
        ])
        .map(drop)
}

/// Kills the processes of a pod, without a word to anybody: SIGKILL. The kubelet starts its containers again.
pub fn kill_processes(space: &Space<'_>, pod: &str) -> anyhow::Result<()> {
    signal(space.cluster(), &Processes::of(space, pod)?, "KILL")
}

/// A node whose cable is out.
#[derive(Debug)]
pub struct CutNode<'a> {
    cluster: &'a Cluster,
    node: String,
}

impl<'a> CutNode<'a> {
    /// Takes the node's cable away.
    pub fn cut(cluster: &'a Cluster, node: &str) -> anyhow::Result<Self> {
        cluster.lab(&["cut", node])?;
        let node = node.to_owned();
        Ok(Self { cluster, node })
    }

    /// Plugs it in again, and waits until the API server knows that the node is there.
    pub fn heal(self, within: Duration) -> anyhow::Result<()> {
        let (cluster, node) = (self.cluster, self.node.clone());
        drop(self);
        let timeout = format!("--timeout={}s", within.as_secs());
        cluster
            .kubectl(&["wait", "node", &node, "--for=condition=Ready", &timeout])
            .map(drop)
    }
}

impl Drop for CutNode<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.lab(&["heal", &self.node]) {
            eprintln!("{} stays cut off: {error:#}", self.node);
        }
    }
}

/// A program of the control plane, or of a node, that was killed.
#[derive(Debug)]
pub struct StoppedProgram<'a> {
    cluster: &'a Cluster,
    program: &'static str,
}

impl<'a> StoppedProgram<'a> {
    /// Kills it.
    pub fn stop(cluster: &'a Cluster, program: &'static str) -> anyhow::Result<Self> {
        cluster.lab(&["stop", program])?;
        Ok(Self { cluster, program })
    }
}

impl Drop for StoppedProgram<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.lab(&["start", self.program]) {
            eprintln!("{} stays stopped: {error:#}", self.program);
        }
    }
}

/// Where a pod's processes run.
#[derive(Debug)]
struct Processes {
    node: String,
    uid: String,
}

impl Processes {
    fn of(space: &Space<'_>, pod: &str) -> anyhow::Result<Self> {
        let object = space.get("pod", pod)?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        Ok(Self {
            node: text(&object["spec"]["nodeName"]).context("the pod is on no node")?,
            uid: text(&object["metadata"]["uid"]).context("the pod has no UID")?,
        })
    }
}

/// Sends a signal to every process of the pod's containers.
fn signal(cluster: &Cluster, to: &Processes, signal: &str) -> anyhow::Result<()> {
    cluster.lab(&["signal", &to.node, &to.uid, signal]).map(drop)
}

/// The processes of a pod, stopped where they are.
#[derive(Debug)]
pub struct PausedPod<'a> {
    cluster: &'a Cluster,
    processes: Processes,
}

impl<'a> PausedPod<'a> {
    /// Sends SIGSTOP to every process of the pod's containers.
    pub fn pause(space: &Space<'a>, pod: &str) -> anyhow::Result<Self> {
        let paused = Self {
            cluster: space.cluster(),
            processes: Processes::of(space, pod)?,
        };
        signal(paused.cluster, &paused.processes, "STOP")?;
        Ok(paused)
    }
}

impl Drop for PausedPod<'_> {
    fn drop(&mut self) {
        if let Err(error) = signal(self.cluster, &self.processes, "CONT") {
            eprintln!("the pod stays stopped: {error:#}");
        }
    }
}
