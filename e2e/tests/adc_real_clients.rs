//! ncdc, eiskaltdcpp-daemon and a client with AirDC++'s rules on one hub, each on another member of ours: what they do, and
//! what they keep on doing while members are lost, replaced and drained.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use e2e::adc::meeting::Places;
use e2e::adc::tls::key_print;
use e2e::adc::{Eiskalt, Meeting, Swarm, Uhub};
use e2e::adc_user::AdcIdentity;
use e2e::clock::{PATIENCE, eventually};
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

/// ZLIF: all that are here before are in a zlib stream, whatever follows is not.
#[test]
fn clients_that_take_compressed_lines_get_them_and_see_everybody() {
    const USERS: usize = 600;
    let group = hub(json!({"connectionsPerAddressMax": 0}));
    let port = group.adc_member_ports()[0];
    let mut swarm = Swarm::new(vec![port], USERS).unwrap();
    swarm.log_in_all(100, PATIENCE).unwrap();
    let swarm_nicks: BTreeSet<String> = (0..USERS).map(|user| format!("user{user:05}")).collect();
    let who = AdcIdentity::new("unpacker");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"HSUP ADBASE ADTIGR ADZLIF\n").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut next = move || {
        let mut line = String::new();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the hub closed the connection"
        );
        let mut packed = String::new();
        if line == "IZON\n" {
            let mut stream = flate2::bufread::ZlibDecoder::new(&mut lines);
            stream.read_to_string(&mut packed).unwrap();
        }
        (line, packed)
    };
    let sid = loop {
        if let (line, _) = next()
            && let Some(sid) = line.strip_prefix("ISID ")
        {
            break sid.trim_end().to_owned();
        }
    };
    let inf = format!("BINF {sid} ID{} PD{} NIunpacker\n", who.cid, who.pid);
    stream.write_all(inf.as_bytes()).unwrap();
    let own = format!("BINF {sid} ");
    let (mut packed, mut plain) = (String::new(), String::new());
    while !plain.contains(&own) {
        let (line, stream) = next();
        packed.push_str(&stream);
        plain.push_str(&line);
    }
    let nicks = |text: &str| -> Vec<String> {
        let nick = |line: &str| Some(line.split(" NI").nth(1)?.split(' ').next()?.trim().to_owned());
        let infs = text.lines().filter(|line| line.starts_with("BINF "));
        infs.filter_map(nick).collect()
    };
    assert!(packed.ends_with("\nIZOF\n"));
    let (in_packed, in_plain) = (nicks(&packed), nicks(&plain));
    assert!(in_packed.len() >= 512 && in_packed.len() + in_plain.len() == USERS + 1);
    let seen: BTreeSet<String> = in_packed.into_iter().chain(in_plain).collect();
    assert!(seen.is_superset(&swarm_nicks));
    // A real client says that it takes them.
    let eiskalt = Eiskalt::start("packed").unwrap();
    let url = format!("adc://127.0.0.1:{port}");
    eiskalt.open(&url).unwrap();
    eventually("eiskaltdcpp sees everybody", PATIENCE, || {
        let seen: BTreeSet<String> = eiskalt.users(&url)?.into_iter().collect();
        anyhow::ensure!(seen.is_superset(&swarm_nicks), "it sees {}", seen.len());
        Ok(())
    })
    .unwrap();
}
