//! A resource becomes the one valid description that everything below works from. Pure.
//!
//! The API server has checked the resource against its schema and rules; what only the operator knows is added here.

mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use operator_api::config::{Endpoint, KubernetesConfig, PeerTls};
use operator_api::resources::{self as api, GroupSpec, RestoreType, Spread, TlsMode};
use operator_api::{AgentConfig, ServiceKind};
use sha2::{Digest, Sha256};

use crate::build::{self, ADMIN_PORT, PEER_PORT, TOKEN_KEY};
use crate::kinds::{ClientPort, Group, Mount, restore_file};

pub(crate) use operator_api::resources::{UpgradeSpec, UpgradeType};

/// Where the members' disk is mounted.
pub(crate) const DATA_DIR: &str = "/var/lib/quorate";
/// Where the configuration is mounted.
pub(crate) const CONFIG_DIR: &str = "/etc/quorate/config";
/// Where the token is mounted.
pub(crate) const TOKEN_DIR: &str = "/etc/quorate/token";
/// Where the certificates between peers are mounted.
pub(crate) const PEER_TLS_DIR: &str = "/etc/quorate/peer-tls";
/// Where Kubernetes' clients look for their credentials.
pub(crate) const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the operator was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The agent's image for resources that name none.
    pub agent_image: Option<String>,
    /// The domain of the cluster's names.
    pub cluster_domain: String,
    /// The family that the cluster gives Services that ask for none.
    pub ip_family: IpFamily,
}

/// A group as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Validated {
    /// The resource's name: most objects' names begin with it.
    pub name: String,
    /// The resource's namespace, and that of all its objects.
    pub namespace: String,
    /// The resource as the owner of its objects.
    pub owner: OwnerReference,
    /// The generation of the specification that this is.
    pub generation: Option<i64>,
    /// The service that the group runs.
    pub kind: ServiceKind,
    /// How many members it is to have.
    pub replicas: i32,
    /// Whether the operator is to keep its hands off.
    pub is_paused: bool,
    /// The members' pods.
    pub pod: PodShape,
    /// The members' disks.
    pub storage: Storage,
    /// The clients' Service.
    pub service: ServiceShape,
    /// The ports that clients use.
    pub ports: Vec<ClientPort>,
    /// What members mount besides their own.
    pub mounts: Vec<Mount>,
    /// Whether clients may come to any member.
    pub serves_everywhere: bool,
    /// Whether the group's secret also holds a key for passwords.
    pub keeps_passwords: bool,
    /// The members' configuration.
    pub agent: AgentConfig,
    /// The configuration as it is written.
    pub config_text: String,
    /// What tells one configuration from another.
    pub config_hash: String,
    /// The secret of the certificates between peers, with TLS.
    pub tls_secret: Option<String>,
    /// Whether the operator issues those certificates.
    pub issues_certificates: bool,
    /// Secrets of others whose certificates members read at their start only.
    pub certificates_read_once: Vec<String>,
    /// How a new version reaches the members.
    pub upgrade: UpgradeSpec,
    /// The domain of the cluster's names.
    pub cluster_domain: String,
}

impl Validated {
    /// How many members, as a count.
    pub(crate) fn replicas_usize(&self) -> usize {
        usize::try_from(self.replicas).unwrap_or(0)
    }
}

/// How members' pods are run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodShape {
    pub image: String,
    pub image_pull_policy: Option<&'static str>,
    pub image_pull_secrets: Vec<LocalObjectReference>,
    pub resources: ResourceRequirements,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub priority_class_name: Option<String>,
    pub spread_is_required: bool,
    pub host_network: bool,
}

/// Where members keep their data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Storage {
    /// A volume that outlives its pod.
    Persistent {
        size: Quantity,
        /// The same as a number.
        bytes: u64,
        class: Option<String>,
        /// Whether it outlives the resource too.
        is_kept: bool,
    },
    /// A disk that goes with its pod.
    Ephemeral { size: Quantity },
}

/// How clients reach the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceShape {
    pub type_: &'static str,
    pub annotations: BTreeMap<String, String>,
    pub external_traffic_policy: Option<&'static str>,
    pub load_balancer_class: Option<String>,
    pub load_balancer_source_ranges: Vec<String>,
    pub node_port: Option<i32>,
    /// What the Services say of families; empty when the cluster decides.
    pub ip_families: Vec<IpFamily>,
    pub ip_family_policy: Option<&'static str>,
    /// The families of which the leader's Service has slices.
    pub slices: Vec<IpFamily>,
}

/// A family of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// That of an address without brackets. A name says nothing, and nearly all clusters are of IPv4 first.
    pub(crate) fn of(address: Option<&str>) -> Self {
        match address.map(str::parse) {
            Some(Ok(IpAddr::V6(_))) => Self::V6,
            _ => Self::V4,
        }
    }

    /// As Kubernetes names it, also as a slice's address type.
    pub(crate) const fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Whether an address is of this family.
    pub(crate) fn has(self, address: &str) -> bool {
        address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_ipv4() == (self == Self::V4))
    }
}

/// Why a resource cannot be made real. It has to change first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// There is no image to run.
    #[error("`image` is not set, and the operator was installed without a default image (--agent-image)")]
    NoImage,
    /// An amount that the schema lets through and nobody can mean.
    #[error("`{field}` is '{value}': it must be a whole number of bytes, such as 64Mi")]
    NotBytes {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A number that the schema should have refused.
    #[error("`{field}` is {value}: it must be {expected}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What it says.
        value: i64,
        /// What it may say.
        expected: &'static str,
    },
    /// The service's own check failed.
    #[error("{0}")]
    Service(String),
}

/// Checks a resource and adds what the operator decides.
pub(crate) fn validate<K: Group>(resource: &K, settings: &Settings) -> Result<Validated, Invalid> {
    let spec = resource.group();
    if !(1..=REPLICAS_MAX).contains(&spec.replicas) {
        return Err(Invalid::OutOfRange {
            field: "replicas",
            value: spec.replicas.into(),
            expected: "1, 3, 5 or 7",
        });
    }
    let (name, namespace) = (resource.name_any(), resource.namespace().unwrap_or_default());
    let service = service_shape(spec, settings.ip_family);
    let ports = resource.ports()?;
    let listen = listen_address(&service);
    let mut valid = Validated {
        owner: resource.controller_owner_ref(&()).unwrap_or_default(),
        generation: resource.meta().generation,
        kind: K::SERVICE,
        replicas: spec.replicas,
        is_paused: resource.annotations().get(PAUSE_ANNOTATION).map(String::as_str) == Some("true"),
        pod: pod_shape(spec, settings)?,
        storage: storage(spec)?,
        agent: agent_config(resource, listen, &name)?,
        service,
        ports,
        mounts: resource.mounts(),
        serves_everywhere: resource.serves_everywhere(),
        keeps_passwords: resource.keeps_passwords(),
        config_text: String::new(),
        config_hash: String::new(),
        tls_secret: None,
        issues_certificates: spec.tls.mode == TlsMode::SelfIssued,
        certificates_read_once: resource
            .certificates_read_once()
            .map(str::to_owned)
            .into_iter()
            .collect(),
        upgrade: spec.upgrade.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        name,
        namespace,
    };
    complete(&mut valid, spec);
    Ok(valid)
}

/// What follows from names.
fn complete(valid: &mut Validated, spec: &GroupSpec) {
    valid.tls_secret = match spec.tls.mode {
        TlsMode::Disabled => None,
        TlsMode::SelfIssued => Some(build::tls_secret_name(valid)),
        TlsMode::Secret => spec.tls.secret_ref.as_ref().map(|secret| secret.name.clone()),
    };
    let at = |file: &str| Path::new(PEER_TLS_DIR).join(file);
    valid.agent.peer_tls = valid.tls_secret.as_ref().map(|_| PeerTls {
        ca_file: at("ca.crt"),
        cert_file: at("tls.crt"),
        key_file: at("tls.key"),
        server_name: build::server_name(valid),
    });
    valid.agent.peer.advertise = build::peer_address(valid, "$(POD_NAME)");
    valid.agent.admin.advertise = build::admin_address(valid, "$(POD_NAME)");
    valid.agent.client_address = valid.ports.first().map(|port| {
        format!(
            "{}.{}.svc.{}:{}",
            valid.name, valid.namespace, valid.cluster_domain, port.service_port
        )
    });
    if let Some(kubernetes) = &mut valid.agent.kubernetes {
        kubernetes.leader_slices = valid
            .service
            .slices
            .iter()
            .map(|family| build::slice_name_of(&valid.name, *family))
            .collect();
    }
    valid.config_text = text::config_text(&valid.agent);
    valid.config_hash = hex::encode(&Sha256::digest(valid.config_text.as_bytes())[..HASH_BYTES]);
}

fn agent_config<K: Group>(resource: &K, listen: IpAddr, name: &str) -> Result<AgentConfig, Invalid> {
    let spec = resource.group();
    let endpoint = |port| Endpoint {
        listen: SocketAddr::new(listen, port),
        advertise: name.to_owned(),
    };
    Ok(AgentConfig {
        name: "$(POD_NAME)".to_owned(),
        data_dir: Path::new(DATA_DIR).join("data"),
        peer: endpoint(PEER_PORT),
        admin: endpoint(ADMIN_PORT),
        timing: spec.timing.into(),
        durability: spec.durability.into(),
        peer_tls: None,
        token_file: Some(Path::new(TOKEN_DIR).join(TOKEN_KEY)),
        log_format: spec.log_format.into(),
        log_level: spec.log_level.clone(),
        drain_seconds: u32::try_from(spec.drain_seconds).map_err(|_| Invalid::OutOfRange {
            field: "drainSeconds",
            value: spec.drain_seconds.into(),
            expected: "at least 0",
        })?,
        client_address: None,
        kubernetes: Some(KubernetesConfig {
            namespace: "$(POD_NAMESPACE)".to_owned(),
            leader_slices: Vec::new(),
            pod_name: "$(POD_NAME)".to_owned(),
            pod_uid: "$(POD_UID)".to_owned(),
            pod_ips: "$(POD_IPS)".to_owned(),
            node_name: "$(NODE_NAME)".to_owned(),
            api_server: None,
            service_account_dir: SERVICE_ACCOUNT_DIR.into(),
        }),
        exit_with_stdin: false,
        restore_from: resource.restore_from().map(restore_file),
        accepts_backup: resource
            .restore_from()
            .is_some_and(|from| from.type_ == RestoreType::Upload),
        service: resource.service_config(listen)?,
    })
}

fn pod_shape(spec: &GroupSpec, settings: &Settings) -> Result<PodShape, Invalid> {
    let image = spec
        .image
        .clone()
        .or_else(|| settings.agent_image.clone())
        .ok_or(Invalid::NoImage)?;
    let amounts = |amounts: &BTreeMap<String, api::Quantity>| {
        let amounts: BTreeMap<_, _> = amounts
            .iter()
            .map(|(name, amount)| (name.clone(), Quantity(amount.0.clone())))
            .collect();
        (!amounts.is_empty()).then_some(amounts)
    };
    Ok(PodShape {
        image,
        image_pull_policy: spec.image_pull_policy.map(|policy| match policy {
            api::ImagePullPolicy::Always => "Always",
            api::ImagePullPolicy::IfNotPresent => "IfNotPresent",
            api::ImagePullPolicy::Never => "Never",
        }),
        image_pull_secrets: spec
            .image_pull_secrets
            .iter()
            .map(|secret| LocalObjectReference {
                name: secret.name.clone(),
            })
            .collect(),
        resources: ResourceRequirements {
            requests: amounts(&spec.resources.requests),
            limits: amounts(&spec.resources.limits),
            ..ResourceRequirements::default()
        },
        node_selector: spec.scheduling.node_selector.clone(),
        tolerations: spec.scheduling.tolerations.iter().map(toleration).collect(),
        priority_class_name: spec.scheduling.priority_class_name.clone(),
        spread_is_required: spec.scheduling.spread == Spread::Required,
        host_network: spec.service.host_network,
    })
}

fn toleration(given: &api::Toleration) -> Toleration {
    Toleration {
        key: given.key.clone(),
        operator: Some(
            match given.operator {
                api::TolerationOperator::Equal => "Equal",
                api::TolerationOperator::Exists => "Exists",
            }
            .to_owned(),
        ),
        value: given.value.clone(),
        effect: given.effect.map(|effect| {
            match effect {
                api::TolerationEffect::NoSchedule => "NoSchedule",
                api::TolerationEffect::PreferNoSchedule => "PreferNoSchedule",
                api::TolerationEffect::NoExecute => "NoExecute",
            }
            .to_owned()
        }),
        toleration_seconds: given.toleration_seconds.map(i64::from),
    }
}

fn storage(spec: &GroupSpec) -> Result<Storage, Invalid> {
    let size = Quantity(spec.storage.size.0.clone());
    let bytes = spec.storage.size.bytes().ok_or_else(|| Invalid::NotBytes {
        field: "storage.size",
        value: size.0.clone(),
    })?;
    Ok(match spec.storage.type_ {
        api::StorageType::PersistentVolume => Storage::Persistent {
            size,
            bytes,
            class: spec.storage.storage_class_name.clone(),
            is_kept: spec.storage.when_deleted == api::WhenDeleted::Retain,
        },
        api::StorageType::Ephemeral => Storage::Ephemeral { size },
    })
}

fn service_shape(spec: &GroupSpec, usual: IpFamily) -> ServiceShape {
    let given = &spec.service;
    let ip_families: Vec<_> = given
        .ip_families
        .iter()
        .map(|family| match family {
            api::IpFamily::IPv4 => IpFamily::V4,
            api::IpFamily::IPv6 => IpFamily::V6,
        })
        .collect();
    let slices = match ip_families.as_slice() {
        [] => vec![usual],
        families => families.to_vec(),
    };
    let ip_family_policy = match ip_families.as_slice() {
        [] => None,
        [_] => Some("SingleStack"),
        _ => Some("RequireDualStack"),
    };
    ServiceShape {
        type_: match given.type_ {
            api::ServiceType::ClusterIP => "ClusterIP",
            api::ServiceType::NodePort => "NodePort",
            api::ServiceType::LoadBalancer => "LoadBalancer",
        },
        annotations: given.annotations.clone(),
        external_traffic_policy: given.external_traffic_policy.map(|policy| match policy {
            api::ExternalTrafficPolicy::Cluster => "Cluster",
            api::ExternalTrafficPolicy::Local => "Local",
        }),
        load_balancer_class: given.load_balancer_class.clone(),
        load_balancer_source_ranges: given.load_balancer_source_ranges.clone(),
        node_port: given.node_port,
        ip_families,
        ip_family_policy,
        slices,
    }
}

/// `[::]` takes both families, and fails on nodes that have no IPv6 at all.
fn listen_address(service: &ServiceShape) -> IpAddr {
    if service.slices.contains(&IpFamily::V6) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// With the value `true` the operator looks on and changes nothing.
pub(crate) const PAUSE_ANNOTATION: &str = "quorate.dev/pause";

/// As the schema says.
const REPLICAS_MAX: i32 = 7;

/// Of the configuration's SHA-256, in the name of its ConfigMap: two of one resource never meet.
const HASH_BYTES: usize = 5;
