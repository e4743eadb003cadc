//! The directory of everything that `local` runs: one owner, one token, one description.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use operator_api::config::ServiceKind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::group::{GroupDescription, MemberAddress};

/// The directory, locked by this process.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    is_temporary: bool,
    /// What `group.json` holds, by service.
    described: Mutex<BTreeMap<ServiceKind, Vec<MemberAddress>>>,
    _lock: File,
}

impl Directory {
    /// Takes the directory, creating it when it is missing; a fresh temporary one when none is given.
    pub(crate) fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        let is_temporary = dir.is_none();
        let path = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => std::env::temp_dir().join(format!("quorate-{}", uuid::Uuid::new_v4().simple())),
        };
        fs::DirBuilder::new()
            .recursive(true)
            // The token and everybody's files are inside.
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("creating the directory {}", path.display()))?;
        let lock = lock(&path)?;
        Ok(Self {
            path,
            is_temporary,
            described: Mutex::default(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory goes when `local` ends.
    pub(crate) const fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The file with the token of every group here.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.path.join("token")
    }

    /// The file with the key of the hub's passwords.
    pub(crate) fn password_key_file(&self) -> PathBuf {
        self.path.join("adc-password-key")
    }

    /// Makes the token and the key, unless they are there.
    pub(crate) fn make_secrets(&self) -> anyhow::Result<()> {
        for path in [self.token_file(), self.password_key_file()] {
            if !path.exists() {
                let secret: [u8; SECRET_BYTES] = rand::random();
                write_file(&path, hex::encode(secret).as_bytes())?;
            }
        }
        Ok(())
    }

    /// Writes `group.json`, with these members as those of `service`.
    pub(crate) fn describe(&self, service: ServiceKind, members: Vec<MemberAddress>) -> anyhow::Result<()> {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        described.insert(service, members);
        GroupDescription {
            members: described.values().flatten().cloned().collect(),
            token_file: PathBuf::from("token"),
        }
        .write(&self.path)
    }

    /// Ends the use of the directory: a temporary one is removed.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        if self.is_temporary {
            remove_dir(&self.path)?;
        }
        Ok(())
    }
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

pub(super) fn read_if_present<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .with_context(|| format!("{} is not a file of ours", path.display()))
}

pub(super) fn write_durably<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
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

pub(super) fn remove_dir(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// As long as a SHA-256 digest: nobody guesses it. A key of the hub's passwords has that length, too.
const SECRET_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_directory_goes_with_its_owner() {
        let directory = Directory::open(None).unwrap();
        directory.make_secrets().unwrap();
        assert!(directory.token_file().exists());
        directory.close().unwrap();
        assert!(!directory.path().exists());
    }

    #[test]
    fn description_lists_the_members_of_every_service() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(Some(dir.path())).unwrap();
        let member = |service: ServiceKind| MemberAddress {
            service,
            name: format!("{service}-0"),
            admin_address: String::new(),
            client_address: String::new(),
        };
        for service in [ServiceKind::Kv, ServiceKind::Tftp, ServiceKind::Kv] {
            directory.describe(service, vec![member(service)]).unwrap();
        }
        let read = GroupDescription::read(dir.path()).unwrap();
        assert_eq!(read.members, [member(ServiceKind::Tftp), member(ServiceKind::Kv)]);
    }
}
