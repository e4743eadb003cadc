//! What people may write into a custom resource is what the API server accepts, and what it refuses it refuses with a
//! sentence that says why. No operator runs: these are the definitions alone.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::kubernetes::{Cluster, Space};
use e2e::program::source_root;
use serde::Deserialize;
use serde_json::{Value, json};

/// A rule, with what it must let through and what it must refuse: the table that the operator's own tests use.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    kind: Option<String>,
    rule: String,
    old: Option<Value>,
    accept: Value,
    reject: Value,
    accept_name: Option<String>,
    reject_name: Option<String>,
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let path = source_root().join("operator/src/crds/rules.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).context("reading the table of rules")
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// Asks the API server whether it would take the object; the answer is what it refuses it with.
fn refusal(space: &Space<'_>, object: &Value) -> anyhow::Result<Option<String>> {
    let mut command: Command = space.cluster().command(&[
        "--namespace",
        space.name(),
        "apply",
        "--server-side",
        "--dry-run=server",
        "-f",
        "-",
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("starting kubectl")?;
    let mut input = child.stdin.take().context("kubectl takes no input")?;
    input
        .write_all(object.to_string().as_bytes())
        .context("writing to kubectl")?;
    drop(input);
    let output = child.wait_with_output().context("waiting for kubectl")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(said))
}

/// The definitions from the tree, accepted and served.
fn await_definitions(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(source_root().join("crds")).context("reading crds")? {
        let path = entry?.path();
        let Some(plural) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".yaml"))
        else {
            continue;
        };
        let name = format!("crd/{plural}.quorate.dev");
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name])?;
        kinds.push(cluster.kubectl(&["get", &name, "-o", "jsonpath={.spec.names.kind}"])?);
    }
    ensure!(!kinds.is_empty(), "crds holds no definition");
    Ok(kinds)
}

fn try_rule(space: &Space<'_>, kind: &str, number: usize, case: &Case) -> anyhow::Result<()> {
    let name = format!("rule-{number}");
    let named = |given: &Option<String>| given.clone().unwrap_or_else(|| name.clone());
    if let Some(old) = &case.old {
        space.apply(&object(kind, &name, old).to_string())?;
    }
    let accepted = refusal(space, &object(kind, &named(&case.accept_name), &case.accept))?;
    ensure!(
        accepted.is_none(),
        "{kind}, {}: the API server refuses {}: {}",
        case.rule,
        case.accept,
        accepted.unwrap_or_default()
    );
    let refused = refusal(space, &object(kind, &named(&case.reject_name), &case.reject))?;
    let refused = refused.with_context(|| format!("{kind}, {}: {} is accepted", case.rule, case.reject))?;
    ensure!(
        refused.contains(&case.rule),
        "{kind}: instead of `{}` the API server says: {refused}",
        case.rule
    );
    Ok(())
}

#[test]
fn each_rule_accepts_and_rejects_on_the_api_server() {
    let cluster = Cluster::connect().unwrap();
    cluster.apply_file("crds").unwrap();
    let kinds = await_definitions(&cluster).unwrap();
    let space = Space::new(&cluster, "rules").unwrap();
    let cases = cases().unwrap();
    let mut asked = 0;
    for kind in &kinds {
        for (number, case) in cases.iter().enumerate() {
            if case.kind.as_ref().is_none_or(|of| of == kind) {
                try_rule(&space, kind, number, case).unwrap();
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "only {asked} rules were asked");
}

#[test]
fn samples_are_accepted_as_they_are() {
    let cluster = Cluster::connect().unwrap();
    cluster.apply_file("crds").unwrap();
    await_definitions(&cluster).unwrap();
    let space = Space::new(&cluster, "samples").unwrap();
    let samples = source_root().join("crds/samples");
    let samples = samples.to_string_lossy();
    let said = space
        .kubectl(&["apply", "--dry-run=server", "-f", &samples])
        .unwrap();
    let files = std::fs::read_dir(source_root().join("crds/samples")).unwrap();
    let documents = files.map(|file| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        text.split("\n---\n").count()
    });
    assert_eq!(said.lines().count(), documents.sum::<usize>(), "{said}");
}
