//! `KvCluster`: a replicated key-value store.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group::{GroupSpec, LocalName};
use super::quantity::{Quantity, bytes_schema};
use super::restore::RestoreFrom;
use super::status::GroupStatus;
use super::tls::ClientTls;
use crate::config::{self, KvConfig};

/// What a key-value store should be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    shortname = "kvc",
    category = "quorate",
    namespaced,
    status = "GroupStatus",
    derive = "PartialEq",
    doc = "A key-value store over HTTP that survives its machines: what it acknowledged is on a majority of disks.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader.name"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.membersReady"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Route", type_ = "string", json_path = ".status.route", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("the name may have at most 40 characters: names of pods and Services begin with it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must begin with a letter and have only lowercase letters, digits and '-': it names Services")
)]
#[x_kube(
    validation = Rule::new("!self.service.hostNetwork || self.scheduling.spread == 'Required'")
        .message("`scheduling.spread` must be 'Required' with `service.hostNetwork`: members on one node would want the same ports"),
    validation = Rule::new("!has(self.restoreFrom) || (has(oldSelf.restoreFrom) && self.restoreFrom == oldSelf.restoreFrom)")
        .message("`restoreFrom` may be taken out, but not be added or changed: it is for a new group")
)]
pub struct KvClusterSpec {
    /// What all kinds share.
    #[serde(flatten)]
    pub group: GroupSpec,
    /// Bounds of what clients may ask for.
    #[serde(default)]
    pub limits: KvLimits,
    /// What happens to a write that a member remembered while it had no quorum, when a quorum wrote its key meanwhile. The
    /// longest prefix counts; keys without one are stored when they arrive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(one, self.exists_one(other, other.prefix == one.prefix))")
            .message("each prefix may stand once in `conflicts`")
    )]
    pub conflicts: Vec<KvConflicts>,
    /// Who may read and write. Without it everybody who reaches the store may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<KvTokens>,
    /// TLS for clients; they connect in plain without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
    /// A backup that the group begins with. Without it the store begins empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
}

/// Who may read and write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvTokens {
    /// A Secret with the key `tokens.json`:
    /// `{"tokens": [{"name": ..., "token": ..., "access": "read" | "write" | "admin", "prefix": ...}]}`. Changes count within a
    /// minute or two, without a restart.
    pub secret_ref: LocalName,
}

/// What happens to remembered writes of some keys on a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvConflicts {
    /// How the keys begin; empty for all keys.
    #[schemars(length(max = 512))]
    pub prefix: String,
    /// What happens.
    pub policy: KvConflictPolicy,
}

/// What happens to a remembered write when a quorum wrote its key meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KvConflictPolicy {
    /// It is stored when it arrives.
    Arrival,
    /// It is stored only if the key is as it was when it was accepted.
    Base,
    /// The later one stays, by the members' clocks.
    Latest,
    /// It is stored only if the quorum holds no value for the key.
    KeepQuorum,
}

impl From<&KvConflicts> for config::KvConflicts {
    fn from(conflicts: &KvConflicts) -> Self {
        Self {
            prefix: conflicts.prefix.clone(),
            policy: match conflicts.policy {
                KvConflictPolicy::Arrival => config::KvConflictPolicy::Arrival,
                KvConflictPolicy::Base => config::KvConflictPolicy::Base,
                KvConflictPolicy::Latest => config::KvConflictPolicy::Latest,
                KvConflictPolicy::KeepQuorum => config::KvConflictPolicy::KeepQuorum,
            },
        }
    }
}

/// Bounds of a key-value store. Each has the name of the agent's own option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvLimits {
    /// The largest value, at most 1536Ki.
    #[serde(default = "value_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('1')) >= 0 && \
            quantity(string(self)).compareTo(quantity('1536Ki')) <= 0")
        .message("`limits.valueBytesMax` must be from 1 to 1536Ki"))]
    pub value_bytes_max: Quantity,
    /// Client connections of each member; further ones wait.
    #[serde(default = "connections_max")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: i32,
    /// Seconds for which a caller whose request is in doubt waits after its timeout, before it is told that nobody knows.
    #[serde(default = "unknown_after_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub unknown_after_seconds: i32,
    /// Bytes of keys, values and journals that the group holds, `256Mi`; what would grow beyond it is refused. All of it is
    /// in every member's memory.
    #[serde(default = "storage_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('1')) >= 0")
        .message("`limits.storageBytesMax` must be at least 1"))]
    pub storage_bytes_max: Quantity,
}

impl Default for KvLimits {
    fn default() -> Self {
        Self {
            value_bytes_max: value_bytes_max(),
            connections_max: connections_max(),
            unknown_after_seconds: unknown_after_seconds(),
            storage_bytes_max: storage_bytes_max(),
        }
    }
}

fn value_bytes_max() -> Quantity {
    Quantity("1536Ki".to_owned())
}
const fn connections_max() -> i32 {
    KvConfig::default_connections_max().cast_signed()
}

fn storage_bytes_max() -> Quantity {
    Quantity("256Mi".to_owned())
}
const fn unknown_after_seconds() -> i32 {
    KvConfig::default_unknown_after_seconds().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_resource_are_those_of_the_agent() {
        let address = "0.0.0.0:2390".parse().unwrap();
        let agent = KvConfig::at(address, address);
        let limits: KvLimits = serde_json::from_str("{}").unwrap();
        assert_eq!(limits, KvLimits::default());
        assert_eq!(limits.value_bytes_max.bytes(), Some(agent.value_bytes_max.into()));
        assert_eq!(limits.storage_bytes_max.bytes(), Some(agent.storage_bytes_max));
        let names = |value: serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let options = names(serde_json::to_value(agent).unwrap());
        for limit in names(serde_json::to_value(limits).unwrap()) {
            assert!(options.contains(&limit), "the agent has no option {limit}");
        }
    }
}
