use std::collections::BTreeMap;

use expect_test::expect;
use k8s_openapi::jiff::Timestamp;
use operator_api::resources::TftpCluster;

use super::*;
use crate::plan::{Action, Pod};
use crate::validate::{IpFamily, Settings, validate};

fn service(annotations: serde_json::Value) -> Validated {
    let resource: TftpCluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "TftpCluster",
        "metadata": {
            "name": "boot", "namespace": "racks", "uid": "1", "generation": 2, "annotations": annotations,
        },
        "spec": {"replicas": 1},
    }))
    .unwrap();
    let settings = Settings {
        agent_image: Some("agent:1".to_owned()),
        cluster_domain: "cluster.local".to_owned(),
        ip_family: IpFamily::V4,
    };
    validate(&resource, &settings).unwrap()
}

/// A group of one that leads and serves.
fn observed() -> Observed {
    let status: MemberStatus = serde_json::from_value(serde_json::json!({
        "service": "tftp", "name": "boot-0", "nodeId": 1, "pid": 1, "role": "leader", "term": 2,
        "commitIndex": 10, "appliedIndex": 10, "clientAddress": "", "adminAddress": "",
        "groupId": "g", "leaderId": 1, "serving": true, "ready": true, "firstLogIndex": 1, "lastLogIndex": 10,
        "snapshotIndex": 0, "alarm": null, "version": "0.1.0", "serviceDetail": [],
        "members": [{"nodeId": 1, "name": "boot-0", "peerAddress": "", "adminAddress": "", "voter": true}],
    }))
    .unwrap();
    let pod = Pod {
        name: "boot-0".to_owned(),
        node: Some("n1".to_owned()),
        ready_seconds: Some(1),
        ..Pod::default()
    };
    Observed {
        pods: BTreeMap::from([("boot-0".to_owned(), pod)]),
        stateful_set: None,
        initialization: Initialization::Done {
            group_id: "g".to_owned(),
        },
        answers: BTreeMap::from([("boot-0".to_owned(), Some(status))]),
        offer: None,
    }
}

fn plan(progress: Progress) -> Plan {
    Plan {
        pods: 1,
        action: Action::Nothing,
        progress,
        upgrading: None,
    }
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn report(service: &Validated, observed: &Observed, plan: &Plan, route: Option<&str>) -> GroupStatus {
    let report = Report {
        service,
        observed,
        plan,
        initialization: &observed.initialization,
        route: route.map(str::to_owned),
        problem: None,
        stands_seconds: 0,
    };
    status(&report, None, &at(0))
}

fn lines(status: &GroupStatus) -> String {
    let lines = status.conditions.iter().map(|condition| {
        format!(
            "{} {} {}: {}\n",
            condition.type_, condition.status, condition.reason, condition.message
        )
    });
    lines.collect()
}

#[test]
fn group_that_is_well_is_ready() {
    let status = report(
        &service(serde_json::json!({})),
        &observed(),
        &plan(Progress::Complete),
        Some("boot-0"),
    );
    expect![[r#"
        Ready True Ready: boot-0 leads, and 1 of 1 members are ready
        Available True Serving: boot-0 serves clients, and a quorum hears it
        LeaderElected True Elected: boot-0 leads, epoch 2.1
        Progressing False Complete: the group is as the resource asks
        Degraded False AsWanted: nothing is known to be wrong
        Paused False NotPaused: the operator works
    "#]]
    .assert_eq(&lines(&status));
    assert_eq!(status.members_ready.as_deref(), Some("1/1"));
    assert_eq!(status.version.as_deref(), Some("0.1.0"));
    assert_eq!(status.observed_generation, Some(2));
}

#[test]
fn leader_that_the_service_does_not_lead_to_is_not_ready() {
    let status = report(
        &service(serde_json::json!({})),
        &observed(),
        &plan(Progress::Complete),
        None,
    );
    assert!(
        lines(&status).starts_with("Ready False RouteStale: the Service leads to nobody, and boot-0 leads\n"),
        "{}",
        lines(&status)
    );
}

#[test]
fn silent_group_says_who_is_silent() {
    let mut observed = observed();
    observed.answers.insert("boot-0".to_owned(), None);
    let waiting = plan(Progress::Moving(
        "Waiting",
        "waiting for boot-0 to start".to_owned(),
    ));
    let status = report(
        &service(serde_json::json!({})),
        &observed,
        &waiting,
        Some("boot-0"),
    );
    expect![[r#"
        Ready False NoLeader: no member leads and is heard by a quorum; no answer comes from boot-0
        Available False NotServing: no member leads and is heard by a quorum; no answer comes from boot-0
        LeaderElected False NoLeader: no member leads and is heard by a quorum; no answer comes from boot-0
        Progressing True Waiting: waiting for boot-0 to start
        Degraded False AsWanted: nothing is known to be wrong
        Paused False NotPaused: the operator works
    "#]]
    .assert_eq(&lines(&status));
}

#[test]
fn paused_group_says_what_is_pending() {
    let pending = plan(Progress::Moving("Upgrading", "boot-0 is replaced".to_owned()));
    let status = report(
        &service(serde_json::json!({"quorate.dev/pause": "true"})),
        &observed(),
        &pending,
        Some("boot-0"),
    );
    let last = lines(&status).lines().last().map(str::to_owned);
    assert_eq!(
        last.as_deref(),
        Some(
            "Paused True PausedByAnnotation: the operator changes nothing while quorate.dev/pause is \"true\"; \
             pending: boot-0 is replaced"
        )
    );
}

#[test]
fn conditions_keep_their_time_until_they_flip() {
    let service = service(serde_json::json!({}));
    let (observed, plan) = (observed(), plan(Progress::Complete));
    let former = report(&service, &observed, &plan, Some("boot-0"));
    let later = |route: Option<&str>| {
        let report = Report {
            service: &service,
            observed: &observed,
            plan: &plan,
            initialization: &observed.initialization,
            route: route.map(str::to_owned),
            problem: None,
            stands_seconds: 0,
        };
        status(&report, Some(&former), &at(60))
    };
    // Nothing to write.
    assert_eq!(later(Some("boot-0")), former);
    let times: Vec<_> = later(None)
        .conditions
        .iter()
        .map(|condition| (condition.type_.clone(), condition.last_transition_time.clone()))
        .collect();
    assert_eq!(times[0], ("Ready".to_owned(), at(60)));
    assert_eq!(times[1], ("Available".to_owned(), at(0)));
}

#[test]
fn lag_is_told_only_when_it_matters() {
    let mut status = observed().answers["boot-0"].clone().unwrap();
    status.applied_index = 10;
    assert_eq!(lag(&status, 1010), None);
    assert_eq!(lag(&status, 1011), Some(1024));
    assert_eq!(lag(&status, 1300), Some(2048));
}

#[test]
fn oldest_version_counts_by_numbers() {
    let member = |version: &str| MemberReport {
        name: String::new(),
        node_id: None,
        role: None,
        node: None,
        ready: true,
        lag: None,
        version: Some(version.to_owned()),
        alarm: None,
    };
    let members = [member("1.10.0"), member("1.9.3")];
    assert_eq!(oldest_version(&members).as_deref(), Some("1.9.3"));
}

#[test]
fn invalid_resource_keeps_what_runs_and_says_what_is_wrong() {
    let former = report(
        &service(serde_json::json!({})),
        &observed(),
        &plan(Progress::Complete),
        Some("boot-0"),
    );
    let status = invalid(Some(&former), Some(3), "`image` is not set", &at(60));
    let text = lines(&status);
    assert!(
        text.starts_with("Ready False InvalidSpec: `image` is not set\n"),
        "{text}"
    );
    assert!(text.contains("Available True Serving"), "{text}");
    assert_eq!(status.leader, former.leader);
}
