//! A TftpCluster, as its users see it.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::cluster::run;
use super::{ClientPod, PATIENCE, Space};
use crate::clock::eventually;
use crate::program::agent;

/// A TftpCluster in a namespace.
#[derive(Debug)]
pub struct TftpCluster<'a> {
    space: &'a Space<'a>,
    name: String,
}

impl<'a> TftpCluster<'a> {
    /// Applies a manifest that holds one named `name`, and waits until it is ready.
    pub fn apply(space: &'a Space<'a>, name: &str, manifest: &str) -> anyhow::Result<Self> {
        space.apply(manifest)?;
        let name = name.to_owned();
        let cluster = Self { space, name };
        cluster.await_ready()?;
        Ok(cluster)
    }

    /// Waits until it is ready, in its newest generation.
    pub fn await_ready(&self) -> anyhow::Result<()> {
        self.space
            .await_condition("tftpcluster", &self.name, "Ready", PATIENCE)
    }

    /// The pod that the clients' address leads to.
    pub fn leader(&self) -> anyhow::Result<String> {
        let slice = self.space.get("endpointslice", &self.slice())?;
        named_in(&slice)
    }

    /// The node that it runs on.
    pub fn leader_node(&self) -> anyhow::Result<String> {
        let leader = self.space.get("pod", &self.leader()?)?;
        let node = leader["spec"]["nodeName"].as_str();
        node.map(str::to_owned).context("the leader is on no node")
    }

    /// Waits until the clients' address leads to another pod than `pod`, or to a new pod of that name; `uid` is the old
    /// pod's.
    fn await_leader_after(&self, uid: &Value) -> anyhow::Result<String> {
        self.space
            .await_object("endpointslice", &self.slice(), PATIENCE, |slice| {
                let now = &slice["endpoints"][0]["targetRef"]["uid"];
                ensure!(!now.is_null() && now != uid, "it still names the pod {now}");
                named_in(slice)
            })
    }

    /// Stores a file in the group, on the network that joins the nodes.
    pub fn put(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let leader = self.space.get("pod", &self.leader()?)?;
        let address = leader["status"]["podIP"]
            .as_str()
            .context("the leader has no address")?;
        let token = self.space.kubectl(&[
            "get",
            "secret",
            &format!("{}-token", self.name),
            "-o",
            "go-template={{.data.token | base64decode}}",
        ])?;
        let (token, file) = (file_with(token.as_bytes())?, file_with(bytes)?);
        let mut command = Command::new(agent()?);
        command.args([
            "files",
            "put",
            "--admin",
            &format!("{address}:9400"),
            "--token-file",
        ]);
        command.arg(token.path()).arg(file.path()).arg(name);
        // A busy machine elects again and again before it settles.
        command.args(["--wait", "120"]);
        run(command, None).map(drop)
    }

    /// Lets `client` download the file `name`, does something to the leader in the middle of it, waits until another pod
    /// leads, and compares what arrived with `content`.
    pub fn download_across<T>(
        &self,
        client: &ClientPod<'_>,
        name: &str,
        content: &[u8],
        fault: impl FnOnce(&str) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let leader = self.leader()?;
        let uid = self.space.get("pod", &leader)?["metadata"]["uid"].clone();
        let mut download = client.download(&format!("tftp://{}/{name}", self.name))?;
        eventually("the download is under way", PATIENCE, || {
            match download.arrived()? {
                0 => bail!("nothing has arrived"),
                _ => Ok(()),
            }
        })?;
        let done = fault(&leader)?;
        let arrived = download.arrived()?;
        ensure!(
            arrived < content.len() as u64,
            "the download ended before its leader: {arrived} bytes"
        );
        self.await_leader_after(&uid)?;
        download.ends_identical(content, PATIENCE)?;
        Ok(done)
    }

    fn slice(&self) -> String {
        format!("{}-leader-ipv4", self.name)
    }
}

fn named_in(slice: &Value) -> anyhow::Result<String> {
    let name = slice["endpoints"][0]["targetRef"]["name"].as_str();
    name.map(str::to_owned).context("the slice names no pod")
}

fn file_with(bytes: &[u8]) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new().context("making a file")?;
    file.write_all(bytes).context("writing a file")?;
    Ok(file)
}
