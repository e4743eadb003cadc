//! The definitions are fresh, small and conventional, and each of their rules lets through and refuses what it should.
//! `e2e/tests/kubernetes_resources.rs` asks a real API server about the same table of rules.

use std::collections::BTreeSet;

use kube::core::cel::Validator;
use serde::Deserialize;
use serde_json::json;

use super::*;

/// A rule, with what it must let through and what it must refuse.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// The kind that has the rule; every kind without it.
    kind: Option<String>,
    /// The rule's message.
    rule: String,
    /// The specification before the change, for rules about changes.
    old: Option<Value>,
    accept: Value,
    reject: Value,
    accept_name: Option<String>,
    reject_name: Option<String>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("rules.json")).unwrap()
}

fn definitions_as_written() -> Vec<Value> {
    let files = files().unwrap();
    let read = |text: &String| serde_yaml::from_str(text).unwrap();
    files.values().map(read).collect()
}

/// A folder of the source tree.
fn tree(folder: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)
}

/// Every schema below `schema`, with its path.
fn each(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    let properties = schema["properties"].as_object().into_iter().flatten();
    for (name, below) in properties {
        each(&format!("{path}.{name}"), below, visit);
    }
    for (name, below) in [("[]", "items"), ("{}", "additionalProperties")] {
        if let Some(below) = schema.get(below) {
            each(&format!("{path}{name}"), below, visit);
        }
    }
}

fn for_each_schema(visit: &mut dyn FnMut(&str, &Value)) {
    for mut definition in definitions_as_written() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        each(&kind, schema(&mut definition).unwrap(), visit);
    }
}

/// Fills in defaults as the API server does before it asks the rules.
fn with_defaults(schema: &Value, value: &mut Value) {
    let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object_mut()) else {
        if let (Some(items), Some(list)) = (schema.get("items"), value.as_array_mut()) {
            list.iter_mut().for_each(|item| with_defaults(items, item));
        }
        return;
    };
    for (name, below) in properties {
        if let Some(default) = below.get("default") {
            object.entry(name).or_insert_with(|| default.clone());
        }
        if let Some(value) = object.get_mut(name) {
            with_defaults(below, value);
        }
    }
}

#[test]
fn files_in_the_tree_are_fresh() {
    // A chart cannot reach files outside its folder, so it has a copy.
    for folder in ["crds", "charts/quorate/files/crds"] {
        for (name, text) in files().unwrap() {
            let there = std::fs::read_to_string(tree(folder).join(&name)).unwrap_or_default();
            assert!(
                there == text,
                "{folder}/{name} is stale: run `cargo run -p operator -- crds --out {folder}`"
            );
        }
    }
}

#[test]
fn each_file_is_small_enough_for_plain_kubectl_apply() {
    for (name, text) in files().unwrap() {
        assert!(text.len() < 100_000, "{name} has {} bytes", text.len());
    }
}

#[test]
fn schemas_keep_the_conventions() {
    let mut wrong = Vec::new();
    let mut check = |path: &str, schema: &Value| {
        let mut must = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{path}: {what}"));
            }
        };
        must(schema.get("nullable").is_none(), "nullable");
        let format = schema["format"].as_str();
        must(
            format.is_none_or(|format| ["int32", "int64", "date-time"].contains(&format)),
            "a format that the API server does not know",
        );
        let text = schema["type"] == "string" && schema.get("enum").is_none() && format.is_none();
        must(
            !text || schema.get("maxLength").is_some(),
            "text without maxLength",
        );
        must(schema["type"] != "number", "a float");
        let list = schema["type"] == "array";
        must(
            !list || schema.get("maxItems").is_some(),
            "a list without maxItems",
        );
        must(
            !list || schema.get("x-kubernetes-list-type").is_some(),
            "a list without its type",
        );
        let map = schema.get("additionalProperties").is_some();
        must(
            !map || schema.get("maxProperties").is_some(),
            "a map without maxProperties",
        );
        let number = schema["type"] == "integer" && path.contains(".spec.");
        let bounded = schema["minimum"].is_i64() && schema["maximum"].is_i64();
        must(!number || bounded, "a number without both bounds");
        let field = path.contains(".spec") || path.contains(".status");
        let item = path.ends_with("[]") || path.ends_with("{}");
        must(
            !field || item || schema["description"].is_string(),
            "no description",
        );
        for (name, _) in schema["properties"].as_object().into_iter().flatten() {
            let first = name.chars().next().unwrap();
            must(
                first.is_ascii_lowercase() && !name.contains(['_', '-']),
                "not camelCase",
            );
        }
    };
    for_each_schema(&mut check);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let mut rules = BTreeSet::new();
    let mut unexplained = Vec::new();
    for_each_schema(&mut |path, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            match rule["message"].as_str() {
                Some(message) => _ = rules.insert(message.to_owned()),
                None => unexplained.push(path.to_owned()),
            }
        }
    });
    assert!(unexplained.is_empty(), "rules without a message: {unexplained:?}");
    let cases: BTreeSet<_> = cases().into_iter().map(|case| case.rule).collect();
    assert_eq!(rules, cases);
}

#[test]
fn each_rule_accepts_and_rejects() {
    let mut asked = 0;
    for mut definition in definitions_as_written() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        let schema = schema(&mut definition).unwrap();
        let object = |spec: &Value, name: Option<&str>| {
            let mut object = json!({"metadata": {"name": name.unwrap_or("boot")}, "spec": spec});
            with_defaults(schema, &mut object);
            object
        };
        let cases = cases();
        for case in cases
            .iter()
            .filter(|case| case.kind.as_ref().is_none_or(|of| *of == kind))
        {
            let failures = |spec: &Value, name: &Option<String>| {
                let old = case.old.as_ref().map(|spec| object(spec, name.as_deref()));
                let value = object(spec, name.as_deref());
                let failed = Validator::new().validate(schema, &value, old.as_ref());
                let errors = failed.err().map(|failed| failed.to_string());
                errors.unwrap_or_default()
            };
            let accepted = failures(&case.accept, &case.accept_name);
            assert!(accepted.is_empty(), "{kind}, {}: refused: {accepted}", case.rule);
            let rejected = failures(&case.reject, &case.reject_name);
            assert!(
                rejected.contains(&case.rule),
                "{kind}, {}: got `{rejected}`",
                case.rule
            );
            asked += 1;
        }
    }
    assert!(asked > 20, "only {asked} rules were asked");
}

#[test]
fn samples_can_be_read_and_keep_every_rule() {
    let mut definitions = definitions_as_written();
    let mut samples = 0;
    for entry in std::fs::read_dir(tree("crds/samples")).unwrap() {
        let path = entry.unwrap().path();
        for document in std::fs::read_to_string(&path).unwrap().split("\n---\n") {
            let sample: Value = serde_yaml::from_str(document).unwrap();
            // What a resource refers to stands beside it.
            if sample["kind"] != "ConfigMap" {
                check_sample(&mut definitions, sample, &path);
                samples += 1;
            }
        }
    }
    assert!(samples >= 3);
}

fn check_sample(definitions: &mut [Value], mut sample: Value, path: &Path) {
    let definition = definitions
        .iter_mut()
        .find(|definition| definition["spec"]["names"]["kind"] == sample["kind"])
        .unwrap();
    let schema = schema(definition).unwrap();
    with_defaults(schema, &mut sample);
    let failed = Validator::new().validate(schema, &sample, None);
    assert!(failed.is_ok(), "{}: {failed:?}", path.display());
    let read = match sample["kind"].as_str() {
        Some("AdcHub") => serde_json::from_value::<AdcHub>(sample).map(drop),
        Some("KvCluster") => serde_json::from_value::<KvCluster>(sample).map(drop),
        Some("TftpCluster") => serde_json::from_value::<TftpCluster>(sample).map(drop),
        other => panic!("{}: nothing reads the kind {other:?}", path.display()),
    };
    read.unwrap();
}
