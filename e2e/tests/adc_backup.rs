//! A new hub begins with the backup of another one: who is registered there is registered here, under another key.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use e2e::adc_user::AdcIdentity;
use e2e::clock::{PATIENCE, eventually};
use e2e::program::agent;
use e2e::{AdcUser, Group, GroupOptions};
use operator_api::config::ServiceKind;
use serde_json::json;

fn group(restore: Option<std::path::PathBuf>) -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Adc,
        restore,
        // Nobody's place is kept: those who were in the old hub are not in the new one.
        adc_options: Some(json!({ "graceSeconds": 0 })),
        ..GroupOptions::default()
    })
    .unwrap()
}

fn register(group: &Group, nick: &str, password: &str) {
    let mut put = Command::new(agent().unwrap())
        .args(["adc", "account", "put", nick, "owner", "--dir"])
        .arg(group.dir())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(put.stdin.take().unwrap(), "{password}").unwrap();
    assert!(put.wait().unwrap().success());
}

fn log_in(port: u16, who: &AdcIdentity) -> AdcUser {
    eventually("the hub lets them in", PATIENCE, || AdcUser::log_in(port, who)).unwrap()
}

#[test]
fn a_new_hub_begins_with_the_users_bans_and_words_of_another_one() {
    let old = group(None);
    register(&old, "op", "secret");
    let op = AdcIdentity::new("op").with_password("secret");
    let bob = AdcIdentity::new("bob");
    let mut owner = log_in(old.adc_member_ports()[0], &op);
    let mut alice = log_in(old.adc_member_ports()[1], &AdcIdentity::new("alice"));
    drop(log_in(old.adc_member_ports()[2], &bob));
    owner.say("+topic news").unwrap();
    alice.expect("the topic", |line| line == "IINF DEnews").unwrap();
    alice.say("remember me").unwrap();
    owner
        .expect("her line", |line| line.contains("remember\\sme"))
        .unwrap();
    old.succeed(&["adc", "ban", "bob", "spam"]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("adc.backup");
    let said = old
        .succeed(&["backup", "--service", "adc", file.to_str().unwrap()])
        .unwrap();
    assert!(said.starts_with("adc group "), "{said}");
    let old_key = fs::read_to_string(old.dir().join("adc-password-key")).unwrap();
    drop((owner, alice, old));

    let new = group(Some(file));
    let new_key = fs::read_to_string(new.dir().join("adc-password-key")).unwrap();
    assert_ne!(old_key, new_key);
    let ports = new.adc_member_ports();
    let mut owner = log_in(ports[0], &op);
    assert!(owner.users[&owner.sid].contains(" CT16"));
    let wrong = AdcIdentity::new("op").with_password("guess");
    let error = AdcUser::log_in(ports[1], &wrong).unwrap_err();
    assert!(format!("{error:#}").contains("ISTA 223"), "{error:#}");
    let error = AdcUser::log_in(ports[2], &bob).unwrap_err();
    assert!(format!("{error:#}").contains("ISTA 231"), "{error:#}");
    // Another client takes the nick that somebody had in the old hub.
    let other = AdcIdentity {
        nick: "alice".to_owned(),
        ..AdcIdentity::new("another alice")
    };
    let mut alice = log_in(ports[1], &other);
    alice.lines_until_quiet(std::time::Duration::from_millis(300));
    let heard = |what: &str| alice.seen.iter().any(|line| line.contains(what));
    assert!(heard("DEnews") && heard("remember\\sme"), "{:?}", alice.seen);
    // It is a hub like any other: it loses its leader and goes on, for those who are registered too.
    new.kill_leader().unwrap();
    new.all_ready().unwrap();
    owner.lines_until_quiet(std::time::Duration::from_millis(10));
    drop(owner);
    log_in(ports[2], &op);
}
