//! The few file operations that the log needs, behind two traits, so that tests can make them fail and can cut the
//! power between any two of them ([`crate::tests`]).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FlockOperation};

use crate::OpenError;

/// One flat directory.
pub(crate) trait Disk: Send + Sync + 'static {
    /// The names of all files, in any order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Creates an empty file, or empties an existing one.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file; durable after [`Disk::sync_names`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; durable after [`Disk::sync_names`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// One open file.
pub(crate) trait File: Send + Sync + 'static {
    /// The file's length.
    fn bytes(&self) -> io::Result<u64>;
    /// Cuts or (sparsely) extends the file.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buffer` at `offset`.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Drops cached pages, so that the next read comes from the disk.
    ///
    /// After a failed sync Linux keeps pages that never reached the disk and calls them clean; a restarted process
    /// would read, and acknowledge, bytes that the next power cut takes away.
    fn forget_cached(&self);
}

/// A real directory, locked against other processes for as long as this lives.
pub(crate) struct Directory {
    path: PathBuf,
    names: fs::File,
    _lock: fs::File,
}

impl Directory {
    /// Creates the directory if need be and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |doing: &str, source| OpenError::Io {
            doing: format!("{doing} {}", path.display()),
            source,
        };
        fs::create_dir_all(path).map_err(|e| io("create the directory", e))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|e| io("sync the parent of", e))?;
        }
        let names = fs::File::open(path).map_err(|e| io("open the directory", e))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|e| io("create the lock file in", e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                names,
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
                directory: path.to_owned(),
            }),
            Err(errno) => Err(io("lock the directory", errno.into())),
        }
    }
}

/// Locked with flock(2) by the process that uses the directory; it stays empty.
const LOCK: &str = "LOCK";

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for found in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(found?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path.join(name))?,
        ))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .clone();
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.names.sync_all()
    }
}

impl File for fs::File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self)?)
    }

    fn forget_cached(&self) {
        // Only advice: where it is not understood (tmpfs), nothing is lost.
        let _ = rustix::fs::fadvise(self, 0, None, Advice::DontNeed);
    }
}
