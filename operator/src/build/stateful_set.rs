//! The members' pods.
//!
//! `OnDelete`: who is replaced when is the operator's decision (`plan.rs`), since Kubernetes knows no leader.
//! `Parallel`: members need each other to become ready.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, ConfigMapVolumeSource, Container, ContainerPort,
    DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    KeyToPath, ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, SeccompProfile, SecretVolumeSource,
    SecurityContext, ServiceAccountTokenProjection, TopologySpreadConstraint, Volume, VolumeMount,
    VolumeProjection, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use operator_api::config::VARIABLES;

use super::config_map::CONFIG_KEY;
use super::names::{config_map_name, labels, members_service_name, selector, token_secret_name};
use super::{Surroundings, metadata};
use crate::validate::{
    CONFIG_DIR, DATA_DIR, PEER_TLS_DIR, SERVICE_ACCOUNT_DIR, Storage, TOKEN_DIR, Validated,
};

/// Peers' port in every pod.
pub(crate) const PEER_PORT: u16 = 7400;

/// The admin port in every pod: probes, metrics, status, membership.
pub(crate) const ADMIN_PORT: u16 = 9400;

/// The generation of the resource that the StatefulSet was made for: until it is the newest one, nobody knows whether pods
/// are to be replaced. It is no part of the template, and so replaces none.
pub(crate) const GENERATION_ANNOTATION: &str = "quorate.dev/generation";

/// The certificates that others keep in Secrets, hashed: on the StatefulSet those that are there, on its pods those for
/// which they were replaced.
pub(crate) const CERTIFICATES_ANNOTATION: &str = "quorate.dev/certificates";

/// On the StatefulSet, too, those for which its pods were replaced: its template is not kept in memory.
pub(crate) const PODS_CERTIFICATES_ANNOTATION: &str = "quorate.dev/pods-certificates";

/// The name of the claim in the template; a member's claim is `data-<pod>`.
pub(crate) const DATA_CLAIM: &str = "data";

pub(super) fn stateful_set(service: &Validated, around: &Surroundings) -> StatefulSet {
    let (claims, retention) = claims(service, around);
    let generation = service.generation.map(|generation| generation.to_string());
    let certificates = &around.certificates;
    StatefulSet {
        metadata: ObjectMeta {
            annotations: annotations([
                (GENERATION_ANNOTATION, generation),
                (CERTIFICATES_ANNOTATION, certificates.seen.clone()),
                (PODS_CERTIFICATES_ANNOTATION, certificates.pods.clone()),
            ]),
            ..metadata(service, service.name.clone())
        },
        spec: Some(StatefulSetSpec {
            replicas: Some(around.pods),
            service_name: Some(members_service_name(service)),
            selector: LabelSelector {
                match_labels: Some(selector(service)),
                ..LabelSelector::default()
            },
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            min_ready_seconds: Some(service.upgrade.min_ready_seconds),
            volume_claim_templates: claims,
            persistent_volume_claim_retention_policy: retention,
            // The running revision and the one before it: all that a roll-back needs.
            revision_history_limit: Some(2),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(service)),
                    annotations: annotations([(CERTIFICATES_ANNOTATION, certificates.pods.clone())]),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(service)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Those that have a value; none when there are none.
fn annotations<const N: usize>(all: [(&str, Option<String>); N]) -> Option<BTreeMap<String, String>> {
    let there = all.into_iter();
    let there: BTreeMap<_, _> = there
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    (!there.is_empty()).then_some(there)
}

/// A disk that a removed member leaves behind must never vote again: it goes with the member.
fn claims(
    service: &Validated,
    around: &Surroundings,
) -> (
    Option<Vec<PersistentVolumeClaim>>,
    Option<StatefulSetPersistentVolumeClaimRetentionPolicy>,
) {
    let Storage::Persistent {
        size, class, is_kept, ..
    } = &service.storage
    else {
        return (None, None);
    };
    let size = around.volume_size.as_ref().unwrap_or(size);
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_CLAIM.to_owned()),
            labels: Some(selector(service)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size.clone())])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    };
    let when_deleted = if *is_kept { "Retain" } else { "Delete" };
    let retention = StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some(when_deleted.to_owned()),
        when_scaled: Some("Delete".to_owned()),
    };
    (Some(vec![claim]), Some(retention))
}

fn pod(service: &Validated) -> PodSpec {
    let shape = &service.pod;
    PodSpec {
        service_account_name: Some(service.name.clone()),
        // The token is mounted below, with a life of its own.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        host_network: shape.host_network.then_some(true),
        dns_policy: shape.host_network.then(|| "ClusterFirstWithHostNet".to_owned()),
        image_pull_secrets: non_empty(&shape.image_pull_secrets),
        node_selector: (!shape.node_selector.is_empty()).then(|| shape.node_selector.clone()),
        tolerations: non_empty(&shape.tolerations),
        priority_class_name: shape.priority_class_name.clone(),
        topology_spread_constraints: Some(spread(service)),
        termination_grace_period_seconds: Some(
            service.agent.drain_seconds.saturating_add(STOP_SECONDS).into(),
        ),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(service)],
        volumes: Some(volumes(service)),
        ..PodSpec::default()
    }
}

/// A node, then a zone, should not take a quorum away.
fn spread(service: &Validated) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str, is_required: bool| TopologySpreadConstraint {
        label_selector: Some(LabelSelector {
            match_labels: Some(selector(service)),
            ..LabelSelector::default()
        }),
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: if is_required {
            "DoNotSchedule"
        } else {
            "ScheduleAnyway"
        }
        .to_owned(),
        ..TopologySpreadConstraint::default()
    };
    vec![
        over("kubernetes.io/hostname", service.pod.spread_is_required),
        over("topology.kubernetes.io/zone", false),
    ]
}

fn container(service: &Validated) -> Container {
    let shape = &service.pod;
    let port = |name: &str, number: u16, protocol: &str| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    };
    let clients = service.ports.iter().flat_map(|client| {
        let member = client
            .member_port
            .map(|number| port(&format!("{}-member", client.name), number, client.protocol));
        [port(client.name, client.pod_port, client.protocol)]
            .into_iter()
            .chain(member)
    });
    Container {
        name: "agent".to_owned(),
        image: Some(shape.image.clone()),
        image_pull_policy: shape.image_pull_policy.map(str::to_owned),
        args: Some(vec![
            "run".to_owned(),
            "--config".to_owned(),
            format!("{CONFIG_DIR}/{CONFIG_KEY}"),
        ]),
        env: Some(VARIABLES.map(|(name, field)| from_field(name, field)).to_vec()),
        ports: Some(
            clients
                .chain([port("peer", PEER_PORT, "TCP"), port("admin", ADMIN_PORT, "TCP")])
                .collect(),
        ),
        resources: Some(shape.resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        // Health never depends on the role nor on other members: a restart would help against neither.
        startup_probe: Some(probe("/healthz", 1, 60)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        volume_mounts: Some(mounts(service)),
        ..Container::default()
    }
}

fn from_field(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: field.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn mounts(service: &Validated) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, is_written: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: (!is_written).then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount(DATA_CLAIM, DATA_DIR, true),
        mount("config", CONFIG_DIR, false),
        mount("token", TOKEN_DIR, false),
        mount("kubernetes", SERVICE_ACCOUNT_DIR, false),
    ];
    if service.tls_secret.is_some() {
        mounts.push(mount("peer-tls", PEER_TLS_DIR, false));
    }
    let others = service.mounts.iter();
    mounts.extend(others.map(|other| mount(&other.volume.name, &other.path, false)));
    mounts
}

fn volumes(service: &Validated) -> Vec<Volume> {
    let secret = |volume: &str, name: String| Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map_name(service),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        secret("token", token_secret_name(service)),
        kubernetes_volume(),
    ];
    if let Some(name) = &service.tls_secret {
        volumes.push(secret("peer-tls", name.clone()));
    }
    volumes.extend(service.mounts.iter().map(|other| other.volume.clone()));
    if let Storage::Ephemeral { size } = &service.storage {
        volumes.push(Volume {
            name: DATA_CLAIM.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(size.clone()),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

/// What Kubernetes mounts by itself into pods that want it, with a token that is renewed and dies with the pod.
fn kubernetes_volume() -> Volume {
    Volume {
        name: "kubernetes".to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(SECRET_MODE),
            sources: Some(vec![
                VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        expiration_seconds: Some(TOKEN_SECONDS),
                        path: "token".to_owned(),
                        ..ServiceAccountTokenProjection::default()
                    }),
                    ..VolumeProjection::default()
                },
                VolumeProjection {
                    config_map: Some(ConfigMapProjection {
                        name: "kube-root-ca.crt".to_owned(),
                        items: Some(vec![KeyToPath {
                            key: "ca.crt".to_owned(),
                            path: "ca.crt".to_owned(),
                            ..KeyToPath::default()
                        }]),
                        ..ConfigMapProjection::default()
                    }),
                    ..VolumeProjection::default()
                },
                VolumeProjection {
                    downward_api: Some(DownwardAPIProjection {
                        items: Some(vec![DownwardAPIVolumeFile {
                            path: "namespace".to_owned(),
                            field_ref: Some(ObjectFieldSelector {
                                field_path: "metadata.namespace".to_owned(),
                                ..ObjectFieldSelector::default()
                            }),
                            ..DownwardAPIVolumeFile::default()
                        }]),
                    }),
                    ..VolumeProjection::default()
                },
            ]),
        }),
        ..Volume::default()
    }
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Not root, and the same as `nobody` in images without a user database.
const USER: i64 = 65_532;

/// Readable by the group of the pod.
const SECRET_MODE: i32 = 0o440;

/// What Kubernetes gives to pods itself: an hour, and a little for late renewals.
const TOKEN_SECONDS: i64 = 3607;

/// Beyond `drainSeconds`: leadership is handed over, the log is synced and closed.
const STOP_SECONDS: u32 = 25;
