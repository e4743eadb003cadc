//! A directory as a source: a mounted ConfigMap, a volume.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};
use tftp::files::{Import, ImportedFile, import};
use tftp::path::FilePath;
use tftp::state::ContentHash;
use tokio_util::io::ReaderStream;

use super::plan::Wanted;

/// A directory, and what was found in it.
pub(super) struct Directory {
    directory: PathBuf,
    prefix: String,
    found: BTreeMap<FilePath, Found>,
    /// How many were left out at the last look; said once.
    skipped: usize,
}

struct Found {
    source: PathBuf,
    stamp: Stamp,
    /// Known once two looks in a row found the same stamp: before that, somebody may still be writing.
    content: Option<ContentHash>,
}

/// What changes when a file's bytes do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Directory {
    pub(super) fn new(directory: &Path, prefix: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            prefix: prefix.to_owned(),
            found: BTreeMap::new(),
            skipped: 0,
        }
    }

    /// What the directory holds. Reads the bytes of what is new, and of nothing else.
    ///
    /// # Errors
    /// When the directory cannot be read: then nothing is known of its files.
    pub(super) async fn look(&mut self) -> anyhow::Result<Wanted> {
        let (directory, prefix, known) = (
            self.directory.clone(),
            self.prefix.clone(),
            std::mem::take(&mut self.found),
        );
        let looked = tokio::task::spawn_blocking(move || {
            let imported = import(&directory)?;
            let found = examine(&directory, &prefix, &imported, &known)?;
            anyhow::Ok((found, imported))
        });
        let (found, Import { skipped, .. }) = looked.await.context("looking at a directory")??;
        if self.skipped != skipped.len() {
            self.skipped = skipped.len();
            for left_out in skipped.iter().take(SKIPPED_SHOWN_MAX) {
                tracing::warn!(file = %left_out.source.display(), reason = left_out.reason, "a source's file is left out");
            }
        }
        self.found = found;
        let wanted = self
            .found
            .iter()
            .map(|(path, found)| (path.clone(), found.content));
        Ok(wanted.collect())
    }

    /// The bytes of a file that was found.
    pub(super) async fn open(&self, path: &FilePath) -> anyhow::Result<ReaderStream<tokio::fs::File>> {
        let found = self
            .found
            .get(path)
            .context("the file was not found at the last look")?;
        let (directory, source) = (self.directory.clone(), found.source.clone());
        let opened = tokio::task::spawn_blocking(move || open_beneath(&directory, &source));
        let file = opened
            .await
            .context("opening a file")?
            .with_context(|| format!("opening {}", found.source.display()))?;
        Ok(ReaderStream::with_capacity(
            tokio::fs::File::from_std(file),
            PIECE_BYTES,
        ))
    }
}

/// Looks at each file, and reads those that have changed and have come to rest; blocks.
fn examine(
    directory: &Path,
    prefix: &str,
    imported: &Import,
    known: &BTreeMap<FilePath, Found>,
) -> anyhow::Result<BTreeMap<FilePath, Found>> {
    let mut all = BTreeMap::new();
    for ImportedFile { path, source, .. } in &imported.files {
        let path = FilePath::try_new(&format!("{prefix}/{path}"))
            .with_context(|| format!("the name of {}", source.display()))?;
        // A file may go between two system calls: then it is as if it had gone before both.
        let Ok(metadata) = std::fs::symlink_metadata(source) else {
            continue;
        };
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        let content = match known.get(&path) {
            Some(before) if before.stamp == stamp && before.content.is_some() => before.content,
            Some(before) if before.stamp == stamp => {
                Some(digest(directory, source).with_context(|| format!("reading {}", source.display()))?)
            }
            _ => None,
        };
        let source = source.clone();
        all.insert(
            path,
            Found {
                source,
                stamp,
                content,
            },
        );
    }
    Ok(all)
}

fn digest(directory: &Path, source: &Path) -> io::Result<ContentHash> {
    let mut file = open_beneath(directory, source)?;
    let (mut digest, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(ContentHash(digest.finalize().into())),
            length => digest.update(&piece[..length]),
        }
    }
}

/// Opens a file that was found in a directory, unless it has become a link that leads outside.
fn open_beneath(directory: &Path, source: &Path) -> io::Result<File> {
    let root = std::fs::canonicalize(directory)?;
    let inside = source
        .strip_prefix(&root)
        .map_err(|_| io::Error::other("it is not in its source's directory any more"))?;
    let directory = rustix::fs::openat(CWD, &root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // It was found without links on its way; one that is there now was put there since.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(rustix::fs::openat2(
        directory,
        inside,
        flags,
        Mode::empty(),
        resolve,
    )?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    Ok(file)
}

/// What is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Files that were left out and are named in the log.
const SKIPPED_SHOWN_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use futures::TryStreamExt;

    use super::*;

    /// What two looks find: names and the bytes behind them.
    async fn look(directory: &mut Directory) -> Vec<(String, String)> {
        directory.look().await.unwrap();
        let wanted = directory.look().await.unwrap();
        let mut found = Vec::new();
        for (path, content) in wanted {
            let pieces: Vec<_> = directory.open(&path).await.unwrap().try_collect().await.unwrap();
            let bytes = pieces.concat();
            assert_eq!(
                content,
                Some(ContentHash(Sha256::digest(&bytes).into())),
                "{path}"
            );
            found.push((path.as_str().to_owned(), String::from_utf8(bytes).unwrap()));
        }
        found
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    /// Brings a ConfigMap's next version, as the kubelet does.
    fn swap(root: &Path, version: &str, files: &[(&str, &str)]) {
        let made = root.join(format!("..{version}"));
        fs::create_dir(&made).unwrap();
        for (name, text) in files {
            fs::write(made.join(name), text).unwrap();
        }
        symlink(format!("..{version}"), root.join("..data_tmp")).unwrap();
        let before = fs::read_link(root.join("..data")).ok();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        for (name, _) in files {
            let link = root.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        if let Some(before) = before {
            fs::remove_dir_all(root.join(before)).unwrap();
        }
    }

    #[tokio::test]
    async fn mounted_config_map_is_followed_through_its_swaps() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(root.path(), "boot");
        swap(root.path(), "1", &[("a", "one"), ("b", "two")]);
        assert_eq!(
            look(&mut directory).await,
            pairs(&[("boot/a", "one"), ("boot/b", "two")])
        );
        swap(root.path(), "2", &[("a", "uno"), ("b", "two")]);
        assert_eq!(
            look(&mut directory).await,
            pairs(&[("boot/a", "uno"), ("boot/b", "two")])
        );
        swap(root.path(), "3", &[("a", "uno")]);
        fs::remove_file(root.path().join("b")).unwrap();
        assert_eq!(look(&mut directory).await, pairs(&[("boot/a", "uno")]));
    }

    #[tokio::test]
    async fn file_is_taken_when_two_looks_found_the_same() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(root.path(), "");
        let path = FilePath::try_new("a").unwrap();
        fs::write(root.path().join("a"), "half").unwrap();
        assert_eq!(directory.look().await.unwrap()[&path], None, "seen once");
        fs::write(root.path().join("a"), "half and half").unwrap();
        assert_eq!(
            directory.look().await.unwrap()[&path],
            None,
            "it is still being written"
        );
        assert!(directory.look().await.unwrap()[&path].is_some());
    }

    #[tokio::test]
    async fn links_do_not_lead_outside() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::write(root.path().join("a"), "a").unwrap();
        symlink(outside.path().join("secret"), root.path().join("leak")).unwrap();
        let mut directory = Directory::new(root.path(), "");
        assert_eq!(look(&mut directory).await, pairs(&[("a", "a")]));
        // Also when the link comes between the look and the reading.
        fs::remove_file(root.path().join("a")).unwrap();
        symlink(outside.path().join("secret"), root.path().join("a")).unwrap();
        assert!(directory.open(&FilePath::try_new("a").unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn directory_that_cannot_be_read_is_an_error_and_not_empty() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(&root.path().join("gone"), "");
        assert!(directory.look().await.is_err());
    }
}
