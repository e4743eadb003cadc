//! What the operator reports about a group.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::Role;
use crate::membership::Initialization;

/// What the operator saw. It can be rebuilt from the cluster, but for `initialization`, which is kept elsewhere too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// The generation of the specification that this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` sums the others up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Members that have joined and caught up.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `readyReplicas` of the wanted ones, `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub members_ready: Option<String>,
    /// The label selector of the pods, as text: for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
    /// The member that leads; none while there is no leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderRef>,
    /// The pod that the Service leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub route: Option<String>,
    /// The members, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberReport>,
    /// The mark that the group was founded, or is about to be. A group is founded once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<InitializationStatus>,
    /// The version that all members run; while they differ, the oldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// The image that members are meant to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// What a running upgrade does right now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_step: Option<UpgradeStep>,
}

/// The leader of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderRef {
    /// Its name, which is its pod's.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its reign: the Raft term and the node id, `7.12`. A later leader has a greater one.
    #[schemars(length(min = 1, max = 64))]
    pub epoch: String,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    /// Its name, which is its pod's.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its Raft node id; none before it has joined. An empty disk gets a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<i64>,
    /// Its part in the group; none while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
    /// The node that its pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// Whether it has joined and caught up.
    #[serde(default)]
    pub ready: bool,
    /// Log entries that it is behind the leader; left out when it is close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// The version it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Why it needs help, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub alarm: Option<String>,
}

/// A member's part in its group; none while it does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Orders the group's commands and serves clients.
    Leader,
    /// Holds a copy and votes.
    Follower,
    /// Holds a copy and does not vote yet.
    Learner,
    /// Asks for votes.
    Candidate,
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Leader => Self::Leader,
            Role::Follower => Self::Follower,
            Role::Learner => Self::Learner,
            Role::Candidate => Self::Candidate,
        }
    }
}

/// The mark that a group was founded: [`Initialization`] as the status holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitializationStatus {
    /// How far it is.
    pub state: InitializationState,
    /// The group's UUID.
    #[schemars(length(min = 1, max = 64))]
    pub group_id: String,
    /// The member that was asked to found the group; only while that is not known to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub member: Option<String>,
}

/// How far the founding of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InitializationState {
    /// A member was asked, or is about to be; whether it did is unknown.
    Asked,
    /// The group exists.
    Done,
}

impl InitializationStatus {
    /// The mark as the status holds it; none before anybody was asked.
    #[must_use]
    pub fn from_mark(mark: &Initialization) -> Option<Self> {
        match mark {
            Initialization::Never => None,
            Initialization::Asked { group_id, member } => Some(Self {
                state: InitializationState::Asked,
                group_id: group_id.clone(),
                member: Some(member.clone()),
            }),
            Initialization::Done { group_id } => Some(Self {
                state: InitializationState::Done,
                group_id: group_id.clone(),
                member: None,
            }),
        }
    }

    /// The mark itself. `Asked` without a member is nobody's writing; it counts as done, so that nobody is asked again.
    #[must_use]
    pub fn to_mark(&self) -> Initialization {
        let group_id = self.group_id.clone();
        match (self.state, &self.member) {
            (InitializationState::Asked, Some(member)) => Initialization::Asked {
                group_id,
                member: member.clone(),
            },
            _ => Initialization::Done { group_id },
        }
    }
}

/// What a running upgrade does right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStep {
    /// The pod it is about.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,
    /// What is done or waited for, in a sentence.
    #[schemars(length(max = 1024))]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_status() {
        let marks = [
            Initialization::Asked {
                group_id: "g".to_owned(),
                member: "boot-0".to_owned(),
            },
            Initialization::Done {
                group_id: "g".to_owned(),
            },
        ];
        for mark in marks {
            assert_eq!(InitializationStatus::from_mark(&mark).unwrap().to_mark(), mark);
        }
        assert_eq!(InitializationStatus::from_mark(&Initialization::Never), None);
    }
}
