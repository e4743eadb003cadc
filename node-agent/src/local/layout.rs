//! The directory of a local group: what is where, and what it remembers from one start to the next.
//!
//! ```text
//! DIR/lock            held while `local` runs
//! DIR/local.json      ports and number of members, as first chosen
//! DIR/group.json      for `status`, `files` and `members`
//! DIR/token           the secret of requests that change something
//! DIR/initialized     whether the group exists: written before its first member is asked to found it
//! DIR/tftp-0/         config.json, data/, log, log.1
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use operator_api::config::{AgentConfig, ServiceKind};
use operator_api::membership::{Initialization, WantedMember};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::group::{GroupDescription, MemberAddress};

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
    /// `--admin-port`.
    pub admin_port: Option<u16>,
    /// `--peer-port`.
    pub peer_port: Option<u16>,
}

/// The directory, locked by this process.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    is_temporary: bool,
    service: ServiceKind,
    settings: Settings,
    _lock: File,
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
    /// Takes the directory, creating it when it is missing; a fresh temporary one when none is given.
    pub(crate) fn open(dir: Option<&Path>, service: ServiceKind, choices: Choices) -> anyhow::Result<Self> {
        let is_temporary = dir.is_none();
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => std::env::temp_dir().join(format!("quorate-{}", uuid::Uuid::new_v4().simple())),
        };
        fs::DirBuilder::new()
            .recursive(true)
            // The token and everybody's files are inside.
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("creating the directory {}", dir.display()))?;
        let lock = lock(&dir)?;
        let known: Option<Settings> = read_if_present(&dir.join(SETTINGS_FILE))?;
        let settings = settle(&dir, known, service, choices)?;
        Ok(Self {
            dir,
            is_temporary,
            service,
            settings,
            _lock: lock,
        })
    }

    /// Remembers the settings and makes the token. Not before the ports are known to be free: a port that is taken
    /// must not be remembered.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        write_durably(&self.dir.join(SETTINGS_FILE), &self.settings)?;
        self.make_token()
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the directory goes when `local` ends.
    pub(crate) const fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The file with the group's token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.join("token")
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
            dir: self.dir.join(&name),
            name,
        }
    }

    /// Writes `group.json`.
    pub(crate) fn describe(&self, members: &[MemberPlace], client_address: &str) -> anyhow::Result<()> {
        let members = members.iter().map(|place| MemberAddress {
            service: self.service,
            name: place.name.clone(),
            admin_address: place.admin.to_string(),
            client_address: client_address.to_owned(),
        });
        GroupDescription {
            members: members.collect(),
            token_file: PathBuf::from("token"),
        }
        .write(&self.dir)
    }

    /// Whether the group exists.
    pub(crate) fn initialization(&self) -> anyhow::Result<Initialization> {
        Ok(read_if_present(&self.dir.join("initialized"))?.unwrap_or(Initialization::Never))
    }

    /// Records whether the group exists; on disk when this returns.
    pub(crate) fn record_initialization(&self, mark: &Initialization) -> anyhow::Result<()> {
        write_durably(&self.dir.join("initialized"), mark)
    }

    /// Ends the use of the directory: a temporary one is removed.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        if self.is_temporary {
            remove_dir(&self.dir)?;
        }
        Ok(())
    }

    fn make_token(&self) -> anyhow::Result<()> {
        let path = self.token_file();
        if path.exists() {
            return Ok(());
        }
        let token: [u8; TOKEN_BYTES] = rand::random();
        write_file(&path, hex::encode(token).as_bytes())
    }
}

/// The settings of this start: the choices, as far as the directory allows them.
fn settle(
    dir: &Path,
    known: Option<Settings>,
    service: ServiceKind,
    choices: Choices,
) -> anyhow::Result<Settings> {
    let fixed = |option: &str, chosen: Option<u16>, known: Option<u16>, default: u16| match (chosen, known) {
        (Some(chosen), Some(known)) if chosen != known => bail!(
            "the group in {} has --{option} {known}, which its members have recorded: leave the option out, or use \
             another --dir",
            dir.display()
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
            choices.admin_port,
            known.map(|known| known.admin_port),
            service.local_admin_port(),
        )?,
        peer_port: fixed(
            "peer-port",
            choices.peer_port,
            known.map(|known| known.peer_port),
            PEER_PORT_DEFAULT,
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

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("the directory {} cannot be written", dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `quorate-agent local` runs in {}: stop it, or use another --dir",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn read_if_present<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .with_context(|| format!("{} is not a file of ours", path.display()))
}

fn write_durably<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    write_file(path, &serde_json::to_vec_pretty(value)?)
}

/// Writes aside, syncs, renames, syncs the directory: after a power cut the old file or the new one is there.
fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let aside = path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&aside)?;
        file.write_all(bytes)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn remove_dir(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// What is remembered, in the group's directory.
const SETTINGS_FILE: &str = "local.json";

/// A group of three survives the loss of one member.
const REPLICAS_DEFAULT: u16 = 3;

/// Beyond seven, each further voter costs more than its vote is worth.
pub(crate) const REPLICAS_MAX: u16 = 7;

/// Beside 7400, which peers use in pods.
const PEER_PORT_DEFAULT: u16 = 7401;

/// As long as a SHA-256 digest: nobody guesses it.
const TOKEN_BYTES: usize = 32;

/// Some days of an agent's log at the level `info`.
const LOG_BYTES_MAX: u64 = 10 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(dir: &Path, choices: Choices) -> anyhow::Result<Layout> {
        let layout = Layout::open(Some(dir), ServiceKind::Tftp, choices)?;
        layout.save()?;
        Ok(layout)
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
        let token = fs::read_to_string(first.token_file()).unwrap();
        assert_eq!(token.trim().len(), 64);
        drop(first);
        let second = open(dir.path(), Choices::default()).unwrap();
        assert_eq!(second.settings, settings);
        assert_eq!(second.wanted(), wanted);
        assert_eq!(wanted[4].peer, "127.0.0.1:7505".parse().unwrap());
        assert_eq!(fs::read_to_string(second.token_file()).unwrap(), token);
        let mode = fs::metadata(second.token_file()).unwrap().permissions().mode();
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
        drop(Layout::open(Some(dir.path()), ServiceKind::Tftp, other(9_601)).unwrap());
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
        fs::write(dir.path().join("initialized"), "?").unwrap();
        assert!(layout.initialization().is_err());
    }

    #[test]
    fn temporary_directory_goes_with_its_owner() {
        let layout = Layout::open(None, ServiceKind::Tftp, Choices::default()).unwrap();
        let dir = layout.dir().to_owned();
        layout.save().unwrap();
        assert!(dir.join("token").exists());
        layout.close().unwrap();
        assert!(!dir.exists());
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
