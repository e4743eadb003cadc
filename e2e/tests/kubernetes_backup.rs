//! A backup of a KvCluster, taken with `kubectl quorate` while clients write, and new resources that begin with it.
//! Linearizable histories under kills are in `kubernetes_kv`, members without a quorum in `kubernetes_lab_partition`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::process::{Command, Output};

use anyhow::ensure;
use e2e::eventually;
use e2e::kubernetes::{ClientPod, Cluster, KvCluster, Operator, PATIENCE, Space, end_and_check};
use e2e::kv::faults::await_answers;
use e2e::program::release_program;
use serde_json::{Value, json};

/// A manifest of the samples that users are given.
const SAMPLE: &str = include_str!("../../crds/samples/kvcluster.yaml");

/// Answers that are waited for between two steps.
const SOME: u64 = 30;

/// `kubectl quorate`, in the namespace.
fn quorate(space: &Space<'_>, arguments: &[&str]) -> Output {
    let program = release_program("kubectl-quorate", "QUORATE_KUBECTL").unwrap();
    let mut command = Command::new(program);
    command.args(["--namespace", space.name()]).args(arguments);
    command.output().unwrap()
}

/// What it said, when it did it.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What it said, when it refused.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a store's Service says of a key: from a pod, consistently.
fn ask(pod: &ClientPod<'_>, store: &str, arguments: &[&str]) -> Value {
    let url = format!("http://{store}:2390/v1/kv/marker?blocking=true");
    let command = [&["curl", "-sS", "--max-time", "20"], arguments, &[&url]].concat();
    eventually("the Service answers", PATIENCE, || {
        let answer: Value = serde_json::from_str(&pod.run(&command)?)?;
        ensure!(answer["valid"] == true && answer["timeout"] == false, "{answer}");
        Ok(answer)
    })
    .unwrap()
}

fn set(pod: &ClientPod<'_>, store: &str, value: &str) {
    ask(pod, store, &["-X", "PUT", "-d", value]);
}

fn get(pod: &ClientPod<'_>, store: &str) -> Value {
    ask(pod, store, &[])["value"].clone()
}

#[test]
fn backup_that_was_taken_under_load_founds_new_resources() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "restore").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let settings = KvCluster::apply(&space, "settings", SAMPLE).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();
    settings
        .change(&json!({"service": {"type": "NodePort"}}))
        .unwrap();
    settings.await_ready().unwrap();
    eventually("there is a node port", PATIENCE, || settings.node_ports()).unwrap();
    set(&client, "settings", "before");

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("settings.backup");
    let file = file.to_str().unwrap();
    let load = settings.load().unwrap();
    await_answers(&load.load, SOME).unwrap();
    let words = said(&quorate(&space, &["backup", "settings", file]));
    assert!(words.contains("KvCluster/settings, as settings-"), "{words}");
    await_answers(&load.load, SOME).unwrap();
    println!("{:?}", end_and_check(load).unwrap());
    set(&client, "settings", "after");

    // Into a resource like the old one, by one command.
    let words = said(&quorate(&space, &["restore", "copy", file, "--like", "settings"]));
    assert!(words.contains("copy-0 founded it"), "{words}");
    let copy = KvCluster::apply(&space, "copy", &manifest("copy", &json!({}))).unwrap();
    copy.await_settled().unwrap();
    assert_eq!(get(&client, "copy"), "before");
    assert_eq!(get(&client, "settings"), "after", "the old one goes on");
    set(&client, "copy", "its own");
    assert_eq!(get(&client, "settings"), "after");

    // What is there already is not overwritten.
    let words = refused(&quorate(&space, &["restore", "settings", file]));
    assert!(words.contains("waits for no backup"), "{words}");
    let words = refused(&quorate(&space, &["restore", "copy", file]));
    assert!(words.contains("exists already"), "{words}");
    assert_eq!(get(&client, "copy"), "its own");

    // From a Secret, as one keeps manifests; afterwards nobody needs it any more.
    let from = format!("--from-file=backup={file}");
    space
        .kubectl(&["create", "secret", "generic", "old", &from])
        .unwrap();
    let spec = json!({
        "replicas": 1,
        "restoreFrom": {"type": "Secret", "secret": {"name": "old"}},
    });
    let other = KvCluster::apply(&space, "other", &manifest("other", &spec)).unwrap();
    assert_eq!(get(&client, "other"), "before");
    space.kubectl(&["delete", "secret", "old"]).unwrap();
    let uid = other.uid("other-0").unwrap();
    other.change(&json!({"restoreFrom": null})).unwrap();
    other.await_leader_after(&uid).unwrap();
    assert_eq!(get(&client, "other"), "before");
}

fn manifest(name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": name},
        "spec": spec,
    })
    .to_string()
}
