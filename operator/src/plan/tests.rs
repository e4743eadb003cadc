mod generation;
mod volumes;
use std::fmt::Write as _;

use operator_api::ServiceKind;
use operator_api::admin::{GroupMember, Identity, MemberDetail};
use operator_api::resources::TftpCluster;

use super::*;
use crate::validate::{IpFamily, Settings, validate};

/// A group whose members are `boot-0` (node id 1, leads), `boot-1` (2), `boot-2` (3), all well, all of revision `a`.
struct World {
    service: Validated,
    observed: Observed,
}

fn service(spec: serde_json::Value) -> Validated {
    let resource: TftpCluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "TftpCluster",
        "metadata": {"name": "boot", "namespace": "racks", "uid": "1"},
        "spec": spec,
    }))
    .unwrap();
    let settings = Settings {
        agent_image: Some("agent".to_owned()),
        cluster_domain: "cluster.local".to_owned(),
        ip_family: IpFamily::V4,
    };
    validate(&resource, &settings).unwrap()
}

fn name(ordinal: usize) -> String {
    format!("boot-{ordinal}")
}

impl World {
    fn new(replicas: usize) -> Self {
        let service = service(serde_json::json!({"replicas": replicas}));
        let mut world = Self {
            service,
            observed: Observed {
                pods: BTreeMap::new(),
                stateful_set: Some(StatefulSet {
                    uid: "set".to_owned(),
                    replicas: i32::try_from(replicas).unwrap(),
                    volume_size: Some(Quantity("2Gi".to_owned())),
                    update_revision: Some("a".to_owned()),
                    ..StatefulSet::default()
                }),
                initialization: Initialization::Done {
                    group_id: "g".to_owned(),
                },
                answers: BTreeMap::new(),
                offer: None,
            },
        };
        for ordinal in 0..replicas {
            world.add(ordinal);
        }
        world.lead(0);
        world
    }

    /// A pod that runs a voter.
    fn add(&mut self, ordinal: usize) {
        let pod = Pod {
            name: name(ordinal),
            uid: format!("uid-{ordinal}"),
            revision: "a".to_owned(),
            node: Some("n".to_owned()),
            addresses: vec![format!("10.0.0.{ordinal}")],
            ready_seconds: Some(1000),
            unready_seconds: 0,
            is_terminating: false,
            trouble: None,
        };
        self.observed.pods.insert(name(ordinal), pod);
        self.observed.answers.insert(
            name(ordinal),
            Some(answer(ordinal, Some(u64::try_from(ordinal).unwrap() + 1))),
        );
    }

    /// A pod whose disk is empty.
    fn add_empty(&mut self, ordinal: usize) {
        self.add(ordinal);
        self.observed
            .answers
            .insert(name(ordinal), Some(answer(ordinal, None)));
        self.pod(ordinal).ready_seconds = None;
    }

    /// This member leads a group of every member that has a node id.
    fn lead(&mut self, ordinal: usize) {
        let members: Vec<_> = self
            .observed
            .answers
            .values()
            .flatten()
            .filter_map(|status| Some((status.name.clone(), status.node_id?)))
            .map(|(name, node_id)| GroupMember {
                node_id,
                name,
                peer_address: String::new(),
                admin_address: String::new(),
                voter: true,
                matched_index: Some(100),
            })
            .collect();
        for (member, status) in &mut self.observed.answers {
            let Some(status) = status else { continue };
            let leads = *member == name(ordinal);
            status.role = if leads { Role::Leader } else { Role::Follower };
            let detail = status.detail.as_mut().unwrap();
            detail.serving = leads;
            detail.members.clone_from(&members);
        }
    }

    fn pod(&mut self, ordinal: usize) -> &mut Pod {
        self.observed.pods.get_mut(&name(ordinal)).unwrap()
    }

    fn member(&mut self, ordinal: usize) -> &mut MemberStatus {
        self.observed
            .answers
            .get_mut(&name(ordinal))
            .unwrap()
            .as_mut()
            .unwrap()
    }

    fn silence(&mut self, ordinal: usize) {
        self.observed.answers.insert(name(ordinal), None);
        self.pod(ordinal).ready_seconds = None;
    }

    /// The template changed: every pod is of an older revision but these.
    fn upgrade(&mut self, updated: &[usize]) {
        self.observed.stateful_set.as_mut().unwrap().update_revision = Some("b".to_owned());
        for ordinal in updated {
            self.pod(*ordinal).revision = "b".to_owned();
        }
    }

    #[track_caller]
    fn check(&self, expected: &str) {
        assert_eq!(self.row(), expected);
    }

    fn row(&self) -> String {
        let plan = plan(&self.service, &self.observed);
        let mut row = match &plan.action {
            Action::Nothing => "nothing".to_owned(),
            Action::GrowVolumes { size, .. } => format!("volumes to {size}"),
            Action::Replace { pod, uid, .. } => format!("replace {pod} ({uid})"),
            Action::Reset { pod, uid } => format!("reset {pod} ({uid})"),
            Action::Membership(step) => match step {
                Step::Initialize { member } => format!("initialize {member}"),
                Step::RecordInitialized { group_id } => format!("record {group_id}"),
                Step::AddLearner { leader, member } => format!("add {} at {leader}", member.name),
                Step::Join { member, identity } => format!("join {member} as {}", identity.node_id),
                Step::Promote { leader, node_id } => format!("promote {node_id} at {leader}"),
                Step::Remove { leader, node_id } => format!("remove {node_id} at {leader}"),
                Step::Transfer { leader, to } => format!("transfer from {leader} to {to}"),
                step => format!("{step:?}"),
            },
        };
        let (how, reason) = match &plan.progress {
            Progress::Complete => ("complete", ""),
            Progress::Moving(reason, _) => ("moving", *reason),
            Progress::Halted(reason, _) => ("halted", *reason),
        };
        write!(row, ", {} pods, {how} {reason}", plan.pods).unwrap();
        row.trim_end().to_owned()
    }
}

fn answer(ordinal: usize, node_id: Option<u64>) -> MemberStatus {
    MemberStatus {
        service: ServiceKind::Tftp,
        name: name(ordinal),
        node_id,
        pid: Some(1),
        role: Role::Learner,
        term: 3,
        commit_index: 100,
        applied_index: 100,
        client_address: String::new(),
        admin_address: String::new(),
        detail: Some(MemberDetail {
            group_id: node_id.map(|_| "g".to_owned()),
            leader_id: None,
            serving: false,
            ready: node_id.is_some(),
            first_log_index: 1,
            last_log_index: 100,
            snapshot_index: 0,
            members: Vec::new(),
            alarm: None,
            version: "1".to_owned(),
            peer_certificates: None,
            service_detail: serde_json::Value::Null,
        }),
    }
}

#[test]
fn group_that_is_as_wanted_is_left_alone() {
    World::new(3).check("nothing, 3 pods, complete");
    World::new(1).check("nothing, 1 pods, complete");
}

#[test]
fn nobody_founds_a_group_before_a_majority_of_empty_disks_answered() {
    let mut world = World::new(3);
    world.observed.initialization = Initialization::Never;
    for ordinal in 0..3 {
        world.add_empty(ordinal);
    }
    world.check("initialize boot-0, 3 pods, moving Initializing");
    world.silence(1);
    world.check("initialize boot-0, 3 pods, moving Initializing");
    world.silence(2);
    world.check("nothing, 3 pods, moving Starting");
}

#[test]
fn lost_mark_is_found_again_on_the_members_disks() {
    let mut world = World::new(3);
    world.observed.initialization = Initialization::Never;
    world.add_empty(0);
    world.check("record g, 3 pods, moving Initializing");
}

#[test]
fn new_members_join_one_at_a_time() {
    let mut world = World::new(1);
    world.service = service(serde_json::json!({"replicas": 3}));
    world.check("nothing, 3 pods, moving Waiting");
    world.add_empty(1);
    world.add_empty(2);
    world.check("add boot-1 at boot-0, 3 pods, moving AddingMember");
    world.observed.offer = Some(Offer {
        member: "boot-1".to_owned(),
        identity: Identity {
            group_id: "g".to_owned(),
            node_id: 2,
        },
    });
    let learner = GroupMember {
        node_id: 2,
        name: "boot-1".to_owned(),
        peer_address: String::new(),
        admin_address: String::new(),
        voter: false,
        matched_index: Some(0),
    };
    world.member(0).detail.as_mut().unwrap().members.push(learner);
    world.check("join boot-1 as 2, 3 pods, moving AddingMember");
    world.observed.offer = None;
    world.observed.answers.insert(name(1), Some(answer(1, Some(2))));
    world.check("promote 2 at boot-0, 3 pods, moving AddingMember");
    world.member(0).detail.as_mut().unwrap().members[1].voter = true;
    world.check("add boot-2 at boot-0, 3 pods, moving AddingMember");
}

#[test]
fn members_leave_the_group_before_their_pods_end() {
    let mut world = World::new(5);
    world.service = service(serde_json::json!({"replicas": 3}));
    world.check("remove 4 at boot-0, 5 pods, moving RemovingMember");
    world.lead(4);
    world.check("remove 4 at boot-4, 5 pods, moving RemovingMember");
    world.observed.answers.insert(name(3), Some(answer(3, None)));
    world.lead(4);
    // The leader goes last, and hands over first.
    world.check("transfer from boot-4 to 3, 5 pods, moving RemovingMember");
    world.observed.answers.insert(name(4), Some(answer(4, None)));
    world.lead(0);
    world.check("nothing, 3 pods, moving RemovingMember");
}

#[test]
fn member_with_an_empty_disk_gets_a_new_id_after_its_old_one_is_removed() {
    let mut world = World::new(3);
    world.observed.answers.insert(name(2), Some(answer(2, None)));
    world.check("remove 3 at boot-0, 3 pods, moving RemovingMember");
    world.lead(0);
    world.check("add boot-2 at boot-0, 3 pods, moving AddingMember");
}

#[test]
fn member_whose_id_was_removed_starts_anew() {
    let mut world = World::new(3);
    for ordinal in [0, 1] {
        world
            .member(ordinal)
            .detail
            .as_mut()
            .unwrap()
            .members
            .retain(|member| member.node_id != 3);
    }
    world.check("reset boot-2 (uid-2), 3 pods, moving ResettingMember");
    world.pod(2).is_terminating = true;
    world.check("nothing, 3 pods, moving ResettingMember");
}

#[test]
fn upgrade_takes_followers_first_and_the_leader_last() {
    let mut world = World::new(3);
    world.lead(1);
    world.upgrade(&[]);
    world.check("replace boot-2 (uid-2), 3 pods, moving Upgrading");
    world.pod(2).is_terminating = true;
    world.check("nothing, 3 pods, moving Upgrading");
    world.observed.pods.remove("boot-2");
    world.observed.answers.insert(name(2), None);
    world.check("nothing, 3 pods, moving Upgrading");
    world.add(2);
    world.lead(1);
    world.upgrade(&[2]);
    world.pod(2).ready_seconds = None;
    world.check("nothing, 3 pods, moving Upgrading");
    world.pod(2).ready_seconds = Some(0);
    world.check("replace boot-0 (uid-0), 3 pods, moving Upgrading");
    world.upgrade(&[0, 2]);
    world.check("transfer from boot-1 to 3, 3 pods, moving Upgrading");
    world.lead(2);
    world.check("replace boot-1 (uid-1), 3 pods, moving Upgrading");
    world.upgrade(&[0, 1, 2]);
    world.check("nothing, 3 pods, complete");
}

#[test]
fn the_former_leader_stays_until_the_new_one_is_heard_by_a_quorum_without_it() {
    let mut world = World::new(3);
    world.lead(2);
    world.upgrade(&[0, 2]);
    for matched in [Some(0), None] {
        let detail = world.member(2).detail.as_mut().unwrap();
        detail.members[0].matched_index = matched;
        world.check("nothing, 3 pods, moving Upgrading");
    }
    world.member(2).detail.as_mut().unwrap().members[0].matched_index = Some(98);
    world.check("replace boot-1 (uid-1), 3 pods, moving Upgrading");
    world.member(2).commit_index = 2000;
    world.check("nothing, 3 pods, moving Upgrading");
}

#[test]
fn upgrade_waits_for_min_ready_seconds_and_for_the_members_own_word() {
    let mut world = World::new(3);
    world.service = service(serde_json::json!({"upgrade": {"minReadySeconds": 10}}));
    world.upgrade(&[2]);
    world.pod(2).ready_seconds = Some(9);
    world.check("nothing, 3 pods, moving Upgrading");
    world.pod(2).ready_seconds = Some(10);
    world.check("replace boot-1 (uid-1), 3 pods, moving Upgrading");
    world.member(2).detail.as_mut().unwrap().ready = false;
    world.check("nothing, 3 pods, moving Upgrading");
}

#[test]
fn the_follower_that_is_furthest_behind_goes_first() {
    let mut world = World::new(3);
    world.upgrade(&[]);
    world.member(1).applied_index = 90;
    world.check("replace boot-1 (uid-1), 3 pods, moving Upgrading");
}

#[test]
fn no_pod_goes_while_a_quorum_needs_it() {
    let mut world = World::new(3);
    world.upgrade(&[]);
    world.silence(2);
    world.pod(1).ready_seconds = None;
    // boot-1 is not ready, but boot-0 needs its vote.
    world.check("nothing, 3 pods, moving Upgrading");
    // boot-2 may go: it is no part of the quorum.
    world.pod(2).trouble = Some("CrashLoopBackOff".to_owned());
    world.check("replace boot-2 (uid-2), 3 pods, moving Upgrading");
}

#[test]
fn broken_version_stops_after_its_first_pod() {
    let mut world = World::new(3);
    world.upgrade(&[2]);
    world.silence(2);
    world.pod(2).trouble = Some("ImagePullBackOff: no such image".to_owned());
    world.check("nothing, 3 pods, halted UpgradeFailed");
    let plan = plan(&world.service, &world.observed);
    let Progress::Halted(_, why) = plan.progress else {
        panic!("{plan:?}")
    };
    assert!(why.contains("boot-2: ImagePullBackOff: no such image"), "{why}");
    // Without a reason of Kubernetes the deadline tells.
    world.pod(2).trouble = None;
    world.pod(2).unready_seconds = 601;
    world.check("nothing, 3 pods, halted UpgradeFailed");
    // Another one that is unwell is no reason to give the broken version a second pod.
    world.pod(2).trouble = Some("ImagePullBackOff".to_owned());
    world.silence(1);
    world.check("nothing, 3 pods, halted UpgradeFailed");
}

#[test]
fn taking_a_broken_version_back_replaces_its_pod_only() {
    let mut world = World::new(3);
    world.silence(2);
    world.pod(2).trouble = Some("CrashLoopBackOff".to_owned());
    world.pod(2).revision = "b".to_owned();
    world.check("replace boot-2 (uid-2), 3 pods, moving Upgrading");
}

#[test]
fn group_that_never_ran_is_repaired_by_another_version() {
    let mut world = World::new(3);
    world.observed.initialization = Initialization::Never;
    for ordinal in 0..3 {
        world.silence(ordinal);
        world.pod(ordinal).trouble = Some("ImagePullBackOff".to_owned());
    }
    world.upgrade(&[]);
    world.check("replace boot-0 (uid-0), 3 pods, moving Upgrading");
}

#[test]
fn group_of_one_is_replaced_without_a_heir() {
    let mut world = World::new(1);
    world.upgrade(&[]);
    world.check("replace boot-0 (uid-0), 1 pods, moving Upgrading");
}

#[test]
fn with_on_delete_nobody_is_replaced() {
    let mut world = World::new(3);
    world.service = service(serde_json::json!({"upgrade": {"type": "OnDelete"}}));
    world.upgrade(&[]);
    world.check("nothing, 3 pods, moving UpgradePending");
}

#[test]
fn membership_comes_before_an_upgrade() {
    let mut world = World::new(3);
    world.upgrade(&[]);
    world.observed.answers.insert(name(2), Some(answer(2, None)));
    world.check("remove 3 at boot-0, 3 pods, moving RemovingMember");
}

#[test]
fn lost_majority_is_told_and_not_touched() {
    let mut world = World::new(3);
    for ordinal in [1, 2] {
        world
            .observed
            .answers
            .insert(name(ordinal), Some(answer(ordinal, None)));
    }
    world.member(0).role = Role::Candidate;
    world.member(0).detail.as_mut().unwrap().serving = false;
    world.check("nothing, 3 pods, halted MembershipStuck");
}
