//! The peer that Quorate is measured against: Debian's tftpd-hpa, as people run it today.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::clock::{PATIENCE, eventually};
use crate::ports::free_udp;

/// A running tftpd-hpa that serves one directory. Dropping it stops it.
#[derive(Debug)]
pub struct Reference {
    program: PathBuf,
    root: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Reference {
    /// Starts `in.tftpd` on a free port of loopback. It changes its root directory, so only root can do this.
    pub fn start(program: &Path) -> anyhow::Result<Self> {
        ensure!(
            program.is_file(),
            "{} is missing: start the benchmark by its script in e2e/bench",
            program.display()
        );
        ensure!(
            rustix::process::geteuid().is_root(),
            "tftpd-hpa changes its root directory: run this as root"
        );
        let root = TempDir::new().context("making a directory to serve")?;
        // It serves as the user nobody.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))
            .context("opening the directory")?;
        let mut server = Self {
            program: program.to_owned(),
            root,
            port: free_udp()?,
            child: None,
        };
        server.launch()?;
        Ok(server)
    }

    /// Starts the server (again) on its port and waits until it has bound it.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let address = format!("127.0.0.1:{}", self.port);
        let log =
            File::create(self.root.path().with_extension("log")).context("creating the server's log")?;
        let child = Command::new(&self.program)
            .args(["-L", "-a", &address, "-u", "nobody", "-s"])
            .arg(self.root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting tftpd-hpa")?;
        self.child = Some(child);
        eventually("tftpd-hpa binds its port", PATIENCE, || {
            let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, self.port)).is_err();
            ensure!(bound, "port {} is still free", self.port);
            Ok(())
        })
    }

    /// Kills the server and all the processes it forked, one for each transfer, as the loss of its machine would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let group = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("the server's process id")?;
        kill_process_group(group, Signal::KILL).context("killing tftpd-hpa")?;
        child.wait().context("waiting for tftpd-hpa")?;
        Ok(())
    }

    /// The port it serves.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Puts a file into the served directory.
    pub fn put(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.root.path().join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.kill().ok();
        fs::remove_file(self.root.path().with_extension("log")).ok();
    }
}
