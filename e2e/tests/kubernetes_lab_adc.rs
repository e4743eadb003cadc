//! An AdcHub from the sample: ncdc, eiskaltdcpp-daemon and a client with AirDC++'s rules meet at its Service from outside
//! the pod network, each with its own address, and keep their places while the leader's pod dies and while all pods are
//! replaced.

use std::net::Ipv4Addr;

use e2e::adc::Meeting;
use e2e::adc::meeting::Places;
use e2e::clock::eventually;
use e2e::kubernetes::faults::kill_pod;
use e2e::kubernetes::{AdcHub, Cluster, Operator, OwnAddress, PATIENCE, Space};
use serde_json::json;

/// A manifest of the samples that users are given.
const SAMPLE: &str = include_str!("../../crds/samples/adchub.yaml");

/// Those who meet: our own client last.
const NICKS: [&str; 3] = ["ncdcuser", "eisuser", "airuser"];

#[test]
fn real_clients_outside_keep_their_places_through_a_leaders_death_and_an_upgrade() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "hub").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let hub = AdcHub::apply(&space, "lounge", SAMPLE).unwrap();
    // Opened to the outside while it runs, as docs/operator.md says: a hub must see its users' addresses.
    hub.change(&json!({"service": {"type": "NodePort", "externalTrafficPolicy": "Local"}}))
        .unwrap();
    hub.await_ready().unwrap();
    hub.await_settled().unwrap();

    let leader = hub.leader().unwrap();
    let mut others: Vec<_> = hub.pods().unwrap();
    others.retain(|pod| pod["metadata"]["name"] != leader.as_str());
    let other = |number: usize| {
        let pod = others[number]["metadata"]["name"].as_str().unwrap();
        eventually("the node port is there", PATIENCE, || hub.door(pod)).unwrap()
    };
    let ncdc = OwnAddress::take(Ipv4Addr::new(10, 99, 0, 71)).unwrap();
    let eiskalt = OwnAddress::take(Ipv4Addr::new(10, 99, 0, 72)).unwrap();
    let places = Places {
        ncdc: other(0),
        eiskalt: other(1),
        // The one whose member will be killed.
        air: hub.door(&leader).unwrap(),
        ncdc_is_active: true,
    };
    let mut meeting = Meeting::start_from(places, ncdc.address(), eiskalt.address()).unwrap();
    meeting.everything().unwrap();

    // Each is seen with its own address, by the hub and by the others.
    let users = hub.await_connected(&NICKS).unwrap();
    let own = [ncdc.address().to_string(), eiskalt.address().to_string()];
    for (user, address) in users.iter().zip(&own) {
        assert!(user.address.starts_with(address.as_str()), "{user:?}");
        let seen = meeting.air.sees(&user.nick).unwrap();
        assert_eq!(seen.field("I4"), address, "{seen:?}");
    }
    let members: std::collections::BTreeSet<_> = users.iter().map(|user| user.member).collect();
    assert_eq!(members.len(), NICKS.len(), "each is on another member: {users:?}");

    let sids = meeting.sids();
    let uid = hub.uid(&leader).unwrap();
    kill_pod(&space, &leader).unwrap();
    hub.await_leader_after(&uid).unwrap();
    meeting.talk_without_air().unwrap();
    meeting.stayed_connected().unwrap();
    eventually("its user comes back", PATIENCE, || meeting.air.logged_in(2)).unwrap();
    hub.await_connected(&NICKS).unwrap();
    meeting.all_here().unwrap();
    meeting.everything().unwrap();
    assert_eq!(meeting.sids(), sids, "everybody has the place it had");
    meeting.stayed_connected().unwrap();
    println!("the leader's pod died: the others stayed, its user came back to its place");

    hub.await_settled().unwrap();
    let (before, logins) = (hub.pods().unwrap(), meeting.air.view().logins);
    hub.change(&json!({"logLevel": "info,replication=debug"}))
        .unwrap();
    hub.await_complete().unwrap();
    hub.await_settled().unwrap();
    for pod in &before {
        let now = hub.uid(pod["metadata"]["name"].as_str().unwrap()).unwrap();
        assert_ne!(now, pod["metadata"]["uid"], "each pod was replaced");
    }
    eventually("all come back", PATIENCE, || {
        meeting.connected_again()?;
        meeting.air.logged_in(logins + 1)
    })
    .unwrap();
    hub.await_connected(&NICKS).unwrap();
    meeting.all_here().unwrap();
    meeting.everything().unwrap();
    assert_eq!(meeting.sids(), sids, "everybody has the place it had");
    println!("all pods were replaced: everybody came back to its place");
}
