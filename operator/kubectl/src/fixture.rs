//! A group of three that is as it should be, for tests to break.

use std::collections::BTreeMap;

use operator_api::MemberStatus;
use serde_json::json;

use crate::view::{Address, Budget, Group, Pod, Route, Volume};

/// `boot`: three members on three nodes, of which `boot-1` leads in term 7.
pub(crate) fn group() -> Group {
    let names = ["boot-0", "boot-1", "boot-2"];
    Group {
        kind: "TftpCluster".to_owned(),
        namespace: "lab".to_owned(),
        name: "boot".to_owned(),
        generation: Some(2),
        is_paused: false,
        serves_everywhere: false,
        spec: Some(serde_json::from_value(json!({})).unwrap()),
        status: serde_json::from_value(json!({
            "observedGeneration": 2,
            "version": "0.1.0",
            "conditions": [condition("Ready", "True", "Ready", "boot-1 leads"),
                condition("Degraded", "False", "AsItShouldBe", "")],
        }))
        .unwrap(),
        pods: names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let pod = Pod {
                    node: Some(format!("node-{index}")),
                    is_ready: true,
                    phase: "Running".to_owned(),
                    ..Pod::default()
                };
                ((*name).to_owned(), pod)
            })
            .collect(),
        answers: names
            .iter()
            .map(|name| ((*name).to_owned(), Ok(answer(name))))
            .collect(),
        routes: BTreeMap::from([(
            "boot-leader-ipv4".to_owned(),
            Route {
                pod: Some("boot-1".to_owned()),
                addresses: vec!["10.244.1.7".to_owned()],
                epoch: Some("7.3".to_owned()),
            },
        )]),
        address: Some(Address {
            type_: "ClusterIP".to_owned(),
            hosts: vec!["10.96.0.12".to_owned()],
            ports: vec!["69/UDP".to_owned()],
            has_selector: false,
        }),
        budget: Some(Budget {
            disruptions_allowed: 1,
        }),
        volumes: names
            .iter()
            .map(|name| {
                let volume = Volume {
                    phase: "Bound".to_owned(),
                    requested: Some("1Gi".to_owned()),
                    capacity: Some("1Gi".to_owned()),
                    class: Some("standard".to_owned()),
                };
                (format!("data-{name}"), volume)
            })
            .collect(),
        unseen: Vec::new(),
    }
}

/// A condition of a status.
pub(crate) fn condition(type_: &str, status: &str, reason: &str, message: &str) -> serde_json::Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// What a member says while all is well.
pub(crate) fn answer(name: &str) -> MemberStatus {
    let leads = name == "boot-1";
    let member = |name: &str, id: u64, matched: u64| {
        let matched = leads.then_some(matched);
        json!({"nodeId": id, "name": name, "peerAddress": "p", "adminAddress": "a", "voter": true, "matchedIndex": matched})
    };
    let id = match name {
        "boot-0" => 1,
        "boot-1" => 3,
        _ => 5,
    };
    serde_json::from_value(json!({
        "service": "tftp", "name": name, "nodeId": id, "pid": 1, "role": if leads { "leader" } else { "follower" },
        "term": 7, "commitIndex": 120, "appliedIndex": 120, "clientAddress": "c", "adminAddress": "a",
        "version": "0.1.0", "groupId": "g", "leaderId": 3, "serving": leads, "ready": true,
        "firstLogIndex": 1, "lastLogIndex": 120, "snapshotIndex": 0,
        "members": [member("boot-0", 1, 120), member("boot-1", 3, 120), member("boot-2", 5, 117)],
        "alarm": null, "serviceDetail": {},
    }))
    .unwrap()
}

/// Changes what a member said.
pub(crate) fn said(group: &mut Group, name: &str, change: impl FnOnce(&mut MemberStatus)) {
    let Some(Ok(status)) = group.answers.get_mut(name) else {
        panic!("{name} said nothing");
    };
    change(status);
}
