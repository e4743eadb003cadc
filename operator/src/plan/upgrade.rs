//! A new version of the pods, one pod at a time: followers first, leadership moved once, the former leader last.
//!
//! Each step waits until every member has caught up. A version that does not start stops after its first pod; taking
//! it back replaces that pod and no other.

use operator_api::GroupMember;
use operator_api::membership::Step;

use super::{Action, Observed, Pod, Progress};
use crate::validate::{UpgradeType, Validated};

/// What an upgrade does now.
pub(super) struct Upgrade {
    pub action: Action,
    pub progress: Progress,
    /// The pod in question, and why it is.
    pub pod: Option<(String, String)>,
}

/// The next thing that an upgrade does; none when every pod has the newest revision, or that is not known yet.
pub(super) fn next(service: &Validated, observed: &Observed, step: &Step) -> Option<Upgrade> {
    let wanted = observed.stateful_set.as_ref()?.update_revision.as_ref()?;
    let rollout = Rollout {
        service,
        observed,
        is_membership_right: *step == Step::Done,
        revision: wanted,
    };
    rollout.outdated().next()?;
    if service.upgrade.type_ == UpgradeType::OnDelete {
        return Some(rollout.by_hand());
    }
    Some(rollout.next())
}

struct Rollout<'a> {
    service: &'a Validated,
    observed: &'a Observed,
    is_membership_right: bool,
    revision: &'a str,
}

impl<'a> Rollout<'a> {
    fn outdated(&self) -> impl Iterator<Item = &'a Pod> {
        self.observed
            .pods
            .values()
            .filter(|pod| !pod.is_terminating && pod.revision != self.revision)
    }

    fn updated(&self) -> impl Iterator<Item = &'a Pod> {
        self.observed
            .pods
            .values()
            .filter(|pod| !pod.is_terminating && pod.revision == self.revision)
    }

    fn by_hand(&self) -> Upgrade {
        let names: Vec<_> = self.outdated().map(|pod| pod.name.as_str()).collect();
        Upgrade {
            action: Action::Nothing,
            progress: Progress::Moving(
                "UpgradePending",
                format!(
                    "{} run an older version until they are deleted: upgrade.type is OnDelete",
                    names.join(", ")
                ),
            ),
            pod: None,
        }
    }

    fn next(&self) -> Upgrade {
        if let Some(pod) = self.observed.pods.values().find(|pod| pod.is_terminating) {
            return wait(&pod.name, format!("{} is being replaced", pod.name));
        }
        if self.observed.pods.len() < self.service.replicas_usize() {
            return Upgrade {
                action: Action::Nothing,
                progress: Progress::Moving("Upgrading", "waiting for a replaced pod to be made".to_owned()),
                pod: None,
            };
        }
        // The broken ones of an earlier version before anything else: nobody is worse off for it, unless the new version
        // is broken too.
        let is_sound = self.updated().all(|pod| pod.trouble.is_none());
        let broken = self
            .outdated()
            .find(|pod| is_sound && self.is_broken(pod) && self.is_safe(pod));
        if let Some(broken) = broken {
            return self.replace(broken, "it does not run, and another version is wanted");
        }
        if let Some(held_up) = self.updated().find_map(|pod| self.held_up_by(pod)) {
            return held_up;
        }
        if let Some(behind) = self.outdated().find(|pod| !self.is_ready(pod)) {
            return if self.is_membership_right && self.is_safe(behind) {
                self.replace(behind, "it is not ready, and another version is wanted")
            } else {
                wait(
                    &behind.name,
                    format!("waiting for {} to be ready first", behind.name),
                )
            };
        }
        if !self.is_membership_right {
            return Upgrade {
                action: Action::Nothing,
                progress: Progress::Moving(
                    "Upgrading",
                    "waiting for every member to be in the group".to_owned(),
                ),
                pod: None,
            };
        }
        self.replace_ready()
    }

    /// Every pod is ready and every member in the group: the next one may go.
    fn replace_ready(&self) -> Upgrade {
        let Some(leader) = self.observed.leader() else {
            return Upgrade {
                action: Action::Nothing,
                progress: Progress::Moving("Upgrading", "waiting for a leader".to_owned()),
                pod: None,
            };
        };
        // The one that is furthest behind is missed least.
        let follower = self
            .outdated()
            .filter(|pod| pod.name != leader.name)
            .min_by_key(|pod| (self.applied(pod), std::cmp::Reverse(&pod.name)));
        if let Some(follower) = follower {
            return if self.is_safe(follower) {
                self.replace(follower, "another version is wanted")
            } else {
                wait(
                    &follower.name,
                    format!("waiting for a quorum that can do without {}", follower.name),
                )
            };
        }
        let Some(last) = self.outdated().next() else {
            return wait(&leader.name, "waiting".to_owned());
        };
        let heir = self.updated().max_by_key(|pod| self.applied(pod));
        match heir.and_then(|heir| self.observed.answer(&heir.name)?.node_id) {
            Some(to) => Upgrade {
                action: Action::Membership(Step::Transfer {
                    leader: leader.name.clone(),
                    to,
                }),
                progress: Progress::Moving(
                    "Upgrading",
                    format!("{} hands leadership over, to be replaced", leader.name),
                ),
                pod: Some((last.name.clone(), "it led until now".to_owned())),
            },
            // A group of one has nobody to hand over to.
            None => self.replace(last, "another version is wanted; it is the only member"),
        }
    }

    /// A pod of the new version that is not there yet: wait for it, or stop because of it.
    fn held_up_by(&self, pod: &Pod) -> Option<Upgrade> {
        if self.is_ready(pod) {
            return None;
        }
        let is_late = pod.unready_seconds > i64::from(self.service.upgrade.progress_deadline_seconds);
        let why = match &pod.trouble {
            Some(trouble) => trouble.clone(),
            None if is_late => format!(
                "it was not ready within {} s",
                self.service.upgrade.progress_deadline_seconds
            ),
            None => return Some(wait(&pod.name, format!("waiting for {} to be ready", pod.name))),
        };
        Some(Upgrade {
            action: Action::Nothing,
            progress: Progress::Halted(
                "UpgradeFailed",
                format!(
                    "the new version does not run on {}: {why}. The other pods keep the former version; \
                     correct the resource, or take the change back",
                    pod.name
                ),
            ),
            pod: Some((pod.name.clone(), why)),
        })
    }

    fn replace(&self, pod: &Pod, why: &str) -> Upgrade {
        Upgrade {
            action: Action::Replace {
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                why: why.to_owned(),
            },
            progress: Progress::Moving("Upgrading", format!("{} is replaced: {why}", pod.name)),
            pod: Some((pod.name.clone(), why.to_owned())),
        }
    }

    /// It runs nothing that could be lost.
    fn is_broken(&self, pod: &Pod) -> bool {
        let is_silent = self.observed.answer(&pod.name).is_none();
        is_silent && (pod.trouble.is_some() || pod.unready_seconds > SILENT_SECONDS_MAX)
    }

    fn is_ready(&self, pod: &Pod) -> bool {
        let for_long_enough = pod
            .ready_seconds
            .is_some_and(|seconds| seconds >= self.service.upgrade.min_ready_seconds.into());
        for_long_enough && self.observed.is_member_ready(&pod.name)
    }

    fn applied(&self, pod: &Pod) -> u64 {
        self.observed
            .answer(&pod.name)
            .map_or(0, |status| status.applied_index)
    }

    /// Whether the voters that are left are a quorum that answers, and that hears the leader: a member that was started a
    /// moment ago may be well and still unknown at its new address to the one that leads since. A group of one, or one
    /// that has no leader and would lose a member that does not answer anyway, has nothing to lose.
    fn is_safe(&self, pod: &Pod) -> bool {
        let leading = self.observed.leader();
        let Some((leader, detail)) = leading.and_then(|leader| Some((leader, leader.detail.as_ref()?)))
        else {
            return self.observed.answer(&pod.name).is_none();
        };
        let follows = |voter: &GroupMember| {
            let matched = voter.matched_index.unwrap_or(0);
            matched > 0 && matched + LAG_ENTRIES_MAX >= leader.commit_index
        };
        let voters: Vec<_> = detail.members.iter().filter(|member| member.voter).collect();
        if let [only] = voters.as_slice() {
            // One that is to have company soon must wait for it: the others may not have its data yet.
            return only.name != pod.name || self.service.replicas == 1;
        }
        let live = voters
            .iter()
            .filter(|voter| voter.name != pod.name)
            .filter(|voter| {
                self.observed
                    .answer(&voter.name)
                    .is_some_and(|status| status.node_id == Some(voter.node_id))
            })
            .filter(|voter| voter.name == leader.name || follows(voter))
            .count();
        live > voters.len() / 2
    }
}

fn wait(pod: &str, why: String) -> Upgrade {
    Upgrade {
        action: Action::Nothing,
        progress: Progress::Moving("Upgrading", why.clone()),
        pod: Some((pod.to_owned(), why)),
    }
}

/// Under load a follower that hears the leader is always some messages behind.
const LAG_ENTRIES_MAX: u64 = 1000;

/// A process starts within a few seconds; reading a long log takes some more.
const SILENT_SECONDS_MAX: i64 = 60;
