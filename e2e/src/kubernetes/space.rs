//! A namespace for one test.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::cluster::run;
use super::{Cluster, watch};

/// How long a namespace may take to end.
const END_SECONDS_MAX: &str = "120s";

/// How much of each log is shown when a test fails.
const LOG_LINES_SHOWN: &str = "60";

/// A namespace with everything a test makes in it. Dropping it removes all of it; when the test is failing, pods, events
/// and logs are shown first.
#[derive(Debug)]
pub struct Space<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Space<'a> {
    /// A new namespace, in which only pods of the security standard `restricted` are admitted.
    pub fn new(cluster: &'a Cluster, test: &str) -> anyhow::Result<Self> {
        let name = format!("e2e-{test}-{:04x}", rand::random::<u16>());
        cluster.apply(
            &serde_json::json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            })
            .to_string(),
        )?;
        Ok(Self { cluster, name })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it is in.
    #[must_use]
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Runs kubectl in this namespace and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&self.here(arguments))
    }

    /// Applies manifests that name no namespace.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let arguments = self.here(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        run(self.cluster.command(&arguments), Some(manifests)).map(drop)
    }

    /// Sends an object as somebody with another token, with one `kubectl replace`.
    pub fn replace_as(&self, token: &str, object: &Value) -> anyhow::Result<()> {
        let arguments = self.here(&["--token", token, "replace", "-f", "-"]);
        run(self.cluster.command(&arguments), Some(&object.to_string())).map(drop)
    }

    /// An object as it is now.
    pub fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        let text = self.kubectl(&["get", kind, name, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("reading {kind} {name}"))
    }

    /// All objects of a kind whose labels match `selector`.
    pub fn list(&self, kind: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let text = self.kubectl(&["get", kind, "--selector", selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("reading {kind}"))?;
        let items = list["items"].as_array();
        items.cloned().with_context(|| format!("no list of {kind}"))
    }

    /// Watches an object, which need not exist yet, until `probe` finds what it looks for in it.
    pub fn await_object<T>(
        &self,
        kind: &str,
        name: &str,
        within: Duration,
        mut probe: impl FnMut(&Value) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let what = format!("{kind} {name} in {}", self.name);
        self.watch(&what, kind, name, within, |object| match object {
            Some(object) => probe(object),
            None => bail!("it was deleted"),
        })
    }

    /// Waits until an object is gone.
    pub fn await_gone(&self, kind: &str, name: &str, within: Duration) -> anyhow::Result<()> {
        let timeout = format!("{}s", within.as_secs());
        self.kubectl(&["wait", kind, name, "--for=delete", "--timeout", &timeout])
            .map(drop)
    }

    /// Waits until a condition of an object is true, as users do.
    pub fn await_condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        within: Duration,
    ) -> anyhow::Result<()> {
        self.await_object(kind, name, within, |object| {
            let conditions = object["status"]["conditions"].as_array();
            let found = conditions
                .into_iter()
                .flatten()
                .find(|found| found["type"] == condition)
                .with_context(|| format!("it has no condition {condition}"))?;
            ensure!(found["status"] == "True", "{found}");
            let generation = &object["metadata"]["generation"];
            let observed = &object["status"]["observedGeneration"];
            ensure!(
                observed.is_null() || observed == generation,
                "generation {generation} is not observed yet, only {observed}"
            );
            Ok(())
        })
    }

    /// Runs a command in a pod and returns what it printed.
    pub fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        let arguments: Vec<&str> = ["exec", pod, "--"].iter().chain(command).copied().collect();
        self.kubectl(&arguments)
    }

    /// The namespace before the arguments of kubectl.
    pub(super) fn here<'b>(&'b self, arguments: &[&'b str]) -> Vec<&'b str> {
        let place = ["--namespace", self.name.as_str()];
        place.iter().chain(arguments).copied().collect()
    }

    fn watch<T>(
        &self,
        what: &str,
        kind: &str,
        name: &str,
        within: Duration,
        probe: impl FnMut(Option<&Value>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let field = format!("metadata.name={name}");
        let arguments = ["get", kind, "--watch", "--output-watch-events", "-o", "json"];
        let arguments = [&arguments[..], &["--field-selector", &field]].concat();
        let command = || self.cluster.command(&self.here(&arguments));
        watch::watch(what, within, command, probe)
    }

    /// Shows what a person would look at first.
    fn show(&self) {
        let questions: [&[&str]; 3] = [
            &["get", "all,endpointslices,persistentvolumeclaims", "-o", "wide"],
            &["get", "events", "--sort-by", ".lastTimestamp"],
            &["get", "tftpclusters", "-o", "yaml"],
        ];
        for question in questions {
            eprintln!("--- kubectl {}", question.join(" "));
            eprintln!(
                "{}",
                self.kubectl(question)
                    .unwrap_or_else(|error| format!("{error:#}"))
            );
        }
        let pods = self.kubectl(&["get", "pods", "-o", "name"]).unwrap_or_default();
        for pod in pods.lines() {
            for previous in ["false", "true"] {
                let previous = format!("--previous={previous}");
                let arguments = [
                    "logs",
                    pod,
                    "--all-containers",
                    "--tail",
                    LOG_LINES_SHOWN,
                    &previous,
                ];
                if let Ok(log) = self.kubectl(&arguments) {
                    eprintln!("--- log of {pod} {previous}\n{log}");
                }
            }
        }
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            self.show();
        }
        let arguments = ["delete", "namespace", &self.name, "--timeout", END_SECONDS_MAX];
        if let Err(error) = self.cluster.kubectl(&arguments) {
            eprintln!("{error:#}");
            assert!(failing, "the namespace {} did not end", self.name);
        }
    }
}
