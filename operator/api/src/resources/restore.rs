//! A backup that a new group begins with.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A backup that the group begins with: what `kubectl quorate backup` or `quorate-agent backup` wrote. It is used once,
/// when the group is founded, and means nothing afterwards; it may be taken out then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'Secret') == has(self.secret)")
        .message("`secret` must be set with type 'Secret', and may not be set otherwise"),
    validation = Rule::new("(self.type == 'PersistentVolumeClaim') == has(self.persistentVolumeClaim)")
        .message("`persistentVolumeClaim` must be set with type 'PersistentVolumeClaim', and may not be set otherwise")
)]
pub struct RestoreFrom {
    /// Where it comes from.
    #[serde(rename = "type")]
    pub type_: RestoreType,
    /// It is in a Secret, which holds up to a megabyte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BackupSecret>,
    /// It is a file of a volume that every member can mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<BackupVolume>,
}

/// Where a backup comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestoreType {
    /// A Secret of the same namespace.
    Secret,
    /// A PersistentVolumeClaim of the same namespace, mounted read-only.
    PersistentVolumeClaim,
    /// `kubectl quorate restore NAME FILE` sends it; until then the group waits.
    Upload,
}

/// It is in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSecret {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key with the backup's bytes.
    #[serde(default = "backup_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// It is a file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupVolume {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The file's path on the volume, without a slash at its beginning.
    #[schemars(
        length(min = 1, max = 1000),
        regex(pattern = r"^[^/\s.][^/\s]*(/[^/\s.][^/\s]*)*$")
    )]
    pub path: String,
}

fn backup_key() -> String {
    "backup".to_owned()
}
