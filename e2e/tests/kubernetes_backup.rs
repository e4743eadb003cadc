//! Backups of a KvCluster, taken with `kubectl quorate` while clients write, and of an AdcHub, and new resources that begin
//! with them. Linearizable histories under kills are in `kubernetes_kv`, members without a quorum in `kubernetes_lab_partition`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::ensure;
use e2e::adc_user::AdcIdentity;
use e2e::kubernetes::{
    ADMIN_PORT, AdcHub, ClientPod, Cluster, KvCluster, Operator, PATIENCE, Space, end_and_check,
};
use e2e::kv::faults::await_answers;
use e2e::program::{agent, release_program};
use e2e::{AdcUser, eventually};
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
    let copy = KvCluster::apply(&space, "copy", &manifest("KvCluster", "copy", &json!({}))).unwrap();
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
    let other = KvCluster::apply(&space, "other", &manifest("KvCluster", "other", &spec)).unwrap();
    assert_eq!(get(&client, "other"), "before");
    space.kubectl(&["delete", "secret", "old"]).unwrap();
    let uid = other.uid("other-0").unwrap();
    other.change(&json!({"restoreFrom": null})).unwrap();
    other.await_leader_after(&uid).unwrap();
    assert_eq!(get(&client, "other"), "before");
}

fn manifest(kind: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    })
    .to_string()
}

/// Where a hub's pods listen.
const ADC_PORT: u16 = 1511;

/// How long a hub is silent when it has said what it has to say to a newcomer.
const QUIET: Duration = Duration::from_millis(300);

/// `quorate-agent adc`, to a hub's leader.
fn adc(hub: &AdcHub<'_>, place: &Path, arguments: &[&str]) -> String {
    let token = place.join("token");
    fs::write(&token, hub.token().unwrap()).unwrap();
    let leader = hub.address_of(&hub.leader().unwrap()).unwrap();
    let mut command = Command::new(agent().unwrap());
    command.args([
        "adc",
        "--admin",
        &format!("{leader}:{ADMIN_PORT}"),
        "--token-file",
    ]);
    said(&command.arg(&token).args(arguments).output().unwrap())
}

/// Somebody who logs in at a hub's leader.
fn log_in(hub: &AdcHub<'_>, who: &AdcIdentity) -> anyhow::Result<AdcUser> {
    let leader = hub.address_of(&hub.leader()?)?;
    AdcUser::log_in_at(SocketAddr::new(leader.parse()?, ADC_PORT), who)
}

fn refused_with(hub: &AdcHub<'_>, who: &AdcIdentity, code: &str) {
    let error = format!("{:#}", log_in(hub, who).unwrap_err());
    assert!(error.contains(code), "{error}");
}

#[test]
fn backup_of_a_hub_founds_a_new_one_with_its_users_bans_and_words() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "restore-hub").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let people = json!([{"nick": "op", "password": "secret", "class": "owner"}]).to_string();
    let from = format!("--from-literal=users.json={people}");
    space
        .kubectl(&["create", "secret", "generic", "people", &from])
        .unwrap();
    let spec = json!({"replicas": 1, "registeredUsers": {"secretRef": {"name": "people"}}});
    let old = AdcHub::apply(&space, "old", &manifest("AdcHub", "old", &spec)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let op = AdcIdentity::new("op").with_password("secret");
    let bob = AdcIdentity::new("bob");
    eventually("the Secret's users are registered", PATIENCE, || {
        let accounts = adc(&old, place.path(), &["account", "ls"]);
        ensure!(accounts.contains("op "), "{accounts}");
        Ok(())
    })
    .unwrap();
    let mut owner = log_in(&old, &op).unwrap();
    owner.say("remember me").unwrap();
    owner
        .expect("its own words", |line| line.contains("remember\\sme"))
        .unwrap();
    drop(log_in(&old, &bob).unwrap());
    adc(&old, place.path(), &["topic", "news"]);
    adc(&old, place.path(), &["ban", "bob", "spam"]);
    refused_with(&old, &bob, "ISTA 231");

    let file = place.path().join("hub.backup");
    let file = file.to_str().unwrap();
    let words = said(&quorate(&space, &["backup", "old", file]));
    assert!(words.contains("AdcHub/old, as old-0"), "{words}");
    // A store cannot begin with it.
    let spec = json!({"replicas": 1, "restoreFrom": {"type": "Upload"}});
    space.apply(&manifest("KvCluster", "store", &spec)).unwrap();
    let words = refused(&quorate(&space, &["restore", "store", file]));
    assert!(words.contains("a backup of a adc group"), "{words}");
    space.kubectl(&["delete", "kvcluster", "store"]).unwrap();

    // A hub of three members, which nobody tells of the Secret with the users: it has them from the backup.
    let spec = json!({"replicas": 3, "restoreFrom": {"type": "Upload"}});
    space.apply(&manifest("AdcHub", "new", &spec)).unwrap();
    let words = said(&quorate(&space, &["restore", "new", file]));
    assert!(words.contains("new-0 founded it"), "{words}");
    let new = AdcHub::apply(&space, "new", &manifest("AdcHub", "new", &spec)).unwrap();
    new.await_settled().unwrap();
    refused_with(&new, &AdcIdentity::new("op").with_password("guess"), "ISTA 223");
    refused_with(&new, &bob, "ISTA 231");
    let _owner = log_in(&new, &op).unwrap();
    // Who was never in the old hub is told what was said there.
    let mut carol = log_in(&new, &AdcIdentity::new("carol")).unwrap();
    carol.lines_until_quiet(QUIET);
    let heard = |what: &str| carol.seen.iter().any(|line| line.contains(what));
    assert!(heard("DEnews") && heard("remember\\sme"), "{:?}", carol.seen);
    // The two are strangers from now on.
    adc(&new, place.path(), &["unban", "1"]);
    drop(log_in(&new, &bob).unwrap());
    refused_with(&old, &bob, "ISTA 231");
}
