//! Where a TFTP group takes files from by itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A source of files: the leader keeps the group's files the same as the source's. A file that came from a source goes
/// when the source has it no more; a file that people put is never touched, also when a source has one of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum FileSource {
    /// The files below a directory that every member sees, such as a mounted ConfigMap. Symbolic links are followed as
    /// long as they stay inside; names that begin with `..` are left out.
    Directory {
        /// The source's name, unique in its group and stable: files remember it.
        name: String,
        /// Where it is, absolute.
        directory: PathBuf,
        /// What is put before each name, without a slash at its ends; empty for nothing.
        #[serde(default)]
        prefix: String,
    },
    /// One file, over HTTP or HTTPS.
    Http {
        /// The source's name, unique in its group and stable: files remember it.
        name: String,
        /// Where it is, `http://` or `https://`.
        url: String,
        /// The SHA-256 of its bytes, in hexadecimal: anything else is refused.
        sha256: String,
        /// The name that clients ask for.
        path: String,
        /// The largest file that is taken, in bytes.
        #[serde(default = "default_bytes_max")]
        bytes_max: u64,
        /// The authorities that the server's certificate may come from, PEM; the system's without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca_file: Option<PathBuf>,
    },
}

impl FileSource {
    /// The source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Directory { name, .. } | Self::Http { name, .. } => name,
        }
    }

    fn validate(&self) -> Result<(), String> {
        let name = self.name();
        let is_label = |name: &str| {
            (1..=NAME_BYTES_MAX).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_label(name) {
            return Err(format!(
                "sources: the name `{}` must be 1 to {NAME_BYTES_MAX} lowercase letters, digits or `-`",
                name.escape_debug()
            ));
        }
        let wrong = match self {
            Self::Directory { directory, .. } if !directory.is_absolute() => {
                format!("directory is `{}`: it must be absolute", directory.display())
            }
            Self::Directory { prefix, .. } if prefix.len() > PATH_BYTES_MAX => {
                format!(
                    "prefix has {} bytes: it must have at most {PATH_BYTES_MAX}",
                    prefix.len()
                )
            }
            Self::Http { url, .. } if !url.starts_with("http://") && !url.starts_with("https://") => {
                format!("url is `{url}`: it must begin with http:// or https://")
            }
            Self::Http { sha256, .. } if !is_sha256(sha256) => {
                format!("sha256 is `{sha256}`: it must be 64 hexadecimal digits")
            }
            Self::Http { path, .. } if path.is_empty() || path.len() > PATH_BYTES_MAX => {
                format!(
                    "path has {} bytes: it must have 1 to {PATH_BYTES_MAX}",
                    path.len()
                )
            }
            Self::Http { bytes_max: 0, .. } => "bytesMax is 0: it must be at least 1".to_owned(),
            Self::Directory { .. } | Self::Http { .. } => return Ok(()),
        };
        Err(format!("sources: {name}: {wrong}"))
    }
}

/// Checks the sources of a group; the error names the source and the field.
pub(super) fn validate(sources: &[FileSource]) -> Result<(), String> {
    if sources.len() > SOURCES_MAX {
        return Err(format!(
            "{} sources are named: at most {SOURCES_MAX} can be",
            sources.len()
        ));
    }
    for (index, source) in sources.iter().enumerate() {
        source.validate()?;
        if sources[..index].iter().any(|other| other.name() == source.name()) {
            return Err(format!("sources: two have the name `{}`", source.name()));
        }
    }
    Ok(())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const fn default_bytes_max() -> u64 {
    1 << 30
}

/// Each is looked at again and again.
const SOURCES_MAX: usize = 64;

/// The length limit of a DNS label (RFC 1035 §2.3.4): volumes are named like sources.
const NAME_BYTES_MAX: usize = 63;

/// The longest name that a TFTP request can ask for.
const PATH_BYTES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(), String> {
        let sources: Vec<FileSource> =
            serde_json::from_str(&format!("[{json}]")).map_err(|error| error.to_string())?;
        validate(&sources)
    }

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn sources_are_read_with_defaults() {
        read(r#"{"type":"directory","name":"boot","directory":"/sources/boot"}"#).unwrap();
        let http =
            format!(r#"{{"type":"http","name":"k","url":"https://h/k","sha256":"{HASH}","path":"k"}}"#);
        read(&http).unwrap();
        let FileSource::Http {
            bytes_max, ca_file, ..
        } = serde_json::from_str(&http).unwrap()
        else {
            panic!("{http}");
        };
        assert_eq!((bytes_max, ca_file), (1 << 30, None));
    }

    #[test]
    fn wrong_sources_are_named() {
        let http = |from: &str, to: &str| {
            let good =
                format!(r#"{{"type":"http","name":"k","url":"http://h/k","sha256":"{HASH}","path":"k"}}"#);
            assert!(good.contains(from), "{from}");
            good.replace(from, to)
        };
        for (json, part) in [
            (r#"{"type":"directory","name":"Boot","directory":"/b"}"#.to_owned(), "`Boot`"),
            (r#"{"type":"directory","name":"b","directory":"b"}"#.to_owned(), "must be absolute"),
            (r#"{"type":"directory","name":"b","directory":"/b","url":"x"}"#.to_owned(), "`url`"),
            (r#"{"type":"directory","name":"b","directory":"/b"},{"type":"directory","name":"b","directory":"/c"}"#.to_owned(), "two have the name `b`"),
            (http("http://", "ftp://"), "must begin with http"),
            (http("ba78", "ba7"), "64 hexadecimal digits"),
            (http(r#""path":"k""#, r#""path":"""#), "path has 0 bytes"),
            (http(r#""path":"k""#, r#""path":"k","bytesMax":0"#), "bytesMax is 0"),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.contains(part), "{error}, expected {part}");
        }
    }
}
