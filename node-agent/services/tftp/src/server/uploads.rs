//! Which uploads are taken, and on what terms. Pure.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::open::Refusal;
use crate::packet::{self, ErrorCode, Mode, Request};
use crate::path::FilePath;
use crate::upload::Terms;

/// Blocks between two ACKs at most, whatever the option says: with the largest blocks they are 2 MiB, and that much
/// twice is what an upload can have in memory.
const WINDOW_SIZE_MAX: u16 = 32;

/// What clients may write.
#[derive(Debug, Clone, Default)]
pub struct Uploads {
    /// Without any, nothing is taken.
    pub rules: Vec<UploadRule>,
    /// The largest file, in bytes as sent.
    pub bytes_max: u64,
}

/// Who may write which files. Of several that fit a name, the longest prefix counts.
#[derive(Debug, Clone)]
pub struct UploadRule {
    /// How the names begin; empty for all names.
    pub prefix: String,
    /// Whether files may be replaced.
    pub overwrite: bool,
    /// The clients' networks; empty for all.
    pub from: Vec<IpNet>,
}

/// What is asked for, checked.
pub(crate) struct Wanted {
    pub(crate) path: FilePath,
    pub(crate) netascii: bool,
    pub(crate) overwrite: bool,
    /// The file's size, if the client says it (RFC 2349) and it is the size of what will be stored.
    pub(crate) declared: Option<u64>,
    pub(crate) terms: Terms,
    /// The OACK; empty when there is none.
    pub(crate) oack: Vec<u8>,
}

impl Uploads {
    fn rule(&self, path: &FilePath, client: IpAddr) -> Option<&UploadRule> {
        let fitting = self.rules.iter().filter(|rule| {
            let from_there =
                rule.from.is_empty() || rule.from.iter().any(|network| network.contains(&client));
            from_there && path.as_str().starts_with(&rule.prefix)
        });
        fitting.max_by_key(|rule| rule.prefix.len())
    }

    /// Checks a write request of `client`, as far as that needs no look at the files.
    pub(crate) fn check(
        &self,
        request: &Request,
        client: IpAddr,
        (block_size_max, window_size_max): (u16, u16),
    ) -> Result<Wanted, Refusal> {
        let refused = |code, message: &str, result| Err(Refusal::new(code, message, result));
        if self.rules.is_empty() {
            // U-Boot starts anew, for ever, after any code but 1 and 2.
            let message = "this server takes no uploads";
            return refused(ErrorCode::AccessViolation, message, "write_refused");
        }
        let netascii = match &request.mode {
            Mode::Octet => false,
            Mode::Netascii => true,
            Mode::Mail | Mode::Unknown(_) => {
                let message = "mode not supported: use octet or netascii";
                return refused(ErrorCode::IllegalOperation, message, "bad_mode");
            }
        };
        let path = match FilePath::try_new(&request.path) {
            Ok(path) => path,
            Err(error) => return refused(ErrorCode::AccessViolation, &error.to_string(), "write_refused"),
        };
        let Some(rule) = self.rule(&path, client) else {
            let message = "you may not upload a file of this name here";
            return refused(ErrorCode::AccessViolation, message, "write_refused");
        };
        let announced = packet::transfer_size(&request.options);
        if announced > self.bytes_max {
            let message = format!(
                "the file is too large: at most {} bytes are taken",
                self.bytes_max
            );
            return refused(ErrorCode::DiskFull, &message, "too_large");
        }
        let limits = packet::Limits {
            block_size_max,
            window_size_max: window_size_max.min(WINDOW_SIZE_MAX),
            file_len: announced,
        };
        let agreed = packet::negotiate(&request.options, &limits);
        Ok(Wanted {
            path,
            netascii,
            overwrite: rule.overwrite,
            declared: (announced > 0 && !netascii).then_some(announced),
            terms: Terms {
                block_size: agreed.block_size,
                window_size: agreed.window_size,
                timeout: agreed.timeout.map(|seconds| Duration::from_secs(seconds.into())),
                has_oack: agreed.oack.is_some(),
                bytes_max: self.bytes_max,
            },
            oack: agreed.oack.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{RequestKind, RequestOption};

    fn rule(prefix: &str, overwrite: bool, from: &[&str]) -> UploadRule {
        UploadRule {
            prefix: prefix.to_owned(),
            overwrite,
            from: from.iter().map(|network| network.parse().unwrap()).collect(),
        }
    }

    fn ask(name: &str, client: &str, options: &[(&str, &str)]) -> Result<Wanted, Refusal> {
        let uploads = Uploads {
            rules: vec![
                rule("backup/", true, &[]),
                rule("backup/locked/", false, &[]),
                rule("lab/", true, &["10.1.0.0/16", "fd00::/8"]),
            ],
            bytes_max: 1000,
        };
        let request = Request {
            kind: RequestKind::Write,
            path: name.to_owned(),
            mode: Mode::Octet,
            options: options
                .iter()
                .map(|(name, value)| RequestOption {
                    name: (*name).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
        };
        uploads.check(&request, client.parse().unwrap(), (65_464, 64))
    }

    #[track_caller]
    fn refused(result: Result<Wanted, Refusal>) -> ErrorCode {
        result.err().expect("it is refused").code
    }

    #[test]
    fn longest_prefix_counts() {
        assert!(ask("backup/sw1", "10.9.9.9", &[]).is_ok_and(|wanted| wanted.overwrite));
        assert!(ask("/backup//locked/sw1", "10.9.9.9", &[]).is_ok_and(|wanted| !wanted.overwrite));
        assert_eq!(
            refused(ask("boot/image", "10.9.9.9", &[])),
            ErrorCode::AccessViolation
        );
        assert_eq!(
            refused(ask("backup/../boot", "10.9.9.9", &[])),
            ErrorCode::AccessViolation
        );
    }

    #[test]
    fn networks_bound_who_may_write() {
        assert!(ask("lab/a", "10.1.2.3", &[]).is_ok());
        assert!(ask("lab/a", "fd00::1", &[]).is_ok());
        assert_eq!(refused(ask("lab/a", "10.2.2.3", &[])), ErrorCode::AccessViolation);
    }

    #[test]
    fn announced_size_is_repeated_and_bounded() {
        let wanted = ask("backup/a", "10.1.2.3", &[("tsize", "1000"), ("windowsize", "64")])
            .ok()
            .unwrap();
        assert_eq!(wanted.declared, Some(1000));
        assert_eq!(wanted.terms.window_size, WINDOW_SIZE_MAX);
        assert!(wanted.oack.windows(10).any(|window| window == b"tsize\x001000"));
        assert_eq!(
            refused(ask("backup/a", "10.1.2.3", &[("tsize", "1001")])),
            ErrorCode::DiskFull
        );
        // What a pipe sends says nothing.
        let wanted = ask("backup/a", "10.1.2.3", &[("tsize", "0")]).ok().unwrap();
        assert_eq!(wanted.declared, None);
    }
}
