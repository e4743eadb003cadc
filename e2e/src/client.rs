//! Stock TFTP clients, as people run them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::data::ensure_identical;
use crate::process::Process;
use crate::program::stock;

const HOST: &str = "127.0.0.1";

/// A client program and the options it is asked to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// tftp-hpa: no options, 512-byte blocks.
    TftpHpa,
    /// tftp-hpa in netascii mode.
    TftpHpaNetascii,
    /// curl: `tsize`, `blksize`, `timeout`.
    Curl {
        /// The block size it asks for.
        block_size: u32,
    },
    /// atftp without options: 512-byte blocks.
    Atftp,
    /// atftp with `blksize` and `windowsize`.
    AtftpOptions {
        /// The block size it asks for.
        block_size: u32,
        /// The window it asks for.
        window: u32,
    },
    /// busybox, which asks for `blksize` unless it is 512.
    Busybox {
        /// The block size it asks for.
        block_size: u32,
    },
}

impl Client {
    /// The clients the promises are tested with, one of each kind.
    pub const USUAL: [Self; 5] = [
        Self::TftpHpa,
        Self::Curl { block_size: 512 },
        Self::Atftp,
        Self::AtftpOptions {
            block_size: 1428,
            window: 8,
        },
        Self::Busybox { block_size: 512 },
    ];

    /// Its name in tables and messages.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::TftpHpa => "tftp-hpa".to_owned(),
            Self::TftpHpaNetascii => "tftp-hpa netascii".to_owned(),
            Self::Curl { block_size: 512 } => "curl".to_owned(),
            Self::Curl { block_size } => format!("curl blksize {block_size}"),
            Self::Atftp => "atftp".to_owned(),
            Self::AtftpOptions { block_size, window } => {
                format!("atftp blksize {block_size} windowsize {window}")
            }
            Self::Busybox { block_size: 512 } => "busybox".to_owned(),
            Self::Busybox { block_size } => format!("busybox blksize {block_size}"),
        }
    }

    /// The block size of the transfer, for reckoning with blocks.
    #[must_use]
    pub fn block_size(self) -> usize {
        match self {
            Self::TftpHpa | Self::TftpHpaNetascii | Self::Atftp => 512,
            Self::Curl { block_size }
            | Self::AtftpOptions { block_size, .. }
            | Self::Busybox { block_size } => block_size as usize,
        }
    }

    /// Starts to download `remote` from the server on `port` of loopback into the file `local`.
    pub fn start(self, port: u16, remote: &str, local: &Path) -> anyhow::Result<Download> {
        self.start_at("127.0.0.1", port, remote, local)
    }

    /// The same from another machine's server.
    pub fn start_at(self, host: &str, port: u16, remote: &str, local: &Path) -> anyhow::Result<Download> {
        let command = self.command(host, port, remote, local)?;
        let mut output = local.as_os_str().to_owned();
        output.push(".client-output");
        let process = Process::start(&self.name(), command, PathBuf::from(output))?;
        Ok(Download {
            process,
            local: local.to_owned(),
        })
    }

    /// Downloads `remote` and compares it with `expected`.
    pub fn fetch(
        self,
        port: u16,
        remote: &str,
        local: &Path,
        expected: &[u8],
        within: Duration,
    ) -> anyhow::Result<()> {
        let mut download = self.start(port, remote, local)?;
        download
            .ends_identical(expected, within)
            .with_context(|| format!("{} downloading {remote}", self.name()))
    }

    /// Uploads `local` as `remote` to the server on `port` of loopback, and waits for the client's end. Returns what it
    /// printed: some clients end well also when the server refused.
    pub fn upload(self, port: u16, local: &Path, remote: &str, within: Duration) -> anyhow::Result<String> {
        let mut output = local.as_os_str().to_owned();
        output.push(".upload-output");
        let command = self.upload_command(port, local, remote)?;
        let mut process = Process::start(&self.name(), command, PathBuf::from(output))?;
        process.wait(within)?;
        Ok(process.output())
    }

    fn upload_command(self, port: u16, local: &Path, remote: &str) -> anyhow::Result<Command> {
        let port = port.to_string();
        let put = |before: &[&str], after: &[&str]| -> Vec<OsString> {
            words(before).chain([local.into()]).chain(words(after)).collect()
        };
        let arguments = match self {
            Self::TftpHpa => put(&["-m", "binary", HOST, &port, "-c", "put"], &[remote]),
            Self::TftpHpaNetascii => put(&["-m", "ascii", HOST, &port, "-c", "put"], &[remote]),
            Self::Curl { block_size } => {
                let (url, size) = (format!("tftp://{HOST}:{port}/{remote}"), block_size.to_string());
                put(&["-sS", "--tftp-blksize", &size, "-T"], &[&url])
            }
            Self::Atftp => put(&["-p", "-r", remote, "-l"], &[HOST, &port]),
            Self::AtftpOptions { block_size, window } => {
                let (size, window) = (format!("blksize {block_size}"), format!("windowsize {window}"));
                let before = ["--option", &size, "--option", &window, "-p", "-r", remote, "-l"];
                put(&before, &[HOST, &port])
            }
            Self::Busybox { block_size } => {
                let size = block_size.to_string();
                put(&["tftp", "-p", "-b", &size, "-r", remote, "-l"], &[HOST, &port])
            }
        };
        let mut command = self.program()?;
        command.args(arguments);
        Ok(command)
    }

    fn command(self, host: &str, port: u16, remote: &str, local: &Path) -> anyhow::Result<Command> {
        let port = port.to_string();
        let arguments: Vec<OsString> = match self {
            Self::TftpHpa | Self::TftpHpaNetascii => {
                let mode = if self == Self::TftpHpa { "binary" } else { "ascii" };
                words(&["-m", mode, host, &port, "-c", "get", remote])
                    .chain([local.into()])
                    .collect()
            }
            Self::Curl { block_size } => {
                let (url, size) = (format!("tftp://{host}:{port}/{remote}"), block_size.to_string());
                words(&["-sS", "--tftp-blksize", &size, &url, "-o"])
                    .chain([local.into()])
                    .collect()
            }
            Self::Atftp => words(&["-g", "-r", remote, "-l"])
                .chain([local.into()])
                .chain(words(&[host, &port]))
                .collect(),
            Self::AtftpOptions { block_size, window } => {
                let (size, window) = (format!("blksize {block_size}"), format!("windowsize {window}"));
                words(&["--option", &size, "--option", &window, "-g", "-r", remote, "-l"])
                    .chain([local.into()])
                    .chain(words(&[host, &port]))
                    .collect()
            }
            Self::Busybox { block_size } => {
                words(&["tftp", "-g", "-b", &block_size.to_string(), "-r", remote, "-l"])
                    .chain([local.into()])
                    .chain(words(&[host, &port]))
                    .collect()
            }
        };
        let mut command = self.program()?;
        command.args(arguments);
        Ok(command)
    }

    fn program(self) -> anyhow::Result<Command> {
        let (program, package) = match self {
            Self::TftpHpa | Self::TftpHpaNetascii => ("tftp", "tftp-hpa"),
            Self::Curl { .. } => ("curl", "curl"),
            Self::Atftp | Self::AtftpOptions { .. } => ("atftp", "atftp"),
            Self::Busybox { .. } => ("busybox", "busybox-static"),
        };
        Ok(Command::new(stock(program, package)?))
    }
}

fn words<'a>(words: &'a [&'a str]) -> impl Iterator<Item = OsString> + 'a {
    words.iter().map(OsString::from)
}

/// A running download. Dropping it kills the client.
#[derive(Debug)]
pub struct Download {
    process: Process,
    local: PathBuf,
}

impl Download {
    /// The client's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// How many bytes have arrived in the local file.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        std::fs::metadata(&self.local).map_or(0, |metadata| metadata.len())
    }

    /// Waits for the client's successful end and compares the file.
    pub fn ends_identical(&mut self, expected: &[u8], within: Duration) -> anyhow::Result<()> {
        self.process.succeed(within)?;
        ensure_identical(&self.local, expected).with_context(|| self.process.output())
    }
}
