//! The cluster that KUBECONFIG names, through kubectl: what users type is what is tested.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::program::source_root;

/// A cluster, held by one test at a time: tests stop programs of it and cut its nodes off.
#[derive(Debug)]
pub struct Cluster {
    lab: Option<PathBuf>,
    _turn: File,
}

impl Cluster {
    /// The cluster that KUBECONFIG names, when no other test uses it any more.
    pub fn connect() -> anyhow::Result<Self> {
        ensure!(
            variable("KUBECONFIG").is_some(),
            "KUBECONFIG is not set: run `e2e/run kubernetes`, or this test in `e2e/cluster shell`"
        );
        let name = variable("QUORATE_CLUSTER").unwrap_or_else(|| "external".to_owned());
        let path = std::env::temp_dir().join(format!("quorate-e2e-kubernetes-{name}.lock"));
        let turn = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        flock(&turn, FlockOperation::LockExclusive).context("waiting for another test")?;
        Ok(Self {
            lab: variable("QUORATE_LAB").map(PathBuf::from),
            _turn: turn,
        })
    }

    /// A kubectl command.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments);
        command
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command(arguments), None)
    }

    /// Applies manifests, as the server sees them.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let command = self.command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        run(command, Some(manifests)).map(drop)
    }

    /// Applies a file or a folder of the source tree. It stays: a definition that goes takes all its resources along, also
    /// those that are none of a test's business.
    pub fn apply_file(&self, path: &str) -> anyhow::Result<()> {
        let path = source_root().join(path);
        let path = path.to_string_lossy();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &path])
            .map(drop)
    }

    /// Runs a command of `e2e/cluster`, which only knows the cluster that it brought up.
    pub fn lab(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let lab = self
            .lab
            .as_ref()
            .context("this needs the cluster of `e2e/cluster up`")?;
        let mut command = Command::new(lab);
        command.args(arguments);
        run(command, None)
    }

    /// Runs a command of this machine in a node's network, also when nothing else reaches the node, and returns what it
    /// printed.
    pub fn on_node(&self, node: &str, command: &[&str]) -> anyhow::Result<String> {
        self.lab(&[&["on", node], command].concat())
    }

    /// A file of the cluster of `e2e/cluster`: its credentials and its logs are beside the ones that KUBECONFIG names.
    pub fn lab_file(&self, path: &str) -> anyhow::Result<PathBuf> {
        ensure!(self.lab.is_some(), "this needs the cluster of `e2e/cluster up`");
        let credentials = variable("KUBECONFIG").map(PathBuf::from);
        let place = credentials.as_deref().and_then(Path::parent);
        Ok(place.context("KUBECONFIG names no file")?.join(path))
    }

    /// The names of the nodes, in order.
    pub fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let list = self.kubectl(&["get", "nodes", "-o", "name"])?;
        let names = list.lines().filter_map(|line| line.strip_prefix("node/"));
        Ok(names.map(str::to_owned).collect())
    }

    /// The IPv4 address of a node, where its node ports are.
    pub fn node_address(&self, node: &str) -> anyhow::Result<String> {
        self.node_address_where(node, |address| !address.contains(':'))
    }

    /// The IPv6 address of a node, where its node ports are.
    pub fn node_address_v6(&self, node: &str) -> anyhow::Result<String> {
        self.node_address_where(node, |address| address.contains(':'))
    }

    fn node_address_where(&self, node: &str, family: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let text = self.kubectl(&["get", "node", node, "-o", "json"])?;
        let found: Value = serde_json::from_str(&text).context("reading a node")?;
        let addresses = found["status"]["addresses"].as_array().into_iter().flatten();
        let internal = addresses.filter(|address| address["type"] == "InternalIP");
        let mut texts = internal.filter_map(|address| address["address"].as_str());
        texts
            .find(|address| family(address))
            .map(str::to_owned)
            .with_context(|| format!("{node} has no address of that family"))
    }
}

/// The image of that name (`agent`, `operator`, `clients`), as `e2e/run` made it.
pub fn image(name: &str) -> anyhow::Result<String> {
    let variable_name = format!("QUORATE_IMAGE_{}", name.to_uppercase());
    variable(&variable_name).with_context(|| format!("{variable_name} is not set: run `e2e/run kubernetes`"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test driver: the environment enters here"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs a command to its end; a failure carries what it said.
pub(super) fn run(mut command: Command, input: Option<&str>) -> anyhow::Result<String> {
    let told = format!("{command:?}").replace('"', "");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command.spawn().with_context(|| format!("starting {told}"))?;
    if let Some(input) = input {
        let mut pipe = child.stdin.take().context("the command takes no input")?;
        pipe.write_all(input.as_bytes())
            .with_context(|| format!("writing to {told}"))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("waiting for {told}"))?;
    if !output.status.success() {
        bail!("{told}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
