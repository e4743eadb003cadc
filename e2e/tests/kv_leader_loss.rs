//! The README's `curl` lines on a real group, and the leader's death between two of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::process::Command;

use e2e::clock::{PATIENCE, eventually};
use e2e::program::stock;
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;

fn group() -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap()
}

/// Runs curl with these arguments; its output as JSON.
fn curl(arguments: &[&str]) -> serde_json::Value {
    let mut curl = Command::new(stock("curl", "curl").unwrap());
    let output = curl
        .args(["-sS", "--noproxy", "*", "--max-time", "60"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "curl {arguments:?}: {output:?}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("curl {arguments:?} printed {text:?}: {error}"))
}

/// The three words of every answer.
fn words(answer: &serde_json::Value) -> (bool, bool, &str) {
    (
        answer["valid"].as_bool().unwrap(),
        answer["timeout"].as_bool().unwrap(),
        answer["value"].as_str().unwrap(),
    )
}

#[test]
fn curl_sets_gets_and_swaps_and_a_dead_leader_is_not_noticed_for_long() {
    let group = group();
    let url = format!("http://127.0.0.1:{}/v1/kv/greeting", group.kv_port());
    let swap = |old: &str, new: &str| {
        let body = format!(r#"{{"oldValue":"{old}","newValue":"{new}"}}"#);
        curl(&["-X", "POST", "-d", &body, &format!("{url}/swap?blocking=true")])
    };
    assert_eq!(words(&curl(&[&url])), (false, false, ""));
    let set = curl(&["-X", "PUT", "-d", "hello", &url]);
    assert!(set["valid"] == true && set["timeout"] == false, "{set}");
    assert_eq!(words(&curl(&[&url])), (true, false, "hello"));
    assert_eq!(words(&swap("hello", "goodbye")), (true, false, "goodbye"));
    assert_eq!(words(&swap("hello", "again")), (false, false, "goodbye"));
    let killed = group.kill_leader().unwrap();
    let set = curl(&["-X", "PUT", "-d", "still here", &format!("{url}?blocking=true")]);
    assert!(set["valid"] == true && set["timeout"] == false, "{set}");
    assert_eq!(words(&curl(&[&url])), (true, false, "still here"));
    group.all_ready().unwrap();
    // On every member's own port, the killed one's too.
    for port in group.kv_member_ports() {
        let url = format!("http://127.0.0.1:{port}/v1/kv/greeting");
        let answer = curl(&[&format!("{url}?blocking=true")]);
        assert_eq!(
            words(&answer),
            (true, false, "still here"),
            "{} was killed",
            killed.name
        );
        eventually("the member has learned it, too", PATIENCE, || {
            let answer = curl(&[&format!("{url}?consistent=false")]);
            anyhow::ensure!(words(&answer) == (true, false, "still here"), "{answer}");
            Ok(())
        })
        .unwrap();
    }
}
