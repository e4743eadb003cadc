use expect_test::{Expect, expect};

use super::*;
use crate::fixture::{condition, group, said};

fn check(group: &Group, expected: &Expect) {
    expected.assert_eq(&tree(group));
}

#[test]
fn group_that_is_well() {
    check(
        &group(),
        &expect![[r#"
        TftpCluster/boot in lab: Ready
        ├─ address  10.96.0.12 69/UDP (ClusterIP)
        ├─ route    boot-1 10.244.1.7 epoch 7.3
        ├─ leader   boot-1 epoch 7.3
        └─ members  3 of 3 ready, version 0.1.0
           ├─ boot-0  follower  id 1  on node-0  lag 0  ready
           ├─ boot-1  leader    id 3  on node-1  lag 0  ready
           └─ boot-2  follower  id 5  on node-2  lag 3  ready
    "#]],
    );
}

#[test]
fn group_that_lost_its_leader_and_a_disk() {
    let mut group = group();
    group
        .answers
        .insert("boot-1".to_owned(), Err("no answer within 15 s".to_owned()));
    group.pods.get_mut("boot-1").unwrap().trouble = Some("CrashLoopBackOff: its log says why".to_owned());
    said(&mut group, "boot-2", |status| {
        status.node_id = None;
        status.role = operator_api::Role::Learner;
        let detail = status.detail.as_mut().unwrap();
        detail.ready = false;
        detail.alarm = Some("its disk is full: free some space".to_owned());
    });
    group.status.conditions[0] = serde_json::from_value(condition(
        "Ready",
        "False",
        "NoLeader",
        "one of three members answers",
    ))
    .unwrap();
    group.routes.clear();
    group.unseen.push("poddisruptionbudgets: forbidden".to_owned());
    check(
        &group,
        &expect![[r#"
        TftpCluster/boot in lab: not Ready (NoLeader): one of three members answers
        ├─ address  10.96.0.12 69/UDP (ClusterIP)
        ├─ route    no slice: clients reach nobody
        ├─ leader   none that a quorum hears
        ├─ unseen   poddisruptionbudgets: forbidden
        └─ members  1 of 3 ready, version 0.1.0
           ├─ boot-0  follower  id 1   on node-0    ready
           ├─ boot-1  silent           on node-1    CrashLoopBackOff: its log says why
           └─ boot-2  learner   no id  on node-2    its disk is full: free some space
    "#]],
    );
}

#[test]
fn group_in_the_middle_of_an_upgrade() {
    let mut group = group();
    group.is_paused = true;
    group.pods.remove("boot-0");
    group.answers.remove("boot-0");
    group.status.upgrade_step = Some(operator_api::resources::UpgradeStep {
        pod: "boot-0".to_owned(),
        reason: "it is made anew with the image quorate/agent:0.2.0".to_owned(),
    });
    group.status.members = vec![operator_api::resources::MemberReport {
        name: "boot-0".to_owned(),
        node_id: Some(1),
        role: None,
        node: None,
        ready: false,
        lag: None,
        version: None,
        alarm: None,
    }];
    check(
        &group,
        &expect![[r#"
        TftpCluster/boot in lab: Ready
        ├─ address  10.96.0.12 69/UDP (ClusterIP)
        ├─ route    boot-1 10.244.1.7 epoch 7.3
        ├─ leader   boot-1 epoch 7.3
        ├─ upgrade  boot-0: it is made anew with the image quorate/agent:0.2.0
        ├─ paused   the operator changes nothing: `resume` ends that
        └─ members  2 of 3 ready, version 0.1.0
           ├─ boot-0  no pod          no node
           ├─ boot-1  leader    id 3  on node-1  lag 0  ready
           └─ boot-2  follower  id 5  on node-2  lag 3  ready
    "#]],
    );
}

#[test]
fn members_are_in_the_order_of_their_numbers() {
    let mut group = group();
    group
        .pods
        .insert("boot-10".to_owned(), crate::view::Pod::default());
    assert_eq!(group.names(), ["boot-0", "boot-1", "boot-2", "boot-10"]);
}
