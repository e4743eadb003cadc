//! Promise: a disk that is full, fails, or was damaged costs no acknowledged write while a majority keeps its disk. Under
//! load; what all clients saw is checked. The first two mount disks of their own, so they need root.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![expect(
    clippy::print_stdout,
    reason = "what was checked, for whoever reads a failure"
)]

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, ensure};
use e2e::clock::{PATIENCE, eventually};
use e2e::disk::Disk;
use e2e::group::{detail, pid};
use e2e::kv::campaign::check;
use e2e::kv::faults::await_answers;
use e2e::kv::load::{Load, LoadOptions, Running};
use e2e::process::signal;
use e2e::{Group, GroupOptions};
use operator_api::MemberStatus;
use operator_api::config::ServiceKind;
use rustix::process::Signal;

/// Consistent operations that must be answered while something is wrong.
const ANSWERS: u64 = 60;

fn prepare() -> Group {
    Group::prepare(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap()
}

fn load(group: &Group) -> Running {
    let options = LoadOptions {
        seed: 7,
        clients: 8,
        local: true,
    };
    let running = Running::start(group.kv_member_ports(), options).unwrap();
    await_answers(&running.load, ANSWERS).unwrap();
    running
}

fn members(group: &Group) -> Vec<MemberStatus> {
    group.statuses().into_iter().flatten().collect()
}

fn place(name: &str) -> usize {
    name.rsplit('-').next().unwrap().parse().unwrap()
}

fn finish(mut group: Group, running: Running) {
    let summary = check(&mut group, running).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{summary:?}");
    assert!(summary.operations as u64 > 2 * ANSWERS, "{summary:?}");
}

#[test]
fn full_disk_costs_nothing_and_stops_nobody() {
    let mut group = prepare();
    let disks: Vec<_> = (0..3)
        .map(|number| Disk::small(&group.member_dir(&format!("kv-{number}"))).unwrap())
        .collect();
    group.launch().unwrap();
    let running = load(&group);
    let before: Vec<_> = members(&group)
        .iter()
        .map(|member| pid(member).unwrap())
        .collect();
    let leader = group.all_ready().unwrap();
    let follower = members(&group)
        .into_iter()
        .find(|member| member.name != leader.name)
        .unwrap();
    for full in [&follower, &leader] {
        let disk = disks.iter().find(|disk| disk.is_of(&full.name)).unwrap();
        disk.fill().unwrap();
        eventually("the member asks for space", PATIENCE, || {
            let now = members(&group)
                .into_iter()
                .find(|member| member.name == full.name);
            let alarm = detail(&now.context("it does not answer")?)?.alarm.clone();
            ensure!(alarm.is_some_and(|alarm| alarm.contains("free some space")));
            Ok(())
        })
        .unwrap();
        await_answers(&running.load, ANSWERS).unwrap();
        disk.free().unwrap();
        group.all_ready().unwrap();
    }
    let after: Vec<_> = members(&group)
        .iter()
        .map(|member| pid(member).unwrap())
        .collect();
    assert_eq!(before, after, "a process was restarted");
    finish(group, running);
}

#[test]
fn member_whose_disk_fails_ends_and_the_others_keep_what_was_acknowledged() {
    const MEMBER: &str = "kv-0";
    let mut group = prepare();
    let image = group.scratch().join("image.ext4");
    let disk = Disk::that_can_fail(&image, &group.member_dir(MEMBER).join("data")).unwrap();
    group.launch().unwrap();
    let running = load(&group);
    group.let_lead(MEMBER).unwrap();
    lose(&running.load, MEMBER);
    disk.fail().unwrap();
    group.await_failed_member().unwrap();
    await_answers(&running.load, ANSWERS).unwrap();
    lose(&running.load, MEMBER);
    // Without that disk the directory is empty: a new member.
    drop(disk);
    group.all_ready().unwrap();
    lose(&running.load, MEMBER);
    finish(group, running);
}

/// What only this member had is lost, and that is no secret.
fn lose(load: &Load, member: &str) {
    load.remembered.disk_lost(place(member));
    load.local_reads.new_life(place(member));
}

#[test]
fn member_with_a_damaged_log_record_joins_anew_and_nothing_acknowledged_is_lost() {
    let mut group = prepare();
    group.launch().unwrap();
    let running = load(&group);
    let leader = group.all_ready().unwrap();
    let damaged = members(&group)
        .into_iter()
        .find(|member| member.name != leader.name)
        .unwrap();
    let supervisor = group.supervisor().unwrap();
    supervisor.signal(Signal::STOP).unwrap();
    running.load.local_reads.new_life(place(&damaged.name));
    signal(pid(&damaged).unwrap(), Signal::KILL).unwrap();
    eventually("it is gone", PATIENCE, || {
        let alive = members(&group).iter().any(|member| member.name == damaged.name);
        ensure!(!alive, "it still answers");
        Ok(())
    })
    .unwrap();
    damage(&group, &damaged.name);
    running.load.local_reads.new_life(place(&damaged.name));
    supervisor.signal(Signal::CONT).unwrap();
    group.all_ready().unwrap();
    let now = members(&group)
        .into_iter()
        .find(|member| member.name == damaged.name)
        .unwrap();
    assert_ne!(now.node_id, damaged.node_id, "it went on with a damaged log");
    finish(group, running);
}

/// Flips a bit of the first batch in the oldest segment of a member's log: long acknowledged, and much follows it.
fn damage(group: &Group, member: &str) {
    const FIRST_BATCH: u64 = 4096;
    let log = group.member_dir(member).join("data").join("log");
    let mut segments: Vec<_> = fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "wal"))
        .collect();
    segments.sort();
    let segment = fs::File::options()
        .read(true)
        .write(true)
        .open(&segments[0])
        .unwrap();
    let mut byte = [0];
    segment.read_exact_at(&mut byte, FIRST_BATCH + 40).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], FIRST_BATCH + 40).unwrap();
}
