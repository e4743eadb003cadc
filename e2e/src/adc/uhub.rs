//! uhub, the hub that ours is compared with, as Debian ships it.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::clock::{PATIENCE, eventually};
use crate::ports::free_run;
use crate::process::Process;
use crate::program::stock;

/// More users than any benchmark has.
const USERS_MAX: u32 = 20_000;

/// Bytes that wait for one user before uhub gives it up: as much as a list of 10,000 users needs, many times over.
const SEND_BUFFER: u32 = 128 << 20;

/// A running uhub that limits nothing. Dropping it stops it.
#[derive(Debug)]
pub struct Uhub {
    temp: TempDir,
    port: u16,
    cores: Option<String>,
    process: Option<Process>,
}

impl Uhub {
    /// Starts uhub on a free port of loopback.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_on(None)
    }

    /// Starts uhub on these processors (a list as `taskset -c` takes it).
    pub fn start_on(cores: Option<&str>) -> anyhow::Result<Self> {
        let temp = tempfile::Builder::new()
            .prefix("quorate-uhub-")
            .tempdir()
            .context("making a directory")?;
        let mut hub = Self {
            port: free_run(1)?,
            cores: cores.map(str::to_owned),
            process: None,
            temp,
        };
        hub.write_configuration()?;
        hub.launch()?;
        Ok(hub)
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("adc://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it (again), and waits until it takes connections.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.kill();
        let mut command = on_cores(stock("uhub", "uhub")?, self.cores.as_deref());
        command.arg("-c").arg(self.file("uhub.conf"));
        let process = Process::start("uhub", command, self.file("uhub.output"))?;
        self.process = Some(process);
        eventually("uhub takes connections", PATIENCE, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("connecting")?;
            Ok(())
        })
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        let port = self.port;
        let (plugins, accounts) = (self.file("plugins.conf"), self.file("users.conf"));
        for empty in [&plugins, &accounts] {
            fs::write(empty, "").context("writing an empty file")?;
        }
        // Its flood control is off unless it is configured.
        let text = format!(
            "server_port={port}\nserver_bind_addr=127.0.0.1\nserver_listen_backlog=4096\nmax_users={USERS_MAX}\n\
             max_send_buffer={SEND_BUFFER}\nmax_send_buffer_soft={SEND_BUFFER}\nhub_name=reference\nshow_banner=0\n\
             file_plugins={}\nfile_acl={}\n",
            plugins.display(),
            accounts.display()
        );
        let path = self.file("uhub.conf");
        fs::write(&path, text).context("writing uhub.conf")?;
        let check = Command::new(stock("uhub", "uhub")?)
            .args(["-C", "-c"])
            .arg(&path)
            .output()
            .context("checking uhub.conf")?;
        ensure!(
            check.status.success(),
            "uhub does not take its configuration: {check:?}"
        );
        Ok(())
    }
}

/// A command that runs `program`, on these processors only if any are named (as `taskset -c` takes them).
#[must_use]
pub fn on_cores(program: PathBuf, cores: Option<&str>) -> Command {
    match cores {
        None => Command::new(program),
        Some(cores) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cores]).arg(program);
            command
        }
    }
}
