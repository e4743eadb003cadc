//! A group changes its size, loses disks and gets a broken version under load: nobody loses what was acknowledged.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use e2e::eventually;
use e2e::kubernetes::faults::kill_pod;
use e2e::kubernetes::{Cluster, KvCluster, Operator, PATIENCE, Space, end_and_check};
use e2e::kv::faults::await_answers;
use serde_json::{Value, json};

/// Members may share nodes: there are fewer of them.
const SETTINGS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: KvCluster
metadata: {name: settings}
spec:
  replicas: 1
  timing: Edge
  service: {type: NodePort}
  scheduling: {spread: Preferred}
  storage: {size: 256Mi}
"#;

/// How many answers are waited for between two steps.
const SOME: u64 = 60;

const EPOCH: &str = "quorate.dev/leader-epoch";

#[test]
fn scaled_and_robbed_of_disks_under_load() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "scale").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let settings = KvCluster::apply(&space, "settings", SETTINGS).unwrap();
    settings.await_settled().unwrap();
    let load = settings.load().unwrap();
    await_answers(&load.load, SOME).unwrap();

    for replicas in [3, 5, 3] {
        settings.scale(replicas).unwrap();
        settings.await_ready().unwrap();
        settings.await_settled().unwrap();
        await_answers(&load.load, SOME).unwrap();
    }
    // A member that was scaled away left no disk behind that could vote again.
    eventually("the disks of former members are gone", PATIENCE, || {
        let claims = space.list("persistentvolumeclaims", "app.kubernetes.io/instance=settings")?;
        anyhow::ensure!(claims.len() == 3, "{} claims", claims.len());
        Ok(())
    })
    .unwrap();

    let leader = settings.leader().unwrap();
    let follower = names(&settings).into_iter().find(|pod| *pod != leader).unwrap();
    for pod in [follower, leader] {
        lose_disk(&settings, &pod);
        await_answers(&load.load, SOME).unwrap();
    }

    settings.scale(1).unwrap();
    settings.await_ready().unwrap();
    settings.await_settled().unwrap();
    await_answers(&load.load, SOME).unwrap();
    let checked = end_and_check(load).unwrap();
    println!("{checked:?}");
}

fn names(settings: &KvCluster<'_>) -> Vec<String> {
    let pods = settings.pods().unwrap();
    let names = pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

/// Takes a member's disk away together with its pod: it comes back as a new member, and the old one is removed.
fn lose_disk(settings: &KvCluster<'_>, pod: &str) {
    let space = settings.space();
    let node_id = settings.status_of(pod).unwrap().node_id.unwrap();
    let claim = format!("data-{pod}");
    space
        .kubectl(&["delete", "persistentvolumeclaim", &claim, "--wait=false"])
        .unwrap();
    kill_pod(space, pod).unwrap();
    eventually(&format!("{pod} is a new member"), PATIENCE, || {
        let status = settings.status_of(pod)?;
        let now = status
            .node_id
            .ok_or_else(|| anyhow::anyhow!("it has not joined"))?;
        anyhow::ensure!(now > node_id, "its node id is {now}");
        let members = status.detail.map_or_else(Vec::new, |detail| detail.members);
        anyhow::ensure!(
            members.iter().all(|member| member.node_id != node_id),
            "the node id {node_id} is still a member"
        );
        Ok(())
    })
    .unwrap();
    settings.await_ready().unwrap();
    settings.await_settled().unwrap();
}

#[test]
fn spoilt_slice_is_repaired_and_a_broken_version_stops() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "repair").unwrap();
    let operator = Operator::start(&space).unwrap();
    let three = SETTINGS.replace("replicas: 1", "replicas: 3");
    let settings = KvCluster::apply(&space, "settings", &three).unwrap();
    settings.await_settled().unwrap();
    let load = settings.load().unwrap();
    await_answers(&load.load, SOME).unwrap();

    let slice = settings.slice();
    let leader = settings.leader().unwrap();
    let is_led = || {
        await_route(&settings, &leader);
        await_answers(&load.load, SOME).unwrap();
    };
    space.kubectl(&["delete", "endpointslice", slice]).unwrap();
    is_led();
    // Emptied, and led astray, by an administrator. The leader itself repairs these, also when there is no operator.
    drop(operator);
    let spoil = |patch: Value| {
        let patch = patch.to_string();
        space
            .kubectl(&["patch", "endpointslice", slice, "--type=merge", "-p", &patch])
            .unwrap();
    };
    spoil(json!({"endpoints": []}));
    is_led();
    spoil(json!({"endpoints": [{"addresses": ["10.88.0.250"], "conditions": {"ready": true}}]}));
    is_led();
    // With an epoch that only a later leader could have, the leader must believe it. The operator knows better.
    let _operator = Operator::start(&space).unwrap();
    spoil(json!({
        "metadata": {"annotations": {EPOCH: "1000.1"}},
        "endpoints": [{"addresses": ["10.88.0.250"], "conditions": {"ready": true}}],
    }));
    is_led();
    broken_version_stops(&settings);
    await_answers(&load.load, SOME).unwrap();
    let checked = end_and_check(load).unwrap();
    println!("{checked:?}");
}

fn await_route(settings: &KvCluster<'_>, leader: &str) {
    let address = settings.address_of(leader).unwrap();
    settings
        .space()
        .await_object("endpointslice", settings.slice(), PATIENCE, |slice| {
            let endpoint = &slice["endpoints"][0];
            anyhow::ensure!(
                endpoint["targetRef"]["name"] == leader && endpoint["addresses"] == json!([address]),
                "{endpoint}"
            );
            Ok(())
        })
        .unwrap();
}

/// An image that no node can get: one pod tries it, the others stay as they are, and taking it back makes all well.
fn broken_version_stops(settings: &KvCluster<'_>) {
    let good = settings.get().unwrap()["status"]["image"].clone();
    let uids = |settings: &KvCluster<'_>| -> Vec<Value> {
        let pods = settings.pods().unwrap();
        pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect()
    };
    let before = uids(settings);
    settings
        .change(&json!({"image": "docker.io/quorate/agent:no-such-version"}))
        .unwrap();
    let message = settings
        .await_reason("Degraded", "UpgradeFailed", PATIENCE)
        .unwrap();
    let tried: Vec<_> = settings
        .pods()
        .unwrap()
        .into_iter()
        .filter(|pod| pod["spec"]["containers"][0]["image"] != good)
        .collect();
    assert_eq!(tried.len(), 1, "more than one pod has the broken version");
    let name = tried[0]["metadata"]["name"].as_str().unwrap();
    assert!(message.contains(name), "{message} does not name {name}");
    settings.change(&json!({"image": null})).unwrap();
    settings.await_ready().unwrap();
    settings.await_settled().unwrap();
    let after = uids(settings);
    let kept = before.iter().filter(|uid| after.contains(uid)).count();
    assert_eq!(kept, 2, "pods with the good version were replaced");
}
