//! What every kind has in common: how many members, and how their pods are run.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Quantity;
use super::scheduling::Scheduling;
use super::service::ServiceSpec;
use super::storage::StorageSpec;
use super::tls::TlsSpec;
use super::upgrade::UpgradeSpec;
use crate::config;

/// The part of a specification that all kinds share. It stands beside the service's own fields, not under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupSpec {
    /// Members of the group. A group of three goes on when one is lost, of five when two are.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(validation = Rule::new("self % 2 == 1").message("`replicas` must be odd: 1, 3, 5 or 7"))]
    pub replicas: i32,
    /// The agent's image. Without it, the image that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[!-~]+$"))]
    pub image: Option<String>,
    /// When the kubelet pulls the image. Without it, as Kubernetes decides from the image's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets of this namespace for the registry that holds the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<LocalName>,
    /// What each pod asks for and may use. A CPU limit throttles heartbeats and so causes elections: none by default.
    #[serde(default)]
    pub resources: Resources,
    /// Where members keep their log, snapshots and files.
    #[serde(default)]
    pub storage: StorageSpec,
    /// How clients reach the leader.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Election timers: `Lan` for one site, `Edge` for slow or lossy links between members.
    #[serde(default)]
    pub timing: Timing,
    /// When a write counts as stored: `Strict` after a majority synced it to disk, `Relaxed` after a majority wrote it.
    #[serde(default)]
    pub durability: Durability,
    /// Where pods may run.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Encryption between members.
    #[serde(default)]
    pub tls: TlsSpec,
    /// Which log lines are written: `off`, `error`, `warn`, `info`, `debug` or `trace`, for all or by module
    /// (`info,tftp=debug`).
    #[serde(default = "default_log_level")]
    #[schemars(
        length(min = 1, max = 256),
        regex(
            pattern = r"^([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace)(,([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace))*$"
        )
    )]
    pub log_level: String,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// How long a stopping member lets running work drain after it handed leadership over.
    #[serde(default = "default_drain_seconds")]
    #[schemars(range(min = 0, max = 600))]
    pub drain_seconds: i32,
    /// How a new image or configuration reaches the members.
    #[serde(default)]
    pub upgrade: UpgradeSpec,
}

/// When the kubelet pulls the image. Without it, as Kubernetes decides from the image's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Before each start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: the node has it.
    Never,
}

/// The name of an object in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalName {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What each pod asks for and may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside (`cpu`, `memory`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// What a pod may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// Election timers, as named profiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Timing {
    /// One site: heartbeat 30 ms, election after 100 to 200 ms.
    #[default]
    Lan,
    /// Slow or lossy links: heartbeat 100 ms, election after 300 to 600 ms.
    Edge,
}

impl From<Timing> for config::Timing {
    fn from(timing: Timing) -> Self {
        match timing {
            Timing::Lan => Self::Lan,
            Timing::Edge => Self::Edge,
        }
    }
}

/// When a write counts as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// Synced to disk on a majority: survives power cuts.
    #[default]
    Strict,
    /// Written, not synced, on a majority: survives killed processes.
    Relaxed,
}

impl From<Durability> for config::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Strict => Self::Strict,
            Durability::Relaxed => Self::Relaxed,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Plain text for people.
    Text,
}

impl From<LogFormat> for config::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Text => Self::Text,
        }
    }
}

const fn default_replicas() -> i32 {
    3
}

fn default_log_level() -> String {
    config::default_log_level()
}

const fn default_drain_seconds() -> i32 {
    config::default_drain_seconds().cast_signed()
}
