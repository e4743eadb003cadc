//! The place of one group in the directory: what is where, and what is remembered from one start to the next.
//!
//! ```text
//! DIR/lock              held while `local` runs
//! DIR/group.json        for `status`, `files` and `members`
//! DIR/token             the secret of requests that change something
//! DIR/tftp.json         ports and number of members of the group that runs `tftp`, as first chosen
//! DIR/tftp.initialized  whether that group exists: written before its first member is asked to found it
//! DIR/tftp-0/           config.json, data/, log, log.1
//! ```

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use operator_api::config::{AgentConfig, ServiceKind};
use operator_api::membership::{Initialization, WantedMember};
use serde::{Deserialize, Serialize};

use super::directory::{Directory, read_if_present, remove_dir, write_durably};
use crate::group::MemberAddress;

/// What the directory remembers. The ports are part of the membership that the group itself stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    /// How many members the group has.
    replicas: u16,
    /// The admin port of the first member; each further member has the next one.
    admin_port: u16,
    /// The peer port of the first member; each further member has the next one.
    peer_port: u16,
}

/// What the user chose for this start; the directory, then the defaults, decide the rest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Choices {
    /// `--replicas`.
    pub replicas: Option<u16>,
    /// `--admin-port`: the one of the first service; the others are as far from it as by default.
    pub admin_port: Option<u16>,
    /// `--peer-port`, likewise.
    pub peer_port: Option<u16>,
}

/// The place of one group in the directory.
#[derive(Debug)]
pub(crate) struct Layout {
    directory: Arc<Directory>,
    service: ServiceKind,
    /// The leader's port for clients, from which the members' own ones are counted.
    client: SocketAddr,
    settings: Settings,
}

/// One member and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberPlace {
    /// Its name.
    pub name: String,
    /// Its admin port.
    pub admin: SocketAddr,
    /// Its port for peers.
    pub peer: SocketAddr,
    /// Its own address for clients, where the service has one on every member.
    pub own_client: Option<SocketAddr>,
    /// `DIR/<name>`.
    pub dir: PathBuf,
}

impl MemberPlace {
    /// The member as the group records it.
    pub(crate) fn wanted(&self) -> WantedMember {
        WantedMember {
            name: self.name.clone(),
            peer_address: self.peer.to_string(),
            admin_address: self.admin.to_string(),
        }
    }

    /// The configuration that `run` reads.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// The member's data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the member's standard error goes.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Empties the member's disk. It must not run.
    pub(crate) fn empty(&self) -> anyhow::Result<()> {
        remove_dir(&self.data_dir())
    }

    /// Removes all that the member kept. It must not run.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        remove_dir(&self.dir)
    }

    /// Writes the member's configuration.
    pub(crate) fn write_config(&self, config: &AgentConfig) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        write_durably(&self.config_file(), config)
    }

    /// Keeps the log bounded. The member writes in append mode, so that cutting the file does not confuse it.
    pub(crate) fn rotate_log(&self) -> std::io::Result<()> {
        let log = self.log_file();
        if fs::metadata(&log).map_or(0, |metadata| metadata.len()) > LOG_BYTES_MAX {
            fs::copy(&log, self.dir.join("log.1"))?;
            OpenOptions::new().write(true).open(&log)?.set_len(0)?;
        }
        Ok(())
    }
}

impl Layout {
    /// Finds the group's place. `client` is where the leader serves clients.
    pub(crate) fn open(
        directory: &Arc<Directory>,
        service: ServiceKind,
        client: SocketAddr,
        choices: Choices,
    ) -> anyhow::Result<Self> {
        let directory = Arc::clone(directory);
        adopt_old_names(&directory, service)?;
        let known: Option<Settings> = read_if_present(&settings_file(&directory, service))?;
        let settings = settle(&directory, known, service, choices)?;
        let offset = service.local_member_port_offset().unwrap_or_default();
        if client.port().checked_add(offset + REPLICAS_MAX).is_none() {
            bail!(
                "the port {} leaves no room for the members' own ones: choose a smaller one",
                client.port()
            );
        }
        Ok(Self {
            directory,
            service,
            client,
            settings,
        })
    }

    /// Remembers the settings. Not before the ports are known to be free: a port that is taken must not be remembered.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        write_durably(&settings_file(&self.directory, self.service), &self.settings)
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The service that the group runs.
    pub(crate) const fn service(&self) -> ServiceKind {
        self.service
    }

    /// Where the leader serves clients.
    pub(crate) const fn client(&self) -> SocketAddr {
        self.client
    }

    /// The members that the group should have.
    pub(crate) fn wanted(&self) -> Vec<MemberPlace> {
        (0..self.settings.replicas)
            .map(|number| self.place(number))
            .collect()
    }

    /// Members beyond those that were left by a start with more of them.
    pub(crate) fn surplus(&self) -> Vec<MemberPlace> {
        (self.settings.replicas..REPLICAS_MAX)
            .map(|number| self.place(number))
            .filter(|place| place.dir.exists())
            .collect()
    }

    fn place(&self, number: u16) -> MemberPlace {
        let name = format!("{}-{number}", self.service);
        let at = |port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port + number);
        MemberPlace {
            admin: at(self.settings.admin_port),
            peer: at(self.settings.peer_port),
            own_client: self
                .service
                .local_member_port_offset()
                .map(|offset| SocketAddr::new(self.client.ip(), self.client.port() + offset + number)),
            dir: self.directory.path().join(&name),
            name,
        }
    }

    /// Writes down for the other commands who the members are.
    pub(crate) fn describe(&self, members: &[MemberPlace]) -> anyhow::Result<()> {
        let members = members.iter().map(|place| MemberAddress {
            service: self.service,
            name: place.name.clone(),
            admin_address: place.admin.to_string(),
            client_address: self.client.to_string(),
        });
        self.directory.describe(self.service, members.collect())
    }

    /// Whether the group exists.
    pub(crate) fn initialization(&self) -> anyhow::Result<Initialization> {
        Ok(read_if_present(&mark_file(&self.directory, self.service))?.unwrap_or(Initialization::Never))
    }

    /// Records whether the group exists; on disk when this returns.
    pub(crate) fn record_initialization(&self, mark: &Initialization) -> anyhow::Result<()> {
        write_durably(&mark_file(&self.directory, self.service), mark)
    }
}

fn settings_file(directory: &Directory, service: ServiceKind) -> PathBuf {
    directory.path().join(format!("{service}.json"))
}

fn mark_file(directory: &Directory, service: ServiceKind) -> PathBuf {
    directory.path().join(format!("{service}.initialized"))
}

/// The first version ran TFTP alone, and its files did not say so.
fn adopt_old_names(directory: &Directory, service: ServiceKind) -> anyhow::Result<()> {
    if service != ServiceKind::Tftp {
        return Ok(());
    }
    for (old, new) in [
        ("local.json", settings_file(directory, service)),
        ("initialized", mark_file(directory, service)),
    ] {
        let old = directory.path().join(old);
        if old.exists() && !new.exists() {
            fs::rename(&old, &new).with_context(|| format!("renaming {}", old.display()))?;
        }
    }
    Ok(())
}

/// The settings of this start: the choices, as far as the directory allows them.
fn settle(
    directory: &Directory,
    known: Option<Settings>,
    service: ServiceKind,
    choices: Choices,
) -> anyhow::Result<Settings> {
    let fixed = |option: &str, chosen: Option<u16>, known: Option<u16>, default: u16| match (chosen, known) {
        (Some(chosen), Some(known)) if chosen != known => bail!(
            "the group in {} has --{option} {}, which its members have recorded: leave the option out, or use \
             another --dir",
            directory.path().display(),
            known - port_offset(service)
        ),
        _ => Ok(chosen.or(known).unwrap_or(default)),
    };
    let settings = Settings {
        replicas: choices
            .replicas
            .or(known.map(|known| known.replicas))
            .unwrap_or(REPLICAS_DEFAULT),
        admin_port: fixed(
            "admin-port",
            shifted("admin-port", choices.admin_port, service)?,
            known.map(|known| known.admin_port),
            service.local_admin_port(),
        )?,
        peer_port: fixed(
            "peer-port",
            shifted("peer-port", choices.peer_port, service)?,
            known.map(|known| known.peer_port),
            service.local_peer_port(),
        )?,
    };
    for (option, port) in [
        ("admin-port", settings.admin_port),
        ("peer-port", settings.peer_port),
    ] {
        if port == 0 || port.checked_add(REPLICAS_MAX - 1).is_none() {
            bail!(
                "--{option} {port}: choose a port from 1 to {}; members use the ports from there on",
                u16::MAX - REPLICAS_MAX + 1
            );
        }
    }
    if settings.admin_port.abs_diff(settings.peer_port) < settings.replicas {
        bail!(
            "--admin-port {} and --peer-port {} are too close: {} members need as many ports of each kind",
            settings.admin_port,
            settings.peer_port,
            settings.replicas
        );
    }
    Ok(settings)
}

/// How far a service's ports are from those of the first one.
const fn port_offset(service: ServiceKind) -> u16 {
    service.local_admin_port() - ServiceKind::ALL[0].local_admin_port()
}

/// The port of this service, when `chosen` is the one of the first service.
fn shifted(option: &str, chosen: Option<u16>, service: ServiceKind) -> anyhow::Result<Option<u16>> {
    chosen
        .map(|port| {
            port.checked_add(port_offset(service))
                .with_context(|| format!("--{option} {port} leaves no ports for the {service} service"))
        })
        .transpose()
}

/// A group of three survives the loss of one member.
const REPLICAS_DEFAULT: u16 = 3;

/// Beyond seven, each further voter costs more than its vote is worth.
pub(crate) const REPLICAS_MAX: u16 = 7;

/// Some days of an agent's log at the level `info`.
const LOG_BYTES_MAX: u64 = 10 << 20;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn open_unsaved(dir: &Path, service: ServiceKind, choices: Choices) -> anyhow::Result<Layout> {
        let directory = Arc::new(Directory::open(Some(dir))?);
        let client = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), service.client_port());
        Layout::open(&directory, service, client, choices)
    }

    fn open(dir: &Path, choices: Choices) -> anyhow::Result<Layout> {
        let layout = open_unsaved(dir, ServiceKind::Tftp, choices)?;
        layout.save()?;
        layout.directory().make_secrets()?;
        Ok(layout)
    }

    #[test]
    fn services_beside_each_other_have_ports_and_names_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let choices = Choices {
            admin_port: Some(9_501),
            ..Choices::default()
        };
        let kv = open_unsaved(dir.path(), ServiceKind::Kv, choices)
            .unwrap()
            .wanted();
        assert_eq!(kv[0].name, "kv-0");
        assert_eq!(kv[0].admin, "127.0.0.1:9511".parse().unwrap());
        assert_eq!(kv[2].peer, "127.0.0.1:7413".parse().unwrap());
        assert_eq!(kv[2].own_client, Some("127.0.0.1:2393".parse().unwrap()));
        let tftp = open_unsaved(dir.path(), ServiceKind::Tftp, choices)
            .unwrap()
            .wanted();
        assert_eq!((tftp[0].admin.port(), tftp[0].own_client), (9_501, None));
    }

    #[test]
    fn directory_of_the_first_version_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let settings = r#"{"replicas":5,"adminPort":9601,"peerPort":7601}"#;
        fs::write(dir.path().join("local.json"), settings).unwrap();
        let done = Initialization::Done {
            group_id: "g".to_owned(),
        };
        fs::write(dir.path().join("initialized"), serde_json::to_vec(&done).unwrap()).unwrap();
        let layout = open(dir.path(), Choices::default()).unwrap();
        assert_eq!(layout.wanted().len(), 5);
        assert_eq!(layout.settings.admin_port, 9_601);
        assert_eq!(layout.initialization().unwrap(), done);
    }

    #[test]
    fn second_start_finds_what_the_first_one_chose() {
        let dir = tempfile::tempdir().unwrap();
        let choices = Choices {
            replicas: Some(5),
            admin_port: Some(9_501),
            peer_port: Some(7_501),
        };
        let first = open(dir.path(), choices).unwrap();
        let (settings, wanted) = (first.settings, first.wanted());
        let token = fs::read_to_string(first.directory().token_file()).unwrap();
        assert_eq!(token.trim().len(), 64);
        drop(first);
        let second = open(dir.path(), Choices::default()).unwrap();
        assert_eq!(second.settings, settings);
        assert_eq!(second.wanted(), wanted);
        assert_eq!(wanted[4].peer, "127.0.0.1:7505".parse().unwrap());
        assert_eq!(
            fs::read_to_string(second.directory().token_file()).unwrap(),
            token
        );
        let mode = fs::metadata(second.directory().token_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn fewer_members_leave_the_others_as_surplus() {
        let dir = tempfile::tempdir().unwrap();
        let five = Choices {
            replicas: Some(5),
            ..Choices::default()
        };
        let layout = open(dir.path(), five).unwrap();
        for place in layout.wanted() {
            fs::create_dir(&place.dir).unwrap();
        }
        drop(layout);
        let three = Choices {
            replicas: Some(3),
            ..Choices::default()
        };
        let layout = open(dir.path(), three).unwrap();
        let names: Vec<_> = layout.surplus().into_iter().map(|place| place.name).collect();
        assert_eq!(names, ["tftp-3", "tftp-4"]);
    }

    #[test]
    fn directory_has_one_owner_and_keeps_its_ports() {
        let dir = tempfile::tempdir().unwrap();
        let layout = open(dir.path(), Choices::default()).unwrap();
        let error = open(dir.path(), Choices::default()).unwrap_err();
        assert!(
            error.to_string().contains("another `quorate-agent local` runs"),
            "{error}"
        );
        drop(layout);
        let other = Choices {
            peer_port: Some(8_000),
            ..Choices::default()
        };
        let error = open(dir.path(), other).unwrap_err();
        assert!(error.to_string().contains("--peer-port 7401"), "{error}");
    }

    #[test]
    fn ports_that_overlap_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let choices = Choices {
            admin_port: Some(7_402),
            ..Choices::default()
        };
        let error = open(dir.path(), choices).unwrap_err();
        assert!(error.to_string().contains("too close"), "{error}");
    }

    #[test]
    fn ports_that_were_not_free_are_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let other = |port| Choices {
            admin_port: Some(port),
            ..Choices::default()
        };
        drop(open_unsaved(dir.path(), ServiceKind::Tftp, other(9_601)).unwrap());
        assert_eq!(open(dir.path(), other(9_701)).unwrap().settings.admin_port, 9_701);
    }

    #[test]
    fn mark_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = open(dir.path(), Choices::default()).unwrap();
        assert_eq!(layout.initialization().unwrap(), Initialization::Never);
        for mark in [
            Initialization::Asked {
                group_id: "g".to_owned(),
                member: "tftp-0".to_owned(),
            },
            Initialization::Done {
                group_id: "g".to_owned(),
            },
        ] {
            layout.record_initialization(&mark).unwrap();
            assert_eq!(layout.initialization().unwrap(), mark);
        }
        fs::write(dir.path().join("tftp.initialized"), "?").unwrap();
        assert!(layout.initialization().is_err());
    }

    #[test]
    fn log_is_cut_and_one_older_part_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = open(dir.path(), Choices::default()).unwrap();
        let place = layout.wanted().remove(0);
        fs::create_dir(&place.dir).unwrap();
        let log = File::create(place.log_file()).unwrap();
        log.set_len(LOG_BYTES_MAX + 1).unwrap();
        place.rotate_log().unwrap();
        assert_eq!(fs::metadata(place.log_file()).unwrap().len(), 0);
        assert_eq!(
            fs::metadata(place.dir.join("log.1")).unwrap().len(),
            LOG_BYTES_MAX + 1
        );
    }
}
