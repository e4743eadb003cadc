//! The operator, as a process beside the cluster: tests stop and start it as they like.

use std::process::Command;

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use super::cluster::image;
use super::{Cluster, PATIENCE, Space};
use crate::clock::eventually;
use crate::process::Process;
use crate::program::release_program;

/// A running operator that looks after one namespace. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    output: NamedTempFile,
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

    /// Starts one and waits until it answers that it is ready.
    pub fn start(space: &Space<'_>) -> anyhow::Result<Self> {
        let output = NamedTempFile::new().context("making a file for the operator's output")?;
        let mut command = Command::new(release_program("quorate-operator", "QUORATE_OPERATOR")?);
        command.args(["run", "--namespaces", space.name(), "--namespace", space.name()]);
        command.args(["--agent-image", &image("agent")?, "--listen", "127.0.0.1:0"]);
        command.args(["--log-format", "text"]);
        let process = Process::start("quorate-operator", command, output.path().to_owned())?;
        let operator = Self { process, output };
        eventually("an operator works", PATIENCE, || {
            let lease = space.get("lease", "quorate-operator")?;
            match lease["spec"]["holderIdentity"].as_str() {
                Some(holder) if !holder.is_empty() => Ok(()),
                _ => bail!("nobody holds the lease: {}", operator.process.output()),
            }
        })?;
        Ok(operator)
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
