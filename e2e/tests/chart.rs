//! What the Helm chart brings along is true: its alerts fire on what they name and on nothing else, and alerts and
//! dashboards speak of metrics that exist. Needs no group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use e2e::program::{source_root, stock};

/// Samples of a series, one every 30 s, in promtool's notation.
type Series = BTreeMap<String, String>;

/// A member's series.
fn of(metric: &str, member: usize, labels: &str) -> String {
    format!("{metric}{{namespace=\"boot\", service=\"tftp\", member=\"net-{member}\"{labels}}}")
}

fn lag(peer: usize) -> String {
    of("quorate_member_lag_entries", 0, &format!(", peer=\"net-{peer}\""))
}

fn operator(pod: &str) -> String {
    format!("quorate_operator_leader{{namespace=\"quorate\", pod=\"{pod}\"}}")
}

fn rounds(result: &str) -> String {
    format!(
        "quorate_operator_reconciles_total{{namespace=\"quorate\", kind=\"TftpCluster\", result=\"{result}\"}}"
    )
}

/// A series of a member of a group of another service.
fn beside(service: &str, metric: &str, member: usize, labels: &str) -> String {
    format!("{metric}{{namespace=\"boot\", service=\"{service}\", member=\"{service}-{member}\"{labels}}}")
}

fn kv(metric: &str, labels: &str) -> String {
    beside("kv", &format!("quorate_kv_{metric}"), 1, labels)
}

fn adc(metric: &str, labels: &str) -> String {
    beside("adc", &format!("quorate_adc_{metric}"), 1, labels)
}

const ENDS: &str = "quorate_tftp_transfers_total";
const OPENS: &str = "quorate_tftp_open_seconds_bucket";

/// A group of three that is well, and two operators.
fn healthy() -> Series {
    let mut series = Series::new();
    let mut add = |name: String, values: &str| _ = series.insert(name, values.to_owned());
    for member in 0..3 {
        add(
            of("quorate_serving", member, ""),
            if member == 0 { "1x200" } else { "0x200" },
        );
        for (metric, values) in [
            ("quorate_ready", "1x200"),
            ("quorate_voters", "3x200"),
            ("quorate_members", "3x200"),
            ("quorate_term", "7x200"),
            ("quorate_alarm", "0x200"),
            ("process_start_time_seconds", "1000x200"),
            ("process_open_fds", "100x200"),
            ("process_max_fds", "1000x200"),
        ] {
            add(of(metric, member, ""), values);
        }
        add(version(member, "0.1.0"), "1x200");
    }
    add(lag(1), "3x200");
    add(lag(2), "3x200");
    add(of(ENDS, 0, ", end=\"complete\""), "0+100x200");
    add(of(ENDS, 0, ", end=\"gave_up\""), "0+1x200");
    add(of(OPENS, 0, ", le=\"0.032\""), "0+100x200");
    add(of(OPENS, 0, ", le=\"+Inf\""), "0+100x200");
    for (metric, labels, values) in [
        ("storage_bytes", "", "500x200"),
        ("storage_bytes_max", "", "1000x200"),
        ("outbox_pending", "", "0 7 0x200"),
        ("access_alarm", "", "0x200"),
        ("requests_total", ", outcome=\"ok\"", "0+100x200"),
        ("requests_total", ", outcome=\"timeout\"", "0+1x200"),
    ] {
        add(kv(metric, labels), values);
    }
    for (metric, labels, values) in [
        ("users", "", "40x200"),
        ("refused_logins_total", ", reason=\"full\"", "0x200"),
        ("turned_away_connections_total", "", "0+1x200"),
        ("slow_readers_total", "", "0+0.1x200"),
    ] {
        add(adc(metric, labels), values);
    }
    add(operator("a"), "1x200");
    add(operator("b"), "0x200");
    add(rounds("ok"), "0+10x200");
    add(rounds("error"), "0+1x200");
    series
}

fn version(member: usize, version: &str) -> String {
    of("quorate_build_info", member, &format!(", version=\"{version}\""))
}

/// What is different from a healthy group, and which alerts have to fire after 95 minutes.
struct Case {
    what: &'static str,
    changed: Vec<(String, String)>,
    gone: Vec<String>,
    firing: &'static [&'static str],
}

/// A case of changed series.
fn changed(what: &'static str, series: &[(String, &str)], firing: &'static [&'static str]) -> Case {
    Case {
        what,
        changed: series
            .iter()
            .map(|(name, values)| (name.clone(), (*values).to_owned()))
            .collect(),
        gone: Vec::new(),
        firing,
    }
}

/// A case of series that are missing.
fn gone(what: &'static str, gone: Vec<String>, firing: &'static [&'static str]) -> Case {
    Case {
        gone,
        ..changed(what, &[], firing)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = group_cases();
    cases.extend(other_cases());
    cases.extend(kv_and_adc_cases());
    cases
}

fn group_cases() -> Vec<Case> {
    let restarts: Vec<_> = (0..200).map(|at| (1000 + 300 * (at / 10)).to_string()).collect();
    vec![
        changed("a healthy group", &[], &[]),
        changed(
            "nobody serves",
            &[(of("quorate_serving", 0, ""), "0x200")],
            &["QuorateNoLeader"],
        ),
        changed(
            "two serve",
            &[(of("quorate_serving", 1, ""), "1x200")],
            &["QuorateTwoLeaders"],
        ),
        changed(
            "an election every two minutes",
            &[(of("quorate_term", 1, ""), "0+0.25x200")],
            &["QuorateLeaderFlapping"],
        ),
        changed(
            "one of three is not ready",
            &[(of("quorate_ready", 2, ""), "0x200")],
            &["QuorateMemberNotReady", "QuorateQuorumAtRisk"],
        ),
        gone(
            "one of three cannot be scraped",
            vec![of("quorate_ready", 2, "")],
            &["QuorateMemberMissing", "QuorateQuorumAtRisk"],
        ),
        changed(
            "a member lags",
            &[(lag(2), "20000x200")],
            &["QuorateMemberLagging"],
        ),
        changed(
            "a full disk",
            &[(of("quorate_alarm", 1, ""), "1x200")],
            &["QuorateAlarm"],
        ),
        changed(
            "a restart every five minutes",
            &[(of("process_start_time_seconds", 1, ""), &restarts.join(" "))],
            &["QuorateMemberRestarting"],
        ),
        changed(
            "descriptors run out",
            &[(of("process_open_fds", 1, ""), "900x200")],
            &["QuorateDescriptorsRunOut"],
        ),
    ]
}

fn kv_and_adc_cases() -> Vec<Case> {
    vec![
        changed(
            "a store that fills up",
            &[(kv("storage_bytes", ""), "950x200")],
            &["QuorateKvStorageFillsUp"],
        ),
        changed(
            "writes that no quorum takes",
            &[(kv("outbox_pending", ""), "3x200")],
            &["QuorateKvWritesWait"],
        ),
        changed(
            "a certificate that is none",
            &[(kv("access_alarm", ""), "1x200")],
            &["QuorateKvAccessAlarm"],
        ),
        changed(
            "one request of five times out",
            &[(kv("requests_total", ", outcome=\"timeout\""), "0+25x200")],
            &["QuorateKvRequestsTimeOut"],
        ),
        changed(
            "a full hub",
            &[(adc("refused_logins_total", ", reason=\"full\""), "0+2x200")],
            &["QuorateAdcHubFull"],
        ),
        changed(
            "a port scan",
            &[(adc("turned_away_connections_total", ""), "0+10x200")],
            &["QuorateAdcClientsTurnedAway"],
        ),
        changed(
            "a flooded chat",
            &[(adc("slow_readers_total", ""), "0+1x200")],
            &["QuorateAdcUsersTooSlow"],
        ),
    ]
}

fn other_cases() -> Vec<Case> {
    vec![
        Case {
            gone: vec![version(1, "0.1.0")],
            ..changed(
                "an upgrade that stopped half way",
                &[(version(1, "0.2.0"), "1x200")],
                &["QuorateMixedVersions"],
            )
        },
        changed(
            "clients fall silent",
            &[(of(ENDS, 0, ", end=\"idle\""), "0+50x200")],
            &["QuorateTransfersFail"],
        ),
        changed(
            "sessions open slowly",
            &[
                (of(OPENS, 0, ", le=\"0.032\""), "0+10x200"),
                (of(OPENS, 0, ", le=\"1.024\""), "0+100x200"),
            ],
            &["QuorateTransfersOpenSlowly"],
        ),
        changed(
            "all operators stand by",
            &[(operator("a"), "0x200")],
            &["QuorateOperatorDown"],
        ),
        gone(
            "no operator",
            vec![operator("a"), operator("b")],
            &["QuorateOperatorDown"],
        ),
        changed(
            "rounds fail",
            &[(rounds("error"), "0+20x200")],
            &["QuorateReconcilesFail"],
        ),
    ]
}

/// The cases as a file for `promtool test rules`.
fn promtool_file() -> String {
    let mut text = format!(
        "rule_files: [{}]\nevaluation_interval: 30s\ntests:\n",
        chart().join("files/alerts.yaml").display()
    );
    for case in cases() {
        let mut series = healthy();
        series.retain(|name, _| !case.gone.contains(name));
        series.extend(case.changed);
        _ = write!(text, "- name: {}\n  interval: 30s\n  input_series:\n", case.what);
        for (name, values) in series {
            _ = writeln!(text, "  - {{series: '{name}', values: '{values}'}}");
        }
        text += "  promql_expr_test:\n  - expr: count by (alertname) (ALERTS{alertstate=\"firing\"})\n";
        text += "    eval_time: 95m\n    exp_samples:\n";
        for alert in case.firing {
            _ = writeln!(text, "    - {{labels: '{{alertname=\"{alert}\"}}', value: 1}}");
        }
    }
    text
}

fn chart() -> PathBuf {
    source_root().join("charts/quorate")
}

#[test]
fn each_alert_fires_on_what_it_names_and_on_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("alerts.yaml");
    std::fs::write(&file, promtool_file()).unwrap();
    let promtool = stock("promtool", "prometheus").unwrap();
    let output = Command::new(promtool)
        .args(["test", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_alert_has_a_case() {
    let text = std::fs::read_to_string(chart().join("files/alerts.yaml")).unwrap();
    let alerts: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let cases = cases();
    let fired: BTreeSet<&str> = cases.iter().flat_map(|case| case.firing).copied().collect();
    assert_eq!(alerts, fired);
}

/// The words of a text that look like metrics of ours, without the suffixes that Prometheus adds.
fn metrics(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("quorate_"))
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

/// Whether some source registers the metric. The services put their prefix before each name.
fn is_registered(metric: &str, sources: &str) -> bool {
    let prefixes = ["quorate_tftp_", "quorate_kv_", "quorate_adc_"];
    let mut short = prefixes.iter().filter_map(|prefix| metric.strip_prefix(prefix));
    let short = short.next().unwrap_or(metric);
    sources.contains(&format!("\"{metric}\"")) || sources.contains(&format!("\"{short}\""))
}

fn sources(dir: &Path, text: &mut String) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text +=
                &std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        }
    }
    Ok(())
}

#[test]
fn alerts_and_dashboards_speak_of_metrics_that_exist() {
    let mut code = String::new();
    for folder in ["node-agent", "operator"] {
        sources(&source_root().join(folder), &mut code).unwrap();
    }
    let mut spoken = 0;
    for file in ["files/alerts.yaml", "files/dashboards/quorate.json"] {
        let text = std::fs::read_to_string(chart().join(file)).unwrap();
        for metric in metrics(&text) {
            assert!(
                is_registered(&metric, &code),
                "{file} speaks of {metric}, which nothing registers"
            );
            spoken += 1;
        }
    }
    assert!(spoken > 20, "only {spoken} metrics were found");
}
