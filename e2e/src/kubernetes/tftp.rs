//! A TftpCluster, as its users see it.

use std::io::Write;
use std::ops::Deref;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::NamedTempFile;

use super::cluster::run;
use super::{PATIENCE, PodDownload, Resource, Space};
use crate::client::Download;
use crate::clock::eventually;
use crate::program::agent;

/// A TftpCluster in a namespace.
#[derive(Debug)]
pub struct TftpCluster<'a>(Resource<'a>);

impl<'a> Deref for TftpCluster<'a> {
    type Target = Resource<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A client's download that was started.
pub trait UnderWay {
    /// How many bytes have arrived.
    fn arrived(&self) -> anyhow::Result<u64>;

    /// Waits for the client's successful end and compares the file.
    fn ends_identical(&mut self, expected: &[u8], within: Duration) -> anyhow::Result<()>;
}

impl UnderWay for PodDownload<'_> {
    fn arrived(&self) -> anyhow::Result<u64> {
        PodDownload::arrived(self)
    }

    fn ends_identical(&mut self, expected: &[u8], within: Duration) -> anyhow::Result<()> {
        PodDownload::ends_identical(self, expected, within)
    }
}

impl UnderWay for Download {
    fn arrived(&self) -> anyhow::Result<u64> {
        Ok(Self::arrived(self))
    }

    fn ends_identical(&mut self, expected: &[u8], within: Duration) -> anyhow::Result<()> {
        Self::ends_identical(self, expected, within)
    }
}

impl<'a> TftpCluster<'a> {
    /// Applies a manifest that holds one named `name`, and waits until it is ready.
    pub fn apply(space: &'a Space<'a>, name: &str, manifest: &str) -> anyhow::Result<Self> {
        Resource::apply(space, "tftpcluster", name, manifest).map(Self)
    }

    /// Stores a file in the group, on the network that joins the nodes.
    pub fn put(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let (token, file) = (file_with(self.token()?.as_bytes())?, file_with(bytes)?);
        // A busy machine elects again and again before it settles, and members name each other by names that are known in
        // pods only: the leader itself must be asked.
        eventually(&format!("{name} is stored"), PATIENCE, || {
            let address = self.address_of(&self.leader()?)?;
            let mut command = Command::new(agent()?);
            command.args(["files", "put", "--wait", "5"]);
            command.args(["--admin", &format!("{address}:9400"), "--token-file"]);
            command.arg(token.path()).arg(file.path()).arg(name);
            run(command, None).map(drop)
        })
    }

    /// Does something to the leader in the middle of all these downloads, waits until another pod leads, and compares what
    /// arrived with `content`.
    pub fn downloads_across<T>(
        &self,
        mut downloads: Vec<Box<dyn UnderWay + '_>>,
        content: &[u8],
        fault: impl FnOnce(&str) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let leader = self.leader()?;
        let uid = self.uid(&leader)?;
        eventually("the downloads are under way", PATIENCE, || {
            for download in &downloads {
                if download.arrived()? == 0 {
                    bail!("nothing has arrived");
                }
            }
            Ok(())
        })?;
        let done = fault(&leader)?;
        for download in &downloads {
            let arrived = download.arrived()?;
            ensure!(
                arrived < content.len() as u64,
                "the download ended before its leader: {arrived} bytes"
            );
        }
        self.await_leader_after(&uid)?;
        for download in &mut downloads {
            download.ends_identical(content, PATIENCE)?;
        }
        Ok(done)
    }
}

fn file_with(bytes: &[u8]) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new().context("making a file")?;
    file.write_all(bytes).context("writing a file")?;
    Ok(file)
}
