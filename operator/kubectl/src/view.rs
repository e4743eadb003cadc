//! What was seen of a group, by Kubernetes and by its members. Types, and what follows from them alone. Pure.

use std::collections::BTreeMap;

use operator_api::resources::{GroupSpec, GroupStatus};
use operator_api::{LeaderEpoch, MemberStatus, Role};
use serde::Serialize;

/// A kind of custom resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// As it stands in objects.
    pub kind: &'static str,
    /// As it stands in paths.
    pub plural: &'static str,
    /// As people type it.
    pub short: &'static str,
}

/// The kinds there are.
pub(crate) const KINDS: [Kind; 3] = [
    Kind {
        kind: "TftpCluster",
        plural: "tftpclusters",
        short: "tftp",
    },
    Kind {
        kind: "KvCluster",
        plural: "kvclusters",
        short: "kvc",
    },
    Kind {
        kind: "AdcHub",
        plural: "adchubs",
        short: "adc",
    },
];

/// A group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    /// The kind of its resource.
    pub kind: String,
    /// The namespace of everything of it.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// The generation of the specification.
    pub generation: Option<i64>,
    /// Whether the operator keeps its hands off.
    pub is_paused: bool,
    /// Whether clients may come to any member, so that their Service leads to all of them.
    pub serves_everywhere: bool,
    /// What all kinds of specifications share; none when it cannot be read.
    pub spec: Option<GroupSpec>,
    /// What the operator reported.
    pub status: GroupStatus,
    /// Its pods, by name.
    pub pods: BTreeMap<String, Pod>,
    /// What members answered, by name; the text says why one did not.
    pub answers: BTreeMap<String, Result<MemberStatus, String>>,
    /// Where the leader's Service leads to, by the name of the slice.
    pub routes: BTreeMap<String, Route>,
    /// The leader's Service.
    pub address: Option<Address>,
    /// The bound of voluntary disruptions.
    pub budget: Option<Budget>,
    /// The volumes of its members, by the name of the claim.
    pub volumes: BTreeMap<String, Volume>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    /// The node it runs on.
    pub node: Option<String>,
    /// Whether Kubernetes calls it ready.
    pub is_ready: bool,
    /// `Pending`, `Running` ...
    pub phase: String,
    /// How often its container was started again.
    pub restarts: i32,
    /// Why it does not run.
    pub trouble: Option<String>,
}

/// Where the leader's Service leads to.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    /// The pod.
    pub pod: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The reign that was published.
    pub epoch: Option<String>,
}

/// The leader's Service, as clients see it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Address {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub type_: String,
    /// Where it is reached: addresses of the load balancer, else of the cluster.
    pub hosts: Vec<String>,
    /// `69/UDP`, with the node's port after a colon if there is one.
    pub ports: Vec<String>,
    /// Whether it has a selector, which it must not have.
    pub has_selector: bool,
}

/// A PodDisruptionBudget.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Budget {
    /// Pods that may be evicted now.
    pub disruptions_allowed: i32,
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    /// `Bound`, `Pending` or `Lost`.
    pub phase: String,
    /// What was asked for.
    pub requested: Option<String>,
    /// What there is.
    pub capacity: Option<String>,
    /// Of which class.
    pub class: Option<String>,
}

/// A leader as a member described itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leader<'a> {
    /// Its own answer.
    pub status: &'a MemberStatus,
    /// Of its reign.
    pub epoch: LeaderEpoch,
}

impl Group {
    /// `TftpCluster/boot`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// The answers there are.
    pub(crate) fn answered(&self) -> impl Iterator<Item = &MemberStatus> {
        self.answers.values().flatten()
    }

    /// The serving leader: of several that say so, the one of the latest reign.
    pub(crate) fn leader(&self) -> Option<Leader<'_>> {
        self.answered()
            .filter(|status| status.role == Role::Leader && serving(status))
            .filter_map(|status| {
                let epoch = LeaderEpoch {
                    term: status.term,
                    node_id: status.node_id?,
                };
                Some(Leader { status, epoch })
            })
            .max_by_key(|leader| leader.epoch)
    }

    /// How many members are wanted.
    pub(crate) fn wanted(&self) -> usize {
        let replicas = self.spec.as_ref().map_or(0, |spec| spec.replicas);
        usize::try_from(replicas).unwrap_or(0)
    }

    /// Everybody who is a member, has a pod, or is reported as one, in the order of the names' numbers.
    pub(crate) fn names(&self) -> Vec<String> {
        let reported = self.status.members.iter().map(|member| member.name.clone());
        let mut names: Vec<_> = self
            .pods
            .keys()
            .chain(self.answers.keys())
            .cloned()
            .chain(reported)
            .collect();
        names.sort_by_key(|name| {
            let number = name
                .rsplit('-')
                .next()
                .and_then(|digits| digits.parse::<u32>().ok());
            (number.unwrap_or(u32::MAX), name.clone())
        });
        names.dedup();
        names
    }

    /// Log entries that a member is behind the leader; none when nobody knows.
    pub(crate) fn lag(&self, name: &str) -> Option<u64> {
        let leader = self.leader()?.status;
        let detail = leader.detail.as_ref()?;
        if leader.name == name {
            return Some(0);
        }
        let matched = detail
            .members
            .iter()
            .find(|member| member.name == name)
            .and_then(|member| member.matched_index);
        matched.map(|matched| detail.last_log_index.saturating_sub(matched))
    }

    /// A condition of the status.
    pub(crate) fn condition(
        &self,
        type_: &str,
    ) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
        self.status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }
}

fn serving(status: &MemberStatus) -> bool {
    status.detail.as_ref().is_some_and(|detail| detail.serving)
}
