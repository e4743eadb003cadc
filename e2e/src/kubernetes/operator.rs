//! The operator, as a process beside the cluster: tests stop and start it as they like.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use super::cluster::image;
use super::{Cluster, PATIENCE, Space};
use crate::clock::eventually;
use crate::process::Process;
use crate::program::release_program;
use crate::{Admin, ports};

/// A running operator that looks after one namespace. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    output: NamedTempFile,
    port: u16,
}

impl Operator {
    /// Tells the API server what the operator's resources look like, and what may be written into their slices.
    pub fn define(cluster: &Cluster) -> anyhow::Result<()> {
        cluster.apply_file("crds")?;
        cluster.apply_file("charts/quorate/files/leader-slice-policy.yaml")?;
        cluster
            .kubectl(&[
                "wait",
                "crd",
                "--all",
                "--for=condition=Established",
                "--timeout=60s",
            ])
            .map(drop)
    }

    /// Starts one and waits until it works.
    pub fn start(space: &Space<'_>) -> anyhow::Result<Self> {
        Self::start_as(space, None)
    }

    /// The same as the user of another file of credentials.
    pub fn start_as(space: &Space<'_>, credentials: Option<&Path>) -> anyhow::Result<Self> {
        let port = ports::free_run(1)?;
        let output = NamedTempFile::new().context("making a file for the operator's output")?;
        let mut command = Command::new(release_program("quorate-operator", "QUORATE_OPERATOR")?);
        command.args(["run", "--namespaces", space.name(), "--namespace", space.name()]);
        command.args(["--agent-image", &image("agent")?]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--log-format", "text"]);
        if let Some(credentials) = credentials {
            command.env("KUBECONFIG", credentials);
        }
        let process = Process::start("quorate-operator", command, output.path().to_owned())?;
        let operator = Self {
            process,
            output,
            port,
        };
        eventually("an operator works", PATIENCE, || {
            let lease = space.get("lease", "quorate-operator")?;
            match lease["spec"]["holderIdentity"].as_str() {
                Some(holder) if !holder.is_empty() => Ok(()),
                _ => bail!("nobody holds the lease: {}", operator.process.output()),
            }
        })?;
        Ok(operator)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How often it has gone through a resource of that kind, without an error.
    pub fn rounds(&self, kind: &str) -> anyhow::Result<u64> {
        let reply = Admin::new()?.get(self.port, "/metrics", "text/plain")?;
        let name = format!("quorate_operator_reconciles_total{{kind=\"{kind}\",result=\"ok\"}} ");
        let count = reply.body.lines().find_map(|line| line.strip_prefix(&name));
        let count = count.with_context(|| format!("no {name} in {}", reply.body))?;
        count.parse().with_context(|| format!("reading {count}"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the operator ({})\n{}",
                self.output.path().display(),
                self.process.output()
            );
        }
    }
}
