//! Who a member is: its group's UUID and its node id, kept beside its log and given up with it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Durability, NodeId};

/// A member's place in a group. A node id is never used twice: an empty disk gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The group's UUID, carried and checked by every call between members.
    pub group_id: Uuid,
    /// The member's node id.
    pub node_id: NodeId,
}

/// The identity as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stored {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// This member founds the group and has not yet written its first log entry: a start finishes that. It is false
    /// ever after, so that a founder that lost its log can never found the group again.
    #[serde(default)]
    pub(crate) founding: bool,
}

/// What the last run left about the machine it ran on: decides whether an unsynced log can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Boot {
    boot_id: String,
    durability: String,
    clean: bool,
}

/// The data directory of one member.
///
/// ```text
/// identity.json   group UUID and node id        log/       the write-ahead log
/// boot.json       machine boot, clean or not    snapshot   the newest snapshot
/// ```
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Opens the directory, creating it when it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the write-ahead log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Reads the stored identity; none on an empty disk.
    pub(crate) fn identity(&self) -> io::Result<Option<Stored>> {
        self.read("identity.json")
    }

    /// Stores the identity, synced.
    pub(crate) fn set_identity(&self, stored: &Stored) -> io::Result<()> {
        self.write("identity.json", stored)
    }

    /// Gives up the identity and all that belongs to it. What it leaves behind is an empty disk, except for what
    /// services keep. The identity goes first: a crash in between must not leave an identity without its log.
    pub(crate) fn give_up(&self) -> io::Result<()> {
        for file in ["identity.json", "boot.json", "snapshot"] {
            match fs::remove_file(self.path.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => File::open(&self.path)?.sync_all()?,
            }
        }
        match fs::remove_dir_all(self.log()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the last run left a log that may have lost its end: unsynced, and the machine went down since.
    pub(crate) fn log_may_be_short(&self) -> io::Result<bool> {
        let boot: Option<Boot> = self.read("boot.json")?;
        Ok(boot.is_some_and(|boot| {
            boot.durability == "relaxed" && !boot.clean && boot.boot_id != current_boot_id()
        }))
    }

    /// Records that a run begins (`clean` = false) or ended with everything synced (`clean` = true).
    pub(crate) fn mark(&self, durability: Durability, clean: bool) -> io::Result<()> {
        let durability = match durability {
            Durability::Strict => "strict",
            Durability::Relaxed => "relaxed",
        };
        self.write(
            "boot.json",
            &Boot {
                boot_id: current_boot_id(),
                durability: durability.to_owned(),
                clean,
            },
        )
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged: {error}", path.display()),
            )
        })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let aside = self.path.join(format!("{name}.tmp"));
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&aside, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
}

/// The kernel's id of this boot; empty where there is none, which then never looks like a reboot.
fn current_boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Stored {
        let identity = Identity {
            group_id: Uuid::from_u128(7),
            node_id: 3,
        };
        Stored {
            identity,
            founding: false,
        }
    }

    #[test]
    fn giving_up_leaves_an_empty_disk() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        data.set_identity(&stored()).unwrap();
        fs::create_dir(data.log()).unwrap();
        assert_eq!(data.identity().unwrap(), Some(stored()));
        data.give_up().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_a_relaxed_unclean_log_of_another_boot_may_be_short() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        data.mark(Durability::Relaxed, false).unwrap();
        assert!(
            !data.log_may_be_short().unwrap(),
            "the machine is still up: the page cache has it all"
        );
        let other = |durability: &str, clean| Boot {
            boot_id: "other".into(),
            durability: durability.into(),
            clean,
        };
        for (boot, short) in [
            (other("relaxed", false), true),
            (other("relaxed", true), false),
            (other("strict", false), false),
        ] {
            data.write("boot.json", &boot).unwrap();
            assert_eq!(data.log_may_be_short().unwrap(), short, "{boot:?}");
        }
    }

    #[test]
    fn a_damaged_identity_is_an_error_and_not_an_empty_disk() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        fs::write(directory.path().join("identity.json"), "{").unwrap();
        assert!(
            data.identity()
                .unwrap_err()
                .to_string()
                .contains("identity.json is damaged")
        );
    }
}
