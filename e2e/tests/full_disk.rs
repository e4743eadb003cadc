//! Promise: a full disk costs no acknowledged file and stops no process. What needs space is refused in words that say
//! what to do, files that are there are served on, and once there is space everything works again by itself.
//!
//! Each data directory is a small file system of its own, so these tests need root.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use e2e::clock::PATIENCE;
use e2e::data::{MIB, random_bytes};
use e2e::disk::Disk;
use e2e::group::{detail, pid};
use e2e::process::signal;
use e2e::wire::{Packet, decode, request};
use e2e::{Client, Group, GroupOptions, eventually};
use operator_api::MemberStatus;
use rustix::process::Signal;

/// How long a stock client may take for a file of some mebibytes.
const WITHIN: Duration = Duration::from_secs(90);

/// A group of three, each member on a disk of its own. What is declared last is dropped first: the disks.
fn group_on_disks() -> (Group, Vec<Disk>) {
    let mut group = Group::prepare(GroupOptions::default()).unwrap();
    let disks = (0..3)
        .map(|number| Disk::small(&group.member_dir(&format!("tftp-{number}"))))
        .collect::<anyhow::Result<_>>()
        .unwrap();
    group.launch().unwrap();
    (group, disks)
}

fn disk_of<'a>(disks: &'a [Disk], member: &MemberStatus) -> &'a Disk {
    let found = disks.iter().find(|disk| disk.is_of(&member.name));
    found.expect("each member has a disk")
}

fn pids(group: &Group) -> Vec<u32> {
    let all = || {
        let statuses = group.statuses().into_iter();
        statuses
            .map(|status| pid(&status.context("a member does not answer")?))
            .collect()
    };
    eventually("all members answer", PATIENCE, all).unwrap()
}

fn alarm_of(group: &Group, member: &MemberStatus) -> anyhow::Result<Option<String>> {
    let statuses = group.statuses().into_iter().flatten();
    let found = statuses.into_iter().find(|status| status.name == member.name);
    let found = found.with_context(|| format!("{} does not answer", member.name))?;
    Ok(detail(&found)?.alarm.clone())
}

fn says_what_to_do(group: &Group, member: &MemberStatus) {
    eventually("the member asks for space", PATIENCE, || {
        let alarm = alarm_of(group, member)?.context("no alarm")?;
        ensure!(alarm.contains("is full: free some space"), "{alarm}");
        Ok(())
    })
    .unwrap();
}

fn fetch_all(group: &Group, clients: &[Client], name: &str, content: &[u8]) {
    for client in clients {
        let local = group.scratch().join("download");
        fs::remove_file(&local).ok();
        client
            .fetch(group.tftp_port(), name, &local, content, WITHIN)
            .unwrap();
    }
}

/// A file of this size is refused in words that say what to do.
fn put_is_refused(group: &Group, len: usize) {
    let error = group.put("refused.bin", &random_bytes(9, len)).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("free"), "{error}");
    assert!(error.contains("full"), "{error}");
    eprintln!("refused: {error}");
}

#[test]
fn member_with_a_full_disk_neither_stops_nor_holds_the_others_up() {
    let (group, disks) = group_on_disks();
    let content = random_bytes(1, 3 * MIB);
    group.put("image.bin", &content).unwrap();
    let before = pids(&group);
    // A follower: nobody but it notices.
    let leader = group.all_ready().unwrap();
    let statuses: Vec<_> = group.statuses().into_iter().flatten().collect();
    let follower = statuses.iter().find(|status| status.name != leader.name).unwrap();
    disk_of(&disks, follower).fill().unwrap();
    says_what_to_do(&group, follower);
    let second = random_bytes(2, MIB);
    group.put("second.bin", &second).unwrap();
    fetch_all(&group, &Client::USUAL, "second.bin", &second);
    disk_of(&disks, follower).free().unwrap();
    group.all_ready().unwrap();
    assert_eq!(alarm_of(&group, follower).unwrap(), None);
    // The leader.
    let leader = group.leader().unwrap();
    disk_of(&disks, &leader).fill().unwrap();
    says_what_to_do(&group, &leader);
    fetch_all(&group, &Client::USUAL, "image.bin", &content);
    assert_eq!(pids(&group), before, "a process was restarted");
    // It dies and starts again although it cannot write; the others serve meanwhile.
    signal(pid(&leader).unwrap(), Signal::KILL).unwrap();
    fetch_all(&group, &[Client::TftpHpa], "image.bin", &content);
    disk_of(&disks, &leader).free().unwrap();
    group.all_ready().unwrap();
    let third = random_bytes(3, MIB);
    group.put("third.bin", &third).unwrap();
    for (name, content) in [
        ("image.bin", &content),
        ("second.bin", &second),
        ("third.bin", &third),
    ] {
        assert_eq!(&group.get(name).unwrap(), content);
    }
}

#[test]
fn group_whose_disks_are_all_full_serves_what_it_has_and_recovers_by_itself() {
    let (group, disks) = group_on_disks();
    let content = random_bytes(1, 8 * MIB);
    group.put("image.bin", &content).unwrap();
    group.put("other.bin", &random_bytes(2, MIB)).unwrap();
    // Its name alone fills the log fast.
    let long = format!("{}end", "directory/".repeat(24));
    group.put(&long, b"short").unwrap();
    let before = pids(&group);
    let running = group.scratch().join("running");
    let mut running_download = Client::TftpHpa
        .start(group.tftp_port(), "image.bin", &running)
        .unwrap();
    for disk in &disks {
        disk.fill().unwrap();
    }
    running_download.ends_identical(&content, WITHIN).unwrap();
    for status in group.statuses().iter().flatten() {
        says_what_to_do(&group, status);
    }
    put_is_refused(&group, MIB);
    fetch_all(&group, &Client::USUAL, "image.bin", &content);
    // A name costs no space on a disk of content: removing files is how users free some.
    group.succeed(&["files", "rm", "other.bin"]).unwrap();
    // Until not even the log has room.
    let mut running_download = Client::Curl { block_size: 512 }
        .start(group.tftp_port(), "image.bin", &running)
        .unwrap();
    let refusal = exhaust_log(group.tftp_port(), &long).unwrap();
    assert!(refusal.contains("free some space"), "{refusal}");
    running_download.ends_identical(&content, WITHIN).unwrap();
    put_is_refused(&group, 0);
    assert_eq!(pids(&group), before, "a process was restarted");
    for status in group.statuses().iter().flatten() {
        says_what_to_do(&group, status);
    }
    // An election needs space in the log too.
    group.kill_leader().unwrap();
    group.leader().unwrap();
    for disk in &disks {
        disk.free().unwrap();
    }
    group.all_ready().unwrap();
    eventually("the log has room again", PATIENCE, || {
        group.put("new.bin", b"new").map(drop)
    })
    .unwrap();
    fetch_all(&group, &Client::USUAL, "image.bin", &content);
    assert_eq!(group.get(&long).unwrap(), b"short");
    eventually("no member asks for space any more", PATIENCE, || {
        for status in group.statuses().iter().flatten() {
            ensure!(detail(status)?.alarm.is_none(), "{:?}", detail(status)?.alarm);
        }
        Ok(())
    })
    .unwrap();
}

/// Opens and abandons transfers until one is refused for want of space; returns the server's words.
fn exhaust_log(port: u16, name: &str) -> anyhow::Result<String> {
    let mut buffer = [0; 2048];
    for _ in 0..4000 {
        let sockets = (0..32)
            .map(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect((Ipv4Addr::LOCALHOST, port))?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                socket.send(&request(1, name, "octet", &[]))?;
                Ok(socket)
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        for socket in sockets {
            let Ok(len) = socket.recv(&mut buffer) else {
                continue;
            };
            match decode(&buffer[..len])? {
                // Abandoned: ERROR 0 without words.
                Packet::Data { .. } => drop(socket.send(&[0, 5, 0, 0, 0])?),
                Packet::Error { message, .. } if message.contains("disk") => return Ok(message),
                _ => {}
            }
        }
    }
    Err(anyhow!("the log never ran out of space"))
}
