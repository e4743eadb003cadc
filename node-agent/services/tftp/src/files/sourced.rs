//! Files that come from a source: put and removed only where no person and no other source has a say.

use std::error::Error;

use bytes::Bytes;
use futures::Stream;

use super::{FilesOf, Group, PutError, PutTerms, RemoveError};
use crate::path::FilePath;
use crate::state::{Command, ContentHash, FileVersion, Outcome};

impl<G: Group> FilesOf<G> {
    /// As [`FilesOf::put`], for a source; the bytes must be those of `content`.
    ///
    /// # Errors
    /// See [`PutError`]; [`PutError::OfAnother`] when the file is not this source's.
    pub async fn put_from<S, E>(
        &self,
        source: &str,
        path: FilePath,
        content: ContentHash,
        bytes: S,
    ) -> Result<FileVersion, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.put_on(path, bytes, None, PutTerms::From(source, content))
            .await
    }

    /// As [`FilesOf::remove`], for a source.
    ///
    /// # Errors
    /// See [`RemoveError`]; [`RemoveError::NotFound`] also when the file is not this source's.
    pub async fn remove_from(&self, source: &str, path: FilePath) -> Result<(), RemoveError> {
        let command = Command::RemoveFrom {
            source: source.to_owned(),
            path: path.clone(),
        };
        let proposed = self.inner.group.propose(command).await;
        match proposed.map_err(RemoveError::Propose)? {
            Outcome::Removed => Ok(()),
            _ => Err(RemoveError::NotFound(path)),
        }
    }
}
