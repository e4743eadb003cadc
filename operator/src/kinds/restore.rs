//! The backup that a group begins with: where members find it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{KeyToPath, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume};
use operator_api::resources::RestoreFrom;

use super::{Mount, SECRET_MODE};
use crate::validate::DATA_DIR;

/// The file, as the member that founds the group sees it.
pub(crate) fn file(from: &RestoreFrom) -> PathBuf {
    match (&from.secret, &from.persistent_volume_claim) {
        (Some(_), _) => Path::new(RESTORE_DIR).join(FILE),
        (_, Some(volume)) => Path::new(RESTORE_DIR).join(&volume.path),
        // Beside the member's data, which must not hold anything else.
        (None, None) => Path::new(DATA_DIR).join(FILE),
    }
}

/// What members mount for it.
pub(super) fn mount(from: &RestoreFrom) -> Option<Mount> {
    let secret = from.secret.as_ref().map(|secret| SecretVolumeSource {
        secret_name: Some(secret.name.clone()),
        items: Some(vec![KeyToPath {
            key: secret.key.clone(),
            path: FILE.to_owned(),
            ..KeyToPath::default()
        }]),
        default_mode: Some(SECRET_MODE),
        // The group needs it once: it may be deleted afterwards.
        optional: Some(true),
    });
    let claim = from
        .persistent_volume_claim
        .as_ref()
        .map(|volume| PersistentVolumeClaimVolumeSource {
            claim_name: volume.claim_name.clone(),
            read_only: Some(true),
        });
    let has_file = secret.is_some() || claim.is_some();
    has_file.then(|| Mount {
        volume: Volume {
            name: "restore".to_owned(),
            secret,
            persistent_volume_claim: claim,
            ..Volume::default()
        },
        path: RESTORE_DIR.to_owned(),
    })
}

/// Where a backup is mounted.
const RESTORE_DIR: &str = "/etc/quorate/restore";

/// What it is called there.
const FILE: &str = "backup";

#[cfg(test)]
mod tests {
    use operator_api::AgentConfig;
    use operator_api::resources::{AdcHub, KvCluster};
    use serde_json::json;

    use crate::build::{self, Surroundings};
    use crate::kinds::Group;
    use crate::plan::Certificates;
    use crate::validate::{IpFamily, Settings, validate};

    /// The members' configuration, and their pods.
    fn members(from: serde_json::Value) -> (AgentConfig, serde_json::Value) {
        members_of::<KvCluster>("KvCluster", from)
    }

    fn members_of<K: Group>(kind: &str, from: serde_json::Value) -> (AgentConfig, serde_json::Value) {
        let resource: K = serde_json::from_value(json!({
            "apiVersion": "quorate.dev/v1alpha1", "kind": kind,
            "metadata": {"name": "settings", "namespace": "racks"}, "spec": {"restoreFrom": from},
        }))
        .unwrap();
        let settings = Settings {
            agent_image: Some("agent:1".to_owned()),
            cluster_domain: "cluster.local".to_owned(),
            ip_family: IpFamily::V4,
        };
        let service = validate(&resource, &settings).unwrap();
        let around = Surroundings {
            pods: 3,
            has_pod_monitors: false,
            volume_size: None,
            certificates: Certificates::default(),
            is_between_stateful_sets: false,
        };
        let children = build::children(&service, &around);
        let pods = children.iter().find(|child| child.api.kind == "StatefulSet");
        let read = serde_json::from_str(&service.config_text).unwrap();
        (read, pods.unwrap().body["spec"]["template"]["spec"].clone())
    }

    fn volume(pod: &serde_json::Value) -> Option<&serde_json::Value> {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == "restore")
    }

    #[test]
    fn members_of_a_hub_find_it_there_too() {
        let from = json!({"type": "Secret", "secret": {"name": "old"}});
        let (config, pod) = members_of::<AdcHub>("AdcHub", from.clone());
        assert_eq!(config.restore_from, members(from).0.restore_from);
        assert_eq!(volume(&pod).unwrap()["secret"]["secretName"], json!("old"));
    }

    #[test]
    fn members_find_the_backup_where_it_is() {
        let (config, pod) = members(json!({"type": "Secret", "secret": {"name": "old"}}));
        assert_eq!(config.restore_from, Some("/etc/quorate/restore/backup".into()));
        assert!(!config.accepts_backup);
        let secret = &volume(&pod).unwrap()["secret"];
        assert_eq!(
            (&secret["secretName"], &secret["optional"]),
            (&json!("old"), &json!(true))
        );
        assert_eq!(secret["items"], json!([{"key": "backup", "path": "backup"}]));

        let claim = json!({"claimName": "backups", "path": "2026/kv.backup"});
        let (config, pod) = members(json!({"type": "PersistentVolumeClaim", "persistentVolumeClaim": claim}));
        assert_eq!(
            config.restore_from,
            Some("/etc/quorate/restore/2026/kv.backup".into())
        );
        assert_eq!(
            volume(&pod).unwrap()["persistentVolumeClaim"],
            json!({"claimName": "backups", "readOnly": true})
        );

        let (config, pod) = members(json!({"type": "Upload"}));
        let file = config.restore_from.clone().unwrap();
        // On the member's disk, and outside its data.
        assert!(file.starts_with("/var/lib/quorate") && !file.starts_with(&config.data_dir));
        assert!(config.accepts_backup && volume(&pod).is_none());
    }
}
