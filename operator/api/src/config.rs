//! The agent's configuration: what the operator or the `local` command writes and `quorate-agent run` reads (JSON).

mod adc;
mod kubernetes;
mod sources;
mod tftp;
mod uploads;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use adc::{AdcConfig, AdcFloodLimits, AdcFrontends, AdcHybrid, AdcRate, AdcTls};
pub use kubernetes::{KubernetesConfig, VARIABLES};
pub use sources::FileSource;
pub use tftp::TftpConfig;
pub use uploads::UploadRule;

/// The services Quorate runs. One group (one custom resource) runs one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// A TFTP server (RFC 1350 and its extensions).
    Tftp,
    /// A key-value store over HTTP.
    Kv,
    /// A hub for clients of the ADC protocol.
    Adc,
}

impl ServiceKind {
    /// Every service, in the order in which they are listed to people.
    pub const ALL: [Self; 3] = [Self::Tftp, Self::Kv, Self::Adc];

    /// The lowercase name that commands, metrics, logs and file names use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tftp => "tftp",
            Self::Kv => "kv",
            Self::Adc => "adc",
        }
    }

    /// The client port of an unprivileged listener, in pods and under `local`.
    #[must_use]
    pub const fn client_port(self) -> u16 {
        match self {
            Self::Tftp => 6969,
            Self::Kv => 2390,
            Self::Adc => 1511,
        }
    }

    /// The admin port of the first member under `local`; each further member has the next one.
    #[must_use]
    pub const fn local_admin_port(self) -> u16 {
        match self {
            Self::Tftp => 9401,
            Self::Kv => 9411,
            Self::Adc => 9421,
        }
    }

    /// The port for peers of the first member under `local`; each further member has the next one.
    #[must_use]
    pub const fn local_peer_port(self) -> u16 {
        match self {
            Self::Tftp => 7401,
            Self::Kv => 7411,
            Self::Adc => 7421,
        }
    }

    /// Whether a backup of the replicated state is a backup of the service. A TFTP group's files are not in it.
    #[must_use]
    pub const fn state_is_everything(self) -> bool {
        !matches!(self, Self::Tftp)
    }

    /// How far beyond the client port the first member's own port for clients is under `local`, where every member has
    /// one besides the leader's; each further member has the next one.
    #[must_use]
    pub const fn local_member_port_offset(self) -> Option<u16> {
        match self {
            Self::Tftp => None,
            Self::Kv => Some(1),
            Self::Adc => Some(10),
        }
    }
}

impl std::fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The configuration of one member. The names of [`VARIABLES`] may stand in its strings as `$(POD_NAME)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// The member's name, unique in its group and stable over restarts: a pod's name, or `tftp-0` under `local`.
    pub name: String,
    /// Where the member keeps its identity, log, snapshots and files. One member owns it, by a lock file.
    pub data_dir: PathBuf,
    /// Where peers reach this member.
    pub peer: Endpoint,
    /// Where health, metrics, status and the admin API are served.
    pub admin: Endpoint,
    /// Election timers.
    #[serde(default)]
    pub timing: Timing,
    /// When a write counts as stored.
    #[serde(default)]
    pub durability: Durability,
    /// Mutual TLS between peers; plain TCP without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_tls: Option<PeerTls>,
    /// A file with the token that admin requests which change something must carry. Without it they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Which log lines are written: a level, and a level for each named part of the program (`info`, `info,tftp=debug`).
    #[serde(default = "default_log_level")]
    pub log_level: String,
    /// How long a stopping member lets running work drain after it handed leadership over, in seconds.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: u32,
    /// `host:port` where clients reach the leader, as the status says it; without it, the service's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    /// In a pod: where the leader publishes its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesConfig>,
    /// End the process when standard input ends: the parent that held the other end is gone.
    #[serde(default)]
    pub exit_with_stdin: bool,
    /// A backup (`quorate-agent backup`) that the group begins with, when this member founds it. It means nothing to a
    /// member that is in a group already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<PathBuf>,
    /// The backup is sent to the admin port (`PUT /v1/backup`) before the group is founded, is kept at `restoreFrom` until
    /// then, and removed afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepts_backup: bool,
    /// The service this member runs, with its options.
    pub service: ServiceConfig,
}

/// An address to listen on, and the name or address under which others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// The socket address to bind.
    pub listen: SocketAddr,
    /// `host:port` that is told to others.
    pub advertise: String,
}

/// The service of a group and its options: a union with the discriminator `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ServiceConfig {
    /// TFTP.
    Tftp(TftpConfig),
    /// Key-value store.
    Kv(KvConfig),
    /// ADC hub.
    Adc(Box<AdcConfig>),
}

impl ServiceConfig {
    /// Which service this configures.
    #[must_use]
    pub const fn kind(&self) -> ServiceKind {
        match self {
            Self::Tftp(_) => ServiceKind::Tftp,
            Self::Kv(_) => ServiceKind::Kv,
            Self::Adc(_) => ServiceKind::Adc,
        }
    }
}

/// The options of the key-value service. Numbers are checked by [`KvConfig::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KvConfig {
    /// The TCP address that the leader serves. A socket passed by the parent (`LISTEN_FDS`) takes its place.
    pub listen: SocketAddr,
    /// The TCP address that this member serves, whoever leads.
    pub member_listen: SocketAddr,
    /// The largest value, in bytes.
    #[serde(default = "KvConfig::default_value_bytes_max")]
    pub value_bytes_max: u32,
    /// Bytes of keys, values and journals that the group holds; what would grow beyond it is refused.
    #[serde(default = "KvConfig::default_storage_bytes_max")]
    pub storage_bytes_max: u64,
    /// Client connections of this member, on both addresses together; further ones wait.
    #[serde(default = "KvConfig::default_connections_max")]
    pub connections_max: u32,
    /// Seconds for which a caller whose request is in doubt waits after its timeout, before it is told that nobody knows.
    #[serde(default = "KvConfig::default_unknown_after_seconds")]
    pub unknown_after_seconds: u32,
    /// What happens to a write that a member remembered when a quorum wrote its key meanwhile, by key prefix; the longest
    /// prefix counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<KvConflicts>,
    /// A file with the tokens that clients carry, and what each may do (docs/kv.md, "Access"). Without it everybody may do
    /// everything. A changed file counts within seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// TLS on the client ports; plain TCP without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
}

/// Files for TLS towards clients, PEM. Changed ones count within seconds, for new connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerTls {
    /// The certificate chain, the server's own first.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// What happens to remembered writes of some keys on a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KvConflicts {
    /// How the keys begin; empty for all keys.
    pub prefix: String,
    /// What happens.
    pub policy: KvConflictPolicy,
}

/// What happens to a remembered write when a quorum wrote its key meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvConflictPolicy {
    /// It is stored when it arrives.
    #[default]
    Arrival,
    /// It is stored only if the key is as it was when it was accepted.
    Base,
    /// The later one stays, by the members' clocks.
    Latest,
    /// It is stored only if the quorum holds no value for the key.
    KeepQuorum,
}

impl KvConfig {
    pub(crate) const fn default_value_bytes_max() -> u32 {
        // As etcd's limit of a request.
        3 << 19
    }
    /// What the group holds, when nothing else is said.
    #[must_use]
    pub const fn default_storage_bytes_max() -> u64 {
        256 << 20
    }
    pub(crate) const fn default_connections_max() -> u32 {
        10_000
    }
    pub(crate) const fn default_unknown_after_seconds() -> u32 {
        30
    }

    /// The defaults, listening on `listen` as leader and on `member_listen` always.
    #[must_use]
    pub const fn at(listen: SocketAddr, member_listen: SocketAddr) -> Self {
        Self {
            listen,
            member_listen,
            value_bytes_max: Self::default_value_bytes_max(),
            storage_bytes_max: Self::default_storage_bytes_max(),
            connections_max: Self::default_connections_max(),
            unknown_after_seconds: Self::default_unknown_after_seconds(),
            conflicts: Vec::new(),
            tokens_file: None,
            tls: None,
        }
    }

    /// Checks the numbers; the error names the field and the allowed range.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=Self::default_value_bytes_max()).contains(&self.value_bytes_max) {
            return Err(format!(
                "kv option valueBytesMax is {}: it must be from 1 to {}",
                self.value_bytes_max,
                Self::default_value_bytes_max()
            ));
        }
        if self.connections_max == 0 {
            return Err("kv option connectionsMax is 0: it must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Election timers, as named profiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Timing {
    /// One site: heartbeat 30 ms, election after 100 to 200 ms.
    #[default]
    Lan,
    /// Slow or lossy links: heartbeat 100 ms, election after 300 to 600 ms.
    Edge,
}

/// When a write counts as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Durability {
    /// Synced to disk on a majority: survives power cuts.
    #[default]
    Strict,
    /// Written, not synced, on a majority: survives killed processes. After an unclean boot of its machine a member
    /// gives up its node id and rejoins, so that it never votes on a log it has forgotten.
    Relaxed,
}

/// Files for mutual TLS between peers, PEM. Changed ones count within seconds, for new connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerTls {
    /// The authorities, one of which signed every peer's certificate.
    pub ca_file: PathBuf,
    /// This member's certificate chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The name that every peer's certificate carries (subject alternative name).
    pub server_name: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Plain text for people.
    Text,
}

pub(crate) fn default_log_level() -> String {
    "info".to_owned()
}

pub(crate) const fn default_drain_seconds() -> u32 {
    5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimal_config_reads_with_defaults() {
        let config: AgentConfig = serde_json::from_str(
            r#"{"name":"tftp-0","dataDir":"d","peer":{"listen":"127.0.0.1:1","advertise":"127.0.0.1:1"},
                "admin":{"listen":"127.0.0.1:2","advertise":"127.0.0.1:2"},
                "service":{"kind":"tftp","listen":"127.0.0.1:6969"}}"#,
        )
        .unwrap();
        let ServiceConfig::Tftp(tftp) = &config.service else {
            panic!("{config:?}");
        };
        assert_eq!(*tftp, TftpConfig::at("127.0.0.1:6969".parse().unwrap()));
        assert_eq!(config.timing, Timing::Lan);
        assert_eq!((&config.client_address, &config.kubernetes), (&None, &None));
        tftp.validate().unwrap();
    }

    #[test]
    fn minimal_kv_service_reads_with_defaults() {
        let service: ServiceConfig = serde_json::from_str(
            r#"{"kind":"kv","listen":"127.0.0.1:2390","memberListen":"127.0.0.1:2391"}"#,
        )
        .unwrap();
        let (listen, member) = (
            "127.0.0.1:2390".parse().unwrap(),
            "127.0.0.1:2391".parse().unwrap(),
        );
        assert_eq!(service, ServiceConfig::Kv(KvConfig::at(listen, member)));
        let mut config = KvConfig::at(listen, member);
        config.validate().unwrap();
        config.value_bytes_max += 1;
        assert!(
            config
                .validate()
                .unwrap_err()
                .contains("valueBytesMax is 1572865")
        );
    }

    #[test]
    fn ports_of_the_services_are_apart() {
        let mut taken = std::collections::BTreeSet::new();
        for kind in ServiceKind::ALL {
            let members = 0..7;
            let own = kind
                .local_member_port_offset()
                .map(|offset| kind.client_port() + offset);
            let firsts = [Some(kind.local_admin_port()), Some(kind.local_peer_port()), own];
            let runs = firsts
                .into_iter()
                .flatten()
                .flat_map(|first| members.clone().map(move |member| first + member));
            for port in runs.chain([kind.client_port()]) {
                assert!(taken.insert(port), "port {port} of {kind} is used twice");
            }
        }
    }

    #[test]
    fn unknown_field_is_named() {
        let error = serde_json::from_str::<Endpoint>(r#"{"listen":"127.0.0.1:1","advertise":"x","port":3}"#)
            .unwrap_err();
        assert!(error.to_string().contains("`port`"), "{error}");
    }
}
