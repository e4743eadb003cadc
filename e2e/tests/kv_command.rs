//! `quorate-agent kv` as scripts use it: what it prints, and its exit status.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use anyhow::ensure;
use e2e::clock::{PATIENCE, eventually};
use e2e::group::pid;
use e2e::process::signal;
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;
use rustix::process::Signal;

/// What a command printed, and its exit status.
fn kv(group: &Group, arguments: &[&str]) -> (i32, String, String) {
    let output = group.command(&[&["kv"], arguments].concat()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn exit_status_tells_done_from_not_done_from_timed_out() {
    let group = Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap();
    let said = |arguments: &[&str]| {
        let (code, out, _) = kv(&group, arguments);
        (code, out)
    };
    let printed = |code: i32, out: &str| (code, out.to_owned());
    assert_eq!(said(&["get", "k", "--blocking"]), printed(1, ""));
    assert_eq!(said(&["set", "k", "one", "--blocking"]), printed(0, ""));
    assert_eq!(said(&["get", "k", "--blocking"]), printed(0, "one\n"));
    assert_eq!(
        said(&["swap", "k", "one", "two", "--blocking"]),
        printed(0, "two\n")
    );
    assert_eq!(
        said(&["swap", "k", "one", "three", "--blocking"]),
        printed(1, "two\n")
    );
    let (code, json) = said(&["get", "k", "--blocking", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["value"]), (0, &serde_json::json!("two")));
    assert_eq!(said(&["delete", "k", "--blocking"]).0, 0);
    assert_eq!(said(&["delete", "k", "--blocking"]).0, 1);
    let (code, _, words) = kv(&group, &["set", &"k".repeat(2000), "v"]);
    assert!(code == 5 && words.contains("2000 bytes"), "{code} {words}");
    assert_eq!(kv(&group, &["set"]).0, 2);

    // One member is left.
    group.supervisor().unwrap().signal(Signal::STOP).unwrap();
    for status in group.statuses().into_iter().flatten().skip(1) {
        signal(pid(&status).unwrap(), Signal::KILL).unwrap();
    }
    let (code, out, words) = kv(&group, &["set", "k", "never", "--timeout-ms", "300"]);
    assert!(
        code == 3 && out.is_empty() && words.contains("never will"),
        "{code} {out} {words}"
    );
    assert_eq!(kv(&group, &["set", "k", "alone", "--local"]).0, 0);
    let (code, out, _) = kv(&group, &["get", "k", "--local"]);
    assert_eq!((code, out.as_str()), (0, "alone\n"));
    let (code, outbox, _) = kv(&group, &["outbox"]);
    let outbox: serde_json::Value = serde_json::from_str(&outbox).unwrap();
    assert_eq!((code, &outbox["pending"]), (0, &serde_json::json!(1)));
    signal(pid(&group.statuses()[0].clone().unwrap()).unwrap(), Signal::KILL).unwrap();
    let (code, _, words) = kv(&group, &["get", "k", "--local"]);
    assert!(
        code == 5 && words.contains("no member of the group"),
        "{code} {words}"
    );
}

#[test]
fn journals_watching_and_messages() {
    let group = Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap();
    let said = |arguments: &[&str]| {
        let (code, out, words) = kv(&group, arguments);
        assert_eq!(code, 0, "{arguments:?}: {words}");
        out
    };
    assert_eq!(said(&["append", "j", "first", "--blocking"]), "1\n");
    assert_eq!(said(&["append", "j", "second", "--blocking"]), "2\n");
    assert_eq!(said(&["entries", "j", "--blocking"]), "1\tfirst\n2\tsecond\n");
    assert_eq!(
        said(&["entries", "j", "--from", "2", "--blocking"]),
        "2\tsecond\n"
    );
    assert_eq!(kv(&group, &["entries", "none", "--blocking"]).0, 1);

    said(&["set", "w/a", "1", "--blocking"]);
    said(&["set", "x", "1", "--blocking"]);
    said(&["delete", "w/a", "--blocking"]);
    let changes = said(&["watch", "w/", "--from", "1", "--count", "2"]);
    assert_eq!(changes, "put\tw/a\t1\ndelete\tw/a\t\n");
    let change = said(&["watch", "x", "--exact", "--from", "1", "--count", "1", "--json"]);
    let change: serde_json::Value = serde_json::from_str(&change).unwrap();
    assert_eq!((&change["key"], &change["value"]), (&"x".into(), &"1".into()));

    assert_eq!(said(&["publish", "news", "nobody listens"]), "0\n");
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| said(&["subscribe", "news", "--count", "1"]));
        eventually("the subscriber is found", PATIENCE, || {
            ensure!(said(&["publish", "news", "heard"]) == "1\n", "nobody listens");
            Ok(())
        })
        .unwrap();
        assert_eq!(listening.join().unwrap(), "heard\n");
    });
}
