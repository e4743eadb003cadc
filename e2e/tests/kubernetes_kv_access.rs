//! A KvCluster that asks for tokens, from a Secret: who may do what, and whose a numbered request is, also when the leader is
//! lost in between. What a token allows in detail is tested with members in one process (`kv/tests/access.rs`).
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use anyhow::ensure;
use e2e::eventually;
use e2e::kubernetes::faults::kill_pod;
use e2e::kubernetes::{ClientPod, Cluster, KvCluster, Operator, PATIENCE, Space};
use serde_json::{Value, json};

const APP: &str = "app-0123456789abcdef";
/// The one that comes after it, under the same name.
const RENEWED: &str = "new-0123456789abcdef";
const OTHER: &str = "other-0123456789abcdef";

/// Asks the Service with curl and a token: the status, and the answer.
fn ask(pod: &ClientPod<'_>, token: Option<&str>, arguments: &[&str]) -> anyhow::Result<(String, Value)> {
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let header: Vec<&str> = header.iter().flat_map(|header| ["-H", header]).collect();
    let curl = ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}"];
    let text = pod.run(&[&curl[..], &header, arguments].concat())?;
    let (answer, status) = text.rsplit_once('\n').unwrap_or_default();
    Ok((status.to_owned(), serde_json::from_str(answer)?))
}

/// The same until the store gives a certain answer: a group that has lost its leader says that it cannot for a while.
fn ask_certainly(pod: &ClientPod<'_>, token: Option<&str>, arguments: &[&str]) -> (String, Value) {
    eventually("the Service answers", PATIENCE, || {
        let (status, answer) = ask(pod, token, arguments)?;
        ensure!(!status.starts_with('5'), "{status}: {answer}");
        Ok((status, answer))
    })
    .unwrap()
}

#[test]
fn tokens_come_from_a_secret_and_numbered_requests_stay_their_names() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "kv-access").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let entry =
        |name: &str, token: &str| json!({"name": name, "token": token, "access": "write", "prefix": "app/"});
    let tokens = json!({"tokens": [entry("app", APP), entry("app", RENEWED), entry("other", OTHER)]});
    let from = format!("--from-literal=tokens.json={tokens}");
    space
        .kubectl(&["create", "secret", "generic", "access", &from])
        .unwrap();
    let manifest = json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "locked"},
        "spec": {"replicas": 3, "tokens": {"secretRef": {"name": "access"}}},
    });
    let locked = KvCluster::apply(&space, "locked", &manifest.to_string()).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();
    let key = "http://locked:2390/v1/kv/app/colour?blocking=true";
    let foreign = "http://locked:2390/v1/kv/elsewhere?blocking=true";

    let refused_without = |token: Option<&str>, url: &str, status: &str| {
        let (said, answer) = ask_certainly(&client, token, &["-X", "PUT", "-d", "red", url]);
        assert_eq!(said, status, "{answer}");
        assert!(!answer.to_string().contains("0123456789abcdef"), "{answer}");
    };
    refused_without(None, key, "401");
    refused_without(Some("guess-0123456789abcdef"), key, "401");
    refused_without(Some(APP), foreign, "403");
    let (said, answer) = ask_certainly(&client, Some(APP), &["-X", "PUT", "-d", "red", key]);
    assert_eq!(
        (said.as_str(), &answer["valid"]),
        ("200", &json!(true)),
        "{answer}"
    );

    let sessions = ["-X", "POST", "http://locked:2390/v1/sessions"];
    let session = ask_certainly(&client, Some(APP), &sessions).1["session"]
        .as_u64()
        .unwrap();
    // Done twice it would say that the old value is not there.
    let url = format!("http://locked:2390/v1/kv/app/colour/swap?blocking=true&session={session}&seq=1");
    let body = json!({"oldValue": "red", "newValue": "blue"}).to_string();
    let swap = ["-X", "POST", "-d", &body, &url];
    let (said, first) = ask_certainly(&client, Some(APP), &swap);
    assert_eq!((said.as_str(), &first["valid"]), ("200", &json!(true)), "{first}");

    locked.await_settled().unwrap();
    let leader = locked.leader().unwrap();
    let uid = locked.uid(&leader).unwrap();
    kill_pod(&space, &leader).unwrap();
    locked.await_leader_after(&uid).unwrap();
    // The session is no other's, and the client goes on with its next token.
    let (said, answer) = ask_certainly(&client, Some(OTHER), &swap);
    assert_eq!(said, "410", "{answer}");
    let (said, again) = ask_certainly(&client, Some(RENEWED), &swap);
    assert_eq!((said.as_str(), &again["valid"]), ("200", &json!(true)), "{again}");
    let (_, value) = ask_certainly(&client, Some(RENEWED), &[key]);
    assert_eq!(value["value"], "blue", "{value}");
    refused_without(None, key, "401");
}
