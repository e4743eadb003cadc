//! Services of two address families, and of IPv6 alone: clients of each family reach the leader, before and after it is lost.

use std::process::Command;

use anyhow::{Context, ensure};
use e2e::data::random_bytes;
use e2e::kubernetes::faults::kill_pod;
use e2e::kubernetes::{ClientPod, Cluster, KvCluster, Operator, PATIENCE, Space, TftpCluster, UnderWay};
use e2e::{eventually, program::stock};
use serde_json::Value;

/// Long enough in 512-byte blocks that a leader can be killed in the middle.
const LONG: usize = 16 << 20;

const GROUPS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec: {replicas: 3, timing: Edge, service: {ipFamilies: [IPv4, IPv6]}}
---
apiVersion: quorate.dev/v1alpha1
kind: KvCluster
metadata: {name: settings}
spec: {replicas: 3, timing: Edge, service: {type: NodePort, ipFamilies: [IPv6]}}
"#;

/// As a URL has an address.
fn in_url(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// The addresses of a resource's Service.
fn addresses(space: &Space<'_>, name: &str) -> anyhow::Result<Vec<String>> {
    let service = space.get("service", name)?;
    let addresses = service["spec"]["clusterIPs"].as_array().context("no addresses")?;
    let texts = addresses
        .iter()
        .filter_map(Value::as_str)
        .map(in_url)
        .collect::<Vec<_>>();
    ensure!(texts.len() == addresses.len(), "{service}");
    Ok(texts)
}

#[test]
fn clients_of_both_families_keep_their_downloads_when_the_leader_is_killed() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "families").unwrap();
    let operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", GROUPS).unwrap();
    let content = random_bytes(6, LONG);
    boot.put("image", &content).unwrap();
    let small = random_bytes(7, 100_000);
    boot.put("small", &small).unwrap();
    let addresses = addresses(&space, "boot").unwrap();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    assert!(addresses[1].starts_with('['), "{addresses:?}");
    let fetch_everywhere = |round: &str| {
        for node in cluster.nodes().unwrap() {
            let client = ClientPod::start(&space, &format!("{round}-{node}"), Some(&node)).unwrap();
            for address in &addresses {
                let url = format!("tftp://{address}/small");
                client.fetch(&url, &small, PATIENCE).unwrap();
            }
        }
    };
    fetch_everywhere("before");

    let client = ClientPod::start(&space, "client", None).unwrap();
    let kill = |leader: &str| kill_pod(&space, leader);
    let downloads = || {
        let one = |address| client.download(&format!("tftp://{address}/image")).unwrap();
        let both = addresses.iter().map(one);
        both.map(|download| Box::new(download) as Box<dyn UnderWay>)
            .collect()
    };
    boot.downloads_across(downloads(), &content, kill).unwrap();
    boot.await_settled().unwrap();
    // The leader publishes itself in both families: nobody else is needed.
    drop(operator);
    boot.downloads_across(downloads(), &content, kill).unwrap();
    fetch_everywhere("after");
}

/// One request from outside the pod network, at a node's IPv6 address.
fn outside(arguments: &[&str]) -> anyhow::Result<Value> {
    let mut curl = Command::new(stock("curl", "curl")?);
    curl.args(["-sS", "--noproxy", "*", "--max-time", "20"])
        .args(arguments);
    let output = curl.output()?;
    ensure!(output.status.success(), "curl {arguments:?}: {output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(answer["valid"] == true && answer["timeout"] == false, "{answer}");
    Ok(answer)
}

#[test]
fn keys_are_set_and_read_over_ipv6_alone() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "ipv6").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let settings = KvCluster::apply(&space, "settings", GROUPS).unwrap();
    let addresses = addresses(&space, "settings").unwrap();
    assert!(
        addresses.len() == 1 && addresses[0].starts_with('['),
        "{addresses:?}"
    );
    let client = ClientPod::start(&space, "client", None).unwrap();
    // By name, as users have it: the Service's name has this family's address alone.
    let by_name = "http://settings:2390/v1/kv/colour?blocking=true".to_owned();
    let ports = &space.get("service", "settings").unwrap()["spec"]["ports"];
    let port = ports[0]["nodePort"].as_u64().unwrap();
    let check = |value: &str| {
        let set = [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "-X",
            "PUT",
            "-d",
            value,
            &by_name,
        ];
        eventually("a pod sets a key", PATIENCE, || {
            let answer: Value = serde_json::from_str(&client.run(&set)?)?;
            ensure!(answer["valid"] == true && answer["timeout"] == false, "{answer}");
            Ok(())
        })
        .unwrap();
        for node in cluster.nodes().unwrap() {
            let entry = cluster.node_address_v6(&node).unwrap();
            let url = format!("http://[{entry}]:{port}/v1/kv/colour?blocking=true");
            eventually("a node's port shows it", PATIENCE, || {
                let answer = outside(&[&url])?;
                ensure!(answer["value"] == value, "{answer} instead of {value}");
                Ok(())
            })
            .unwrap();
        }
    };
    check("red");
    let leader = settings.leader().unwrap();
    let uid = settings.uid(&leader).unwrap();
    kill_pod(&space, &leader).unwrap();
    settings.await_leader_after(&uid).unwrap();
    check("blue");
}
