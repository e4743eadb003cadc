//! `docs/openapi.json` describes every request that is served, and nothing else.

mod support;

use std::collections::BTreeSet;

use hyper::Method;
use kv::request::{Target, head};
use serde_json::Value;
use support::Group;

const DESCRIPTION: &str = include_str!("../../../../docs/openapi.json");

/// The `operationId` of what a request asks for. A new target needs a line here, and one in the list below.
fn operation_id(target: &Target) -> &'static str {
    match target {
        Target::Get(_) => "get",
        Target::Set(_) => "set",
        Target::Delete(_) => "delete",
        Target::Swap(_) => "swap",
        Target::OpenSession => "openSession",
        Target::Outcome => "outcome",
        Target::Cancel => "cancel",
        Target::Outbox => "outbox",
        Target::Extract(_) => "extract",
        Target::Range => "range",
        Target::Watch(_) => "watch",
        Target::Publish(_) => "publish",
        Target::Send(_) => "send",
        Target::Subscribe(_) => "subscribe",
        Target::Reply => "reply",
        Target::Append(_) => "append",
        Target::ReadJournal(_) => "entries",
        Target::RemoveJournal(_) => "removeJournal",
        Target::Transact => "transact",
        Target::GrantLease => "grantLease",
        Target::Lease(_) => "lease",
        Target::KeepAlive(_) => "keepAlive",
        Target::Revoke(_) => "revoke",
    }
}

const OPERATION_IDS: [&str; 23] = [
    "get",
    "set",
    "delete",
    "swap",
    "openSession",
    "outcome",
    "cancel",
    "outbox",
    "extract",
    "range",
    "transact",
    "grantLease",
    "lease",
    "keepAlive",
    "revoke",
    "watch",
    "append",
    "entries",
    "removeJournal",
    "publish",
    "send",
    "subscribe",
    "reply",
];

/// Follows a reference inside the document.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value["$ref"].as_str() else {
        return value;
    };
    let found = document.pointer(reference.trim_start_matches('#'));
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

#[test]
fn every_route_is_described_and_every_description_is_served() {
    let document: Value = serde_json::from_str(DESCRIPTION).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            if id == "openapi" {
                continue;
            }
            let (mut real, mut query) = (path.clone(), Vec::new());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let parameter = resolved(&document, parameter);
                let name = parameter["name"].as_str().unwrap();
                match (parameter["in"].as_str().unwrap(), &parameter["required"]) {
                    ("path", _) => real = real.replace(&format!("{{{name}}}"), "1"),
                    ("query", Value::Bool(true)) => {
                        query.push(format!("{name}={}", parameter["example"].as_str().unwrap_or("1")));
                    }
                    _ => {}
                }
            }
            for response in operation["responses"].as_object().unwrap().values() {
                assert!(
                    resolved(&document, response)["description"].is_string(),
                    "{method} {path}"
                );
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let head = head(&method, &real, Some(&query.join("&")))
                .unwrap_or_else(|refusal| panic!("{method} {path}: {refusal}"));
            assert_eq!(operation_id(&head.target), id, "{method} {path}");
            assert!(described.insert(id.to_owned()), "{id} is described twice");
        }
    }
    let served: BTreeSet<String> = OPERATION_IDS.into_iter().map(str::to_owned).collect();
    assert_eq!(described, served);
}

#[test]
fn parameters_that_are_described_are_taken() {
    let document: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let parameters = document["components"]["parameters"].as_object().unwrap();
    for parameter in parameters.values().filter(|parameter| parameter["in"] == "query") {
        let name = parameter["name"].as_str().unwrap();
        let refused = head(&Method::GET, "/v1/kv/k", Some(&format!("{name}=?")));
        let sentence = refused.err().map(|refusal| refusal.sentence).unwrap_or_default();
        assert!(!sentence.contains("there is no query parameter"), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_show_the_description() {
    let group = Group::of_three().await;
    let answer = group.ask(0, "GET", "/v1/openapi.json", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json, serde_json::from_str::<Value>(DESCRIPTION).unwrap());
}
