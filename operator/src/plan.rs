//! What comes next for a group. Pure.
//!
//! Membership first (`operator_api::membership`), then the pods: never two things at once, and nothing that costs a
//! group its quorum. Every action is safe to repeat, and is decided from what was just seen.

mod upgrade;
mod volumes;

use std::collections::BTreeMap;

use operator_api::membership::{self, Initialization, Offer, Step};
use operator_api::resources::Quantity;
use operator_api::{MemberStatus, Role};

use crate::build;
use crate::validate::Validated;

/// A member's pod, as far as decisions need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its name, which is the member's.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The revision of the StatefulSet that it was made of.
    pub revision: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// For how many seconds it has been ready; none when it is not.
    pub ready_seconds: Option<i64>,
    /// For how many seconds it has not been ready; 0 when it is.
    pub unready_seconds: i64,
    /// Whether it is being deleted.
    pub is_terminating: bool,
    /// Why it cannot run, in a sentence; none when nothing is known to be wrong.
    pub trouble: Option<String>,
}

/// The group's StatefulSet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StatefulSet {
    /// Its UID.
    pub uid: String,
    /// How many pods it is to have.
    pub replicas: i32,
    /// The size of the volumes that new pods get; none without volumes.
    pub volume_size: Option<Quantity>,
    /// Whether it is being deleted, to be made anew around its pods.
    pub is_terminating: bool,
    /// The generation of the resource that it was last made for.
    pub of_generation: Option<i64>,
    /// The certificates that it was last made for.
    pub certificates: Certificates,
    /// The revision that new pods are made of; none until its controller has seen the newest change.
    pub update_revision: Option<String>,
}

/// Which certificates a StatefulSet was made for: hashes of Secrets that belong to others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// Those that were there when it was last applied.
    pub seen: Option<String>,
    /// Those for which its pods were last to be replaced.
    pub pods: Option<String>,
}

impl Certificates {
    /// Once others are there, now. The first ones that are seen replace no pod: it read the same.
    pub(crate) fn after(&self, now: Option<&String>) -> Self {
        let Some(now) = now else { return self.clone() };
        let are_others = self.seen.as_ref().is_some_and(|seen| seen != now);
        Self {
            seen: Some(now.clone()),
            pods: are_others.then(|| now.clone()).or_else(|| self.pods.clone()),
        }
    }
}

/// What was found of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Its pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// Its StatefulSet, once there is one.
    pub stateful_set: Option<StatefulSet>,
    /// The durable mark whether the group exists.
    pub initialization: Initialization,
    /// What the members said, by name: every pod, and every member that should have one.
    pub answers: BTreeMap<String, Option<MemberStatus>>,
    /// The identity that was made last and not yet handed over.
    pub offer: Option<Offer>,
}

impl Observed {
    /// The member that leads and serves.
    pub(crate) fn leader(&self) -> Option<&MemberStatus> {
        self.answers
            .values()
            .flatten()
            .filter(|status| status.role == Role::Leader && status.node_id.is_some())
            .filter(|status| status.detail.as_ref().is_some_and(|detail| detail.serving))
            .max_by_key(|status| status.term)
    }

    fn answer(&self, name: &str) -> Option<&MemberStatus> {
        self.answers.get(name).and_then(Option::as_ref)
    }

    /// Whether the member itself says that it has joined and caught up.
    fn is_member_ready(&self, name: &str) -> bool {
        self.answer(name)
            .and_then(|status| status.detail.as_ref())
            .is_some_and(|detail| detail.ready)
    }
}

/// The one thing to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// A step of the group's membership, by its admin API.
    Membership(Step),
    /// Delete a pod: its successor has the newest revision.
    Replace {
        /// The pod's name.
        pod: String,
        /// Its UID: no other pod of that name is meant.
        uid: String,
        /// Why, for people.
        why: String,
    },
    /// Delete a pod and its disk: its node id was removed from the group and never comes back.
    Reset {
        /// The pod's name.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// Ask for larger volumes, and make the StatefulSet anew around its pods.
    GrowVolumes {
        /// The StatefulSet's UID.
        uid: String,
        /// Pods that have volumes.
        pods: i32,
        /// What each volume is to have.
        size: String,
    },
}

/// How far the group is from what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is as wanted.
    Complete,
    /// On the way there: a reason in one word, and a sentence.
    Moving(&'static str, String),
    /// Not without a person's help: a reason in one word, and a sentence.
    Halted(&'static str, String),
}

/// What to do, and where the group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How many pods the StatefulSet is to have now.
    pub pods: i32,
    /// What to do now.
    pub action: Action,
    /// Where the group stands.
    pub progress: Progress,
    /// The pod that is being replaced by an upgrade, and why, while there is one.
    pub upgrading: Option<(String, String)>,
}

impl Plan {
    /// A group that is as wanted but for the certificates between its members, which wait for something.
    pub(crate) fn wait_for_certificates(&mut self, what: Option<String>) {
        if let Some(what) = what
            && self.progress == Progress::Complete
        {
            self.progress = Progress::Moving("RenewingCertificates", what);
        }
    }
}

/// Decides.
pub(crate) fn plan(service: &Validated, observed: &Observed) -> Plan {
    let wanted = build::members(service);
    let step = if is_too_early(service, observed) {
        Step::Wait {
            why: "waiting for a majority of the members to start".to_owned(),
        }
    } else {
        let members = membership::Observed {
            initialization: observed.initialization.clone(),
            answers: observed.answers.clone(),
            offer: observed.offer.clone(),
        };
        membership::plan(&members, &wanted)
    };
    let pods = pods(service, observed, &step);
    let is_current = observed.stateful_set.as_ref().is_none_or(|set| {
        set.is_terminating || (set.of_generation == service.generation && set.update_revision.is_some())
    });
    let upgrade = upgrade::next(service, observed, &step);
    let upgrading = upgrade.as_ref().and_then(|upgrade| upgrade.pod.clone());
    let (action, progress) = match (membership_action(observed, &step), upgrade) {
        // What is under way is finished first, unless only an upgrade can: its version cannot run at all.
        (Some(action), _) => (action, membership_progress(service, observed, &step)),
        (None, Some(upgrade)) => (upgrade.action, upgrade.progress),
        (None, None) => volumes::next(service, observed)
            .unwrap_or_else(|| (Action::Nothing, membership_progress(service, observed, &step))),
    };
    let progress = match progress {
        // What is to be replaced is known once the pods' template is that of this generation, and was seen.
        Progress::Complete if !is_current => Progress::Moving(
            "Upgrading",
            "what the pods are made of is brought up to date".to_owned(),
        ),
        progress => progress,
    };
    Plan {
        pods,
        action,
        progress,
        upgrading,
    }
}

/// Without a mark nobody knows that the group exists but its members' disks. A majority of empty disks is proof that
/// there is nothing to lose: fewer would leave a group that lost its mark, and one disk, to be founded twice.
fn is_too_early(service: &Validated, observed: &Observed) -> bool {
    let answered = observed.answers.values().flatten().count();
    observed.initialization == Initialization::Never && answered <= service.replicas_usize() / 2
}

/// More pods at once, fewer only when the members in them have left the group.
fn pods(service: &Validated, observed: &Observed, step: &Step) -> i32 {
    let wanted = service.replicas;
    let there = match &observed.stateful_set {
        Some(found) => found.replicas,
        // It was deleted, by us or by somebody else: its pods are still members.
        None => observed
            .pods
            .keys()
            .filter_map(|name| build::ordinal(service, name))
            .max()
            .map_or(0, |highest| highest.saturating_add(1)),
    };
    if there > wanted && !matches!(step, Step::Retire { .. } | Step::Done) {
        there
    } else {
        wanted
    }
}

/// What a membership step means here; none when it leaves room for an upgrade.
fn membership_action(observed: &Observed, step: &Step) -> Option<Action> {
    match step {
        Step::Wait { .. } | Step::Stuck { .. } | Step::Done => None,
        // The StatefulSet ends them: see `pods`.
        Step::Retire { .. } => Some(Action::Nothing),
        Step::Reset { member } => Some(match observed.pods.get(member) {
            Some(pod) if !pod.is_terminating => Action::Reset {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
            },
            _ => Action::Nothing,
        }),
        step => Some(Action::Membership(step.clone())),
    }
}

fn membership_progress(service: &Validated, observed: &Observed, step: &Step) -> Progress {
    let members = observed
        .leader()
        .and_then(|leader| leader.detail.as_ref())
        .map_or(0, |detail| detail.members.len());
    match step {
        Step::Done => scaled_progress(service, observed),
        Step::Stuck { why } => Progress::Halted("MembershipStuck", why.clone()),
        Step::Wait { why } if observed.initialization == Initialization::Never => {
            Progress::Moving("Starting", why.clone())
        }
        Step::Wait { why } => Progress::Moving("Waiting", why.clone()),
        Step::Initialize { member } => Progress::Moving("Initializing", format!("{member} founds the group")),
        Step::RecordInitialized { .. } => Progress::Moving("Initializing", "the group exists".to_owned()),
        Step::AddLearner { member, .. } => {
            Progress::Moving("AddingMember", format!("{} joins the group", member.name))
        }
        Step::Join { member, .. } => Progress::Moving("AddingMember", format!("{member} joins the group")),
        Step::Promote { node_id, .. } => Progress::Moving(
            "AddingMember",
            format!("the member with the node id {node_id} gets its vote"),
        ),
        Step::Remove { node_id, .. } => Progress::Moving(
            "RemovingMember",
            format!("the member with the node id {node_id} leaves the group of {members}"),
        ),
        Step::Transfer { leader, .. } => Progress::Moving(
            "RemovingMember",
            format!("{leader} hands leadership over, to leave the group"),
        ),
        Step::Reset { member } => Progress::Moving(
            "ResettingMember",
            format!("{member} was removed from the group, and starts anew with an empty disk"),
        ),
        Step::Retire { member } => {
            Progress::Moving("RemovingMember", format!("{member} has left the group, and ends"))
        }
    }
}

/// The membership is right; the pods may not be.
fn scaled_progress(service: &Validated, observed: &Observed) -> Progress {
    let waits_for = (0..service.replicas)
        .map(|ordinal| build::pod_name(service, ordinal))
        .find(|name| !observed.is_member_ready(name) || !is_pod_ready(observed, name));
    match waits_for {
        Some(name) => {
            let trouble = observed.pods.get(&name).and_then(|pod| pod.trouble.as_ref());
            match trouble {
                Some(trouble) => Progress::Moving("Waiting", format!("{name} is not ready: {trouble}")),
                None => Progress::Moving("Waiting", format!("waiting for {name} to be ready")),
            }
        }
        None if observed.pods.len() > service.replicas_usize() => {
            Progress::Moving("RemovingMember", "members that left the group end".to_owned())
        }
        None => Progress::Complete,
    }
}

fn is_pod_ready(observed: &Observed, name: &str) -> bool {
    observed
        .pods
        .get(name)
        .is_some_and(|pod| pod.ready_seconds.is_some() && !pod.is_terminating)
}

#[cfg(test)]
mod tests;
