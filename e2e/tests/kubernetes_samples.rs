//! The samples that have no test of their own: applied as they are, they become ready and serve.

use std::collections::BTreeSet;

use e2e::clock::PATIENCE as SOON;
use e2e::data::random_bytes;
use e2e::kubernetes::{ClientPod, Cluster, Operator, Space, TftpCluster};
use e2e::program::source_root;

const FILES: &str = include_str!("../../crds/samples/tftpcluster-files.yaml");
const LAB: &str = include_str!("../../crds/samples/tftpcluster-lab.yaml");
const PXE: &str = include_str!("../../crds/samples/tftpcluster-pxe.yaml");

/// Where each sample is applied.
const SAMPLES: [(&str, &str); 6] = [
    ("adchub.yaml", "kubernetes_lab_adc"),
    ("kvcluster.yaml", "kubernetes_backup"),
    ("tftpcluster.yaml", "kubernetes_tftp"),
    ("tftpcluster-files.yaml", "kubernetes_samples"),
    ("tftpcluster-lab.yaml", "kubernetes_samples"),
    ("tftpcluster-pxe.yaml", "kubernetes_samples"),
];

#[test]
fn every_sample_is_applied_somewhere() {
    let there = std::fs::read_dir(source_root().join("crds/samples")).unwrap();
    let there: BTreeSet<_> = there
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<_> = SAMPLES.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(there, known);
    for (file, test) in SAMPLES {
        let text = std::fs::read_to_string(source_root().join(format!("e2e/tests/{test}.rs"))).unwrap();
        assert!(
            text.contains(&format!("samples/{file}\"")),
            "{test} does not apply {file}"
        );
    }
}

#[test]
fn samples_become_ready_and_serve() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "samples").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();

    TftpCluster::apply(&space, "served", FILES).unwrap();
    let hello = b"Hello from whichever member leads.\n";
    client.fetch("tftp://served/hello.txt", hello, SOON).unwrap();

    let content = random_bytes(3, 100_000);
    // Two of its five members share a node where there are three.
    for (name, sample) in [("lab", LAB), ("pxe", PXE)] {
        let boot = TftpCluster::apply(&space, name, sample).unwrap();
        boot.await_settled().unwrap();
        boot.put("image", &content).unwrap();
        let url = format!("tftp://{name}/image");
        client.fetch(&url, &content, SOON).unwrap();
    }
}
