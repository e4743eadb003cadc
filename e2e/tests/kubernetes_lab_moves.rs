//! Leadership handed over, and every pod replaced by one with another configuration: no request fails, no transfer aborts.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{anyhow, ensure};
use e2e::Client;
use e2e::clock::eventually;
use e2e::data::{random_bytes, sha256};
use e2e::kubernetes::{
    ClientPod, Cluster, KvCluster, LoadBalancer, Operator, PATIENCE, Repeated, Resource, Space, TftpCluster,
    end_and_check,
};
use e2e::kv::faults::await_answers;
use serde_json::{Value, json};

const GROUPS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec:
  replicas: 3
  timing: Edge
  drainSeconds: 10
  service: {type: LoadBalancer, externalTrafficPolicy: Local}
---
apiVersion: quorate.dev/v1alpha1
kind: KvCluster
metadata: {name: settings}
spec:
  replicas: 3
  timing: Edge
  service: {type: NodePort}
"#;

/// How often each group has its leadership handed over: what goes wrong is a matter of milliseconds, between the nodes' change
/// of the route and a packet under way.
const TRANSFERS: usize = 6;

/// Requests between two steps.
const SOME: u64 = 10;

/// Downloads outside the pod network, one after the other.
struct Downloads {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Downloads {
    fn start(host: String, name: &'static str, content: Vec<u8>) -> Self {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (done.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let directory = tempfile::tempdir()?;
            let local = directory.path().join(name);
            while !end.load(Ordering::Relaxed) {
                let mut download = Client::TftpHpa.start_at(&host, 69, name, &local)?;
                download.ends_identical(&content, PATIENCE)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { done, stop, thread }
    }

    fn await_more(&self, more: u64) -> anyhow::Result<()> {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        eventually("downloads outside go on", PATIENCE, || {
            let done = self.done.load(Ordering::Relaxed);
            ensure!(done >= wanted || self.thread.is_finished(), "{done} downloads");
            Ok(())
        })
    }

    fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))??;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

/// Waits until the nodes are to keep the flows to the leader before, or not any more.
fn drains(group: &Resource<'_>, expected: bool) {
    let look = |slice: &Value| {
        let before = &slice["endpoints"][1]["conditions"];
        let drains = before["serving"] == true && before["terminating"] == true;
        ensure!(drains == expected, "{slice}");
        Ok(())
    };
    group
        .space()
        .await_object("endpointslice", group.slice(), PATIENCE, look)
        .unwrap();
}

#[test]
fn planned_moves_and_upgrades_fail_no_request() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "moves").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", GROUPS).unwrap();
    let settings = KvCluster::apply(&space, "settings", GROUPS).unwrap();
    let groups: [&Resource<'_>; 2] = [&boot, &settings];
    let content = random_bytes(5, 300_000);
    boot.put("image", &content).unwrap();
    let balancer = LoadBalancer::give(&boot, "10.99.200.2").unwrap();

    let (one, other) = (
        ClientPod::start(&space, "client-tftp", None).unwrap(),
        ClientPod::start(&space, "client-kv", None).unwrap(),
    );
    let fetch = format!(
        "curl -sS --max-time 60 -o /tmp/got tftp://boot/image && echo '{}  /tmp/got' | sha256sum -c",
        sha256(&content)
    );
    let set = "said=$(curl -sS --max-time 20 -X PUT -d $n http://settings:2390/v1/kv/count) || { echo \"$said\"; exit 1; }
        case $said in *'\"valid\":true,\"timeout\":false'*) ;; *) echo \"$said\"; exit 1 ;; esac";
    let inside = [
        Repeated::start(&one, "fetch", &fetch).unwrap(),
        Repeated::start(&other, "set", set).unwrap(),
    ];
    let outside = Downloads::start(balancer.address().to_owned(), "image", content);
    let load = settings.load().unwrap();
    let go_on = || {
        for repeated in &inside {
            repeated.await_more(SOME).unwrap();
        }
        outside.await_more(SOME).unwrap();
        await_answers(&load.load, SOME).unwrap();
    };

    go_on();
    for _ in 0..TRANSFERS {
        for group in groups {
            group.await_settled().unwrap();
            group.transfer().unwrap();
            if group.name() == boot.name() {
                drains(group, true);
            }
        }
        go_on();
    }
    drains(&boot, false);
    for group in groups {
        group.await_settled().unwrap();
        group
            .change(&json!({"logLevel": "info,replication=debug"}))
            .unwrap();
    }
    for group in groups {
        group.await_ready().unwrap();
        group.await_settled().unwrap();
    }
    go_on();

    for repeated in inside {
        println!("{} requests inside", repeated.finish().unwrap());
    }
    println!("{} downloads outside", outside.finish().unwrap());
    let refusals = load.load.refusals();
    assert!(refusals.is_empty(), "refused: {refusals:?}");
    let checked = end_and_check(load).unwrap();
    assert_eq!(checked.unknown, 0, "requests without an answer: {checked:?}");
    println!("{checked:?}");
}
