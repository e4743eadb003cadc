//! Promise: members that stand still for a while, one or all, lose nothing and need no help when they go on.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use e2e::clock::PATIENCE;
use e2e::data::{MIB, random_bytes};
use e2e::group::pid;
use e2e::process::signal;
use e2e::scenario::serve;
use e2e::{Client, Group, GroupOptions, eventually};
use operator_api::MemberStatus;
use rustix::process::Signal;

/// Longer than any lease and election, shorter than every client's patience.
const PAUSE: Duration = Duration::from_secs(3);
/// How long a disturbed download may take.
const WITHIN: Duration = Duration::from_secs(240);
const IMAGE_BYTES: usize = 24 * MIB;

fn wait_out_the_pause() {
    let since = e2e::clock::now();
    eventually("the pause is over", PATIENCE, || {
        anyhow::ensure!(since.elapsed() >= PAUSE);
        Ok(())
    })
    .unwrap();
}

/// Pauses members while a download runs, and lets them go on; the file arrives and all that was stored is there.
fn pause_during_download(group: &Group, paused: &[MemberStatus], client: Client, content: &[u8]) {
    let before: Vec<_> = paused.iter().map(|member| pid(member).unwrap()).collect();
    let local = group.scratch().join("download");
    std::fs::remove_file(&local).ok();
    let mut download = client.start(group.tftp_port(), "image.bin", &local).unwrap();
    eventually("the download runs", PATIENCE, || {
        anyhow::ensure!(download.arrived() > MIB as u64);
        Ok(())
    })
    .unwrap();
    for pid in &before {
        signal(*pid, Signal::STOP).unwrap();
    }
    assert!(
        download.process().ended().unwrap().is_none(),
        "the download was over before the pause"
    );
    wait_out_the_pause();
    for pid in &before {
        signal(*pid, Signal::CONT).unwrap();
    }
    download.ends_identical(content, WITHIN).unwrap();
    group.all_ready().unwrap();
    let after: Vec<_> = group.statuses().into_iter().flatten().collect();
    for (member, pid) in paused.iter().zip(before) {
        let now = after.iter().find(|status| status.name == member.name).unwrap();
        assert_eq!(now.pid, Some(pid), "{} was restarted", member.name);
    }
}

#[test]
fn paused_follower_holds_nobody_up_and_catches_up() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 1, IMAGE_BYTES).unwrap();
    for client in [Client::TftpHpa, Client::Curl { block_size: 512 }] {
        let leader = group.all_ready().unwrap();
        let mut others: Vec<_> = group.statuses().into_iter().flatten().collect();
        others.retain(|status| status.name != leader.name);
        pause_during_download(&group, &others[..1], client, &content);
    }
}

#[test]
fn group_that_is_paused_as_a_whole_goes_on() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 2, IMAGE_BYTES).unwrap();
    let small = random_bytes(3, 1000);
    group.put("small.bin", &small).unwrap();
    for client in [
        Client::TftpHpa,
        Client::Atftp,
        Client::Busybox { block_size: 512 },
    ] {
        group.all_ready().unwrap();
        let all: Vec<_> = group.statuses().into_iter().flatten().collect();
        assert_eq!(all.len(), 3);
        pause_during_download(&group, &all, client, &content);
        assert_eq!(group.get("small.bin").unwrap(), small);
    }
}

/// What the client sent meanwhile makes what the timers would send needless; to some clients it would be an error.
#[test]
fn answer_that_came_during_a_pause_is_read_before_anything_is_sent_again() {
    const OACK: u8 = 6;
    const DATA: u8 = 3;
    let group = Group::start_with(GroupOptions {
        replicas: 1,
        ..GroupOptions::default()
    })
    .unwrap();
    group.put("small.bin", &random_bytes(4, 1000)).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, group.tftp_port())).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut packet = [0; 600];
    let mut receive = || {
        let length = socket.recv(&mut packet).unwrap();
        packet[1..length.min(4)].to_vec()
    };
    socket.send(b"\0\x01small.bin\0octet\0tsize\x000\0").unwrap();
    assert_eq!(receive()[0], OACK);
    let leader = group.signal_leader(Signal::STOP).unwrap();
    socket.send(&[0, 4, 0, 0]).unwrap();
    wait_out_the_pause();
    signal(pid(&leader).unwrap(), Signal::CONT).unwrap();
    assert_eq!(receive(), [DATA, 0, 1]);
    socket.send(&[0, 4, 0, 1]).unwrap();
    assert_eq!(receive(), [DATA, 0, 2]);
    socket.send(&[0, 4, 0, 2]).unwrap();
}
