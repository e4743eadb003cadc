//! What the operator reports: conditions that a person can act on, and the members. Pure.
//!
//! Nothing in it changes by itself: a group that nobody touches has the same status for ever, so that none is written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use operator_api::membership::Initialization;
use operator_api::resources::{
    GroupStatus, InitializationStatus, LeaderRef, MemberReport, MemberRole, UpgradeStep,
};
use operator_api::{LeaderEpoch, MemberStatus};

use crate::build;
use crate::plan::{Observed, Plan, Progress};
use crate::validate::Validated;

/// What a status is made of.
pub(crate) struct Report<'a> {
    /// The group as it is to be.
    pub service: &'a Validated,
    /// The group as it was seen.
    pub observed: &'a Observed,
    /// What was decided.
    pub plan: &'a Plan,
    /// The mark, as it stands now.
    pub initialization: &'a Initialization,
    /// The pod that the Service leads to.
    pub route: Option<String>,
    /// What failed in this round, in a sentence.
    pub problem: Option<&'a str>,
    /// How long the group has stood where it stands, in seconds.
    pub stands_seconds: u64,
}

/// The status of a group. Conditions that did not flip keep their time.
pub(crate) fn status(report: &Report<'_>, former: Option<&GroupStatus>, now: &Time) -> GroupStatus {
    let (service, observed) = (report.service, report.observed);
    let members = members(report);
    let wanted = service.replicas_usize();
    let ready = members
        .iter()
        .filter(|member| member.ready && is_wanted(service, &member.name))
        .count();
    GroupStatus {
        observed_generation: service.generation,
        conditions: conditions(report, ready, former, now),
        replicas: i32::try_from(observed.pods.len()).unwrap_or(i32::MAX),
        ready_replicas: i32::try_from(ready).unwrap_or(i32::MAX),
        members_ready: Some(format!("{ready}/{wanted}")),
        selector: Some(build::selector_text(service)),
        leader: leader(observed),
        route: report.route.clone(),
        version: oldest_version(&members),
        members,
        initialization: InitializationStatus::from_mark(report.initialization),
        image: Some(service.pod.image.clone()),
        upgrade_step: report.plan.upgrading.as_ref().map(|(pod, reason)| UpgradeStep {
            pod: pod.clone(),
            reason: bounded(reason),
        }),
    }
}

/// The status of a resource that cannot be made real as it is: everything else stays as it was.
pub(crate) fn invalid(
    former: Option<&GroupStatus>,
    generation: Option<i64>,
    why: &str,
    now: &Time,
) -> GroupStatus {
    let mut status = former.cloned().unwrap_or_default();
    status.observed_generation = generation;
    let verdicts = [
        Verdict::new("Ready", false, "InvalidSpec", why.to_owned()),
        Verdict::new("Progressing", false, "InvalidSpec", why.to_owned()),
        Verdict::new("Degraded", true, "InvalidSpec", why.to_owned()),
    ];
    let others = status
        .conditions
        .iter()
        .filter(|condition| verdicts.iter().all(|verdict| verdict.type_ != condition.type_))
        .cloned()
        .collect::<Vec<_>>();
    let mut conditions: Vec<_> = verdicts
        .into_iter()
        .map(|verdict| verdict.condition(former, generation, now))
        .collect();
    conditions.extend(others);
    status.conditions = conditions;
    status
}

struct Verdict {
    type_: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    const fn new(type_: &'static str, is_true: bool, reason: &'static str, message: String) -> Self {
        Self {
            type_,
            is_true,
            reason,
            message,
        }
    }

    fn condition(self, former: Option<&GroupStatus>, generation: Option<i64>, now: &Time) -> Condition {
        let status = if self.is_true { "True" } else { "False" };
        let same = former
            .iter()
            .flat_map(|former| &former.conditions)
            .find(|condition| condition.type_ == self.type_ && condition.status == status);
        Condition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: bounded(&self.message),
            last_transition_time: same.map_or_else(|| now.clone(), |same| same.last_transition_time.clone()),
            observed_generation: generation,
        }
    }
}

fn conditions(report: &Report<'_>, ready: usize, former: Option<&GroupStatus>, now: &Time) -> Vec<Condition> {
    let verdicts = [
        ready_verdict(report, ready),
        available(report),
        leader_elected(report),
        progressing(report),
        degraded(report),
        paused(report),
    ];
    let generation = report.service.generation;
    verdicts
        .into_iter()
        .map(|verdict| verdict.condition(former, generation, now))
        .collect()
}

/// The sum of the others: clients are served, by the leader that the Service leads to, and every member is there.
fn ready_verdict(report: &Report<'_>, ready: usize) -> Verdict {
    let wanted = report.service.replicas_usize();
    let verdict = |is_true, reason, message| Verdict::new("Ready", is_true, reason, message);
    let Some(leader) = report.observed.leader() else {
        return verdict(false, "NoLeader", no_leader(report));
    };
    if report.route.as_deref() != Some(leader.name.as_str()) {
        let at = report.route.as_deref().unwrap_or("nobody");
        return verdict(
            false,
            "RouteStale",
            format!("the Service leads to {at}, and {} leads", leader.name),
        );
    }
    if ready < wanted {
        return verdict(
            false,
            "MembersNotReady",
            format!("{ready} of {wanted} members are ready: {}", standing(report)),
        );
    }
    let voters = leader.detail.as_ref().map_or(0, |detail| {
        detail.members.iter().filter(|member| member.voter).count()
    });
    if voters != wanted {
        return verdict(
            false,
            "MembershipChanging",
            format!("{voters} members vote, {wanted} are wanted: {}", standing(report)),
        );
    }
    verdict(
        true,
        "Ready",
        format!("{} leads, and {ready} of {wanted} members are ready", leader.name),
    )
}

fn available(report: &Report<'_>) -> Verdict {
    match report.observed.leader() {
        Some(leader) => Verdict::new(
            "Available",
            true,
            "Serving",
            format!("{} serves clients, and a quorum hears it", leader.name),
        ),
        None => Verdict::new("Available", false, "NotServing", no_leader(report)),
    }
}

fn leader_elected(report: &Report<'_>) -> Verdict {
    match leader(report.observed) {
        Some(leader) => Verdict::new(
            "LeaderElected",
            true,
            "Elected",
            format!("{} leads, epoch {}", leader.name, leader.epoch),
        ),
        None => Verdict::new("LeaderElected", false, "NoLeader", no_leader(report)),
    }
}

fn no_leader(report: &Report<'_>) -> String {
    let silent: Vec<_> = report
        .observed
        .answers
        .iter()
        .filter(|(_, answer)| answer.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if *report.initialization == Initialization::Never {
        format!("the group was not founded yet: {}", standing(report))
    } else if silent.is_empty() {
        "no member leads and is heard by a quorum".to_owned()
    } else {
        format!(
            "no member leads and is heard by a quorum; no answer comes from {}",
            silent.join(", ")
        )
    }
}

fn standing(report: &Report<'_>) -> String {
    match &report.plan.progress {
        Progress::Complete => "every step is done".to_owned(),
        Progress::Moving(_, why) | Progress::Halted(_, why) => why.clone(),
    }
}

fn progressing(report: &Report<'_>) -> Verdict {
    match &report.plan.progress {
        Progress::Complete => Verdict::new(
            "Progressing",
            false,
            "Complete",
            "the group is as the resource asks".to_owned(),
        ),
        Progress::Moving(reason, why) => Verdict::new("Progressing", true, reason, why.clone()),
        Progress::Halted(reason, why) => Verdict::new("Progressing", false, reason, why.clone()),
    }
}

/// Something needs a person, or works with less than it should.
fn degraded(report: &Report<'_>) -> Verdict {
    let verdict = |reason, message| Verdict::new("Degraded", true, reason, message);
    if let Progress::Halted(reason, why) = &report.plan.progress {
        return verdict(reason, why.clone());
    }
    if let Some(problem) = report.problem {
        return verdict("ReconcileFailed", problem.to_owned());
    }
    let alarm = report.observed.answers.values().flatten().find_map(|status| {
        let alarm = status.detail.as_ref()?.alarm.as_ref()?;
        Some(format!("{}: {alarm}", status.name))
    });
    if let Some(alarm) = alarm {
        return verdict("MemberAlarm", alarm);
    }
    let trouble = report.observed.pods.values().find_map(|pod| {
        let trouble = pod.trouble.as_ref()?;
        Some(format!("{}: {trouble}", pod.name))
    });
    if let Some(trouble) = trouble {
        return verdict("PodNotRunning", trouble);
    }
    let deadline = u64::try_from(report.service.upgrade.progress_deadline_seconds).unwrap_or(u64::MAX);
    if let Progress::Moving(_, why) = &report.plan.progress
        && report.stands_seconds > deadline
    {
        return verdict(
            "ProgressDeadlineExceeded",
            format!("nothing has changed for {deadline} s: {why}"),
        );
    }
    Verdict::new(
        "Degraded",
        false,
        "AsWanted",
        "nothing is known to be wrong".to_owned(),
    )
}

fn paused(report: &Report<'_>) -> Verdict {
    if report.service.is_paused {
        let pending = match &report.plan.progress {
            Progress::Complete => "nothing is pending".to_owned(),
            Progress::Moving(_, why) | Progress::Halted(_, why) => format!("pending: {why}"),
        };
        return Verdict::new(
            "Paused",
            true,
            "PausedByAnnotation",
            format!("the operator changes nothing while quorate.dev/pause is \"true\"; {pending}"),
        );
    }
    Verdict::new("Paused", false, "NotPaused", "the operator works".to_owned())
}

fn leader(observed: &Observed) -> Option<LeaderRef> {
    let leader = observed.leader()?;
    Some(LeaderRef {
        name: leader.name.clone(),
        epoch: LeaderEpoch {
            term: leader.term,
            node_id: leader.node_id?,
        }
        .to_string(),
    })
}

fn members(report: &Report<'_>) -> Vec<MemberReport> {
    let observed = report.observed;
    let committed = observed.leader().map(|leader| leader.commit_index);
    let entries = observed.answers.iter().map(|(name, answer)| {
        let pod = observed.pods.get(name);
        let detail = answer.as_ref().and_then(|status| status.detail.as_ref());
        MemberReport {
            name: name.clone(),
            node_id: answer
                .as_ref()
                .and_then(|status| i64::try_from(status.node_id?).ok()),
            role: answer.as_ref().map(|status| MemberRole::from(status.role)),
            node: pod.and_then(|pod| pod.node.clone()),
            ready: detail.is_some_and(|detail| detail.ready)
                && pod.is_some_and(|pod| pod.ready_seconds.is_some()),
            lag: answer.as_ref().and_then(|status| lag(status, committed?)),
            version: detail.and_then(version),
            alarm: detail.and_then(|detail| detail.alarm.as_deref()).map(bounded),
        }
    });
    entries.take(MEMBERS_MAX).collect()
}

fn version(detail: &operator_api::admin::MemberDetail) -> Option<String> {
    (!detail.version.is_empty()).then(|| detail.version.clone())
}

/// Under load every member is always some entries behind, and never by the same number: only what matters is told,
/// and only how large it is.
fn lag(status: &MemberStatus, committed: u64) -> Option<i64> {
    let lag = committed.saturating_sub(status.applied_index);
    (lag > LAG_TOLD_MIN).then(|| i64::try_from(lag.next_power_of_two()).unwrap_or(i64::MAX))
}

fn oldest_version(members: &[MemberReport]) -> Option<String> {
    let versions = members.iter().filter_map(|member| member.version.as_ref());
    versions.min_by_key(|version| numbers(version)).cloned()
}

/// `1.10.0` is later than `1.9.0`.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn is_wanted(service: &Validated, name: &str) -> bool {
    (0..service.replicas).any(|ordinal| build::pod_name(service, ordinal) == name)
}

fn bounded(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

/// As the schema bounds texts.
const MESSAGE_CHARS_MAX: usize = 1000;

/// As the schema bounds the list.
const MEMBERS_MAX: usize = 16;

/// One or two messages of replication.
const LAG_TOLD_MIN: u64 = 1000;

#[cfg(test)]
mod tests;
