//! Promise: between two leaders the port is silent. No ICMP port-unreachable (a connected socket would see a refused
//! connection), and no ERROR.

use e2e::Group;
use e2e::data::{MIB, ensure_same_bytes};
use e2e::raw::RawClient;
use e2e::scenario::serve;
use e2e::wire::request;

#[test]
fn connected_client_sees_no_refusal_when_the_leader_dies() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 1, MIB).unwrap();
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    let kill_half_way = |block| {
        if block == 1_000 {
            group.kill_leader().map(drop)
        } else {
            Ok(())
        }
    };
    // A refused connection is an error of the download, an ERROR packet ends it as refused.
    let download = client
        .download_as("image.bin", "octet", &[], kill_half_way)
        .unwrap()
        .file()
        .unwrap();
    ensure_same_bytes(&download.bytes, &content).unwrap();
}

#[test]
fn new_client_in_the_gap_is_answered_by_the_next_leader_or_not_at_all() {
    let group = Group::start().unwrap();
    serve(&group, "image.bin", 2, 100).unwrap();
    for _ in 0..3 {
        group.all_ready().unwrap();
        group.kill_leader().unwrap();
        let mut client = RawClient::connect(group.tftp_port()).unwrap();
        let answer = client.ask(&request(1, "image.bin", "octet", &[])).unwrap();
        assert_eq!(&answer[..4], [0, 3, 0, 1], "the first answer is DATA 1");
    }
}

#[test]
fn port_stays_silent_while_no_member_lives() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 3, MIB).unwrap();
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    let kill_all = |block| {
        if block == 1_000 {
            group.kill_all_members()
        } else {
            Ok(())
        }
    };
    let download = client
        .download_as("image.bin", "octet", &[], kill_all)
        .unwrap()
        .file()
        .unwrap();
    ensure_same_bytes(&download.bytes, &content).unwrap();
}
