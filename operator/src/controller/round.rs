//! One round through a resource: observe, validate, build, plan, apply, status.

use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};
use operator_api::membership::{Initialization, Step};
use operator_api::resources::GroupStatus;
use tokio::time::Instant;

mod certificates;

use super::{Context, chain};
use crate::apply::{self, Apply, Hands};
use crate::build::{self, Surroundings};
use crate::kinds::Group;
use crate::memory::Memory;
use crate::observe::{self, GroupSecret};
use crate::plan::{self, Action, Observed, Plan, Progress};
use crate::status::{self, Report};
use crate::validate::{IpFamily, Validated, validate};

/// Goes once through a resource. Answers when to come back without having been called.
pub(super) async fn round<K: Group>(
    resource: &K,
    context: &Context,
    memory: &mut Memory,
) -> Result<Option<Duration>, Apply> {
    let service = match validate(resource, &context.shared.settings) {
        Ok(service) => service,
        Err(why) => {
            let former = former(resource, memory);
            let status = status::invalid(
                former.as_ref(),
                resource.meta().generation,
                &why.to_string(),
                &now(),
            );
            write_status(resource, context, memory, status).await?;
            return Ok(None);
        }
    };
    let mut secret = secret(resource, context, memory, &service).await?;
    let observed = observe::observe(
        &service,
        &context.stores,
        &context.shared.members,
        secret.initialization.clone(),
        memory.offer.clone(),
    )
    .await;
    let mut plan = plan::plan(&service, &observed);
    let outcome = if service.is_paused {
        Ok(Duration::MAX)
    } else {
        let mut work = Work {
            resource,
            context,
            service: &service,
            observed: &observed,
            plan: &plan,
        };
        work.apply(memory, &mut secret).await
    };
    plan.wait_for_certificates(certificates::waits_for(&service, memory));
    memory.secret = Some((secret.token, secret.initialization.clone()));
    let stands = memory.stands_since(&plan.progress, Instant::now());
    if plan.progress != Progress::Complete && stands > MOVING {
        // Perhaps because what was made once is gone.
        (memory.secret, memory.renewal) = (None, None);
    }
    // Somebody else's write at the same time is nothing to report.
    let problem = outcome
        .as_ref()
        .err()
        .filter(|error| !error.is_conflict())
        .map(|error| chain(error));
    let report = Report {
        service: &service,
        observed: &observed,
        plan: &plan,
        initialization: &secret.initialization,
        route: route(&service, context),
        problem: problem.as_deref(),
        stands_seconds: stands.as_secs(),
    };
    let former = former(resource, memory);
    let status = status::status(&report, former.as_ref(), &now());
    tell(resource, context, former.as_ref(), &status).await;
    write_status(resource, context, memory, status).await?;
    outcome.map(|soonest| Some(soonest.min(pace(&plan, stands))))
}

/// When to look again though nothing calls.
fn pace(plan: &Plan, stands: Duration) -> Duration {
    match plan.progress {
        Progress::Complete => LOOK_INTERVAL,
        _ if stands < MOVING => LOOK_INTERVAL_MOVING,
        Progress::Moving(..) | Progress::Halted(..) => LOOK_INTERVAL_WAITING,
    }
}

/// The group's secret: read until the group exists, then remembered.
async fn secret<K: Group>(
    resource: &K,
    context: &Context,
    memory: &Memory,
    service: &Validated,
) -> Result<GroupSecret, Apply> {
    if let Some((token, initialization @ Initialization::Done { .. })) = &memory.secret {
        return Ok(GroupSecret {
            token: token.clone(),
            initialization: initialization.clone(),
            resource_version: String::new(),
        });
    }
    apply::secret(&context.shared.client, service, resource.status()).await
}

/// Everything that changes the cluster in one round.
struct Work<'a, K> {
    resource: &'a K,
    context: &'a Context,
    service: &'a Validated,
    observed: &'a Observed,
    plan: &'a Plan,
}

impl<K: Group> Work<'_, K> {
    /// Answers when to come back at the latest.
    async fn apply(&mut self, memory: &mut Memory, secret: &mut GroupSecret) -> Result<Duration, Apply> {
        let client = &self.context.shared.client;
        if self.service.issues_certificates {
            self.renew_certificates(memory).await?;
        }
        let standing = self.observed.stateful_set.as_ref();
        let certificates = standing.map(|standing| standing.certificates.clone());
        let certificates = certificates
            .unwrap_or_default()
            .after(self.certificates(memory).await?.as_ref());
        let around = Surroundings {
            pods: self.plan.pods,
            has_pod_monitors: self.context.shared.has_pod_monitors,
            volume_size: standing
                .and_then(|standing| standing.volume_size.as_ref())
                .map(|size| Quantity(size.0.clone())),
            certificates,
            is_between_stateful_sets: standing.is_some_and(|standing| standing.is_terminating),
        };
        let children = build::children(self.service, &around);
        apply::children(client, self.service, &children, memory).await?;
        let slices_again = self.slices(memory).await?;
        let mut hands = Hands {
            client,
            members: &self.context.shared.members,
            service: self.service,
            observed: self.observed,
            secret,
        };
        hands.carry_out(&self.plan.action, memory).await?;
        self.tell_action().await;
        if self.plan.progress == Progress::Complete
            && memory.pruned_for.as_ref() != Some(&self.service.config_hash)
        {
            apply::prune_configurations(client, self.service).await?;
            memory.pruned_for = Some(self.service.config_hash.clone());
        }
        Ok(slices_again)
    }

    /// A hash of the certificates that others keep, and that members read at their start only.
    async fn certificates(&self, memory: &mut Memory) -> Result<Option<String>, Apply> {
        if self.service.certificates_read_once.is_empty() {
            return Ok(None);
        }
        if let Some((known, at)) = &memory.certificates
            && at.elapsed() < CERTIFICATES_LOOK_INTERVAL
        {
            return Ok(known.clone());
        }
        let now = observe::certificates(self.context.shared.client.clone(), self.service)
            .await
            .map_err(|source| Apply::Api {
                what: "reading the Secrets of the certificates".to_owned(),
                source,
            })?;
        memory.certificates = Some((now.clone(), Instant::now()));
        Ok(now)
    }

    /// Makes missing slices, and repairs those that the leader did not repair itself in time.
    async fn slices(&self, memory: &mut Memory) -> Result<Duration, Apply> {
        let client = &self.context.shared.client;
        let leader = observe::leader_endpoint(self.observed);
        let mut again = Duration::MAX;
        for family in self.service.service.slices.iter().copied() {
            let Some(found) = observe::slice(self.service, &self.context.stores, family) else {
                apply::make_slice(client, self.service, family, leader.as_ref()).await?;
                continue;
            };
            again = again.min(self.forged_slice(&found, family, leader.as_ref(), memory).await?);
            let wrong = leader
                .as_ref()
                .filter(|leader| !build::is_slice_right(&found, self.service, family, leader));
            let Some(leader) = wrong else {
                memory.slices_wrong_since.remove(&family);
                continue;
            };
            let now = Instant::now();
            let since = *memory.slices_wrong_since.entry(family).or_insert(now);
            let patience = REPAIR_AFTER.saturating_sub(now - since);
            if !patience.is_zero() {
                again = again.min(patience);
                continue;
            }
            apply::repair_slice(client, self.service, &found, family, leader).await?;
            memory.slices_wrong_since.remove(&family);
            event(
                self.context,
                self.resource,
                Tone::Warning,
                "RouteRepaired",
                &format!(
                    "{} led to another place than to {}, and {} did not correct it",
                    build::slice_name(self.service, family),
                    leader.pod,
                    leader.pod
                ),
            )
            .await;
        }
        Ok(again)
    }

    /// Deletes a slice whose epoch no leader can have written: one that is later than that of a leader who serves on and
    /// on. Nobody may turn an epoch back, so it is made anew.
    async fn forged_slice(
        &self,
        found: &EndpointSlice,
        family: IpFamily,
        leader: Option<&build::LeaderEndpoint>,
        memory: &mut Memory,
    ) -> Result<Duration, Apply> {
        let Some(leader) = leader.filter(|leader| build::is_slice_ahead(found, leader)) else {
            memory.slices_ahead_since.remove(&family);
            return Ok(Duration::MAX);
        };
        let now = Instant::now();
        let (epoch, since) = *memory
            .slices_ahead_since
            .entry(family)
            .or_insert((leader.epoch, now));
        if epoch != leader.epoch {
            memory.slices_ahead_since.insert(family, (leader.epoch, now));
            return Ok(FORGED_AFTER);
        }
        let patience = FORGED_AFTER.saturating_sub(now - since);
        if !patience.is_zero() {
            return Ok(patience);
        }
        memory.slices_ahead_since.remove(&family);
        apply::delete_slice(&self.context.shared.client, self.service, found).await?;
        let note = format!(
            "{} claimed a later leader than {}, which leads; it is made anew",
            build::slice_name(self.service, family),
            leader.pod
        );
        event(self.context, self.resource, Tone::Warning, "RouteRepaired", &note).await;
        Ok(LOOK_INTERVAL_MOVING)
    }

    async fn tell_action(&self) {
        let (reason, note) = match &self.plan.action {
            Action::Replace { pod, why, .. } => ("ReplacingPod", format!("{pod} is replaced: {why}")),
            Action::Reset { pod, .. } => (
                "ResettingMember",
                format!("{pod} starts anew with an empty disk: its node id was removed from the group"),
            ),
            Action::Membership(step) => match step {
                Step::Initialize { member } => ("FoundingGroup", format!("{member} founds the group")),
                Step::AddLearner { member, .. } => ("AddingMember", format!("{} is admitted", member.name)),
                Step::Promote { node_id, .. } => (
                    "PromotingMember",
                    format!("the member with the node id {node_id} votes"),
                ),
                Step::Remove { node_id, .. } => (
                    "RemovingMember",
                    format!("the member with the node id {node_id} left the group"),
                ),
                Step::Transfer { leader, to } => (
                    "TransferringLeadership",
                    format!("{leader} handed leadership over to the member with the node id {to}"),
                ),
                _ => return,
            },
            Action::GrowVolumes { size, .. } => ("GrowingVolumes", format!("the volumes grow to {size}")),
            Action::Nothing => return,
        };
        event(self.context, self.resource, Tone::Normal, reason, &note).await;
    }
}

/// Events for what changed by itself.
async fn tell<K: Group>(resource: &K, context: &Context, former: Option<&GroupStatus>, status: &GroupStatus) {
    let former_leader = former.and_then(|former| former.leader.as_ref());
    if let Some(leader) = &status.leader
        && former_leader != Some(leader)
    {
        let note = format!("{} leads, epoch {}", leader.name, leader.epoch);
        event(context, resource, Tone::Normal, "LeaderElected", &note).await;
    }
    let is = |status: &GroupStatus, type_: &str| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == "True")
            .cloned()
    };
    for type_ in ["Degraded", "Paused"] {
        let was = former.and_then(|former| is(former, type_));
        if let Some(now) = is(status, type_)
            && was.as_ref().is_none_or(|was| was.reason != now.reason)
        {
            let tone = if type_ == "Degraded" {
                Tone::Warning
            } else {
                Tone::Normal
            };
            event(context, resource, tone, &now.reason, &now.message).await;
        }
    }
}

/// How an event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Good to know.
    Normal,
    /// Something is wrong.
    Warning,
}

/// Tells people; that this failed is no reason for anything.
pub(super) async fn event<K: Group>(context: &Context, resource: &K, tone: Tone, reason: &str, note: &str) {
    let event = Event {
        type_: match tone {
            Tone::Normal => EventType::Normal,
            Tone::Warning => EventType::Warning,
        },
        reason: reason.to_owned(),
        note: Some(note.chars().take(NOTE_CHARS_MAX).collect()),
        // Events that differ in nothing but their note would be counted as one.
        action: note.chars().take(ACTION_CHARS_MAX).collect(),
        secondary: None,
    };
    let about = resource.object_ref(&());
    if let Err(error) = context.shared.recorder.publish(&event, &about).await {
        tracing::debug!(%error, reason, "an event was not published");
    }
}

/// The pod that the Service leads to.
fn route(service: &Validated, context: &Context) -> Option<String> {
    let family = *service.service.slices.first()?;
    let slice = observe::slice(service, &context.stores, family)?;
    let ready = slice.endpoints.iter().find(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    })?;
    ready.target_ref.as_ref()?.name.clone()
}

/// The status as it was last written: the watch may not have brought it back yet.
fn former<K: Group>(resource: &K, memory: &Memory) -> Option<GroupStatus> {
    match &memory.status {
        Some((written, _)) => Some(written.clone()),
        None => resource.status().cloned(),
    }
}

/// Writes the status if it differs from the one that was written last, or was lost since.
async fn write_status<K: Group>(
    resource: &K,
    context: &Context,
    memory: &mut Memory,
    status: GroupStatus,
) -> Result<(), Apply> {
    let is_there = resource.status() == Some(&status);
    let is_written = match &memory.status {
        Some((written, at)) => *written == status && (is_there || at.elapsed() < STATUS_SETTLES),
        None => is_there,
    };
    if !is_written {
        let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
        apply::status::<K>(&context.shared.client, (&namespace, &name), &status).await?;
    } else if memory.status.is_some() {
        return Ok(());
    }
    memory.status = Some((status, Instant::now()));
    Ok(())
}

/// In whole seconds, as the API server keeps it: what comes back must be what was written.
fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// A group that is as it should be is asked how it is every so often; its objects call by themselves.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Nothing calls when a Secret changes: the operator watches none. A kubelet takes as long to bring it into the pods.
const CERTIFICATES_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// While something changes: each step waits for the last one to show.
const LOOK_INTERVAL_MOVING: Duration = Duration::from_millis(300);

/// While something is waited for that takes long.
const LOOK_INTERVAL_WAITING: Duration = Duration::from_secs(3);

/// How long after the last change something is expected to happen at once.
const MOVING: Duration = Duration::from_secs(20);

/// The leader repairs its slice itself, and at once, if it can.
const REPAIR_AFTER: Duration = Duration::from_secs(2);

/// A later leader would have ended the lease of the one that serves long before.
const FORGED_AFTER: Duration = Duration::from_secs(10);

/// By then the watch has brought our own write back.
const STATUS_SETTLES: Duration = Duration::from_secs(5);

/// The API server takes a kilobyte.
const NOTE_CHARS_MAX: usize = 300;

/// As the API server bounds it.
const ACTION_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_from_the_api_server_as_it_was_written() {
        let written = now();
        let stored = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<Time>(&stored).unwrap(), written);
    }
}
