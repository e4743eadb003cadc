//! Promise: a stock TFTP client downloads a file while the leader dies, and ends with the identical file.

use e2e::data::MIB;
use e2e::process::signal;
use e2e::scenario::{disturbed_download, disturbed_download_without_proxy, serve};
use e2e::serving::ServingWatch;
use e2e::{Client, Group, GroupOptions, eventually};
use rustix::process::Signal;

/// A typical phone or switch image.
const IMAGE_BYTES: usize = 11 * MIB;

#[test]
fn leader_killed_half_way_leaves_every_client_an_identical_file() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 1, IMAGE_BYTES).unwrap();
    for client in Client::USUAL {
        let leader = group.all_ready().unwrap();
        let mut kill = || group.kill(&leader);
        let done =
            disturbed_download(&group, client, "image.bin", &content, &mut [(0.5, &mut kill)]).unwrap();
        // No ERROR reaches a client, and nobody but the client's own silence is to blame for a repeat.
        assert!(done.seen.errors.is_empty(), "{}: {}", client.name(), done.seen);
        eprintln!(
            "{}: {:?} without data",
            client.name(),
            done.seen.longest_silence_since(done.since)
        );
    }
}

#[test]
fn leader_killed_half_way_without_anything_between_client_and_server() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 2, IMAGE_BYTES).unwrap();
    for client in [Client::TftpHpa, Client::Busybox { block_size: 512 }] {
        let leader = group.all_ready().unwrap();
        let kill = || group.kill(&leader);
        disturbed_download_without_proxy(&group, client, "image.bin", &content, kill).unwrap();
    }
}

#[test]
fn leader_killed_while_the_request_travels() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 3, 8 * MIB).unwrap();
    for client in Client::USUAL {
        let leader = group.all_ready().unwrap();
        let mut kill = || group.kill(&leader);
        disturbed_download(&group, client, "image.bin", &content, &mut [(0.0, &mut kill)]).unwrap();
    }
}

#[test]
fn leader_killed_in_a_file_whose_block_numbers_roll_over() {
    let group = Group::start().unwrap();
    // 614 400 blocks of 512 bytes: the 16-bit number rolls over nine times, the leader dies after the fourth.
    let content = serve(&group, "large.img", 4, 300 * MIB).unwrap();
    let kill = || group.kill_leader().map(drop);
    disturbed_download_without_proxy(&group, Client::TftpHpa, "large.img", &content, kill).unwrap();
}

#[test]
fn leader_killed_around_the_roll_over() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 5, 40 * MIB).unwrap();
    let blocks = f64::from(40 * 2048);
    for block in [65_535.0, 65_536.0, 65_537.0] {
        let leader = group.all_ready().unwrap();
        let mut kill = || group.kill(&leader);
        let part = (block + 0.5) / blocks;
        disturbed_download(
            &group,
            Client::Atftp,
            "image.bin",
            &content,
            &mut [(part, &mut kill)],
        )
        .unwrap();
    }
}

#[test]
fn two_leaders_killed_one_after_another_in_a_group_of_five() {
    let group = Group::start_with(GroupOptions {
        replicas: 5,
        tftp_root: None,
        ..GroupOptions::default()
    })
    .unwrap();
    // Long: the second leader has to be found before the end.
    let content = serve(&group, "image.bin", 6, 2 * IMAGE_BYTES).unwrap();
    for client in Client::USUAL {
        let leader = group.all_ready().unwrap();
        let mut first = || group.kill(&leader);
        let mut second = || group.kill_leader().map(drop);
        let both = &mut [(0.33, &mut first as _), (0.66, &mut second as _)];
        disturbed_download(&group, client, "image.bin", &content, both).unwrap();
    }
}

#[test]
fn paused_leader_is_replaced_and_says_nothing_when_it_wakes() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 7, IMAGE_BYTES).unwrap();
    let watch = ServingWatch::start((0..3).map(|index| group.admin_port(index))).unwrap();
    for client in Client::USUAL {
        let paused = group.all_ready().unwrap();
        let pid = paused.pid.unwrap();
        let mut pause = || signal(pid, Signal::STOP);
        let mut resume = || signal(pid, Signal::CONT);
        let both = &mut [(0.5, &mut pause as _), (0.75, &mut resume as _)];
        let done = disturbed_download(&group, client, "image.bin", &content, both).unwrap();
        assert!(done.seen.errors.is_empty(), "{}: {}", client.name(), done.seen);
        // It fell asleep a quarter of the file ago: were it to speak, it would repeat blocks of that time.
        let quarter = content.len() as u64 / client.block_size() as u64 / 4;
        assert!(
            done.seen.farthest_repeat < quarter / 2,
            "{}: {}",
            client.name(),
            done.seen
        );
        let leader = group.all_ready().unwrap();
        assert_ne!(
            leader.node_id, paused.node_id,
            "a member that slept through an election leads again at once"
        );
        eventually(
            "the woken member does not claim to serve",
            e2e::clock::PATIENCE,
            || {
                let woken = group
                    .statuses()
                    .into_iter()
                    .flatten()
                    .find(|status| status.node_id == paused.node_id);
                anyhow::ensure!(
                    woken.is_some_and(|status| !status.detail.is_some_and(|detail| detail.serving))
                );
                Ok(())
            },
        )
        .unwrap();
    }
    let claims = watch.finish();
    assert!(claims.terms() >= Client::USUAL.len(), "{claims:?}");
    assert!(
        claims.contradictions().is_empty(),
        "{:?}",
        claims.contradictions()
    );
}
