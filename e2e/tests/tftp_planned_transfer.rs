//! Promise: a planned change of leader is invisible; no client sees even one retransmission time-out.

use e2e::data::MIB;
use e2e::scenario::{disturbed_download, serve};
use e2e::{Client, Group};
use rustix::process::Signal;

#[test]
fn transfer_in_mid_download_causes_no_time_out() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 1, 16 * MIB).unwrap();
    for client in Client::USUAL {
        let before = group.all_ready().unwrap();
        let mut transfer = || group.transfer();
        let done =
            disturbed_download(&group, client, "image.bin", &content, &mut [(0.3, &mut transfer)]).unwrap();
        assert_ne!(
            group.leader().unwrap().node_id,
            before.node_id,
            "leadership did not move"
        );
        assert_eq!(done.seen.client_time_outs, 0, "{}: {}", client.name(), done.seen);
        assert!(done.seen.errors.is_empty(), "{}: {}", client.name(), done.seen);
    }
}

#[test]
fn leader_told_to_stop_hands_over_first() {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 2, 16 * MIB).unwrap();
    for client in Client::USUAL {
        let before = group.all_ready().unwrap();
        let mut stop = || group.signal_leader(Signal::TERM).map(drop);
        let done =
            disturbed_download(&group, client, "image.bin", &content, &mut [(0.3, &mut stop)]).unwrap();
        assert_ne!(
            group.leader().unwrap().node_id,
            before.node_id,
            "leadership did not move"
        );
        assert_eq!(done.seen.client_time_outs, 0, "{}: {}", client.name(), done.seen);
        assert!(done.seen.errors.is_empty(), "{}: {}", client.name(), done.seen);
    }
}
