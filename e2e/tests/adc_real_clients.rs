//! ncdc, eiskaltdcpp-daemon and a client with AirDC++'s rules on one hub, each on another member of ours: what they do, and
//! what they keep on doing while members are lost, replaced and drained.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;

use e2e::adc::meeting::Places;
use e2e::adc::tls::key_print;
use e2e::adc::{Meeting, Uhub};
use e2e::group::pid;
use e2e::process::signal;
use e2e::{Group, GroupOptions};
use operator_api::MemberStatus;
use operator_api::config::ServiceKind;
use rustix::process::Signal;
use serde_json::json;

/// A group of three, and the address of each member's own port.
fn hub(options: serde_json::Value) -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Adc,
        adc_options: Some(options),
        ..GroupOptions::default()
    })
    .unwrap()
}

/// ncdc on the member number `ncdc`, eiskaltdcpp-daemon on the next one, our own client on the one after.
fn spread(group: &Group, ncdc: usize) -> Places {
    let ports = group.adc_member_ports();
    let url = |index: usize| format!("adc://127.0.0.1:{}", ports[index % ports.len()]);
    Places {
        ncdc: url(ncdc),
        eiskalt: url(ncdc + 1),
        air: url(ncdc + 2),
        ncdc_is_active: true,
    }
}

/// The number of a member: the index of its ports.
fn index(group: &Group, member: &MemberStatus) -> usize {
    let is_it = |status: &Option<MemberStatus>| status.as_ref().is_some_and(|one| one.name == member.name);
    group.statuses().iter().position(is_it).unwrap()
}

/// A member that does not lead.
fn follower(group: &Group, leader: &MemberStatus) -> MemberStatus {
    let other = |status: &MemberStatus| status.name != leader.name;
    group.statuses().into_iter().flatten().find(other).unwrap()
}

/// What is asked of our hub is no more than what clients do on any: they do it on uhub, too.
#[test]
fn clients_meet_on_uhub() {
    let uhub = Uhub::start().unwrap();
    let mut meeting = Meeting::start(Places::all_at(&uhub.url())).unwrap();
    meeting.everything().unwrap();
}

#[test]
fn clients_meet_on_three_members() {
    let group = hub(json!({}));
    let mut meeting = Meeting::start(spread(&group, 0)).unwrap();
    meeting.everything().unwrap();
}

/// Over TLS, with the key print in the address; ncdc is passive here.
#[test]
fn clients_meet_over_tls_and_check_the_key_print() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let group = hub(json!({"tls": {"certFile": cert, "keyFile": key}}));
    let places = spread(&group, 0);
    let print = key_print(made.cert.der());
    let secure = |url: &str| format!("{}/?kp={print}", url.replace("adc://", "adcs://"));
    let mut meeting = Meeting::start(Places {
        ncdc: secure(&places.ncdc),
        eiskalt: secure(&places.eiskalt),
        air: secure(&places.air),
        ncdc_is_active: false,
    })
    .unwrap();
    meeting.everything().unwrap();
}

/// Two of the three are on other members: nothing happens to them. The third comes back by itself.
#[test]
fn clients_go_on_when_the_leader_is_killed() {
    let group = hub(json!({}));
    let leader = group.leader().unwrap();
    // Our own client is the one on the leader.
    let mut meeting = Meeting::start(spread(&group, index(&group, &leader) + 1)).unwrap();
    meeting.everything().unwrap();
    let sids = meeting.sids();
    let killed = group.kill_leader().unwrap();
    assert_eq!(killed.name, leader.name);
    meeting.talk_without_air().unwrap();
    meeting.air.logged_in(2).unwrap();
    meeting.all_here().unwrap();
    meeting.everything().unwrap();
    assert_eq!(meeting.sids(), sids, "everybody has the place it had");
    meeting.stayed_connected().unwrap();
}

#[test]
fn clients_go_on_when_a_follower_is_killed() {
    let group = hub(json!({}));
    let follower = follower(&group, &group.leader().unwrap());
    let mut meeting = Meeting::start(spread(&group, index(&group, &follower) + 1)).unwrap();
    meeting.talk().unwrap();
    let sids = meeting.sids();
    group.kill(&follower).unwrap();
    meeting.talk_without_air().unwrap();
    meeting.air.logged_in(2).unwrap();
    meeting.all_here().unwrap();
    meeting.everything().unwrap();
    assert_eq!(meeting.sids(), sids, "everybody has the place it had");
    meeting.stayed_connected().unwrap();
}

/// Nobody is cut at all.
#[test]
fn clients_do_not_notice_a_transfer_of_leadership() {
    let group = hub(json!({}));
    let mut meeting = Meeting::start(spread(&group, 0)).unwrap();
    meeting.talk().unwrap();
    let sids = meeting.sids();
    group.transfer().unwrap();
    meeting.everything().unwrap();
    assert_eq!(meeting.sids(), sids, "everybody has the place it had");
    assert_eq!(meeting.air.view().losses, 0);
    meeting.stayed_connected().unwrap();
}

/// SIGTERM: the user is told to come back, and does so at once.
#[test]
fn client_of_a_drained_member_is_told_when_to_come_back() {
    let group = hub(json!({}));
    let leader = group.leader().unwrap();
    let mut meeting = Meeting::start(spread(&group, index(&group, &leader) + 1)).unwrap();
    meeting.talk().unwrap();
    let sids = meeting.sids();
    signal(pid(&leader).unwrap(), Signal::TERM).unwrap();
    meeting.talk_without_air().unwrap();
    meeting.air.hears("IQUI").unwrap();
    meeting
        .air
        .until("was told when to come back", |view| {
            view.heard(" TL").then_some(())
        })
        .unwrap();
    meeting.air.logged_in(2).unwrap();
    meeting.all_here().unwrap();
    meeting.everything().unwrap();
    assert_eq!(meeting.sids(), sids, "everybody has the place it had");
    meeting.stayed_connected().unwrap();
}
