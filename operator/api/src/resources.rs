//! The custom resources of `quorate.dev/v1alpha1`: what people ask for, and what the operator answers.
//!
//! Types only. Their schemas, with the rules that the API server itself checks (CEL), are generated from here into
//! `crds/` by `quorate-operator crds`. They keep the API conventions of Kubernetes: no unsigned number, no float,
//! durations in `...Seconds`, every list and text bounded, unions with a `type`.
//!
//! A field of a resource and the field of the [agent's configuration](crate::config) that it becomes have one name.

mod adc;
mod group;
mod kv;
mod quantity;
mod restore;
mod scheduling;
mod service;
mod sources;
mod status;
mod storage;
mod tftp;
mod tls;
mod upgrade;
mod uploads;

pub use adc::{
    AdcAdmission, AdcHub, AdcHubOptions, AdcHubSpec, AdcLimits, AdcRegisteredUsers, FloodLimits, Frontends,
    Rate,
};
pub use group::{Durability, GroupSpec, ImagePullPolicy, LocalName, LogFormat, Resources, Timing};
pub use kv::{KvCluster, KvClusterSpec, KvConflictPolicy, KvConflicts, KvLimits, KvTokens};
pub use quantity::Quantity;
pub use restore::{BackupSecret, BackupVolume, RestoreFrom, RestoreType};
pub use scheduling::{Scheduling, Spread, Toleration, TolerationEffect, TolerationOperator};
pub use service::{ExternalTrafficPolicy, IpFamily, ServiceSpec, ServiceType};
pub use sources::{ConfigMapFiles, HttpFile, TftpSource, TftpSourceType, VolumeFiles};
pub use status::{
    GroupStatus, InitializationState, InitializationStatus, LeaderRef, MemberReport, MemberRole, UpgradeStep,
};
pub use storage::{StorageSpec, StorageType, WhenDeleted};
pub use tftp::{TftpCluster, TftpClusterSpec, TftpLimits};
pub use tls::{ClientTls, TlsMode, TlsSpec};
pub use upgrade::{UpgradeSpec, UpgradeType};
pub use uploads::TftpUploadRule;

/// The API group of the custom resources, and the prefix of our labels and annotations.
pub const API_GROUP: &str = "quorate.dev";
