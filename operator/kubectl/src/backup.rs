//! A group's whole state in a file, taken from one of its members. Does I/O.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use kube::Client;
use serde::Deserialize;

use crate::reach::{self, Member};
use crate::view::Group;
use crate::{act, gather::Selection};

/// Writes a backup that holds everything that was acknowledged before. The file appears when it is whole and checked.
pub(crate) async fn backup(client: &Client, selection: &Selection, file: &Path) -> anyhow::Result<String> {
    let group = act::one(client, selection).await?;
    let at_least = act::leader(&group)?.status.commit_index;
    let token = reach::token(client, &group.namespace, &group.name).await?;
    let mut problem = anyhow::anyhow!("no member answers");
    for name in givers(&group) {
        let member = Member {
            client,
            namespace: &group.namespace,
            name: &name,
        };
        let path = format!("/v1/backup?atLeast={at_least}");
        match member
            .fetch(&path, &token)
            .await
            .and_then(|bytes| write(file, &bytes))
        {
            Ok(bytes) => {
                return Ok(format!(
                    "{}, as {name} held it at log index {at_least} or later, is in {} ({bytes} bytes)\n",
                    group.title(),
                    file.display()
                ));
            }
            Err(error) => problem = error.context(format!("asking {name} for a backup")),
        }
    }
    Err(problem)
}

/// Followers first: writing the state down holds up whoever does it.
fn givers(group: &Group) -> Vec<String> {
    let leader = group.leader().map(|leader| leader.status.name.clone());
    let others = group.answered().map(|status| status.name.clone());
    let mut names: Vec<_> = others.filter(|name| Some(name) != leader.as_ref()).collect();
    names.extend(leader);
    names
}

/// Writes it aside, and moves it to its place.
fn write(file: &Path, bytes: &Bytes) -> anyhow::Result<usize> {
    check(bytes)?;
    let mut aside = file.as_os_str().to_owned();
    aside.push(".partial");
    let failed = || format!("writing {}", file.display());
    let mut options = std::fs::OpenOptions::new();
    // It holds everybody's secrets.
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = options.open(&aside).with_context(failed)?;
    out.write_all(bytes).with_context(failed)?;
    out.sync_all().with_context(failed)?;
    std::fs::rename(&aside, file).with_context(failed)?;
    Ok(bytes.len())
}

/// What a backup says of itself, as far as it is needed here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Header {
    /// The service whose state it is.
    pub service: String,
    /// The member that wrote it.
    pub member: String,
    /// The last log index whose effects it holds.
    pub index: u64,
}

/// Whether it is as it was written: its mark, and a CRC-32C (little-endian) over everything after it; a length and a JSON
/// header come next. Members check all of it.
pub(crate) fn check(bytes: &[u8]) -> anyhow::Result<Header> {
    let Some((mark, rest)) = bytes.split_first_chunk::<8>() else {
        bail!("it is too short for a backup");
    };
    ensure!(mark == b"QRBACK01", "it is no backup that this program knows");
    let Some((crc, covered)) = rest.split_first_chunk::<4>() else {
        bail!("it is too short for a backup");
    };
    ensure!(
        u32::from_le_bytes(*crc) == crc32c::crc32c(covered),
        "it was damaged, on its way or since: take it again"
    );
    let (length, rest) = covered
        .split_first_chunk::<4>()
        .context("it is too short for a backup")?;
    let header = usize::try_from(u32::from_le_bytes(*length))
        .ok()
        .and_then(|length| rest.get(..length))
        .context("its header has no sensible length")?;
    serde_json::from_slice(header).context("reading its header")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::group;

    #[test]
    fn only_a_whole_backup_is_written() {
        let header = br#"{"format":1,"service":"kv","groupId":"g","member":"kv-0","index":9,"unixMs":5}"#;
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        let covered = [&length[..], header, b"state"].concat();
        let mut bytes = b"QRBACK01".to_vec();
        bytes.extend(crc32c::crc32c(&covered).to_le_bytes());
        bytes.extend(covered);
        let read = check(&bytes).unwrap();
        assert_eq!(
            (read.service.as_str(), read.member.as_str(), read.index),
            ("kv", "kv-0", 9)
        );
        for (cut, why) in [(7, "too short"), (10, "too short"), (bytes.len() - 1, "damaged")] {
            let error = check(&bytes[..cut]).unwrap_err().to_string();
            assert!(error.contains(why), "{cut}: {error}");
        }
        bytes[0] = b'q';
        assert!(check(&bytes).unwrap_err().to_string().contains("no backup"));
    }

    #[test]
    fn the_leader_is_asked_last() {
        assert_eq!(givers(&group()), ["boot-0", "boot-2", "boot-1"]);
    }
}
