//! The TftpCluster that users are given as a sample becomes ready and serves.

use e2e::clock::PATIENCE as SOON;
use e2e::data::random_bytes;
use e2e::kubernetes::{ClientPod, Cluster, Operator, Space, TftpCluster};

/// A manifest of the samples that users are given.
const SAMPLE: &str = include_str!("../../crds/samples/tftpcluster.yaml");

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
