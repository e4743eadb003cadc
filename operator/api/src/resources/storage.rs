//! Where members keep their log, snapshots and files.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::{Quantity, bytes_schema};

/// A disk for each member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == oldSelf.type").message("`storage.type` may not be changed"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && \
            (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("`storage.storageClassName` may not be changed"),
    validation = Rule::new("self.type != 'Ephemeral' || !has(self.storageClassName)")
        .message("`storage.storageClassName` may not be set with type 'Ephemeral'"),
    validation = Rule::new("self.type != 'Ephemeral' || self.whenDeleted == 'Delete'")
        .message("`storage.whenDeleted` must be 'Delete' with type 'Ephemeral'")
)]
pub struct StorageSpec {
    /// A volume that outlives its pod, or a disk that goes with it.
    #[serde(default, rename = "type")]
    pub type_: StorageType,
    /// Bytes for each member, `10Gi`; at least 256Mi. Volumes grow where their storage class allows it, and never shrink.
    #[serde(default = "default_size")]
    #[schemars(schema_with = "bytes_schema")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('256Mi')) >= 0")
        .message("`storage.size` must be at least 256Mi"))]
    pub size: Quantity,
    /// The storage class of the volumes; the cluster's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes when the resource is deleted. The volume of a member that is scaled away is always
    /// deleted: it must not vote again.
    #[serde(default)]
    pub when_deleted: WhenDeleted,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            type_: StorageType::default(),
            size: default_size(),
            storage_class_name: None,
            when_deleted: WhenDeleted::default(),
        }
    }
}

/// What kind of disk a member has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    /// A PersistentVolumeClaim: a restarted member goes on where it was.
    #[default]
    PersistentVolume,
    /// A disk that goes with the pod: a restarted member is a new one and copies everything from the others.
    Ephemeral,
}

/// What becomes of the volumes when the resource is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// They stay.
    #[default]
    Retain,
    /// They are deleted with it.
    Delete,
}

fn default_size() -> Quantity {
    Quantity("2Gi".to_owned())
}
