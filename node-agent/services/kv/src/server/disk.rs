//! The outbox's file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use tracing::error;

use crate::outbox::{self, Recovered, Stored};

/// The file is begun anew when it is longer.
const FILE_BYTES_MAX: u64 = 3 * outbox::BYTES_MAX as u64;

/// The file, open for appending.
pub(super) struct Disk {
    path: PathBuf,
    file: File,
    length: u64,
}

/// A write to the file that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The file is as it was before.
    #[error("{0}")]
    Once(io::Error),
    /// What is on the disk is not known.
    #[error("{0}")]
    ForGood(io::Error),
}

impl Disk {
    /// Opens the file and reads what it holds; a damaged one is kept aside.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Recovered)> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let recovered = outbox::recover(&bytes);
        let mut disk = Self {
            path: path.to_owned(),
            file,
            length: bytes.len() as u64,
        };
        if recovered.is_damaged {
            let aside = path.with_extension("damaged");
            error!(aside = %aside.display(), "the outbox is damaged: what could be read is used, the file is kept aside");
            fs::write(&aside, &bytes)?;
        }
        if recovered.good_bytes < bytes.len() || bytes.is_empty() {
            let writes = recovered.writes.iter();
            let writes = writes.map(|own| Stored::Write(own.member, own.write.clone()));
            let all: Vec<_> = std::iter::once(Stored::Last(recovered.last))
                .chain(writes)
                .collect();
            disk.begin(&all).map_err(|broken| match broken {
                Broken::Once(error) | Broken::ForGood(error) => error,
            })?;
        }
        Ok((disk, recovered))
    }

    /// Whether it is time to begin the file anew.
    pub(super) fn is_long(&self) -> bool {
        self.length > FILE_BYTES_MAX
    }

    /// Begins the file anew: written aside, synced, renamed, the directory synced.
    pub(super) fn begin(&mut self, records: &[Stored]) -> Result<(), Broken> {
        let aside = self.path.with_extension("new");
        let bytes = outbox::encode(records, true);
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).open(&aside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = write().map_err(Broken::Once)?;
        fs::rename(&aside, &self.path).map_err(Broken::Once)?;
        if let Some(directory) = self.path.parent() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(Broken::ForGood)?;
        }
        self.file = file;
        self.length = bytes.len() as u64;
        Ok(())
    }

    /// Appends records; they are on the disk when this returns.
    pub(super) fn append(&mut self, records: &[Stored]) -> Result<(), Broken> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = outbox::encode(records, false);
        let at_end = self.file.seek(SeekFrom::Start(self.length));
        if let Err(error) = at_end.and_then(|_| self.file.write_all(&bytes)) {
            self.file.set_len(self.length).map_err(Broken::ForGood)?;
            return Err(Broken::Once(error));
        }
        // Pages that the kernel failed to write are not reported twice: it cannot be tried again.
        self.file.sync_data().map_err(Broken::ForGood)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_and_a_torn_tail_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox");
        let (mut disk, recovered) = Disk::open(&path).unwrap();
        assert_eq!(recovered, Recovered::default());
        disk.append(&[Stored::Last(7)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[9, 0, 0, 0, 1, 2]).unwrap();
        let (mut disk, recovered) = Disk::open(&path).unwrap();
        assert_eq!((recovered.last, recovered.is_damaged), (7, false));
        disk.append(&[Stored::Last(8)]).unwrap();
        let (_, recovered) = Disk::open(&path).unwrap();
        assert_eq!((recovered.last, recovered.is_damaged), (8, false));
        assert!(fs::read(&path).unwrap().len() < 2 * whole.len());
    }

    #[test]
    fn damage_is_told_and_the_file_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox");
        let (mut disk, _) = Disk::open(&path).unwrap();
        disk.append(&[Stored::Last(7)]).unwrap();
        disk.append(&[Stored::Last(8)]).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[8 + 8 + 8] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (_, recovered) = Disk::open(&path).unwrap();
        assert!(recovered.is_damaged);
        assert_eq!(recovered.last, 8);
        assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), bytes);
    }
}
