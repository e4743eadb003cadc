//! How a new image or configuration reaches the members.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a new image or configuration reaches the members: one at a time, followers first, the leader last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeSpec {
    /// Who restarts members.
    #[serde(default, rename = "type")]
    pub type_: UpgradeType,
    /// How long a restarted member must be ready and caught up before the next one follows.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub min_ready_seconds: i32,
    /// How long a step may take before the resource is reported as stuck.
    #[serde(default = "default_progress_deadline_seconds")]
    #[schemars(range(min = 10, max = 86400))]
    pub progress_deadline_seconds: i32,
}

impl Default for UpgradeSpec {
    fn default() -> Self {
        Self {
            type_: UpgradeType::default(),
            min_ready_seconds: 0,
            progress_deadline_seconds: default_progress_deadline_seconds(),
        }
    }
}

/// Who restarts members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeType {
    /// The operator.
    #[default]
    RollingUpdate,
    /// Whoever deletes their pods.
    OnDelete,
}

const fn default_progress_deadline_seconds() -> i32 {
    600
}
