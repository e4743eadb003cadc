//! Decisions about a group's membership, the same for every driver (`quorate-agent local`, the operator).
//!
//! A driver observes (asks every member for its status), calls [`plan`], carries out the one [`Step`] it gets, and
//! begins again. Every step is safe to repeat, and nothing is remembered between two rounds but what
//! [`Observed`] holds: a driver may die anywhere.
//!
//! The rules behind the decisions:
//!
//! - A group is initialised once. The mark that says so ([`Initialization`]) is written before the first attempt, and
//!   no step ever makes a second group out of members that lost their disks.
//! - A member's node id lives on its disk. A member that answers without the id that the group recorded for it has
//!   lost that disk for good: the id is removed, and the member is admitted anew under another one. The dead id goes
//!   first: it counts against the quorum and can never come back.
//! - An id is offered to the new member once. When the answer is lost, the id is removed and another one is made:
//!   an id handed out twice could vote twice.
//! - No voter is removed unless the voters that remain and answer are a quorum of those that remain.

mod observed;

use crate::admin::{GroupMember, Identity, MemberDetail, MemberStatus, Role};

pub use observed::{Initialization, Observed, Offer, WantedMember};

/// The one next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be done at the moment; ask again shortly.
    Wait {
        /// What is waited for.
        why: String,
    },
    /// No step of the driver helps; a person has to decide.
    Stuck {
        /// What happened.
        why: String,
    },
    /// Write [`Initialization::Asked`] durably (with a fresh UUID unless it is written already), then ask this member
    /// to found the group.
    Initialize {
        /// The member's name.
        member: String,
    },
    /// Write [`Initialization::Done`] durably.
    RecordInitialized {
        /// The group's UUID.
        group_id: String,
    },
    /// Ask the leader for an identity for this member, and keep the answer as [`Observed::offer`].
    AddLearner {
        /// The leader's name.
        leader: String,
        /// The new member.
        member: WantedMember,
    },
    /// Forget the offer, then hand this identity to the member. The order matters: it is handed over at most once.
    Join {
        /// The member's name.
        member: String,
        /// Its identity.
        identity: Identity,
    },
    /// Ask the leader to let this member vote.
    Promote {
        /// The leader's name.
        leader: String,
        /// The member's node id.
        node_id: u64,
    },
    /// Ask the leader to remove this id from the group.
    Remove {
        /// The leader's name.
        leader: String,
        /// The id to remove.
        node_id: u64,
    },
    /// Ask the leader to hand leadership over: it is itself to be removed.
    Transfer {
        /// The leader's name.
        leader: String,
        /// The voter that is to lead.
        to: u64,
    },
    /// Stop this member, empty its disk, start it: its node id was removed from the group and never comes back.
    Reset {
        /// The member's name.
        member: String,
    },
    /// Stop this member for good and empty its disk: the group has no place for it.
    Retire {
        /// The member's name.
        member: String,
    },
    /// The voters are exactly the wanted members.
    Done,
}

/// Decides the next step.
#[must_use]
pub fn plan(observed: &Observed, wanted: &[WantedMember]) -> Step {
    let Some(first) = wanted.first() else {
        let why = "no members are wanted".to_owned();
        return Step::Wait { why };
    };
    if let Some(stuck) = foreign_member(observed) {
        return stuck;
    }
    match &observed.initialization {
        Initialization::Never | Initialization::Asked { .. } => found(observed, first),
        Initialization::Done { .. } => match Group::of(observed, wanted) {
            Some(group) => group.next(),
            None => leaderless(observed, wanted),
        },
    }
}

/// The member that leads and serves, if one does.
#[must_use]
pub fn serving_leader(observed: &Observed) -> Option<&MemberStatus> {
    answered(observed)
        .filter(|status| status.role == Role::Leader && status.node_id.is_some())
        .filter(|status| status.detail.as_ref().is_some_and(|detail| detail.serving))
        .max_by_key(|status| status.term)
}

fn answered(observed: &Observed) -> impl Iterator<Item = &MemberStatus> {
    observed.answers.values().flatten()
}

fn group_of(status: &MemberStatus) -> Option<&str> {
    status
        .node_id
        .and(status.detail.as_ref())
        .and_then(|detail| detail.group_id.as_deref())
}

/// A member of another group must not be touched: its disk holds somebody's data.
fn foreign_member(observed: &Observed) -> Option<Step> {
    let mut ours = match &observed.initialization {
        Initialization::Never => None,
        Initialization::Asked { group_id, .. } | Initialization::Done { group_id } => Some(group_id.as_str()),
    };
    for status in answered(observed) {
        let Some(theirs) = group_of(status) else { continue };
        if *ours.get_or_insert(theirs) != theirs {
            return Some(Step::Stuck {
                why: format!(
                    "{} belongs to the group {theirs}, not to {}: its data directory comes from elsewhere; \
                     put it back where it belongs, or empty it",
                    status.name,
                    ours.unwrap_or_default()
                ),
            });
        }
    }
    None
}

/// Before the mark says that the group exists.
fn found(observed: &Observed, first: &WantedMember) -> Step {
    // A member that has an identity proves that the group exists, whatever the mark says.
    if let Some(group_id) = answered(observed).find_map(group_of) {
        return Step::RecordInitialized {
            group_id: group_id.to_owned(),
        };
    }
    let member = match &observed.initialization {
        Initialization::Asked { member, .. } => member,
        _ => &first.name,
    };
    if observed.answers.get(member).is_some_and(Option::is_some) {
        Step::Initialize {
            member: member.clone(),
        }
    } else {
        Step::Wait {
            why: format!("waiting for {member} to start"),
        }
    }
}

/// The group exists and no member says that it leads and serves: wait, unless no election can ever succeed.
fn leaderless(observed: &Observed, wanted: &[WantedMember]) -> Step {
    let silent = names(
        wanted
            .iter()
            .map(|member| member.name.as_str())
            .filter(|name| !observed.answers.get(*name).is_some_and(Option::is_some)),
    );
    let newest = answered(observed)
        .filter(|status| status.node_id.is_some())
        .filter_map(|status| Some((status.term, status.applied_index, status.detail.as_ref()?)))
        .max_by_key(|(term, applied, _)| (*term, *applied))
        .map(|(_, _, detail)| detail);
    let Some(newest) = newest else {
        return if silent.is_empty() {
            Step::Stuck {
                why: "every member has lost its disk: the group's data is gone".to_owned(),
            }
        } else {
            Step::Wait {
                why: format!("waiting for {silent} to start"),
            }
        };
    };
    let voters: Vec<_> = newest.members.iter().filter(|member| member.voter).collect();
    let lost = voters.iter().filter(|voter| is_lost(observed, voter)).count();
    if !is_quorum(voters.len() - lost, voters.len()) {
        return Step::Stuck {
            why: format!(
                "{} have lost their disks, {lost} of {} voters: the others cannot elect a leader without them, and \
                 cannot know what was acknowledged",
                names(
                    voters
                        .iter()
                        .filter(|voter| is_lost(observed, voter))
                        .map(|voter| voter.name.as_str())
                ),
                voters.len()
            ),
        };
    }
    Step::Wait {
        why: if silent.is_empty() {
            "no leader is elected yet".to_owned()
        } else {
            format!("no leader is elected yet, and no answer comes from {silent}")
        },
    }
}

/// Whether the disk that held this id is gone: its member answers without it, and nobody else has it.
fn is_lost(observed: &Observed, member: &GroupMember) -> bool {
    let own = observed.answers.get(&member.name).and_then(Option::as_ref);
    own.is_some() && !answered(observed).any(|status| status.node_id == Some(member.node_id))
}

const fn is_quorum(live: usize, voters: usize) -> bool {
    live > voters / 2
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// A group with a serving leader, whose word on the membership counts.
struct Group<'a> {
    observed: &'a Observed,
    wanted: &'a [WantedMember],
    leader: &'a MemberStatus,
    detail: &'a MemberDetail,
}

impl<'a> Group<'a> {
    fn of(observed: &'a Observed, wanted: &'a [WantedMember]) -> Option<Self> {
        let leader = serving_leader(observed)?;
        Some(Self {
            observed,
            wanted,
            leader,
            detail: leader.detail.as_ref()?,
        })
    }

    /// The order of the rules is the order of urgency: first what restores fault tolerance, last what tidies up.
    fn next(&self) -> Step {
        self.join()
            .or_else(|| self.remove_lost())
            .or_else(|| self.promote())
            .or_else(|| self.admit())
            .or_else(|| self.incomplete())
            .or_else(|| self.remove_surplus())
            .or_else(|| self.retire())
            .unwrap_or(Step::Done)
    }

    /// Hands over the identity that was just made.
    fn join(&self) -> Option<Step> {
        let offer = self.observed.offer.as_ref()?;
        let is_recorded = self
            .detail
            .members
            .iter()
            .any(|member| member.node_id == offer.identity.node_id && member.name == offer.member);
        let is_empty = self
            .answer(&offer.member)
            .is_some_and(|status| status.node_id.is_none());
        (is_recorded && is_empty).then(|| Step::Join {
            member: offer.member.clone(),
            identity: offer.identity.clone(),
        })
    }

    /// Removes ids whose disks are gone, also those that were made and never reached their member.
    fn remove_lost(&self) -> Option<Step> {
        let lost = self
            .detail
            .members
            .iter()
            .find(|member| is_lost(self.observed, member))?;
        Some(self.remove(lost))
    }

    /// Lets learners vote that have caught up.
    fn promote(&self) -> Option<Step> {
        let ready = self.detail.members.iter().find(|member| {
            !member.voter
                && self.is_wanted(&member.name)
                && self.is_live(member)
                && self.has_caught_up(member)
        })?;
        Some(Step::Promote {
            leader: self.leader.name.clone(),
            node_id: ready.node_id,
        })
    }

    /// Admits wanted members that the group does not know.
    fn admit(&self) -> Option<Step> {
        self.wanted
            .iter()
            .filter(|wanted| self.recorded(&wanted.name).is_none())
            .find_map(|wanted| match self.answer(&wanted.name)?.node_id {
                None => Some(Step::AddLearner {
                    leader: self.leader.name.clone(),
                    member: wanted.clone(),
                }),
                // A node id is the index of the entry that admitted it. The leader has applied that entry and does
                // not know the id, so a later entry has removed it.
                Some(removed) if removed <= self.leader.applied_index => Some(Step::Reset {
                    member: wanted.name.clone(),
                }),
                Some(_) => None,
            })
    }

    /// Surplus members stay until all wanted ones vote: they may hold the only other copies.
    fn incomplete(&self) -> Option<Step> {
        let missing = self
            .wanted
            .iter()
            .find(|wanted| !self.recorded(&wanted.name).is_some_and(|member| member.voter))?;
        let is_up = self.answer(&missing.name).is_some();
        let what = if is_up { "catch up" } else { "start" };
        Some(Step::Wait {
            why: format!("waiting for {} to {what}", missing.name),
        })
    }

    /// Removes members that nobody wants any more, the leader last of all.
    fn remove_surplus(&self) -> Option<Step> {
        let is_leader = |member: &&GroupMember| Some(member.node_id) == self.leader.node_id;
        let surplus = || {
            self.detail
                .members
                .iter()
                .filter(|member| !self.is_wanted(&member.name))
        };
        if let Some(member) = surplus().find(|member| !is_leader(member)) {
            return Some(self.remove(member));
        }
        let leader = surplus().next()?;
        let heir = self
            .detail
            .members
            .iter()
            .filter(|member| member.voter && self.is_wanted(&member.name) && self.is_live(member))
            .max_by_key(|member| self.progress(member));
        Some(match heir {
            Some(heir) => Step::Transfer {
                leader: self.leader.name.clone(),
                to: heir.node_id,
            },
            None => Step::Wait {
                why: format!("waiting for a member to take over from {}", leader.name),
            },
        })
    }

    /// Ends members that the group has let go.
    fn retire(&self) -> Option<Step> {
        let gone = self
            .observed
            .answers
            .keys()
            .find(|name| !self.is_wanted(name) && self.recorded(name).is_none())?;
        Some(Step::Retire { member: gone.clone() })
    }

    /// Removes an id unless the voters that stay would be no quorum.
    fn remove(&self, member: &GroupMember) -> Step {
        let stay = || {
            self.detail
                .members
                .iter()
                .filter(|other| other.voter && other.node_id != member.node_id)
        };
        let live = stay().filter(|other| self.is_live(other)).count();
        if member.voter && !is_quorum(live, stay().count()) {
            return Step::Wait {
                why: format!(
                    "{} (node id {}) has to go, but without it only {live} of {} voters would answer",
                    member.name,
                    member.node_id,
                    stay().count()
                ),
            };
        }
        Step::Remove {
            leader: self.leader.name.clone(),
            node_id: member.node_id,
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted.name == name)
    }

    fn answer(&self, name: &str) -> Option<&'a MemberStatus> {
        self.observed.answers.get(name).and_then(Option::as_ref)
    }

    fn recorded(&self, name: &str) -> Option<&'a GroupMember> {
        self.detail.members.iter().find(|member| member.name == name)
    }

    fn is_live(&self, member: &GroupMember) -> bool {
        self.answer(&member.name)
            .is_some_and(|status| status.node_id == Some(member.node_id))
    }

    /// The last index that the member holds, as far as the leader or the member itself knows.
    fn progress(&self, member: &GroupMember) -> u64 {
        let applied = self.answer(&member.name).map_or(0, |status| status.applied_index);
        member.matched_index.unwrap_or(0).max(applied)
    }

    /// Close enough to the leader that as a voter it delays no commit; it holds at least its own admission.
    fn has_caught_up(&self, member: &GroupMember) -> bool {
        let progress = self.progress(member);
        // Its service may have to fetch more than the log brings: a copy without content is no copy.
        let answer = self
            .answer(&member.name)
            .and_then(|answer| answer.detail.as_ref());
        progress >= member.node_id
            && progress + PROMOTION_LAG_ENTRIES_MAX >= self.leader.commit_index
            && answer.is_none_or(|detail| detail.ready)
    }
}

/// Under load a learner is always some entries behind. A hundred are one or two messages of replication.
const PROMOTION_LAG_ENTRIES_MAX: u64 = 100;

#[cfg(test)]
mod tests;
