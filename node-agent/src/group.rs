//! The description of a local group: how `quorate-agent status`, `files` and `members` find the processes that
//! `quorate-agent local` started.
//!
//! `local` keeps `group.json` in its directory, and announces that directory in a pointer file of the user, so that
//! the commands need no arguments. Both files are written aside and renamed: a reader never sees half of one.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use operator_api::ServiceKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What `<dir>/group.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupDescription {
    /// Every member of every service that runs here, in the order in which they are shown.
    pub members: Vec<MemberAddress>,
    /// The file with the token that changing requests carry; a relative path starts at the group's directory.
    pub token_file: PathBuf,
}

/// One member of a local group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberAddress {
    /// The service it runs.
    pub service: ServiceKind,
    /// Its name, unique in the directory.
    pub name: String,
    /// `host:port` of its admin port.
    pub admin_address: String,
    /// `host:port` where clients reach the leader of its group.
    pub client_address: String,
}

/// What the pointer file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pointer {
    dir: PathBuf,
}

/// The name of the description inside the group's directory.
const DESCRIPTION_FILE: &str = "group.json";

/// Both files are a few kilobytes; more is not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl GroupDescription {
    /// Reads `<dir>/group.json`.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(DESCRIPTION_FILE);
        ensure!(
            path.exists(),
            "{} is missing: no local group was started there; start one with `quorate-agent local --dir {}`",
            path.display(),
            dir.display()
        );
        let mut description: Self = read_json(&path)?;
        if description.token_file.is_relative() {
            description.token_file = dir.join(&description.token_file);
        }
        Ok(description)
    }

    /// Writes `<dir>/group.json`.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        write_json(&dir.join(DESCRIPTION_FILE), self)
    }

    /// The token of the group.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        read_token(&self.token_file)
    }
}

/// Reads a token file: one line, surrounding white space does not count.
pub(crate) fn read_token(path: &Path) -> anyhow::Result<String> {
    let text =
        fs::read_to_string(path).with_context(|| format!("reading the token file {}", path.display()))?;
    let token = text.trim();
    ensure!(!token.is_empty(), "the token file {} is empty", path.display());
    ensure!(
        token.bytes().all(|byte| byte.is_ascii_graphic()),
        "the token file {} must hold one line of visible ASCII characters",
        path.display()
    );
    Ok(token.to_owned())
}

/// The directory to use: the given one, else the one that the running `local` announced.
pub(crate) fn resolve_dir(dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    match dir {
        Some(dir) => Ok(dir.to_owned()),
        None => announced_dir(&pointer_path()),
    }
}

/// Tells the user's other commands that a local group runs in `dir`.
pub(crate) fn announce(dir: &Path) -> anyhow::Result<()> {
    announce_at(&pointer_path(), dir)
}

/// Takes the announcement back, unless another `local` has replaced it meanwhile.
pub(crate) fn withdraw(dir: &Path) {
    withdraw_at(&pointer_path(), dir);
}

/// `${XDG_RUNTIME_DIR}/quorate-local-<uid>.json`, or the same in the system's temporary directory.
fn pointer_path() -> PathBuf {
    // Where a user's run-time files belong is the session's affair, not configuration of ours
    // (XDG Base Directory Specification, "Environment variables": an empty or relative value does not count).
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|value: &OsString| Path::new(value).is_absolute() && Path::new(value).is_dir())
        .map_or_else(std::env::temp_dir, PathBuf::from);
    base.join(format!(
        "quorate-local-{}.json",
        rustix::process::getuid().as_raw()
    ))
}

fn announced_dir(pointer: &Path) -> anyhow::Result<PathBuf> {
    let Ok(metadata) = fs::symlink_metadata(pointer) else {
        bail!(
            "no local group is running; start one with `quorate-agent local`, or name its directory with --dir DIR"
        );
    };
    // The temporary directory is everyone's. Another user's file could lead us to send a secret of ours to them.
    ensure!(
        metadata.is_file()
            && metadata.uid() == rustix::process::getuid().as_raw()
            && metadata.mode() & 0o022 == 0,
        "{} was not written by you: remove it, or name the group's directory with --dir DIR",
        pointer.display()
    );
    Ok(read_json::<Pointer>(pointer)?.dir)
}

fn announce_at(pointer: &Path, dir: &Path) -> anyhow::Result<()> {
    let dir = std::path::absolute(dir).with_context(|| format!("finding the directory {}", dir.display()))?;
    write_json(pointer, &Pointer { dir })
}

fn withdraw_at(pointer: &Path, dir: &Path) {
    let ours = std::path::absolute(dir).ok();
    if ours.is_some() && announced_dir(pointer).ok() == ours {
        // A pointer that stays behind only leads to a clear error later.
        fs::remove_file(pointer).ok();
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let reading = || format!("reading {}", path.display());
    let length = fs::metadata(path).with_context(reading)?.len();
    ensure!(
        length <= FILE_BYTES_MAX,
        "{} has {length} bytes: it is not a file of ours",
        path.display()
    );
    let bytes = fs::read(path).with_context(reading)?;
    serde_json::from_slice(&bytes).with_context(reading)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.new", std::process::id()));
    let aside = PathBuf::from(aside);
    let mut bytes = serde_json::to_vec_pretty(value).with_context(writing)?;
    bytes.push(b'\n');
    // A file that a killed process of the same id left behind would make `create_new` fail.
    fs::remove_file(&aside).ok();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .with_context(writing)?;
    file.write_all(&bytes).with_context(writing)?;
    fs::rename(&aside, path).with_context(writing)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn description() -> GroupDescription {
        GroupDescription {
            members: vec![MemberAddress {
                service: ServiceKind::Tftp,
                name: "tftp-0".to_owned(),
                admin_address: "127.0.0.1:9401".to_owned(),
                client_address: "127.0.0.1:6969".to_owned(),
            }],
            token_file: PathBuf::from("token"),
        }
    }

    #[test]
    fn description_is_read_back_with_the_token_file_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        description().write(dir.path()).unwrap();
        let read = GroupDescription::read(dir.path()).unwrap();
        assert_eq!(read.members, description().members);
        assert_eq!(read.token_file, dir.path().join("token"));
        fs::write(dir.path().join("token"), "  abc\n").unwrap();
        assert_eq!(read.token().unwrap(), "abc");
    }

    #[test]
    fn directory_without_a_group_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = GroupDescription::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("quorate-agent local --dir"), "{error}");
    }

    #[test]
    fn announcement_is_found_and_withdrawn_by_its_own_directory_only() {
        let dir = tempfile::tempdir().unwrap();
        let pointer = dir.path().join("pointer.json");
        announce_at(&pointer, dir.path()).unwrap();
        assert_eq!(announced_dir(&pointer).unwrap(), dir.path());
        withdraw_at(&pointer, Path::new("/elsewhere"));
        assert!(pointer.exists());
        withdraw_at(&pointer, dir.path());
        assert!(!pointer.exists());
        assert!(
            announced_dir(&pointer)
                .unwrap_err()
                .to_string()
                .contains("quorate-agent local")
        );
    }

    #[test]
    fn pointer_that_others_may_write_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let pointer = dir.path().join("pointer.json");
        announce_at(&pointer, dir.path()).unwrap();
        fs::set_permissions(&pointer, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(
            announced_dir(&pointer)
                .unwrap_err()
                .to_string()
                .contains("not written by you")
        );
    }

    #[test]
    fn token_of_two_lines_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "abc\ndef\n").unwrap();
        assert!(read_token(&path).unwrap_err().to_string().contains("one line"));
    }
}
