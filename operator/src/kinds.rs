//! The kinds of resources: what tells one service from another, for the operator. Everything else is the same for all.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume,
};
use kube::Resource;
use operator_api::ServiceKind;
use operator_api::config::{FileSource, KvConfig, ServerTls, ServiceConfig, TftpConfig, UploadRule};
use operator_api::resources::{
    ClientTls, GroupSpec, GroupStatus, KvCluster, LocalName, Quantity, RestoreFrom, TftpCluster, TftpSource,
    TftpUploadRule,
};
use serde::de::DeserializeOwned;

use crate::validate::Invalid;

pub(crate) use restore::file as restore_file;

/// A kind of custom resource.
pub(crate) trait Group:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The service that its members run.
    const SERVICE: ServiceKind;

    /// What all kinds share.
    fn group(&self) -> &GroupSpec;

    /// What the operator reported last.
    fn status(&self) -> Option<&GroupStatus>;

    /// The service's part of the members' configuration.
    fn service_config(&self, listen: IpAddr) -> Result<ServiceConfig, Invalid>;

    /// The ports that clients use.
    fn ports(&self) -> Result<Vec<ClientPort>, Invalid>;

    /// What members mount besides their own.
    fn mounts(&self) -> Vec<Mount> {
        Vec::new()
    }

    /// Whether clients may come to any member: their Service leads to all of them then, and another one to the leader.
    fn serves_everywhere(&self) -> bool {
        false
    }

    /// The backup that the group begins with, if any.
    fn restore_from(&self) -> Option<&RestoreFrom> {
        None
    }

    /// The Secret of certificates that members read at their start only, beside those between peers.
    fn certificates_read_once(&self) -> Option<&str> {
        None
    }

    /// Whether the group's secret also holds a key for passwords.
    fn keeps_passwords(&self) -> bool {
        false
    }
}

/// A port that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientPort {
    /// Its name in the Service, the slice and the pod.
    pub name: &'static str,
    /// `UDP` or `TCP`.
    pub protocol: &'static str,
    /// The Service's port.
    pub service_port: u16,
    /// The members' port.
    pub pod_port: u16,
    /// Where every member answers, whoever leads, if the service has such a port: `-read` leads there.
    pub member_port: Option<u16>,
}

impl ClientPort {
    /// Where the clients' Service leads to at the leader's pod. A port that the pod keeps open when another leads refuses
    /// nobody in the moment before all nodes know the new route.
    pub(crate) fn route_port(&self) -> u16 {
        self.member_port.unwrap_or(self.pod_port)
    }
}

/// Files that members only read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mount {
    /// The volume.
    pub volume: Volume,
    /// Where it is mounted.
    pub path: String,
}

mod adc;
mod restore;

impl Group for TftpCluster {
    const SERVICE: ServiceKind = ServiceKind::Tftp;

    fn group(&self) -> &GroupSpec {
        &self.spec.group
    }

    fn status(&self) -> Option<&GroupStatus> {
        self.status.as_ref()
    }

    fn service_config(&self, listen: IpAddr) -> Result<ServiceConfig, Invalid> {
        let limits = &self.spec.limits;
        let config = TftpConfig {
            listen: SocketAddr::new(listen, Self::SERVICE.client_port()),
            sessions_max: number("limits.sessionsMax", limits.sessions_max)?,
            sessions_per_client_max: number("limits.sessionsPerClientMax", limits.sessions_per_client_max)?,
            retransmissions_max: number("limits.retransmissionsMax", limits.retransmissions_max)?,
            idle_seconds_max: number("limits.idleSecondsMax", limits.idle_seconds_max)?,
            block_size_max: number("limits.blockSizeMax", limits.block_size_max)?,
            window_size_max: number("limits.windowSizeMax", limits.window_size_max)?,
            cache_bytes_max: bytes("limits.cacheBytesMax", &limits.cache_bytes_max)?,
            content_bytes_max: bytes("limits.contentBytesMax", &limits.content_bytes_max)?,
            files_max: number("limits.filesMax", limits.files_max)?,
            sources: self
                .spec
                .sources
                .iter()
                .map(file_source)
                .collect::<Result<_, _>>()?,
            uploads: self.spec.uploads.iter().map(upload_rule).collect(),
            upload_bytes_max: bytes("limits.uploadBytesMax", &limits.upload_bytes_max)?,
        };
        config.validate().map_err(Invalid::Service)?;
        Ok(ServiceConfig::Tftp(config))
    }

    fn ports(&self) -> Result<Vec<ClientPort>, Invalid> {
        Ok(vec![ClientPort {
            name: "tftp",
            protocol: "UDP",
            service_port: self
                .spec
                .group
                .service
                .port
                .map_or(Ok(TFTP_PORT), |port| number("service.port", port))?,
            pod_port: Self::SERVICE.client_port(),
            member_port: None,
        }])
    }

    fn mounts(&self) -> Vec<Mount> {
        self.spec.sources.iter().filter_map(source_mount).collect()
    }
}

fn file_source(source: &TftpSource) -> Result<FileSource, Invalid> {
    let directory = |prefix: &str| FileSource::Directory {
        name: source.name.clone(),
        directory: source_directory(source).into(),
        prefix: prefix.to_owned(),
    };
    // The schema lets exactly one of them through.
    match (&source.config_map, &source.persistent_volume_claim, &source.http) {
        (Some(files), _, _) => Ok(directory(&files.prefix)),
        (_, Some(files), _) => Ok(directory(&files.prefix)),
        (_, _, Some(file)) => Ok(FileSource::Http {
            name: source.name.clone(),
            url: file.url.clone(),
            sha256: file.sha256.clone(),
            path: file.path.clone(),
            bytes_max: bytes("sources.http.bytesMax", &file.bytes_max)?,
            ca_file: file
                .ca_config_map_ref
                .as_ref()
                .map(|_| format!("{}/ca.crt", source_directory(source)).into()),
        }),
        (None, None, None) => Err(Invalid::Service(format!(
            "the source `{}` names no files",
            source.name
        ))),
    }
}

fn source_mount(source: &TftpSource) -> Option<Mount> {
    let authorities = source
        .http
        .as_ref()
        .and_then(|file| file.ca_config_map_ref.as_ref());
    let name = match &source.config_map {
        Some(files) => Some(&files.name),
        None => authorities.map(|reference| &reference.name),
    };
    let config_map = name.map(|name| ConfigMapVolumeSource {
        name: name.clone(),
        ..ConfigMapVolumeSource::default()
    });
    let claim = source
        .persistent_volume_claim
        .as_ref()
        .map(|files| PersistentVolumeClaimVolumeSource {
            claim_name: files.claim_name.clone(),
            read_only: Some(true),
        });
    let has_files = config_map.is_some() || claim.is_some();
    has_files.then(|| Mount {
        volume: Volume {
            name: format!("source-{}", source.name),
            config_map,
            persistent_volume_claim: claim,
            ..Volume::default()
        },
        path: source_directory(source),
    })
}

fn upload_rule(rule: &TftpUploadRule) -> UploadRule {
    UploadRule {
        prefix: rule.prefix.clone(),
        overwrite: rule.overwrite,
        from: rule.from.clone(),
    }
}

fn source_directory(source: &TftpSource) -> String {
    format!("{SOURCES_DIR}/{}", source.name)
}

impl Group for KvCluster {
    const SERVICE: ServiceKind = ServiceKind::Kv;

    fn group(&self) -> &GroupSpec {
        &self.spec.group
    }

    fn status(&self) -> Option<&GroupStatus> {
        self.status.as_ref()
    }

    fn service_config(&self, listen: IpAddr) -> Result<ServiceConfig, Invalid> {
        let limits = &self.spec.limits;
        let value_bytes_max = bytes("limits.valueBytesMax", &limits.value_bytes_max)?;
        let leader = SocketAddr::new(listen, Self::SERVICE.client_port());
        let config = KvConfig {
            value_bytes_max: u32::try_from(value_bytes_max).map_err(|_| Invalid::NotBytes {
                field: "limits.valueBytesMax",
                value: limits.value_bytes_max.0.clone(),
            })?,
            connections_max: number("limits.connectionsMax", limits.connections_max)?,
            unknown_after_seconds: number("limits.unknownAfterSeconds", limits.unknown_after_seconds)?,
            storage_bytes_max: bytes("limits.storageBytesMax", &limits.storage_bytes_max)?,
            conflicts: self.spec.conflicts.iter().map(Into::into).collect(),
            tokens_file: self
                .spec
                .tokens
                .as_ref()
                .map(|_| Path::new(TOKENS_DIR).join(TOKENS_KEY)),
            tls: self.spec.client_tls.as_ref().map(|_| ServerTls {
                cert_file: Path::new(CLIENT_TLS_DIR).join(CERTIFICATE),
                key_file: Path::new(CLIENT_TLS_DIR).join(CERTIFICATE_KEY),
            }),
            ..KvConfig::at(leader, SocketAddr::new(listen, KV_MEMBER_PORT))
        };
        config.validate().map_err(Invalid::Service)?;
        Ok(ServiceConfig::Kv(config))
    }

    fn ports(&self) -> Result<Vec<ClientPort>, Invalid> {
        let port = Self::SERVICE.client_port();
        Ok(vec![ClientPort {
            name: "kv",
            protocol: "TCP",
            service_port: self
                .spec
                .group
                .service
                .port
                .map_or(Ok(port), |port| number("service.port", port))?,
            pod_port: port,
            member_port: Some(KV_MEMBER_PORT),
        }])
    }

    fn mounts(&self) -> Vec<Mount> {
        let tokens = self.spec.tokens.as_ref();
        let tokens =
            tokens.map(|tokens| secret_mount("tokens", &tokens.secret_ref, TOKENS_DIR, &[TOKENS_KEY]));
        tokens
            .into_iter()
            .chain(client_tls_mount(self.spec.client_tls.as_ref()))
            .chain(self.restore_from().and_then(restore::mount))
            .collect()
    }

    fn restore_from(&self) -> Option<&RestoreFrom> {
        self.spec.restore_from.as_ref()
    }
}

/// The certificate that clients are shown.
fn client_tls_mount(tls: Option<&ClientTls>) -> Option<Mount> {
    let keys = [CERTIFICATE, CERTIFICATE_KEY];
    tls.map(|tls| secret_mount("client-tls", &tls.secret_ref, CLIENT_TLS_DIR, &keys))
}

/// Some keys of a Secret, as files that only members may read.
fn secret_mount(volume: &str, secret: &LocalName, path: &str, keys: &[&str]) -> Mount {
    let items = keys.iter().map(|key| KeyToPath {
        key: (*key).to_owned(),
        path: (*key).to_owned(),
        ..KeyToPath::default()
    });
    Mount {
        volume: Volume {
            name: volume.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.name.clone()),
                items: Some(items.collect()),
                default_mode: Some(SECRET_MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        path: path.to_owned(),
    }
}

/// A number that the schema bounds already.
fn number<T: TryFrom<i32>>(field: &'static str, value: i32) -> Result<T, Invalid> {
    T::try_from(value).map_err(|_| Invalid::OutOfRange {
        field,
        value: value.into(),
        expected: "within the bounds of its schema",
    })
}

fn bytes(field: &'static str, amount: &Quantity) -> Result<u64, Invalid> {
    amount.bytes().ok_or_else(|| Invalid::NotBytes {
        field,
        value: amount.0.clone(),
    })
}

/// Beside the leader's port.
const KV_MEMBER_PORT: u16 = ServiceKind::Kv.client_port() + 1;

/// Where the tokens of a key-value store are mounted.
const TOKENS_DIR: &str = "/etc/quorate/tokens";

/// The key of their Secret.
const TOKENS_KEY: &str = "tokens.json";

/// Where the certificate for clients is mounted.
const CLIENT_TLS_DIR: &str = "/etc/quorate/client-tls";

/// As `kubernetes.io/tls` names it.
const CERTIFICATE: &str = "tls.crt";

/// The same.
const CERTIFICATE_KEY: &str = "tls.key";

/// Readable by the group of the pod.
const SECRET_MODE: i32 = 0o440;

/// Where the sources' volumes are mounted.
const SOURCES_DIR: &str = "/etc/quorate/sources";

/// RFC 1350 §4.
const TFTP_PORT: u16 = 69;
