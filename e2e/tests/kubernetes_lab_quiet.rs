//! Nothing is written while nothing changes: neither by the operator nor by the members.

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::kubernetes::{AdcHub, Cluster, KvCluster, Operator, PATIENCE, Space, TftpCluster};
use serde_json::Value;
use std::time::Duration;

const GROUPS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec: {replicas: 3, timing: Edge}
---
apiVersion: quorate.dev/v1alpha1
kind: KvCluster
metadata: {name: settings}
spec: {replicas: 3, timing: Edge}
---
apiVersion: quorate.dev/v1alpha1
kind: AdcHub
metadata: {name: lounge}
spec: {replicas: 3, timing: Edge, hub: {name: Quiet}}
"#;

/// Rounds through each resource that must write nothing, one every ten seconds: `QUORATE_QUIET_ROUNDS=60` makes ten minutes.
const ROUNDS: u64 = 2;

/// A round, and what a busy machine may add to it.
const ROUND_WITHIN: Duration = Duration::from_secs(30);

#[expect(
    clippy::disallowed_methods,
    reason = "a test driver: the environment enters here"
)]
fn rounds() -> u64 {
    let named = std::env::var("QUORATE_QUIET_ROUNDS").ok();
    named.and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

/// Every write in the namespace so far, but those of the lease by which operators agree who works.
fn writes(cluster: &Cluster, space: &Space<'_>) -> anyhow::Result<Vec<String>> {
    let path = cluster.lab_file("log/audit.log")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    // The last line may be half written.
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let here = lines.filter(|event| {
        event["objectRef"]["namespace"] == space.name() && event["objectRef"]["resource"] != "leases"
    });
    let told = here.map(|event| {
        let (user, object) = (&event["user"]["username"], &event["objectRef"]);
        format!(
            "{user} {} {} {} {}",
            event["verb"], object["resource"], object["subresource"], object["name"]
        )
    });
    Ok(told.collect())
}

#[test]
fn quiet_groups_are_not_written_about() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "quiet").unwrap();
    let credentials = cluster.lab_file("operator.kubeconfig").unwrap();
    let operator = Operator::start_as(&space, Some(&credentials)).unwrap();
    TftpCluster::apply(&space, "boot", GROUPS)
        .unwrap()
        .await_settled()
        .unwrap();
    KvCluster::apply(&space, "settings", GROUPS)
        .unwrap()
        .await_settled()
        .unwrap();
    AdcHub::apply(&space, "lounge", GROUPS)
        .unwrap()
        .await_settled()
        .unwrap();
    let made = writes(&cluster, &space).unwrap();
    assert!(
        made.iter().any(|write| write.contains("quorate-operator")),
        "the operator's own writes are not seen: {made:?}"
    );

    // The kinds' rounds run beside each other.
    let await_rounds = |more: u64| {
        let kinds = ["TftpCluster", "KvCluster", "AdcHub"];
        let begun = kinds.map(|kind| operator.rounds(kind).unwrap());
        for (kind, begun) in kinds.iter().zip(begun) {
            for round in 1..=more {
                eventually("the operator looks", ROUND_WITHIN, || {
                    let rounds = operator.rounds(kind)?;
                    ensure!(rounds >= begun + round, "{rounds} rounds through {kind}");
                    Ok(())
                })
                .unwrap();
            }
        }
    };
    // The last events of the beginning may still be on their way.
    let mut before = writes(&cluster, &space).unwrap();
    eventually("the groups have come to rest", PATIENCE, || {
        await_rounds(1);
        let now = writes(&cluster, &space)?;
        let new = now.len() - std::mem::replace(&mut before, now).len();
        ensure!(new == 0, "{new} writes: {:?}", &before[before.len() - new..]);
        Ok(())
    })
    .unwrap();
    await_rounds(rounds());
    let after = writes(&cluster, &space).unwrap();
    assert_eq!(after.len(), before.len(), "{:?}", &after[before.len()..]);
}
