//! Clients in pods: stock programs on the pod network, on a node of the test's choice.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::cluster::image;
use super::{PATIENCE, Space};
use crate::data::sha256;
use crate::process::Process;

/// A pod that waits for commands, with curl, tftp, atftp and busybox.
#[derive(Debug)]
pub struct ClientPod<'a> {
    space: &'a Space<'a>,
    name: String,
}

impl<'a> ClientPod<'a> {
    /// Starts one on `node`, or anywhere, and waits until it runs.
    pub fn start(space: &'a Space<'a>, name: &str, node: Option<&str>) -> anyhow::Result<Self> {
        Self::start_as(space, name, node, "default")
    }

    /// The same, as a service account.
    pub fn start_as(
        space: &'a Space<'a>,
        name: &str,
        node: Option<&str>,
        account: &str,
    ) -> anyhow::Result<Self> {
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"e2e": "client"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "serviceAccountName": account,
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "client",
                    "image": image("clients")?,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/bin/sleep", "2147483647"],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        if let Some(node) = node {
            pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        }
        space.apply(&pod.to_string())?;
        space.await_condition("pod", name, "Ready", PATIENCE)?;
        let name = name.to_owned();
        Ok(Self { space, name })
    }

    /// Runs a command in it and returns what it printed.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        self.space.exec(&self.name, command)
    }

    /// The same as a command that can be started and left to run.
    pub(super) fn command(&self, command: &[&str]) -> Command {
        let arguments: Vec<&str> = ["exec", self.name.as_str(), "--"]
            .iter()
            .chain(command)
            .copied()
            .collect();
        self.space.cluster().command(&self.space.here(&arguments))
    }

    /// Starts a download with curl into a file of the pod.
    pub fn download(&self, url: &str) -> anyhow::Result<PodDownload<'_>> {
        let local = format!("/tmp/{:08x}", rand::random::<u32>());
        let script = "curl -sS --max-time 170 \"$1\" -o \"$2\" && sha256sum \"$2\"";
        let command = self.command(&["sh", "-c", script, "sh", url, &local]);
        let output = tempfile::NamedTempFile::new().context("making a file for the client's output")?;
        let process = Process::start("curl in a pod", command, output.path().to_owned())?;
        Ok(PodDownload {
            pod: self,
            process,
            local,
            _output: output.into_temp_path(),
        })
    }

    /// Downloads `url` and compares it with `expected`.
    pub fn fetch(&self, url: &str, expected: &[u8], within: Duration) -> anyhow::Result<()> {
        self.download(url)?.ends_identical(expected, within)
    }
}

/// A download that runs in a pod.
#[derive(Debug)]
pub struct PodDownload<'a> {
    pod: &'a ClientPod<'a>,
    process: Process,
    local: String,
    _output: tempfile::TempPath,
}

impl PodDownload<'_> {
    /// How many bytes have arrived.
    pub fn arrived(&self) -> anyhow::Result<u64> {
        let size = self.pod.run(&["stat", "-c", "%s", &self.local])?;
        size.trim().parse().context("reading a file's size")
    }

    /// Waits for the client's successful end and compares the file.
    pub fn ends_identical(&mut self, expected: &[u8], within: Duration) -> anyhow::Result<()> {
        self.process.succeed(within)?;
        let printed = self.process.output();
        ensure!(
            printed.starts_with(&sha256(expected)),
            "the file that arrived is another one: {printed}"
        );
        Ok(())
    }
}
