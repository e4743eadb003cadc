//! The source tree keeps its own rules (CONTRIBUTING.md, ARCHITECTURE.md). Needs no group.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::program::source_root;

/// Lines of a file that are not tests.
const LINES_MAX: usize = 500;

/// The roles in a service folder that are pure (`server.rs` is the one that is not), as files or as folders.
const PURE: [&str; 12] = [
    "access", "packet", "message", "request", "transfer", "upload", "session", "state", "netascii", "path",
    "outbox", "peer",
];

/// The operator's pure files and folders.
const PURE_IN_OPERATOR: [&str; 5] = ["validate", "kinds", "build", "plan", "status"];

/// Those of `kubectl-quorate`.
const PURE_IN_KUBECTL: [&str; 3] = ["view", "tree", "doctor"];

/// What pure code never says: I/O, clocks, chance, tasks.
const IMPURE: [&str; 10] = [
    "tokio",
    "async fn",
    ".await",
    "std::fs",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "rand::",
];

/// What members run, which speak to the API server without the `kube` crate.
const IN_MEMBERS: [&str; 6] = ["node-agent", "replication", "wal", "tftp", "kv", "adc"];

/// Which of our crates each crate may use.
fn arrows() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    BTreeMap::from([
        ("operator", BTreeSet::from(["operator-api"])),
        ("operator-api", BTreeSet::new()),
        ("quorate-kubectl", BTreeSet::from(["operator-api"])),
        ("wal", BTreeSet::new()),
        ("replication", BTreeSet::from(["wal"])),
        // In the place of a crate that `replication` uses.
        ("base2histogram", BTreeSet::new()),
        ("kv", BTreeSet::from(["replication"])),
        // Its tests have real members.
        ("kv-client", BTreeSet::from(["kv", "replication"])),
        ("tftp", BTreeSet::from(["replication"])),
        ("adc", BTreeSet::from(["replication"])),
        (
            "node-agent",
            BTreeSet::from(["operator-api", "replication", "adc", "kv", "kv-client", "tftp"]),
        ),
        ("linearizability", BTreeSet::new()),
        (
            "simulation",
            BTreeSet::from(["kv", "linearizability", "replication", "wal"]),
        ),
        ("e2e", BTreeSet::from(["operator-api", "linearizability"])),
    ])
}

/// Every Rust file of the tree with its text, by its path from the top.
fn sources() -> anyhow::Result<BTreeMap<PathBuf, String>> {
    fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, String>) -> anyhow::Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                found.insert(path.strip_prefix(source_root())?.to_owned(), text);
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    for folder in ["operator", "node-agent", "e2e"] {
        walk(&source_root().join(folder), &mut found)?;
    }
    ensure!(
        found.len() > 10,
        "only {} sources were found under {}",
        found.len(),
        source_root().display()
    );
    Ok(found)
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {")
        .map_or(text, |end| &text[..end])
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        matches!(
            part.as_os_str().to_str(),
            Some("tests" | "tests.rs" | "benches" | "fuzz")
        )
    })
}

/// Lines of code: comments do not name what they speak about.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn files_have_at_most_500_lines_that_are_not_tests() {
    let sources = sources().unwrap();
    let long: Vec<_> = sources
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path, without_tests(text).lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "split these: {long:?}");
}

/// Whether a file has a pure role: `<service>/src/<role>.rs`, `<service>/src/<role>/....rs`, and the operator's.
fn is_pure(path: &Path) -> bool {
    let stem = |inside: &Path, depth: usize| {
        let part = inside.iter().nth(depth)?;
        Some(Path::new(part).file_stem()?.to_str()?.to_owned())
    };
    if let Ok(inside) = path.strip_prefix("node-agent/services") {
        return stem(inside, 2).is_some_and(|role| PURE.contains(&role.as_str()));
    }
    let programs = [
        ("operator/src", PURE_IN_OPERATOR.as_slice()),
        ("operator/kubectl/src", &PURE_IN_KUBECTL),
    ];
    programs.iter().any(|(folder, pure)| {
        let inside = path.strip_prefix(folder).ok();
        let role = inside.and_then(|inside| stem(inside, 0));
        role.is_some_and(|role| pure.contains(&role.as_str()))
    })
}

#[test]
fn pure_files_do_no_io() {
    let mut checked = 0;
    let mut found = Vec::new();
    for (path, text) in sources().unwrap() {
        if !is_pure(&path) || is_test(&path) {
            continue;
        }
        checked += 1;
        for (number, line) in code(without_tests(&text)) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number} says {word}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(
        checked >= 3,
        "only {checked} pure files were found: are they named otherwise now?"
    );
}

#[test]
fn only_replication_names_openraft() {
    let mut found = Vec::new();
    for (path, text) in sources().unwrap() {
        if path.starts_with("node-agent/replication") || path == Path::new("e2e/tests/tidy.rs") {
            continue;
        }
        let named =
            code(&text).filter(|(_, line)| line.contains("openraft::") || line.contains("use openraft"));
        found.extend(named.map(|(number, line)| format!("{}:{number}: {line}", path.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn tests_neither_sleep_nor_are_ignored() {
    let mut found = Vec::new();
    for (path, text) in sources().unwrap() {
        if path == Path::new("e2e/tests/tidy.rs") {
            continue;
        }
        for (number, line) in code(&text) {
            let sleeps = line.contains("thread::sleep") && path.starts_with("e2e/tests");
            if sleeps || line.trim_start().starts_with("#[ignore") {
                found.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn crates_use_only_the_crates_they_may() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(source_root());
    let output = cargo.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let arrows = arrows();
    let packages = metadata["packages"].as_array().unwrap();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let allowed = arrows
            .get(name)
            .unwrap_or_else(|| panic!("the crate {name} is new: draw its arrows here"));
        let used = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|used| used["name"].as_str().unwrap());
        for used in used {
            let ours = arrows.contains_key(used);
            assert!(
                !ours || allowed.contains(used),
                "{name} must not use {used}: see ARCHITECTURE.md"
            );
            assert!(
                !matches!(used, "kube" | "k8s-openapi") || !IN_MEMBERS.contains(&name),
                "{name} must not use {used}: ARCHITECTURE.md says why"
            );
            assert!(
                used != "openraft" || name == "replication",
                "{name} must not use openraft"
            );
        }
    }
    assert_eq!(packages.len(), arrows.len());
}
