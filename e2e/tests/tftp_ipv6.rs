//! Promise: everything works over IPv6 as well.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::path::Path;
use std::process::Command;

use e2e::clock::PATIENCE;
use e2e::data::{MIB, ensure_identical, random_bytes};
use e2e::process::Process;
use e2e::program::stock;
use e2e::{Group, GroupOptions, eventually};

const IMAGE_BYTES: usize = 16 * MIB;

fn command(program: &str, arguments: &[&str], local: &Path) -> Command {
    let mut command = Command::new(stock(program, program).unwrap());
    command.args(arguments).arg(local);
    command
}

#[test]
fn downloads_over_ipv6_survive_the_loss_of_the_leader() {
    let mut group = Group::prepare(GroupOptions::default()).unwrap();
    group.listen_on_ipv6();
    group.launch().unwrap();
    let content = random_bytes(1, IMAGE_BYTES);
    group.put("image.bin", &content).unwrap();
    let port = group.tftp_port().to_string();
    let url = format!("tftp://[::1]:{port}/image.bin");
    let local = group.scratch().join("download");
    let clients = [
        command(
            "tftp",
            &["-6", "-m", "binary", "::1", &port, "-c", "get", "image.bin"],
            &local,
        ),
        command("curl", &["-gsS", "--tftp-blksize", "512", &url, "-o"], &local),
    ];
    for client in clients {
        std::fs::remove_file(&local).ok();
        let leader = group.all_ready().unwrap();
        let output = group.scratch().join("client-output");
        let mut download = Process::start("an IPv6 client", client, output).unwrap();
        eventually("the download runs", PATIENCE, || {
            anyhow::ensure!(std::fs::metadata(&local)?.len() > MIB as u64);
            Ok(())
        })
        .unwrap();
        group.kill(&leader).unwrap();
        assert!(
            download.ended().unwrap().is_none(),
            "it was over before the leader died"
        );
        download.succeed(PATIENCE * 3).unwrap();
        ensure_identical(&local, &content).unwrap();
    }
}
