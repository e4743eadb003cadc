//! A KvCluster from the sample: what users set inside and outside the pod network, and its leader lost under load.

use std::process::Command;

use anyhow::ensure;
use e2e::kubernetes::faults::kill_pod;
use e2e::kubernetes::{ClientPod, Cluster, KvCluster, Operator, PATIENCE, Space, end_and_check};
use e2e::kv::faults::await_answers;
use e2e::{eventually, program::stock};
use serde_json::json;

/// A manifest of the samples that users are given.
const SAMPLE: &str = include_str!("../../crds/samples/kvcluster.yaml");

/// How many answers are waited for between two steps.
const SOME: u64 = 60;

fn took(text: &str) -> anyhow::Result<serde_json::Value> {
    let answer: serde_json::Value = serde_json::from_str(text)?;
    ensure!(answer["valid"] == true && answer["timeout"] == false, "{answer}");
    Ok(answer)
}

fn says(text: &str, wanted: &str) -> anyhow::Result<()> {
    let answer = took(text)?;
    ensure!(answer["value"] == wanted, "{answer} instead of {wanted}");
    Ok(())
}

fn curl(arguments: &[&str]) -> anyhow::Result<String> {
    let mut curl = Command::new(stock("curl", "curl")?);
    curl.args(["-sS", "--noproxy", "*", "--max-time", "20"])
        .args(arguments);
    let output = curl.output()?;
    ensure!(output.status.success(), "curl {arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn sample_becomes_ready_and_its_leader_is_killed_under_load() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "kv-sample").unwrap();
    let operator = Operator::start(&space).unwrap();
    let settings = KvCluster::apply(&space, "settings", SAMPLE).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();
    let inside = |arguments: &[&str]| client.run(&[&["curl", "-sS", "--max-time", "20"], arguments].concat());

    let url = "http://settings:2390/v1/kv/colour?blocking=true";
    // With the sample's timers, a busy machine elects again now and then.
    let set = || took(&inside(&["-X", "PUT", "-d", "red", url])?);
    eventually("a pod sets a key", PATIENCE, set).unwrap();
    eventually("a pod reads it", PATIENCE, || says(&inside(&[url])?, "red")).unwrap();
    // Opened to the outside while it runs.
    settings
        .change(&json!({"service": {"type": "NodePort"}}))
        .unwrap();
    settings.await_ready().unwrap();
    let entries = eventually("there is a node port", PATIENCE, || settings.node_ports()).unwrap();
    for (number, entry) in entries.iter().enumerate() {
        let url = format!("http://{entry}/v1/kv/colour?blocking=true");
        let value = format!("red {number}");
        let set = || took(&curl(&["-X", "PUT", "-d", &value, &url])?);
        eventually("the node port answers", PATIENCE, set).unwrap();
        eventually("and shows what was set", PATIENCE, || {
            says(&curl(&[&url])?, &value)
        })
        .unwrap();
    }

    let load = settings.load().unwrap();
    await_answers(&load.load, SOME).unwrap();
    for round in 0..3 {
        settings.await_settled().unwrap();
        let leader = settings.leader().unwrap();
        let uid = settings.uid(&leader).unwrap();
        kill_pod(&space, &leader).unwrap();
        settings.await_leader_after(&uid).unwrap();
        await_answers(&load.load, SOME).unwrap();
        println!("kill {round}: {} answers", load.load.answered());
    }
    drop(operator);
    let leader = settings.leader().unwrap();
    let uid = settings.uid(&leader).unwrap();
    kill_pod(&space, &leader).unwrap();
    settings.await_leader_after(&uid).unwrap();
    await_answers(&load.load, SOME).unwrap();
    let checked = end_and_check(load).unwrap();
    println!("{checked:?}");
    let last = format!("red {}", entries.len() - 1);
    eventually("the key is as it was", PATIENCE, || says(&inside(&[url])?, &last)).unwrap();
}
