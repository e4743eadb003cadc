//! Where a TFTP server takes files from by itself.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group::LocalName;
use super::quantity::{Quantity, bytes_schema};

/// A source of files: the group's files are kept the same as the source's. A file that people put is never touched, also
/// when a source has one of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'ConfigMap') == has(self.configMap)")
        .message("`configMap` must be set with type 'ConfigMap', and may not be set otherwise"),
    validation = Rule::new("(self.type == 'PersistentVolumeClaim') == has(self.persistentVolumeClaim)")
        .message("`persistentVolumeClaim` must be set with type 'PersistentVolumeClaim', and may not be set otherwise"),
    validation = Rule::new("(self.type == 'Http') == has(self.http)")
        .message("`http` must be set with type 'Http', and may not be set otherwise")
)]
pub struct TftpSource {
    /// The source's name, unique and stable: files remember it.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// What kind of source it is.
    #[serde(rename = "type")]
    pub type_: TftpSourceType,
    /// The files are the keys of a ConfigMap; its changes follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapFiles>,
    /// The files are those of a volume that every member can mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<VolumeFiles>,
    /// One file, from a web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpFile>,
}

/// What kind of source it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TftpSourceType {
    /// A ConfigMap of the same namespace.
    ConfigMap,
    /// A PersistentVolumeClaim of the same namespace, mounted read-only.
    PersistentVolumeClaim,
    /// A download.
    Http,
}

/// The files are the keys of a ConfigMap; its changes follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapFiles {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// What is put before each file's name, without a slash at its ends.
    #[serde(default)]
    #[schemars(length(max = 200), regex(pattern = r"^([^/\s]+(/[^/\s]+)*)?$"))]
    pub prefix: String,
}

/// The files are those of a volume that every member can mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeFiles {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// What is put before each file's name, without a slash at its ends.
    #[serde(default)]
    #[schemars(length(max = 200), regex(pattern = r"^([^/\s]+(/[^/\s]+)*)?$"))]
    pub prefix: String,
}

/// One file, from a web server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpFile {
    /// Where it is.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[!-~]+$"))]
    pub url: String,
    /// The SHA-256 of its bytes, in hexadecimal: anything else is refused.
    #[schemars(length(min = 64, max = 64), regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256: String,
    /// The name that clients ask for.
    #[schemars(length(min = 1, max = 500), regex(pattern = r"^[^/\s]+(/[^/\s]+)*$"))]
    pub path: String,
    /// The largest file that is taken, `1Gi`.
    #[serde(default = "bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    pub bytes_max: Quantity,
    /// A ConfigMap with `ca.crt`: the authorities that the server's certificate may come from. `https://` needs it,
    /// unless the image brings authorities along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<LocalName>,
}

fn bytes_max() -> Quantity {
    Quantity("1Gi".to_owned())
}
