//! The names of files: what clients ask for, turned into keys of the replicated map. Pure.
//!
//! A name is never given to an operating system: it is only ever looked up in the map of [`crate::state`], by exact
//! comparison, case included. `/etc/passwd`, however it is spelled, is either refused here or the key
//! `etc/passwd`, which exists only if somebody put it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name in bytes: what fits beside the mode `netascii` into a request of 512 octets (RFC 2347, Packet
/// Formats: opcode 2, name, NUL, mode 8, NUL).
pub const PATH_BYTES_MAX: usize = 500;

/// A file's name in its one spelling: segments joined by single slashes, none of them empty, `.` or `..`.
///
/// It is stored in the log as a plain string and not checked again when it is read back: replicas must never differ
/// on what an entry means, whatever a later version refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilePath(Box<str>);

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing is left of it.
    #[error("file name is empty")]
    Empty,
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("file name has {bytes} bytes, at most {PATH_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length once normalised.
        bytes: usize,
    },
    /// A segment `..`, which no honest client needs.
    #[error("file name climbs with \"..\"")]
    Climbs,
    /// A control character or NUL: it would spoil logs and terminals.
    #[error("file name holds the control character U+{code:04X}")]
    Control {
        /// Its code point.
        code: u32,
    },
    /// Bytes that are no UTF-8.
    #[error("file name is not UTF-8")]
    NotUtf8,
}

impl FilePath {
    /// Normalises a name as clients send it: leading and doubled slashes go (GRUB, curl), backslashes become slashes
    /// (Windows boot manager), segments `.` go.
    ///
    /// # Errors
    /// When nothing is left, or the name climbs, is too long, or holds control characters.
    pub fn try_new(name: &str) -> Result<Self, PathError> {
        if let Some(control) = name.chars().find(|character| character.is_control()) {
            return Err(PathError::Control {
                code: u32::from(control),
            });
        }
        let mut normal = String::with_capacity(name.len());
        for segment in name.split(['/', '\\']) {
            match segment {
                "" | "." => {}
                ".." => return Err(PathError::Climbs),
                segment => {
                    if !normal.is_empty() {
                        normal.push('/');
                    }
                    normal.push_str(segment);
                }
            }
        }
        match normal.len() {
            0 => Err(PathError::Empty),
            bytes if bytes > PATH_BYTES_MAX => Err(PathError::TooLong { bytes }),
            _ => Ok(Self(normal.into_boxed_str())),
        }
    }

    /// [`FilePath::try_new`] for bytes off the wire.
    ///
    /// # Errors
    /// As [`FilePath::try_new`], and when the bytes are no UTF-8.
    pub fn try_from_bytes(name: &[u8]) -> Result<Self, PathError> {
        Self::try_new(std::str::from_utf8(name).map_err(|_| PathError::NotUtf8)?)
    }

    /// The normal spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_one_key() {
        for name in [
            "etc/passwd",
            "/etc/passwd",
            "//etc///passwd",
            "\\etc\\passwd",
            "./etc/./passwd/",
            "/./etc/passwd",
        ] {
            assert_eq!(
                FilePath::try_new(name).unwrap().as_str(),
                "etc/passwd",
                "{name:?}"
            );
        }
        assert_eq!(FilePath::try_new("Etc/passwd").unwrap().as_str(), "Etc/passwd");
        assert_eq!(FilePath::try_new("...").unwrap().as_str(), "...");
        assert_eq!(FilePath::try_new("\\Boot\\BCD").unwrap().as_str(), "Boot/BCD");
        assert_eq!(FilePath::try_new("Größe.bin").unwrap().as_str(), "Größe.bin");
    }

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        for name in [
            "../etc/passwd",
            "a/../../etc/passwd",
            "..",
            "a\\..\\b",
            "/..//etc/passwd",
        ] {
            assert_eq!(FilePath::try_new(name), Err(PathError::Climbs), "{name:?}");
        }
        for name in ["", "/", "//", ".", "./", "\\"] {
            assert_eq!(FilePath::try_new(name), Err(PathError::Empty), "{name:?}");
        }
        assert_eq!(FilePath::try_new("a\0b"), Err(PathError::Control { code: 0 }));
        assert_eq!(
            FilePath::try_new("a\x1b[2J"),
            Err(PathError::Control { code: 0x1b })
        );
        assert_eq!(FilePath::try_from_bytes(b"a\xff"), Err(PathError::NotUtf8));
    }

    #[test]
    fn longest_name_fits_a_request() {
        let longest = "x".repeat(PATH_BYTES_MAX);
        assert_eq!(
            FilePath::try_new(&format!("/{longest}")).unwrap().as_str(),
            longest
        );
        let bytes = PATH_BYTES_MAX + 1;
        assert_eq!(
            FilePath::try_new(&"x".repeat(bytes)),
            Err(PathError::TooLong { bytes })
        );
    }

    proptest! {
        #[test]
        fn accepted_names_are_normal_and_stay_so(name in "[a-c./\\\\\u{0}-\u{ff}]{0,24}") {
            if let Ok(path) = FilePath::try_new(&name) {
                let text = path.as_str();
                prop_assert!(!text.starts_with('/') && !text.ends_with('/') && !text.contains("//"));
                prop_assert!(!text.contains('\\'));
                prop_assert!(text.split('/').all(|segment| segment != ".." && segment != "."));
                prop_assert_eq!(FilePath::try_new(text), Ok(path.clone()));
            }
        }
    }
}
