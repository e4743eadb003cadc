//! The TFTP service's part of a member's configuration.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{FileSource, UploadRule};

/// The options of the TFTP service. Numbers are checked by [`TftpConfig::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TftpConfig {
    /// The UDP address that the leader serves. A socket passed by the parent (`LISTEN_FDS`) takes its place.
    pub listen: SocketAddr,
    /// Running transfers in all; a request beyond it is answered with an ERROR (code 0).
    #[serde(default = "TftpConfig::default_sessions_max")]
    pub sessions_max: u32,
    /// Running transfers of one client address; a request beyond it is answered with an ERROR (code 0).
    #[serde(default = "TftpConfig::default_sessions_per_client_max")]
    pub sessions_per_client_max: u32,
    /// How often a packet is sent again without any sign of the client before its transfer is given up.
    #[serde(default = "TftpConfig::default_retransmissions_max")]
    pub retransmissions_max: u32,
    /// Seconds without any packet from the client after which its transfer is given up.
    #[serde(default = "TftpConfig::default_idle_seconds_max")]
    pub idle_seconds_max: u32,
    /// The largest `blksize` (RFC 2348) that is granted, 8 to 65464.
    #[serde(default = "TftpConfig::default_block_size_max")]
    pub block_size_max: u16,
    /// The largest `windowsize` (RFC 7440) that is granted, 1 to 65535.
    #[serde(default = "TftpConfig::default_window_size_max")]
    pub window_size_max: u16,
    /// Bytes of file content that each member keeps in memory for all transfers together.
    #[serde(default = "TftpConfig::default_cache_bytes_max")]
    pub cache_bytes_max: u64,
    /// Bytes that all files together may hold on each member's disk.
    #[serde(default = "TftpConfig::default_content_bytes_max")]
    pub content_bytes_max: u64,
    /// Files that the group may hold.
    #[serde(default = "TftpConfig::default_files_max")]
    pub files_max: u32,
    /// What the leader takes files from by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<FileSource>,
    /// Which files clients may write; without any rule all uploads are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uploads: Vec<UploadRule>,
    /// The largest file that a client may upload, in bytes.
    #[serde(default = "TftpConfig::default_upload_bytes_max")]
    pub upload_bytes_max: u64,
}

impl TftpConfig {
    pub(crate) const fn default_sessions_max() -> u32 {
        10_000
    }
    pub(crate) const fn default_sessions_per_client_max() -> u32 {
        // A phone system or a NAT in front of a rack shares one address; a boot ROM asks two or three times at once.
        1_000
    }
    pub(crate) const fn default_retransmissions_max() -> u32 {
        // With the exponential back-off of RFC 1123 4.2.3.2 this lasts about 50 s, as long as U-Boot's patience, and
        // it bounds what a new leader sends to a client that is gone.
        10
    }
    pub(crate) const fn default_idle_seconds_max() -> u32 {
        // curl without --max-time waits 72 s before it sends anything again.
        120
    }
    pub(crate) const fn default_block_size_max() -> u16 {
        65_464
    }
    pub(crate) const fn default_window_size_max() -> u16 {
        64
    }
    pub(crate) const fn default_cache_bytes_max() -> u64 {
        64 << 20
    }
    pub(crate) const fn default_content_bytes_max() -> u64 {
        1 << 40
    }
    pub(crate) const fn default_files_max() -> u32 {
        100_000
    }

    pub(crate) const fn default_upload_bytes_max() -> u64 {
        // Firmware and crash dumps fit.
        1 << 30
    }

    /// The defaults, listening on `listen`.
    #[must_use]
    pub const fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            sessions_max: Self::default_sessions_max(),
            sessions_per_client_max: Self::default_sessions_per_client_max(),
            retransmissions_max: Self::default_retransmissions_max(),
            idle_seconds_max: Self::default_idle_seconds_max(),
            block_size_max: Self::default_block_size_max(),
            window_size_max: Self::default_window_size_max(),
            cache_bytes_max: Self::default_cache_bytes_max(),
            content_bytes_max: Self::default_content_bytes_max(),
            files_max: Self::default_files_max(),
            sources: Vec::new(),
            uploads: Vec::new(),
            upload_bytes_max: Self::default_upload_bytes_max(),
        }
    }

    /// Checks the numbers; the error names the field and the allowed range.
    pub fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("sessionsMax", self.sessions_max),
            ("sessionsPerClientMax", self.sessions_per_client_max),
            ("retransmissionsMax", self.retransmissions_max),
            ("idleSecondsMax", self.idle_seconds_max),
            ("windowSizeMax", u32::from(self.window_size_max)),
            ("filesMax", self.files_max),
        ];
        if let Some((field, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("tftp option {field} is 0: it must be at least 1"));
        }
        if !(8..=65_464).contains(&self.block_size_max) {
            return Err(format!(
                "tftp option blockSizeMax is {}: it must be from 8 to 65464 (RFC 2348)",
                self.block_size_max
            ));
        }
        if self.upload_bytes_max == 0 {
            return Err("tftp option uploadBytesMax is 0: it must be at least 1".to_owned());
        }
        super::uploads::validate(&self.uploads)?;
        super::sources::validate(&self.sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_size_outside_rfc_2348_is_refused() {
        let mut config = TftpConfig::at("127.0.0.1:6969".parse().unwrap());
        config.block_size_max = 7;
        assert!(config.validate().unwrap_err().contains("blockSizeMax is 7"));
    }
}
