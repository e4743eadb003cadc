//! Netascii conversions (RFC 1350 §1, RFC 764 via RFC 854): made once per content and kept as files, so that the
//! offset of a block is a pure function and `tsize` is exact.
//!
//! They can be made again at any time, so they are neither synced nor kept over a restart.

use std::fs::File;
use std::io::Read;

use super::writer::TempFile;
use super::{CHUNK_BYTES, ContentError, ContentStore};
use crate::netascii;
use crate::state::ContentHash;

/// Converts content; blocks. Returns the length of the conversion.
pub(super) fn derive(store: &ContentStore, hash: ContentHash) -> Result<u64, ContentError> {
    let source = store.raw_path(&hash);
    let mut file = File::open(&source).map_err(|error| store.unreadable(hash, &source, error))?;
    let mut temp = TempFile::create(store.temp_path())?;
    let mut input = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX)];
    let mut output = Vec::with_capacity(2 * input.len());
    let mut length = 0;
    loop {
        let read = file
            .read(&mut input)
            .map_err(|error| ContentError::io("read", &source, error))?;
        if read == 0 {
            break;
        }
        output.clear();
        netascii::encode(&input[..read], &mut output);
        temp.write(&output)?;
        length += output.len() as u64;
    }
    let target = store.netascii_path(&hash);
    temp.rename_into(&target)?;
    Ok(length)
}
