//! A group of real agents on loopback, started as people start it: `quorate-agent local`.

mod faults;
mod turn;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use operator_api::admin::{FileInfo, MemberDetail};
use operator_api::config::ServiceKind;
use operator_api::{MemberStatus, Role};
use rustix::process::Signal;
use tempfile::{NamedTempFile, TempDir};

use crate::admin::Admin;
use crate::clock::{PATIENCE, eventually};
use crate::ports::{free_run, free_udp};
use crate::process::{Process, all_running_on, signal};
use crate::program::agent;
use turn::take_turn;

/// How much of each log is shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// As many members as any test asks for.
const REPLICAS_MAX: u16 = 5;

/// How far the first member's own port is from the hub's: as under `local`.
const ADC_MEMBER_PORTS: u16 = match ServiceKind::Adc.local_member_port_offset() {
    Some(offset) => offset,
    None => 0,
};

/// What a group is started with.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// How many members it has.
    pub replicas: u16,
    /// The service.
    pub service: ServiceKind,
    /// A directory whose files are imported at the start.
    pub tftp_root: Option<PathBuf>,
    /// A backup that the group begins with, at its first start.
    pub restore: Option<PathBuf>,
    /// Options of the hub, as in the agent's configuration.
    pub adc_options: Option<serde_json::Value>,
    /// How the names begin that clients may upload, if any.
    pub tftp_uploads: Option<&'static str>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            replicas: 3,
            service: ServiceKind::Tftp,
            tftp_root: None,
            restore: None,
            adc_options: None,
            tftp_uploads: None,
        }
    }
}

/// A running group. Dropping it stops every process of it; when the test is failing, its logs are shown first.
#[derive(Debug)]
pub struct Group {
    options: GroupOptions,
    supervisor: Option<Process>,
    admin: Admin,
    client_port: u16,
    admin_port: u16,
    peer_port: u16,
    ipv6: bool,
    temp: TempDir,
    /// One group at a time on a machine: groups beside each other would only measure each other.
    _turn: File,
}

impl Group {
    /// Starts three members with an empty store, and waits until all of them are ready.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(GroupOptions::default())
    }

    /// Starts a group and waits until all members are ready.
    pub fn start_with(options: GroupOptions) -> anyhow::Result<Self> {
        let mut group = Self::prepare(options)?;
        group.launch()?;
        Ok(group)
    }

    /// A group that is not started yet.
    pub fn prepare(options: GroupOptions) -> anyhow::Result<Self> {
        let turn = take_turn()?;
        let temp = tempfile::Builder::new()
            .prefix("quorate-e2e-")
            .tempdir()
            .context("making a directory")?;
        fs::create_dir(temp.path().join("run")).context("making the run directory")?;
        // One run for all of them: two might overlap. Some may be needed when the group grows.
        let members = options.replicas.max(REPLICAS_MAX);
        let client_ports = match options.service {
            ServiceKind::Tftp => 0,
            // The leader's, and one for each member.
            ServiceKind::Kv => REPLICAS_MAX + 1,
            ServiceKind::Adc => ADC_MEMBER_PORTS + REPLICAS_MAX,
        };
        let first = free_run(client_ports + 2 * members)?;
        Ok(Self {
            supervisor: None,
            admin: Admin::new()?,
            client_port: match options.service {
                ServiceKind::Tftp => free_udp()?,
                ServiceKind::Kv | ServiceKind::Adc => first,
            },
            admin_port: first + client_ports,
            peer_port: first + client_ports + members,
            ipv6: false,
            temp,
            options,
            _turn: turn,
        })
    }

    /// Starts the processes (again, with the data they have) and waits until all members are ready.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.launch_only()?;
        self.all_ready()?;
        Ok(())
    }

    /// Starts the processes and waits for nothing.
    pub fn launch_only(&mut self) -> anyhow::Result<()> {
        let service = self.options.service;
        let mut command = self.agent_command(&["local", &service.to_string(), "--json"])?;
        command.args(["--replicas", &self.options.replicas.to_string()]);
        let port = self.client_port;
        if self.ipv6 {
            command.args([&format!("--{service}-listen"), &format!("[::1]:{port}")]);
        } else {
            command.args([&format!("--{service}-port"), &port.to_string()]);
        }
        // Both options name the first TFTP member's port; those of the other services are higher.
        let admin_port = self.admin_port + ServiceKind::Tftp.local_admin_port() - service.local_admin_port();
        let peer_port = self.peer_port + ServiceKind::Tftp.local_peer_port() - service.local_peer_port();
        command.args(["--admin-port", &admin_port.to_string()]);
        command.args(["--peer-port", &peer_port.to_string()]);
        if let Some(root) = &self.options.tftp_root {
            command.arg("--tftp-root").arg(root);
        }
        if let Some(file) = self.options.restore.take() {
            command.arg("--restore").arg(file);
        }
        if let Some(prefix) = self.options.tftp_uploads {
            command.args(["--tftp-uploads", prefix]);
        }
        if let Some(options) = &self.options.adc_options {
            let file = self.temp.path().join("adc-options.json");
            fs::write(&file, options.to_string()).context("writing the hub's options")?;
            command.arg("--adc-options").arg(file);
        }
        let output = self.temp.path().join("local.output");
        self.supervisor = Some(Process::start("quorate-agent local", command, output)?);
        Ok(())
    }

    /// Lets the TFTP listener be on IPv6's loopback from the next start on.
    pub fn listen_on_ipv6(&mut self) {
        self.ipv6 = true;
    }

    /// The port of the TFTP listener.
    #[must_use]
    pub fn tftp_port(&self) -> u16 {
        self.client_port
    }

    /// The ports at which key-value clients reach the members, whoever leads.
    #[must_use]
    pub fn kv_member_ports(&self) -> Vec<u16> {
        let offset = ServiceKind::Kv.local_member_port_offset().unwrap_or(0);
        let first = self.client_port + offset;
        (first..first + self.options.replicas).collect()
    }

    /// The ports at which ADC clients reach the members, whoever leads.
    #[must_use]
    pub fn adc_member_ports(&self) -> Vec<u16> {
        let first = self.client_port + ADC_MEMBER_PORTS;
        (first..first + self.options.replicas).collect()
    }

    /// The port of the hub, which all members serve.
    #[must_use]
    pub fn adc_port(&self) -> u16 {
        self.client_port
    }

    /// The port of the key-value listener that only the leader serves.
    #[must_use]
    pub fn kv_port(&self) -> u16 {
        self.client_port
    }

    /// The admin port of the member number `index`.
    #[must_use]
    pub fn admin_port(&self, index: u16) -> u16 {
        self.admin_port + index
    }

    /// The port on which the member number `index` meets the other members.
    #[must_use]
    pub fn peer_port(&self, index: u16) -> u16 {
        self.peer_port + index
    }

    /// The HTTP client for admin ports.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The group's data directory (`--dir`).
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    /// A directory for the test's own files, beside the data.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.temp.path()
    }

    /// The data directory of one member.
    #[must_use]
    pub fn member_dir(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The process that runs `quorate-agent local`.
    pub fn supervisor(&self) -> anyhow::Result<&Process> {
        self.supervisor.as_ref().context("the group is stopped")
    }

    /// Takes the process that runs `quorate-agent local` out of the group's care.
    pub fn take_supervisor(&mut self) -> anyhow::Result<Process> {
        self.supervisor.take().context("the group is stopped")
    }

    /// What every member says of itself; none where nothing answers.
    #[must_use]
    pub fn statuses(&self) -> Vec<Option<MemberStatus>> {
        (0..self.options.replicas)
            .map(|index| self.admin.status(self.admin_port(index)).ok())
            .collect()
    }

    /// Waits for a member that leads and serves clients.
    pub fn leader(&self) -> anyhow::Result<MemberStatus> {
        eventually("a member leads and serves", PATIENCE, || {
            serving(self.statuses()).with_context(|| "no member says that it serves")
        })
    }

    /// Waits until every member is up, votes, is ready, and one of them serves; returns that one.
    pub fn all_ready(&self) -> anyhow::Result<MemberStatus> {
        eventually("all members are ready and one serves", PATIENCE, || {
            let supervisor = self.supervisor()?;
            if !supervisor.is_alive() {
                // Nothing will become ready any more: no need to wait for it.
                return Ok(Err(anyhow!(
                    "quorate-agent local has ended: {}",
                    supervisor.output()
                )));
            }
            self.ready_now().map(Ok)
        })?
    }

    /// The serving leader of a group whose members are all up, vote and are ready; else what is missing.
    fn ready_now(&self) -> anyhow::Result<MemberStatus> {
        let statuses = self.statuses();
        let replicas = usize::from(self.options.replicas);
        for (index, status) in statuses.iter().enumerate() {
            let status = status
                .as_ref()
                .with_context(|| format!("member {index} does not answer"))?;
            let detail = detail(status)?;
            ensure!(detail.ready, "{} is not ready", status.name);
            let voters = detail.members.iter().filter(|member| member.voter).count();
            ensure!(
                voters == replicas && detail.members.len() == replicas,
                "{} knows {voters} voters of {} members",
                status.name,
                detail.members.len()
            );
        }
        serving(statuses).context("no member serves")
    }

    /// Runs `quorate-agent ARGS --dir DIR` to its end.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.agent_command(arguments)?
            .output()
            .with_context(|| format!("running quorate-agent {arguments:?}"))
    }

    /// Runs `quorate-agent ARGS --dir DIR`; anything but success is an error that carries its words.
    pub fn succeed(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "quorate-agent {arguments:?} ended with {}: {error}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stores a file in the group.
    pub fn put(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let source = NamedTempFile::new_in(self.temp.path()).context("making the file to put")?;
        fs::write(source.path(), bytes).context("writing the file to put")?;
        self.succeed(&["files", "put", path(source.path())?, name])?;
        Ok(())
    }

    /// Reads a file back from the group's store, not over TFTP.
    pub fn get(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let place = TempDir::new_in(self.temp.path()).context("making a place for the file to get")?;
        let target = place.path().join("got");
        self.succeed(&["files", "get", name, "-o", path(&target)?])?;
        fs::read(&target).context("reading the file that was got")
    }

    /// The files the group holds.
    pub fn ls(&self) -> anyhow::Result<Vec<FileInfo>> {
        let leader = self.leader()?;
        let port = leader
            .admin_address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let reply = self.admin.get(
            port.context("the leader's admin port")?,
            "/v1/files",
            "application/json",
        )?;
        ensure!(
            reply.status == 200,
            "/v1/files answers {}: {}",
            reply.status,
            reply.body
        );
        serde_json::from_str(&reply.body)
            .with_context(|| format!("reading the list of files: {}", reply.body))
    }

    /// Hands leadership to another member, as an operator would.
    pub fn transfer(&self) -> anyhow::Result<()> {
        let service = self.options.service.to_string();
        self.succeed(&["members", "--service", &service, "transfer"])?;
        Ok(())
    }

    /// Stops the group as ctrl-C does, and waits until every process has ended.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut supervisor) = self.supervisor.take() else {
            return Ok(());
        };
        supervisor.signal(Signal::INT)?;
        supervisor.succeed(PATIENCE)?;
        let left = all_running_on(&self.dir());
        ensure!(
            left.is_empty(),
            "these processes still run after ctrl-C: {left:?}"
        );
        Ok(())
    }

    /// Kills the supervisor, and waits until the members have followed it.
    pub fn kill_supervisor(&mut self) -> anyhow::Result<()> {
        drop(self.supervisor.take());
        let dir = self.dir();
        eventually("the members end with their supervisor", PATIENCE, || {
            let left = all_running_on(&dir);
            ensure!(left.is_empty(), "these processes still run: {left:?}");
            Ok(())
        })
    }

    /// Stops the group and starts it with another number of members on the same directory and ports.
    pub fn restart_with(&mut self, replicas: u16) -> anyhow::Result<()> {
        self.stop()?;
        self.options.replicas = replicas;
        self.launch()
    }

    fn agent_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(agent()?);
        // The user's own running group, if there is one, is announced elsewhere.
        command
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .env("XDG_RUNTIME_DIR", self.temp.path().join("run"));
        Ok(command)
    }

    fn show_logs(&self) {
        let mut logs = vec![self.temp.path().join("local.output")];
        find_logs(&self.dir(), &mut logs);
        for log in logs {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the end of {}", log.display());
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // A paused process can take no other signal than these two.
        for pid in all_running_on(&self.dir()) {
            signal(pid, Signal::CONT).ok();
        }
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor.signal(Signal::TERM).ok();
            supervisor.wait(Duration::from_secs(10)).ok();
        }
        for pid in all_running_on(&self.dir()) {
            signal(pid, Signal::KILL).ok();
        }
    }
}

/// The process id of a member that is up.
pub fn pid(status: &MemberStatus) -> anyhow::Result<u32> {
    status
        .pid
        .with_context(|| format!("{} has no process", status.name))
}

/// The longer part of a member's own answer.
pub fn detail(status: &MemberStatus) -> anyhow::Result<&MemberDetail> {
    status
        .detail
        .as_ref()
        .with_context(|| format!("{} tells no details", status.name))
}

/// The member that leads and serves, the one of the highest term if several say so.
fn serving(statuses: Vec<Option<MemberStatus>>) -> Option<MemberStatus> {
    let serves = |status: &MemberStatus| {
        status.role == Role::Leader && status.detail.as_ref().is_some_and(|detail| detail.serving)
    };
    statuses
        .into_iter()
        .flatten()
        .filter(serves)
        .max_by_key(|status| status.term)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn find_logs(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_logs(&path, found);
        } else if path.file_name().is_some_and(|name| name == "log") {
            found.push(path);
        }
    }
}
