//! File contents for tests: random, and the same for the same seed.

use std::path::Path;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// One mebibyte.
pub const MIB: usize = 1 << 20;

/// `len` random bytes.
#[must_use]
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// The SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Fails when the file at `path` is not exactly `expected`, and says where the first difference is.
pub fn ensure_identical(path: &Path, expected: &[u8]) -> anyhow::Result<()> {
    let found =
        std::fs::read(path).with_context(|| format!("reading the downloaded file {}", path.display()))?;
    ensure_same_bytes(&found, expected)
}

/// Fails when `found` is not exactly `expected`, and says where the first difference is.
pub fn ensure_same_bytes(found: &[u8], expected: &[u8]) -> anyhow::Result<()> {
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        anyhow::bail!(
            "byte {at} differs (512-byte block {}), of {} bytes",
            at / 512 + 1,
            expected.len()
        );
    }
    ensure!(
        found.len() == expected.len(),
        "the file has {} bytes instead of {}, all of them right",
        found.len(),
        expected.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_same_bytes() {
        assert_eq!(random_bytes(7, 1000), random_bytes(7, 1000));
        assert_ne!(random_bytes(7, 1000), random_bytes(8, 1000));
    }

    #[test]
    fn difference_and_truncation_are_found() {
        assert!(ensure_same_bytes(b"abc", b"abc").is_ok());
        assert!(
            ensure_same_bytes(b"abd", b"abc")
                .unwrap_err()
                .to_string()
                .contains("byte 2 differs")
        );
        assert!(
            ensure_same_bytes(b"ab", b"abc")
                .unwrap_err()
                .to_string()
                .contains("2 bytes instead of 3")
        );
    }
}
