//! `--tftp-root`: brings the files of a directory into the group when it starts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use crate::client::leader::Leader;
use crate::files::{self, Walk};

/// What an import did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    /// Files stored.
    pub stored: usize,
    /// Files that the group had already.
    pub same: usize,
    /// What is no regular file.
    pub skipped: usize,
}

/// Stores every file below `root` that the group does not have with the same bytes.
pub(crate) async fn import(leader: Leader, root: PathBuf) -> anyhow::Result<Imported> {
    let known = leader
        .ask(|client, _| async move { client.files().await })
        .await
        .context("listing the group's files")?;
    let known: BTreeMap<String, String> = known.into_iter().map(|file| (file.path, file.sha256)).collect();
    let Walk {
        files: found,
        skipped,
    } = files::walk(&root)?;
    let total = found.len();
    let (leader, known) = (&leader, &known);
    let stored: Vec<bool> = stream::iter(found)
        .map(|(file, name)| async move {
            if let Some(digest) = known.get(&name)
                && *digest == digest_of(file.clone()).await?
            {
                return Ok(false);
            }
            files::put(leader, &file, &name).await.map(|_| true)
        })
        .buffer_unordered(FILES_AT_ONCE)
        .try_collect::<Vec<bool>>()
        .await
        .context("importing files")?;
    let stored = stored.into_iter().filter(|stored| *stored).count();
    Ok(Imported {
        stored,
        same: total - stored,
        skipped: skipped.len(),
    })
}

impl Imported {
    /// The result in a sentence.
    pub(crate) fn sentence(&self, root: &Path) -> String {
        let mut text = format!(
            "{} {} imported from {}",
            self.stored,
            if self.stored == 1 { "file" } else { "files" },
            root.display()
        );
        if self.same > 0 {
            text.push_str(&format!(", {} unchanged", self.same));
        }
        if self.skipped > 0 {
            text.push_str(&format!(
                ", {} left out (links, devices and sockets)",
                self.skipped
            ));
        }
        text
    }
}

/// The SHA-256 of a file, in hexadecimal.
async fn digest_of(file: PathBuf) -> anyhow::Result<String> {
    let read = move || {
        let reading = || format!("reading {}", file.display());
        let mut source = File::open(&file).with_context(reading)?;
        let (mut digest, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
        loop {
            match source.read(&mut piece).with_context(reading)? {
                0 => return Ok(hex::encode(digest.finalize())),
                length => digest.update(&piece[..length]),
            }
        }
    };
    tokio::task::spawn_blocking(read)
        .await
        .context("computing a digest")?
}

/// As `files import`: enough to keep the group's commits full, few enough to leave the disk to clients.
const FILES_AT_ONCE: usize = 8;

/// What is read at once.
const PIECE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn digest_is_the_one_of_fips_180_4() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(
            digest_of(file).await.unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn sentence_names_what_was_left_out() {
        let imported = Imported {
            stored: 1,
            same: 2,
            skipped: 3,
        };
        assert_eq!(
            imported.sentence(Path::new("root")),
            "1 file imported from root, 2 unchanged, 3 left out (links, devices and sockets)"
        );
    }
}
