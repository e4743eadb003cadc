//! Finding the files of a directory that is to be imported. I/O.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::path::FilePath;

/// Files, and directories, that one import may find. More than that is a mistake in the directory's name.
pub const IMPORT_FILES_MAX: usize = 100_000;

/// Directories inside directories; a loop of symbolic links ends here.
const DEPTH_MAX: usize = 32;

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Import {
    /// What can be put, sorted by path.
    pub files: Vec<ImportedFile>,
    /// What cannot, and why: to be shown as warnings.
    pub skipped: Vec<Skipped>,
}

/// A file to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedFile {
    /// The name it will have.
    pub path: FilePath,
    /// Where its bytes are: inside the directory, without symbolic links.
    pub source: PathBuf,
    /// Its length when it was found.
    pub size: u64,
}

/// Something that will not be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// What.
    pub source: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a directory cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("could not read directory {dir}")]
    Read {
        /// Which.
        dir: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It holds too much.
    #[error("{dir} holds more than {IMPORT_FILES_MAX} files or directories: is it the right directory?")]
    TooManyFiles {
        /// Which.
        dir: PathBuf,
    },
}

/// Finds all regular files below a directory; blocks. Symbolic links are followed as long as they stay inside.
///
/// # Errors
/// When the directory cannot be read, or holds too many files. Trouble with a single file is listed in
/// [`Import::skipped`].
pub fn import(dir: &Path) -> Result<Import, ImportError> {
    let unreadable = |source| ImportError::Read {
        dir: dir.to_owned(),
        source,
    };
    let root = fs::canonicalize(dir).map_err(unreadable)?;
    let mut walk = Walk {
        root: &root,
        files: BTreeMap::new(),
        skipped: Vec::new(),
    };
    let mut waiting = vec![(root.clone(), String::new(), 0)];
    let mut directories = 0;
    while let Some((directory, name, depth)) = waiting.pop() {
        directories += 1;
        let entries = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(unreadable(error)),
            Err(error) => {
                walk.skip(directory, error.to_string());
                continue;
            }
        };
        for entry in entries {
            if let Some(found) = walk.visit(&entry.path(), &name, depth) {
                waiting.push(found);
            }
        }
        // Links among directories can make many ways to few files, or to none.
        if walk.files.len() > IMPORT_FILES_MAX || directories > IMPORT_FILES_MAX {
            return Err(ImportError::TooManyFiles { dir: dir.to_owned() });
        }
    }
    walk.skipped.sort_by(|left, right| left.source.cmp(&right.source));
    Ok(Import {
        files: walk.files.into_values().collect(),
        skipped: walk.skipped,
    })
}

struct Walk<'a> {
    root: &'a Path,
    files: BTreeMap<FilePath, ImportedFile>,
    skipped: Vec<Skipped>,
}

impl Walk<'_> {
    /// Enters a file, or returns a directory to go into.
    fn visit(&mut self, source: &Path, parent: &str, depth: usize) -> Option<(PathBuf, String, usize)> {
        match self.examine(source, parent, depth) {
            Ok(directory) => directory,
            Err(reason) => {
                self.skip(source.to_owned(), reason);
                None
            }
        }
    }

    fn examine(
        &mut self,
        source: &Path,
        parent: &str,
        depth: usize,
    ) -> Result<Option<(PathBuf, String, usize)>, String> {
        let segment = source
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("its name is not UTF-8")?;
        if segment.starts_with("..") {
            // The kubelet keeps what it mounts in `..2026_11_21_…`, behind a link `..data`, and links to it from beside.
            return Ok(None);
        }
        if segment.contains('\\') {
            return Err("its name holds a backslash, which clients use as a slash".to_owned());
        }
        let target = fs::canonicalize(source).map_err(|error| error.to_string())?;
        // By components, not by text: `/var/data-private` is not inside `/var/data`.
        if !target.starts_with(self.root) {
            return Err("it is a symbolic link that leads outside".to_owned());
        }
        let metadata = fs::metadata(&target).map_err(|error| error.to_string())?;
        let name = if parent.is_empty() {
            segment.to_owned()
        } else {
            format!("{parent}/{segment}")
        };
        if metadata.is_dir() {
            // A link to a directory that contains it would be walked again and again.
            if source.parent().is_some_and(|within| within.starts_with(&target)) {
                return Err("it is a symbolic link to a directory that contains it".to_owned());
            }
            if depth + 1 >= DEPTH_MAX {
                return Err(format!("it is more than {DEPTH_MAX} directories deep"));
            }
            return Ok(Some((target, name, depth + 1)));
        }
        if !metadata.is_file() {
            return Err("it is no regular file".to_owned());
        }
        let path = FilePath::try_new(&name).map_err(|error| error.to_string())?;
        let file = ImportedFile {
            path: path.clone(),
            source: target,
            size: metadata.len(),
        };
        self.files.insert(path, file);
        Ok(None)
    }

    fn skip(&mut self, source: PathBuf, reason: String) {
        self.skipped.push(Skipped { source, reason });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_found_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let outside = dir.path().join("data-private");
        for made in [root.join("boot/deep"), outside.clone()] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::write(root.join("a"), "aa").unwrap();
        fs::write(root.join("boot/deep/b"), "bbb").unwrap();
        fs::write(root.join("back\\slash"), "").unwrap();
        symlink("boot/deep/b", root.join("link")).unwrap();
        symlink("boot", root.join("boot-2")).unwrap();
        symlink(outside.join("secret"), root.join("leak")).unwrap();
        symlink(&outside, root.join("leaks")).unwrap();
        symlink("..", root.join("boot/up")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();

        let found = import(&root).unwrap();
        let files: Vec<_> = found
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.size))
            .collect();
        assert_eq!(
            files,
            [("a", 2), ("boot-2/deep/b", 3), ("boot/deep/b", 3), ("link", 3)]
        );
        let skipped: Vec<_> = found
            .skipped
            .iter()
            .map(|skipped| {
                (
                    skipped.source.file_name().unwrap().to_str().unwrap(),
                    skipped.reason.as_str(),
                )
            })
            .collect();
        let outside = "it is a symbolic link that leads outside";
        let around = "it is a symbolic link to a directory that contains it";
        assert_eq!(skipped.len(), 6, "{skipped:?}");
        for expected in [("leak", outside), ("leaks", outside), ("up", around)] {
            assert!(skipped.contains(&expected), "{expected:?} in {skipped:?}");
        }
    }

    #[test]
    fn links_that_go_round_end() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        symlink("../b", dir.path().join("a/to-b")).unwrap();
        symlink("../a", dir.path().join("b/to-a")).unwrap();
        let found = import(dir.path()).unwrap();
        assert!(found.files.is_empty());
        assert!(
            found
                .skipped
                .iter()
                .all(|skipped| skipped.reason.contains("directories deep")),
            "{found:?}"
        );
    }

    #[test]
    fn missing_directory_is_named() {
        let error = import(Path::new("/nonexistent/tftp")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tftp"), "{error}");
    }
}
