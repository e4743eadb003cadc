//! The members' configuration, the same for all: what differs is filled in from the pod's environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use super::names::config_map_name;
use crate::validate::Validated;

/// The key, which is the mounted file's name.
pub(super) const CONFIG_KEY: &str = "config.json";

pub(super) fn config_map(service: &Validated) -> ConfigMap {
    ConfigMap {
        metadata: metadata(service, config_map_name(service)),
        data: Some(BTreeMap::from([(
            CONFIG_KEY.to_owned(),
            service.config_text.clone(),
        )])),
        // Its name holds the hash of its text.
        immutable: Some(true),
        ..ConfigMap::default()
    }
}
