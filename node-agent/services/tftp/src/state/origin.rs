//! Which source files came from, so that a source can take back what it brought and nothing else. Pure.

use std::collections::BTreeMap;

use replication::{LogTime, RestoreError};

use super::{FileVersion, NewFile, Outcome, TftpState};
use crate::path::FilePath;

/// The files that came from sources, each with its source's name. What people put is not in here.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<FilePath, String>);

impl Origins {
    /// Somebody put the file, or removed it.
    pub(super) fn forget(&mut self, path: &FilePath) {
        self.0.remove(path);
    }

    /// As a snapshot has them, behind everything else.
    pub(super) fn snapshot(&self) -> Option<Vec<u8>> {
        let encoded = || postcard::to_allocvec(&self.0).expect("a map of strings always serialises");
        (!self.0.is_empty()).then(encoded)
    }

    /// The inverse of [`Origins::snapshot`].
    pub(super) fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        postcard::from_bytes(bytes)
            .map(Self)
            .map_err(|error| RestoreError {
                reason: format!("the files' sources do not decode: {error}"),
            })
    }
}

impl TftpState {
    /// The source that a file came from; none when somebody put it, or there is no such file.
    #[must_use]
    pub fn origin(&self, path: &FilePath) -> Option<&str> {
        self.origins.0.get(path).map(String::as_str)
    }

    /// All files that came from sources, sorted by path, each with its source's name.
    pub fn sourced(&self) -> impl Iterator<Item = (&FilePath, &FileVersion, &str)> {
        let origins = self.origins.0.iter();
        origins.filter_map(|(path, source)| Some((path, self.files.get(path)?, source.as_str())))
    }

    pub(super) fn put_from(
        &mut self,
        at: LogTime,
        source: String,
        file: NewFile,
        files_max: u32,
        content_bytes_max: u64,
    ) -> Outcome {
        if self.files.contains_key(&file.path) && self.origin(&file.path) != Some(&source) {
            return Outcome::OfAnother;
        }
        let path = file.path.clone();
        let outcome = self.put(at, vec![file], files_max, content_bytes_max);
        if matches!(outcome, Outcome::Put { .. }) {
            self.origins.0.insert(path, source);
        }
        outcome
    }

    pub(super) fn remove_from(&mut self, at: LogTime, source: &str, path: &FilePath) -> Outcome {
        if self.origin(path) == Some(source) {
            self.remove(at, path)
        } else {
            Outcome::OfAnother
        }
    }
}
