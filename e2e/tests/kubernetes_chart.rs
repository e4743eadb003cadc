//! The Helm chart on a real cluster: installed, tried with `helm test`, upgraded, rolled back, removed; for the whole
//! cluster and for one namespace alone.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::kubernetes::{Cluster, Space, image};
use e2e::program::source_root;
use serde_json::{Value, json};

const RELEASE: &str = "q";

/// An installed chart. Dropping it removes it and the definitions.
struct Release<'a> {
    space: &'a Space<'a>,
    values: Vec<String>,
}

impl<'a> Release<'a> {
    /// Installs the chart with the images under test and waits for the operators.
    fn install(space: &'a Space<'a>, values: &[&str]) -> anyhow::Result<Self> {
        let mut all = vec!["image.registry=docker.io".to_owned()];
        for (name, value) in [("operator", "operator"), ("agent", "agent"), ("clients", "tests")] {
            let reference = image(name)?;
            let (repository, tag) = reference
                .strip_prefix("docker.io/")
                .and_then(|rest| rest.rsplit_once(':'))
                .with_context(|| format!("the image {reference} is not docker.io/NAME:TAG"))?;
            all.push(format!("{value}.image.repository={repository}"));
            all.push(format!("{value}.image.tag={tag}"));
        }
        all.extend(values.iter().map(|value| (*value).to_owned()));
        let release = Self { space, values: all };
        release.apply("install", &[])?;
        Ok(release)
    }

    /// `helm install` or `helm upgrade`. Definitions that are there already, from another test or a user, become the release's.
    fn apply(&self, verb: &str, more: &[&str]) -> anyhow::Result<()> {
        let chart = source_root().join("charts/quorate");
        let chart = chart.to_string_lossy();
        let waits = ["--take-ownership", "--wait", "--timeout", "180s"];
        let mut arguments = [&[verb, RELEASE, &chart], &waits[..]].concat();
        for value in self.values.iter().map(String::as_str).chain(more.iter().copied()) {
            arguments.extend(["--set", value]);
        }
        self.helm(&arguments).map(drop)
    }

    fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("helm")
            .args(["--namespace", self.space.name()])
            .args(arguments)
            .output()
            .context("starting helm")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "helm {arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// An environment variable of the operator, as its Deployment has it.
    fn variable(&self, name: &str) -> anyhow::Result<Value> {
        let deployment = self.space.get("deployment", "q-quorate")?;
        let variables = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let mut found = variables.as_array().into_iter().flatten();
        let found = found.find(|variable| variable["name"] == name);
        Ok(found.with_context(|| format!("no variable {name}"))?["value"].clone())
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        // The operators first end what they look after, while they are there.
        let kinds = "tftpclusters,kvclusters,adchubs";
        let resources = ["delete", kinds, "--all", "--ignore-not-found", "--timeout=60s"];
        let ended = [
            self.space.kubectl(&resources),
            self.helm(&["uninstall", RELEASE, "--ignore-not-found", "--wait"]),
            self.space.kubectl(&[
                "delete",
                "-f",
                &definitions(),
                "--ignore-not-found",
                "--timeout=60s",
            ]),
        ];
        for error in ended.into_iter().filter_map(Result::err) {
            eprintln!("{error:#}");
        }
    }
}

fn definitions() -> String {
    source_root().join("crds").to_string_lossy().into_owned()
}

fn store() -> String {
    json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "settings"},
        "spec": {"replicas": 1, "storage": {"type": "Ephemeral", "size": "256Mi", "whenDeleted": "Delete"}},
    })
    .to_string()
}

fn await_ready(space: &Space<'_>) -> anyhow::Result<()> {
    let wait = [
        "wait",
        "--for=condition=Ready",
        "--timeout=120s",
        "kvcluster/settings",
    ];
    space.kubectl(&wait).map(drop)
}

#[test]
fn chart_installs_is_tested_upgrades_and_rolls_back() {
    let cluster = Cluster::connect().unwrap();
    let space = Space::new(&cluster, "chart").unwrap();
    let release = Release::install(&space, &[]).unwrap();
    // A file fetched and a key set, through the Services of groups of its own.
    release.helm(&["test", RELEASE, "--timeout", "240s"]).unwrap();
    release.apply("upgrade", &["operator.logLevel=debug"]).unwrap();
    assert_eq!(release.variable("LOG_LEVEL").unwrap(), "debug");
    release
        .helm(&["rollback", RELEASE, "1", "--wait", "--timeout", "180s"])
        .unwrap();
    assert_eq!(release.variable("LOG_LEVEL").unwrap(), "info");
}

#[test]
fn uninstalling_keeps_the_resources_and_what_runs_for_them() {
    let cluster = Cluster::connect().unwrap();
    let space = Space::new(&cluster, "uninstall").unwrap();
    let release = Release::install(&space, &[]).unwrap();
    space.apply(&store()).unwrap();
    await_ready(&space).unwrap();
    release.helm(&["uninstall", RELEASE, "--wait"]).unwrap();
    space
        .await_gone("deployment", "q-quorate", Duration::from_secs(60))
        .unwrap();
    let pod = space.get("pod", "settings-0").unwrap();
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(space.get("kvcluster", "settings").is_ok());
}

#[test]
fn installed_for_one_namespace_it_needs_nothing_of_the_cluster() {
    let cluster = Cluster::connect().unwrap();
    let space = Space::new(&cluster, "namespaced").unwrap();
    cluster
        .kubectl(&["apply", "--server-side", "-f", &definitions()])
        .unwrap();
    let watched = format!("watchNamespaces={{{}}}", space.name());
    let values = [
        watched.as_str(),
        "crds.enabled=false",
        "admissionPolicy.enabled=false",
        "rbac.aggregate=false",
    ];
    let release = Release::install(&space, &values).unwrap();
    let manifest = release.helm(&["get", "manifest", RELEASE]).unwrap();
    for of_the_cluster in [
        "kind: Cluster",
        "kind: CustomResourceDefinition",
        "kind: Validating",
    ] {
        assert!(!manifest.contains(of_the_cluster), "{manifest}");
    }
    space.apply(&store()).unwrap();
    await_ready(&space).unwrap();
}
