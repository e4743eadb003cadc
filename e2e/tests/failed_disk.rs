//! Promise: a member whose disk fails says so and ends; it acknowledges nothing that is not on a disk, and the others
//! go on without it.
//!
//! The disk is an image with ext4 on it, which is told to fail everything from now on, so this test needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::fs;

use e2e::clock::PATIENCE;
use e2e::data::{MIB, random_bytes};
use e2e::disk::Disk;
use e2e::scenario::{disturbed_download_without_proxy, serve};
use e2e::{Client, Group, GroupOptions, eventually};

/// The first member keeps its data here.
const MEMBER: &str = "tftp-0";

#[test]
fn leader_whose_disk_fails_ends_and_the_others_go_on() {
    let mut group = Group::prepare(GroupOptions::default()).unwrap();
    let image = group.scratch().join("image.ext4");
    let disk = Disk::that_can_fail(&image, &group.member_dir(MEMBER).join("data")).unwrap();
    group.launch().unwrap();
    let content = serve(&group, "image.bin", 1, 24 * MIB).unwrap();
    group.let_lead(MEMBER).unwrap();
    let fail = || disk.fail();
    disturbed_download_without_proxy(&group, Client::TftpHpa, "image.bin", &content, fail).unwrap();
    // Acknowledged by the two that are left, whatever became of the third.
    let stored = random_bytes(2, MIB);
    eventually("files can be stored again", PATIENCE, || {
        group.put("stored.bin", &stored)
    })
    .unwrap();
    group.await_failed_member().unwrap();
    let log = fs::read_to_string(group.member_dir(MEMBER).join("log")).unwrap();
    let why = log
        .lines()
        .find(|line| line.contains("the member cannot go on, and ends"));
    let why = why.expect("the log says that the member ends");
    eprintln!("{why}");
    assert!(why.contains("Input/output error"), "{why}");
    assert_ne!(group.leader().unwrap().name, MEMBER);
    // Without that disk the directory is empty: a new member.
    drop(disk);
    group.all_ready().unwrap();
    assert_eq!(group.get("image.bin").unwrap(), content);
    assert_eq!(group.get("stored.bin").unwrap(), stored);
}
