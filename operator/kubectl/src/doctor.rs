//! What is wrong, in sentences that a person can act on. Pure.

mod group;

use std::fmt::{self, Write};

use serde::Serialize;

use crate::view::{Group, KINDS};

/// How good what was found is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// It could not be looked at.
    Unknown,
    /// Works, with less margin than it should.
    Warning,
    /// Does not work.
    Problem,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// How good it is.
    pub verdict: Verdict,
    /// `cluster`, or the namespace, kind and name of a resource.
    pub about: String,
    /// What was looked at.
    pub check: &'static str,
    /// What was found, in a sentence.
    pub says: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What there is beside the groups. The text of an error says why it could not be looked at.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// The API server's version: `1.33`.
    pub version: Result<(u32, u32), String>,
    /// The plural names of our resources that are served.
    pub served: Result<Vec<String>, String>,
    /// Whether the admission policy of the leaders' slices is there and bound.
    pub policy: Result<Policy, String>,
    /// The operators that are installed.
    pub operators: Result<Vec<Operator>, String>,
}

/// The admission policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Writes that break it are refused.
    Enforced,
    /// It is there, and nothing makes it count.
    Unbound,
    /// It is not there.
    Missing,
}

/// An operator: its Deployment and its Lease.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// `namespace/name` of the Deployment, or else of the Lease.
    pub name: String,
    /// The Deployment's pods; none when it runs elsewhere.
    pub pods: Option<OperatorPods>,
    /// Who holds the Lease, and whether it was renewed while we watched.
    pub lease: Result<Option<Lease>, String>,
}

/// The pods of an operator's Deployment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OperatorPods {
    /// That it should have.
    pub wanted: i32,
    /// That are ready.
    pub ready: i32,
}

/// A Lease that was watched for a while.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    /// The pod that works; none after it was given back.
    pub holder: Option<String>,
    /// Whether it was renewed meanwhile. Clocks are not compared: those of machines differ.
    pub is_renewed: bool,
}

/// Everything that can be said.
pub(crate) fn examine(cluster: &Cluster, groups: &[Group]) -> Vec<Finding> {
    let mut findings = cluster_findings(cluster);
    for group in groups {
        findings.extend(group::findings(group));
    }
    findings
}

/// The findings as text, the good ones only when asked for. The last line sums up.
pub(crate) fn render(findings: &[Finding], groups: usize, with_good: bool) -> String {
    let mut text = String::new();
    let mut about = "";
    let shown = findings
        .iter()
        .filter(|finding| with_good || finding.verdict != Verdict::Good);
    for finding in shown {
        if about != finding.about {
            about = &finding.about;
            writeln!(text, "{about}").ok();
        }
        writeln!(
            text,
            "  {:<8} {:<9} {}",
            finding.verdict, finding.check, finding.says
        )
        .ok();
        if let Some(advice) = &finding.advice {
            writeln!(text, "  {:<8} {:<9} -> {advice}", "", "").ok();
        }
    }
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    writeln!(
        text,
        "{}, {}: {}, {}, {} unknown",
        counted(findings.len(), "check"),
        counted(groups, "group"),
        counted(count(Verdict::Problem), "problem"),
        counted(count(Verdict::Warning), "warning"),
        count(Verdict::Unknown)
    )
    .ok();
    text
}

fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Findings about one thing.
pub(crate) struct Notes {
    about: String,
    findings: Vec<Finding>,
}

impl Notes {
    fn new(about: String) -> Self {
        Self {
            about,
            findings: Vec::new(),
        }
    }

    fn add(&mut self, verdict: Verdict, check: &'static str, says: impl Into<String>, advice: Option<&str>) {
        self.findings.push(Finding {
            verdict,
            about: self.about.clone(),
            check,
            says: says.into(),
            advice: advice.map(str::to_owned),
        });
    }

    fn good(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(Verdict::Good, check, says, None);
    }

    fn unknown(&mut self, check: &'static str, why: &str) {
        let says = format!("it could not be looked at: {why}");
        self.add(Verdict::Unknown, check, says, None);
    }

    fn warning(&mut self, check: &'static str, says: impl Into<String>, advice: &str) {
        self.add(Verdict::Warning, check, says, Some(advice));
    }

    fn problem(&mut self, check: &'static str, says: impl Into<String>, advice: &str) {
        self.add(Verdict::Problem, check, says, Some(advice));
    }
}

fn cluster_findings(cluster: &Cluster) -> Vec<Finding> {
    let mut notes = Notes::new("cluster".to_owned());
    match &cluster.version {
        Err(why) => notes.unknown("version", why),
        Ok((major, minor)) if (*major, *minor) < OLDEST => notes.problem(
            "version",
            format!("the API server is {major}.{minor}"),
            "use Kubernetes 1.33 or newer: rules of the resources and the admission policy need it",
        ),
        Ok((major, minor)) => notes.good("version", format!("the API server is {major}.{minor}")),
    }
    match &cluster.served {
        Err(why) => notes.unknown("crds", why),
        Ok(served) => {
            let missing: Vec<_> = KINDS
                .iter()
                .filter(|kind| !served.iter().any(|plural| plural == kind.plural))
                .map(|kind| kind.kind)
                .collect();
            if missing.is_empty() {
                notes.good("crds", "the definitions of all resources are installed");
            } else {
                notes.warning(
                    "crds",
                    format!("the API server does not serve {}", missing.join(", ")),
                    "apply crds/ of this version, or install the chart with `crds.enabled`",
                );
            }
        }
    }
    match &cluster.policy {
        Err(why) => notes.unknown("policy", why),
        Ok(Policy::Enforced) => notes.good("policy", "late writes of deposed leaders are refused"),
        Ok(Policy::Unbound) => notes.warning(
            "policy",
            "the admission policy of the leaders' slices is not bound",
            "apply the ValidatingAdmissionPolicyBinding of the chart: without it only Raft fences old leaders",
        ),
        Ok(Policy::Missing) => notes.warning(
            "policy",
            "the admission policy of the leaders' slices is not installed",
            "install the chart with `admissionPolicy.enabled`: without it only Raft fences old leaders",
        ),
    }
    match &cluster.operators {
        Err(why) => notes.unknown("operator", why),
        Ok(operators) if operators.is_empty() => notes.problem(
            "operator",
            "no operator is installed",
            "install charts/quorate: running groups go on and move by themselves, but nothing repairs or upgrades them",
        ),
        Ok(operators) => {
            for operator in operators {
                operator_findings(&mut notes, operator);
            }
        }
    }
    notes.findings
}

fn operator_findings(notes: &mut Notes, operator: &Operator) {
    let name = &operator.name;
    let Some(pods) = operator.pods else {
        return outside_findings(notes, operator);
    };
    match (pods.ready, pods.wanted) {
        (0, wanted) => notes.problem(
            "operator",
            format!("none of {wanted} pods of {name} is ready"),
            "see `kubectl describe` and the logs of its pods: running groups go on, but nothing repairs or upgrades them",
        ),
        (ready, wanted) if ready < wanted => notes.warning(
            "operator",
            format!("{ready} of {wanted} pods of {name} are ready"),
            "see `kubectl describe` of the one that is not",
        ),
        (ready, wanted) => notes.good("operator", format!("{ready} of {wanted} pods of {name} are ready")),
    }
    match &operator.lease {
        Err(why) => notes.unknown("lease", why),
        Ok(None) => notes.problem(
            "lease",
            format!("{name} has no Lease yet"),
            "see its logs: it takes the Lease once it can list the resources",
        ),
        Ok(Some(Lease { holder: None, .. })) => notes.problem(
            "lease",
            format!("nobody holds the Lease of {name}"),
            "wait a few seconds; if it stays so, see the operator's logs",
        ),
        Ok(Some(Lease {
            holder: Some(holder),
            is_renewed: true,
        })) => {
            notes.good("lease", format!("{holder} works, and renews its Lease"));
        }
        Ok(Some(Lease {
            holder: Some(holder),
            is_renewed: false,
        })) => notes.problem(
            "lease",
            format!("{holder} holds the Lease of {name} and did not renew it"),
            "another pod takes over 15 s after the last renewal; if none does, see the operator's logs",
        ),
    }
}

/// An operator that no Deployment runs: its Lease is all that is seen of it.
fn outside_findings(notes: &mut Notes, operator: &Operator) {
    let name = &operator.name;
    match &operator.lease {
        Err(why) => notes.unknown("lease", why),
        Ok(Some(Lease {
            holder: Some(holder),
            is_renewed: true,
        })) => notes.good(
            "operator",
            format!("{holder} works, outside of any Deployment, and renews the Lease {name}"),
        ),
        Ok(_) => notes.problem(
            "operator",
            format!("no operator is installed, and whoever held the Lease {name} does not renew it"),
            "install charts/quorate, or start the operator again: running groups go on and move by themselves, but nothing \
             repairs or upgrades them",
        ),
    }
}

/// The oldest server that the project supports.
const OLDEST: (u32, u32) = (1, 33);

#[cfg(test)]
mod tests;
