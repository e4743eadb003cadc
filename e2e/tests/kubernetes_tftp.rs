//! A TftpCluster serves, and goes on in the middle of a download when its leader is lost, whoever else is gone.

use e2e::clock::PATIENCE as SOON;
use e2e::data::random_bytes;
use e2e::kubernetes::faults::kill_pod;
use e2e::kubernetes::{ClientPod, Cluster, Operator, Space, TftpCluster, UnderWay};

/// Long enough in 512-byte blocks that a leader can be killed in the middle.
const LONG: usize = 32 << 20;

/// A manifest of the samples that users are given.
const SAMPLE: &str = include_str!("../../crds/samples/tftpcluster.yaml");

/// Patient elections: what is asked here is whether downloads go on, not how soon.
const PATIENT: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec: {replicas: 3, timing: Edge}
"#;

#[test]
fn sample_becomes_ready_and_serves_pods() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "tftp-sample").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", SAMPLE).unwrap();
    let content = random_bytes(1, 100_000);
    boot.put("pxelinux.0", &content).unwrap();
    for node in cluster.nodes().unwrap() {
        let client = ClientPod::start(&space, &format!("client-{node}"), Some(&node)).unwrap();
        client.fetch("tftp://boot/pxelinux.0", &content, SOON).unwrap();
    }
}

#[test]
fn download_goes_on_when_the_leader_pod_is_killed() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "tftp-kill").unwrap();
    let operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", PATIENT).unwrap();
    let content = random_bytes(2, LONG);
    boot.put("image", &content).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();

    let kill = |leader: &str| kill_pod(&space, leader);
    let download =
        || -> Vec<Box<dyn UnderWay>> { vec![Box::new(client.download("tftp://boot/image").unwrap())] };
    boot.downloads_across(download(), &content, kill).unwrap();
    boot.await_settled().unwrap();

    // The leader publishes itself: nobody else is needed.
    drop(operator);
    boot.downloads_across(download(), &content, kill).unwrap();
}

/// One member a node, at the node's own address.
const ON_HOSTS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec:
  replicas: 3
  service: {hostNetwork: true}
  scheduling: {spread: Required}
"#;

#[test]
fn members_in_their_nodes_networks_serve_and_survive_their_leader() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "tftp-host").unwrap();
    // `restricted` and `baseline` forbid a node's network.
    let label = "pod-security.kubernetes.io/enforce=privileged";
    cluster
        .kubectl(&["label", "--overwrite", "namespace", space.name(), label])
        .unwrap();
    let _operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", ON_HOSTS).unwrap();
    let content = random_bytes(4, LONG);
    boot.put("image", &content).unwrap();
    let small = random_bytes(5, 100_000);
    boot.put("small", &small).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();
    // A follower's node, which has no rule of kube-proxy for this port: its member passes on what comes.
    let leader = boot.leader().unwrap();
    let pods = boot.pods().unwrap();
    let follower = pods.iter().find(|pod| pod["metadata"]["name"] != leader).unwrap();
    let node = follower["status"]["hostIP"].as_str().unwrap();
    assert_eq!(
        follower["status"]["podIP"], node,
        "a pod with an address of its own"
    );
    let ports = follower["spec"]["containers"][0]["ports"].as_array().unwrap();
    let port = &ports.iter().find(|port| port["protocol"] == "UDP").unwrap()["containerPort"];
    client
        .fetch(&format!("tftp://{node}:{port}/small"), &small, SOON)
        .unwrap();

    let kill = |leader: &str| kill_pod(&space, leader);
    let download: Vec<Box<dyn UnderWay>> = vec![Box::new(client.download("tftp://boot/image").unwrap())];
    boot.downloads_across(download, &content, kill).unwrap();
    boot.await_settled().unwrap();
}
