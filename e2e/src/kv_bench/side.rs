//! The two stores that are compared, each a group of processes with an empty disk.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use operator_api::config::ServiceKind;
use tempfile::TempDir;

use super::generator::Protocol;
use super::grpc::Api;
use crate::admin::Admin;
use crate::clock::{PATIENCE, eventually};
use crate::group::{Group, GroupOptions, pid};
use crate::ports::free_run;
use crate::process::Process;

/// A running store.
#[derive(Debug)]
pub struct Side {
    /// What tables call it.
    pub name: &'static str,
    /// What its clients speak.
    pub protocol: Protocol,
    /// The port at which its leader takes requests.
    pub leader: u16,
    /// The ports of all members.
    pub members: Vec<u16>,
    /// The processes of its members.
    pub pids: Vec<u32>,
    _running: Running,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held so that the processes live as long")]
enum Running {
    Quorate(Box<Group>),
    Etcd(Vec<Process>, TempDir),
}

impl Side {
    /// Starts a group of Quorate with its defaults.
    pub fn quorate(members: u16, protocol: Protocol) -> anyhow::Result<Self> {
        let group = Group::start_with(GroupOptions {
            replicas: members,
            service: ServiceKind::Kv,
            ..GroupOptions::default()
        })?;
        let statuses = group.statuses();
        let pids = statuses.iter().flatten().map(pid);
        Ok(Self {
            name: "quorate",
            protocol,
            leader: group.kv_port(),
            members: group.kv_member_ports(),
            pids: pids.collect::<anyhow::Result<_>>()?,
            _running: Running::Quorate(Box::new(group)),
        })
    }

    /// Starts a cluster of etcd with its defaults.
    pub fn etcd(program: &Path, members: u16) -> anyhow::Result<Self> {
        ensure!(
            program.is_file(),
            "{} is missing: start the benchmark by e2e/bench/run",
            program.display()
        );
        let directory = tempfile::Builder::new()
            .prefix("quorate-etcd-")
            .tempdir()
            .context("making a directory")?;
        let first = free_run(2 * members)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peer = |member: u16| url(first + members + member);
        let cluster: Vec<String> = (0..members)
            .map(|member| format!("m{member}={}", peer(member)))
            .collect();
        let start = |member: u16| {
            let mut command = Command::new(program);
            command
                .arg("--name")
                .arg(format!("m{member}"))
                .arg("--data-dir")
                .arg(directory.path().join(format!("m{member}")))
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--initial-cluster-state", "new"]);
            for (option, address) in [
                ("--listen-client-urls", url(first + member)),
                ("--advertise-client-urls", url(first + member)),
                ("--listen-peer-urls", peer(member)),
                ("--initial-advertise-peer-urls", peer(member)),
            ] {
                command.args([option, &address]);
            }
            Process::start("etcd", command, directory.path().join(format!("m{member}.log")))
        };
        let processes = (0..members).map(start).collect::<anyhow::Result<Vec<_>>>()?;
        let ports: Vec<u16> = (first..first + members).collect();
        Ok(Self {
            name: "etcd",
            protocol: Protocol::Grpc(Api::Etcd),
            leader: etcd_leader(&ports)?,
            members: ports,
            pids: processes.iter().map(Process::pid).collect(),
            _running: Running::Etcd(processes, directory),
        })
    }
}

/// The port of the member that leads, once all know a leader.
fn etcd_leader(ports: &[u16]) -> anyhow::Result<u16> {
    let admin = Admin::new()?;
    eventually("etcd has a leader", PATIENCE, || {
        let mut leader = None;
        for port in ports {
            let metrics = admin.get(*port, "/metrics", "text/plain")?.body;
            ensure!(
                metrics.contains("\netcd_server_has_leader 1"),
                "the member at port {port} knows no leader"
            );
            if metrics.contains("\netcd_server_is_leader 1") {
                leader = Some(*port);
            }
        }
        leader.context("no member leads")
    })
}
