//! `TftpCluster`: a replicated TFTP server.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::group::GroupSpec;
use super::quantity::{Quantity, bytes_schema};
use super::sources::TftpSource;
use super::status::GroupStatus;
use super::uploads::TftpUploadRule;
use crate::config::TftpConfig;

/// What a TFTP server should be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "TftpCluster",
    plural = "tftpclusters",
    shortname = "tftp",
    category = "quorate",
    namespaced,
    status = "GroupStatus",
    derive = "PartialEq",
    doc = "A TFTP server that survives its machines: running downloads go on when the leader is lost.",
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
#[x_kube(validation = Rule::new("!self.service.hostNetwork || self.scheduling.spread == 'Required'")
    .message("`scheduling.spread` must be 'Required' with `service.hostNetwork`: members on one node would want the same ports"))]
pub struct TftpClusterSpec {
    /// What all kinds share.
    #[serde(flatten)]
    pub group: GroupSpec,
    /// Bounds of what clients may ask for and of what members keep.
    #[serde(default)]
    pub limits: TftpLimits,
    /// Where the server takes files from by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sources: Vec<TftpSource>,
    /// Which files clients may write; without any rule all uploads are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["prefix".into()]))]
    pub uploads: Vec<TftpUploadRule>,
}

/// Bounds of a TFTP server. Each has the name of the agent's own option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.sessionsPerClientMax <= self.sessionsMax")
    .message("`limits.sessionsPerClientMax` may not be larger than `limits.sessionsMax`"))]
pub struct TftpLimits {
    /// Running transfers in all; a request beyond it is answered with an ERROR (code 0).
    #[serde(default = "sessions_max")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sessions_max: i32,
    /// Running transfers of one client address; a request beyond it is answered with an ERROR (code 0).
    #[serde(default = "sessions_per_client_max")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sessions_per_client_max: i32,
    /// How often a packet is sent again without any sign of the client before its transfer is given up.
    #[serde(default = "retransmissions_max")]
    #[schemars(range(min = 1, max = 1000))]
    pub retransmissions_max: i32,
    /// Seconds without any packet from the client after which its transfer is given up.
    #[serde(default = "idle_seconds_max")]
    #[schemars(range(min = 1, max = 86400))]
    pub idle_seconds_max: i32,
    /// The largest `blksize` (RFC 2348) that is granted.
    #[serde(default = "block_size_max")]
    #[schemars(range(min = 8, max = 65464))]
    pub block_size_max: i32,
    /// The largest `windowsize` (RFC 7440) that is granted.
    #[serde(default = "window_size_max")]
    #[schemars(range(min = 1, max = 65535))]
    pub window_size_max: i32,
    /// Bytes of file content that each member keeps in memory for all transfers together, `64Mi`.
    #[serde(default = "cache_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    pub cache_bytes_max: Quantity,
    /// Bytes that all files together may hold on each member's disk, `1Ti`.
    #[serde(default = "content_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    pub content_bytes_max: Quantity,
    /// Files that the group may hold.
    #[serde(default = "files_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub files_max: i32,
    /// The largest file that a client may upload, `1Gi`.
    #[serde(default = "upload_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    pub upload_bytes_max: Quantity,
}

impl Default for TftpLimits {
    fn default() -> Self {
        Self {
            sessions_max: sessions_max(),
            sessions_per_client_max: sessions_per_client_max(),
            retransmissions_max: retransmissions_max(),
            idle_seconds_max: idle_seconds_max(),
            block_size_max: block_size_max(),
            window_size_max: window_size_max(),
            cache_bytes_max: cache_bytes_max(),
            content_bytes_max: content_bytes_max(),
            files_max: files_max(),
            upload_bytes_max: upload_bytes_max(),
        }
    }
}

const fn sessions_max() -> i32 {
    TftpConfig::default_sessions_max().cast_signed()
}
const fn sessions_per_client_max() -> i32 {
    TftpConfig::default_sessions_per_client_max().cast_signed()
}
const fn retransmissions_max() -> i32 {
    TftpConfig::default_retransmissions_max().cast_signed()
}
const fn idle_seconds_max() -> i32 {
    TftpConfig::default_idle_seconds_max().cast_signed()
}
const fn block_size_max() -> i32 {
    TftpConfig::default_block_size_max() as i32
}
const fn window_size_max() -> i32 {
    TftpConfig::default_window_size_max() as i32
}
fn cache_bytes_max() -> Quantity {
    Quantity("64Mi".to_owned())
}
fn content_bytes_max() -> Quantity {
    Quantity("1Ti".to_owned())
}
const fn files_max() -> i32 {
    TftpConfig::default_files_max().cast_signed()
}
fn upload_bytes_max() -> Quantity {
    Quantity("1Gi".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_resource_are_those_of_the_agent() {
        let agent = TftpConfig::at("0.0.0.0:6969".parse().unwrap());
        let limits: TftpLimits = serde_json::from_str("{}").unwrap();
        assert_eq!(limits, TftpLimits::default());
        assert_eq!(limits.cache_bytes_max.bytes(), Some(agent.cache_bytes_max));
        assert_eq!(limits.content_bytes_max.bytes(), Some(agent.content_bytes_max));
        assert_eq!(limits.upload_bytes_max.bytes(), Some(agent.upload_bytes_max));
        let names = |value: serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let mut expected = names(serde_json::to_value(agent).unwrap());
        expected.retain(|name| !["listen", "sources", "uploads"].contains(&name.as_str()));
        assert_eq!(names(serde_json::to_value(limits).unwrap()), expected);
    }

    #[test]
    fn the_shortest_resource_has_every_default() {
        let spec: TftpClusterSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(spec.group.replicas, 3);
        assert_eq!(spec.group.storage.size.0, "2Gi");
    }
}
