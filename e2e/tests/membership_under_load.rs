//! Promise: members come, go and hand over while clients download, and no client ends with anything but the file.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::fs;

use e2e::data::MIB;
use e2e::group::detail;
use e2e::scenario::{DOWNLOAD_WITHIN, disturbed_download, disturbed_download_without_proxy, serve};
use e2e::{Client, Group};

const IMAGE_BYTES: usize = 24 * MIB;

#[test]
fn leadership_that_moves_again_and_again_disturbs_no_download() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 1, IMAGE_BYTES).unwrap();
    // Clients with large blocks and windows are done before leadership has moved twice.
    let slow = Client::USUAL
        .into_iter()
        .filter(|client| client.block_size() == 512);
    for client in slow {
        group.all_ready().unwrap();
        let mut moves: Vec<_> = (0..4)
            .map(|_| {
                || {
                    group.leader()?;
                    group.transfer()
                }
            })
            .collect();
        let parts = (1_u32..).map(|part| f64::from(part) / 6.0);
        let mut moves: Vec<_> = parts.zip(moves.iter_mut().map(|each| each as _)).collect();
        disturbed_download(&group, client, "image.bin", &content, &mut moves).unwrap();
    }
}

#[test]
fn member_that_is_removed_during_a_download_comes_back_as_another() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 2, IMAGE_BYTES).unwrap();
    for client in [Client::TftpHpa, Client::Curl { block_size: 512 }] {
        let leader = group.all_ready().unwrap();
        let members = &detail(&leader).unwrap().members;
        let other = members
            .iter()
            .find(|member| Some(member.node_id) != leader.node_id);
        let id = other.unwrap().node_id;
        let remove = || {
            let removed = group.succeed(&["members", "remove", &id.to_string()]);
            removed.map(drop)
        };
        disturbed_download_without_proxy(&group, client, "image.bin", &content, remove).unwrap();
        let leader = group.all_ready().unwrap();
        let members = &detail(&leader).unwrap().members;
        assert!(
            members.iter().all(|member| member.node_id != id),
            "node id {id} is used again"
        );
    }
}

#[test]
fn group_grows_and_shrinks_on_the_same_directory_while_a_client_downloads() {
    let mut group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 3, IMAGE_BYTES).unwrap();
    for replicas in [5, 3] {
        let local = group.scratch().join("download");
        fs::remove_file(&local).ok();
        let client = Client::Atftp;
        let mut download = client.start(group.tftp_port(), "image.bin", &local).unwrap();
        group.restart_with(replicas).unwrap();
        download.ends_identical(&content, DOWNLOAD_WITHIN).unwrap();
        assert_eq!(group.get("image.bin").unwrap(), content);
    }
}
