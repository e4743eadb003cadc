use expect_test::{Expect, expect};

use super::*;
use crate::fixture::{condition, group, said};

fn well() -> Cluster {
    Cluster {
        version: Ok((1, 33)),
        served: Ok(KINDS.iter().map(|kind| kind.plural.to_owned()).collect()),
        policy: Ok(Policy::Enforced),
        operators: Ok(vec![Operator {
            name: "quorate/quorate".to_owned(),
            pods: Some(OperatorPods { wanted: 2, ready: 2 }),
            lease: Ok(Some(Lease {
                holder: Some("quorate-abc".to_owned()),
                is_renewed: true,
            })),
        }]),
    }
}

fn check(cluster: &Cluster, groups: &[Group], with_good: bool, expected: &Expect) {
    expected.assert_eq(&render(&examine(cluster, groups), groups.len(), with_good));
}

#[test]
fn nothing_is_wrong() {
    check(
        &well(),
        &[group()],
        true,
        &expect![[r#"
        cluster
          ok       version   the API server is 1.33
          ok       crds      the definitions of all resources are installed
          ok       policy    late writes of deposed leaders are refused
          ok       operator  2 of 2 pods of quorate/quorate are ready
          ok       lease     quorate-abc works, and renews its Lease
        lab/TftpCluster/boot
          ok       operator  the operator has no complaint
          ok       leader    boot-1 leads, epoch 7.3
          ok       route     boot-leader-ipv4 leads to boot-1, epoch 7.3
          ok       service   ClusterIP is 10.96.0.12
          ok       member    boot-0 is a follower, ready
          ok       member    boot-1 is a leader, ready
          ok       member    boot-2 is a follower, ready
          ok       quorum    3 of 3 voters answer, 2 are a majority: 1 more may be lost
          ok       spread    the members are on 3 nodes
          ok       budget    1 pod may be evicted
          ok       storage   3 volumes are bound
        16 checks, 1 group: 0 problems, 0 warnings, 0 unknown
    "#]],
    );
    check(
        &well(),
        &[group()],
        false,
        &expect![[r#"
        16 checks, 1 group: 0 problems, 0 warnings, 0 unknown
    "#]],
    );
}

#[test]
fn cluster_that_lacks_everything() {
    let bare = Cluster {
        version: Ok((1, 29)),
        served: Ok(Vec::new()),
        policy: Ok(Policy::Missing),
        operators: Ok(Vec::new()),
    };
    check(
        &bare,
        &[],
        false,
        &expect![[r#"
        cluster
          PROBLEM  version   the API server is 1.29
                             -> use Kubernetes 1.33 or newer: rules of the resources and the admission policy need it
          warning  crds      the API server does not serve TftpCluster, KvCluster, AdcHub
                             -> apply crds/ of this version, or install the chart with `crds.enabled`
          warning  policy    the admission policy of the leaders' slices is not installed
                             -> install the chart with `admissionPolicy.enabled`: without it only Raft fences old leaders
          PROBLEM  operator  no operator is installed
                             -> install charts/quorate: running groups go on and move by themselves, but nothing repairs or upgrades them
        4 checks, 0 groups: 2 problems, 2 warnings, 0 unknown
    "#]],
    );
    let blind = Cluster {
        version: Err("refused".to_owned()),
        served: Err("refused".to_owned()),
        policy: Err("forbidden".to_owned()),
        operators: Err("forbidden".to_owned()),
    };
    check(
        &blind,
        &[],
        false,
        &expect![[r#"
        cluster
          unknown  version   it could not be looked at: refused
          unknown  crds      it could not be looked at: refused
          unknown  policy    it could not be looked at: forbidden
          unknown  operator  it could not be looked at: forbidden
        4 checks, 0 groups: 0 problems, 0 warnings, 4 unknown
    "#]],
    );
}

#[test]
fn operator_that_hangs() {
    let mut cluster = well();
    cluster.policy = Ok(Policy::Unbound);
    let operators = cluster.operators.as_mut().unwrap();
    operators[0].pods.as_mut().unwrap().ready = 0;
    operators[0].lease.as_mut().unwrap().as_mut().unwrap().is_renewed = false;
    check(
        &cluster,
        &[],
        false,
        &expect![[r#"
        cluster
          warning  policy    the admission policy of the leaders' slices is not bound
                             -> apply the ValidatingAdmissionPolicyBinding of the chart: without it only Raft fences old leaders
          PROBLEM  operator  none of 2 pods of quorate/quorate is ready
                             -> see `kubectl describe` and the logs of its pods: running groups go on, but nothing repairs or upgrades them
          PROBLEM  lease     quorate-abc holds the Lease of quorate/quorate and did not renew it
                             -> another pod takes over 15 s after the last renewal; if none does, see the operator's logs
        5 checks, 0 groups: 2 problems, 1 warning, 0 unknown
    "#]],
    );
}

#[test]
fn operator_outside_of_any_deployment() {
    let mut cluster = well();
    let operators = cluster.operators.as_mut().unwrap();
    (operators[0].name, operators[0].pods) = ("lab/quorate-operator".to_owned(), None);
    check(
        &cluster,
        &[],
        true,
        &expect![[r#"
        cluster
          ok       version   the API server is 1.33
          ok       crds      the definitions of all resources are installed
          ok       policy    late writes of deposed leaders are refused
          ok       operator  quorate-abc works, outside of any Deployment, and renews the Lease lab/quorate-operator
        4 checks, 0 groups: 0 problems, 0 warnings, 0 unknown
    "#]],
    );
    let operators = cluster.operators.as_mut().unwrap();
    operators[0].lease.as_mut().unwrap().as_mut().unwrap().is_renewed = false;
    check(
        &cluster,
        &[],
        false,
        &expect![[r#"
        cluster
          PROBLEM  operator  no operator is installed, and whoever held the Lease lab/quorate-operator does not renew it
                             -> install charts/quorate, or start the operator again: running groups go on and move by themselves, but nothing repairs or upgrades them
        4 checks, 0 groups: 1 problem, 0 warnings, 0 unknown
    "#]],
    );
}

#[test]
fn route_that_did_not_follow() {
    let mut group = group();
    let route = group.routes.get_mut("boot-leader-ipv4").unwrap();
    (route.pod, route.epoch) = (Some("boot-0".to_owned()), Some("6.1".to_owned()));
    check(
        &well(),
        &[group],
        false,
        &expect![[r#"
        lab/TftpCluster/boot
          PROBLEM  route     boot-leader-ipv4 leads to boot-0, and boot-1 leads
                             -> look again: the leader publishes itself at once, and the operator after 2 s. If it stays so see the leader's log for what the API server answered (rights, admission policy)
        16 checks, 1 group: 1 problem, 0 warnings, 0 unknown
    "#]],
    );
}

#[test]
fn epochs_that_differ() {
    let mut older = group();
    older.routes.get_mut("boot-leader-ipv4").unwrap().epoch = Some("6.3".to_owned());
    let mut later = group();
    later.routes.get_mut("boot-leader-ipv4").unwrap().epoch = Some("10.3".to_owned());
    check(
        &well(),
        &[older, later],
        false,
        &expect![[r#"
        lab/TftpCluster/boot
          warning  route     boot-leader-ipv4 leads to boot-1 under the epoch 6.3 instead of 7.3
                             -> look again: the leader publishes itself at once. If it stays so see its log for the API server's answer
          warning  route     boot-leader-ipv4 has the epoch 10.3, later than the leader's 7.3
                             -> look again: leadership may just have moved. If it stays so the group was founded anew: delete the slice
        27 checks, 2 groups: 0 problems, 2 warnings, 0 unknown
    "#]],
    );
}

#[test]
fn one_member_is_gone_and_another_unwell() {
    let mut group = group();
    group
        .answers
        .insert("boot-0".to_owned(), Err("its pod is Pending".to_owned()));
    let pod = group.pods.get_mut("boot-0").unwrap();
    (pod.trouble, pod.restarts) = (Some("no node takes it: 0/3 nodes are available".to_owned()), 4);
    said(&mut group, "boot-2", |status| {
        status.applied_index = 90;
        status.detail.as_mut().unwrap().ready = false;
    });
    group.budget.as_mut().unwrap().disruptions_allowed = 0;
    group.volumes.get_mut("data-boot-0").unwrap().phase = "Pending".to_owned();
    group.volumes.get_mut("data-boot-2").unwrap().requested = Some("2Gi".to_owned());
    check(
        &well(),
        &[group],
        false,
        &expect![[r#"
        lab/TftpCluster/boot
          PROBLEM  member    boot-0 does not answer: no node takes it: 0/3 nodes are available
                             -> `kubectl quorate logs --previous` has its last words; `kubectl describe pod` what Kubernetes says
          warning  member    boot-0 was started again 4 times
                             -> `kubectl quorate logs --previous` has its last words
          warning  member    boot-2 has not caught up (follower, applied 90 of 120)
                             -> wait while the numbers grow; if they do not, see its log
          warning  quorum    2 of 3 voters answer, 2 are a majority: the next loss stops the group
                             -> bring the silent members back before anything else, and drain no node
          warning  budget    no pod may be evicted now, so that draining a node of this group waits
                             -> this ends when every member is ready
          PROBLEM  storage   the volume data-boot-0 is Pending
                             -> see the events of the PersistentVolumeClaim: its storage class may be missing or full
          warning  storage   the volume data-boot-2 has 1Gi, and 2Gi is wanted
                             -> see the events of the PersistentVolumeClaim: growing may wait for the pod's restart, or rounding may be all
        18 checks, 1 group: 2 problems, 5 warnings, 0 unknown
    "#]],
    );
}

#[test]
fn nobody_leads_and_somebody_thinks_he_does() {
    let mut group = group();
    said(&mut group, "boot-1", |status| {
        status.detail.as_mut().unwrap().serving = false;
    });
    check(
        &well(),
        std::slice::from_ref(&group),
        false,
        &expect![[r#"
        lab/TftpCluster/boot
          PROBLEM  leader    no member leads with a quorum that hears it: clients get no consistent answer
                             -> bring enough members back for a majority; `kubectl quorate logs` says why they do not elect one
        14 checks, 1 group: 1 problem, 0 warnings, 0 unknown
    "#]],
    );
    said(&mut group, "boot-0", |status| {
        (status.role, status.term) = (operator_api::Role::Leader, 8);
        status.detail.as_mut().unwrap().serving = true;
    });
    check(
        &well(),
        &[group],
        false,
        &expect![[r#"
        lab/TftpCluster/boot
          warning  leader    boot-0 leads, and boot-1 has not noticed: no quorum hears it, so that it serves nothing consistent
                             -> look at the network between the members; it steps down when it hears the others
          PROBLEM  route     boot-leader-ipv4 leads to boot-1, and boot-0 leads
                             -> look again: the leader publishes itself at once, and the operator after 2 s. If it stays so see the leader's log for what the API server answered (rights, admission policy)
        16 checks, 1 group: 1 problem, 1 warning, 0 unknown
    "#]],
    );
}

#[test]
fn members_on_one_node_of_a_resource_nobody_looks_after() {
    let mut group = group();
    for pod in group.pods.values_mut() {
        pod.node = Some("node-0".to_owned());
    }
    group.is_paused = true;
    group.status.observed_generation = None;
    group.status.conditions[1] = serde_json::from_value(condition(
        "Degraded",
        "True",
        "UpgradeFailed",
        "boot-0 does not start",
    ))
    .unwrap();
    group.address.as_mut().unwrap().has_selector = true;
    group.budget = None;
    check(
        &well(),
        &[group],
        false,
        &expect![[r#"
        lab/TftpCluster/boot
          warning  pause     the operator keeps its hands off this group
                             -> `kubectl quorate resume` ends that: until then nothing is repaired, scaled or upgraded
          PROBLEM  operator  no operator has looked at this resource
                             -> see whether an operator runs and watches this namespace (its option `--namespaces`)
          warning  operator  Degraded (UpgradeFailed): boot-0 does not start
                             -> the sentence says what it needs; `kubectl describe` has the events that led there
          PROBLEM  service   the Service has a selector, so that Kubernetes leads clients to followers too
                             -> remove `spec.selector` from the Service, and find out who added it
          warning  spread    3 members are on node-0: losing it stops the group
                             -> give the scheduler more nodes, or set `scheduling.spread: Required` and replace the pods one by one
          warning  budget    there is no PodDisruptionBudget: draining nodes may take a majority away
                             -> the operator makes it anew within seconds: see whether it runs
        18 checks, 1 group: 2 problems, 4 warnings, 0 unknown
    "#]],
    );
}
