//! What is wrong with one group.

use std::collections::BTreeMap;

use operator_api::{LeaderEpoch, Role};

use super::{Finding, Notes};
use crate::view::{Group, Leader};

pub(super) fn findings(group: &Group) -> Vec<Finding> {
    let mut notes = Notes::new(format!("{}/{}", group.namespace, group.title()));
    for unseen in &group.unseen {
        notes.unknown("objects", unseen);
    }
    operator(group, &mut notes);
    leader(group, &mut notes);
    route(group, &mut notes);
    service(group, &mut notes);
    members(group, &mut notes);
    quorum(group, &mut notes);
    spread(group, &mut notes);
    budget(group, &mut notes);
    storage(group, &mut notes);
    notes.findings
}

fn operator(group: &Group, notes: &mut Notes) {
    if group.is_paused {
        notes.warning(
            "pause",
            "the operator keeps its hands off this group",
            "`kubectl quorate resume` ends that: until then nothing is repaired, scaled or upgraded",
        );
    }
    match group.status.observed_generation {
        None => notes.problem(
            "operator",
            "no operator has looked at this resource",
            "see whether an operator runs and watches this namespace (its option `--namespaces`)",
        ),
        seen if seen != group.generation => notes.warning(
            "operator",
            "the operator has not seen the newest change of the specification",
            "wait a few seconds; if it stays so, see the operator's logs",
        ),
        Some(_) => {}
    }
    match group.condition("Degraded") {
        Some(degraded) if degraded.status == "True" => notes.warning(
            "operator",
            format!("Degraded ({}): {}", degraded.reason, degraded.message),
            "the sentence says what it needs; `kubectl describe` has the events that led there",
        ),
        _ => notes.good("operator", "the operator has no complaint"),
    }
}

fn leader(group: &Group, notes: &mut Notes) {
    let Some(leader) = group.leader() else {
        notes.problem(
            "leader",
            "no member leads with a quorum that hears it: clients get no consistent answer",
            "bring enough members back for a majority; `kubectl quorate logs` says why they do not elect one",
        );
        return;
    };
    let doubtful: Vec<_> = group
        .answered()
        .filter(|status| status.role == Role::Leader && status.name != leader.status.name)
        .map(|status| status.name.as_str())
        .collect();
    if doubtful.is_empty() {
        notes.good(
            "leader",
            format!("{} leads, epoch {}", leader.status.name, leader.epoch),
        );
    } else {
        notes.warning(
            "leader",
            format!(
                "{} leads, and {} has not noticed: no quorum hears it, so that it serves nothing consistent",
                leader.status.name,
                doubtful.join(", ")
            ),
            "look at the network between the members; it steps down when it hears the others",
        );
    }
}

fn route(group: &Group, notes: &mut Notes) {
    if group.routes.is_empty() {
        notes.problem(
            "route",
            "the leader's EndpointSlice is missing: clients reach nobody",
            "the operator makes it anew within seconds: see whether it runs",
        );
        return;
    }
    let Some(leader) = group.leader() else { return };
    for (slice, route) in &group.routes {
        let pod = route.pod.as_deref().unwrap_or("nobody");
        let published = route
            .epoch
            .as_deref()
            .and_then(|text| text.parse::<LeaderEpoch>().ok());
        match published {
            _ if route.pod.as_deref() != Some(leader.status.name.as_str()) => {
                stale(notes, slice, pod, leader);
            }
            Some(epoch) if epoch == leader.epoch => {
                notes.good("route", format!("{slice} leads to {pod}, epoch {epoch}"));
            }
            Some(epoch) if epoch > leader.epoch => notes.warning(
                "route",
                format!("{slice} has the epoch {epoch}, later than the leader's {}", leader.epoch),
                "look again: leadership may just have moved. If it stays so the group was founded anew: delete the slice",
            ),
            _ => notes.warning(
                "route",
                format!(
                    "{slice} leads to {pod} under the epoch {} instead of {}",
                    route.epoch.as_deref().unwrap_or("none"),
                    leader.epoch
                ),
                "look again: the leader publishes itself at once. If it stays so see its log for the API server's answer",
            ),
        }
    }
}

fn stale(notes: &mut Notes, slice: &str, pod: &str, leader: Leader<'_>) {
    notes.problem(
        "route",
        format!("{slice} leads to {pod}, and {} leads", leader.status.name),
        "look again: the leader publishes itself at once, and the operator after 2 s. If it stays so see the leader's log \
         for what the API server answered (rights, admission policy)",
    );
}

fn service(group: &Group, notes: &mut Notes) {
    let Some(address) = &group.address else {
        notes.problem(
            "service",
            "the Service is missing: clients have no address",
            "the operator makes it anew within seconds: see whether it runs",
        );
        return;
    };
    if address.has_selector && !group.serves_everywhere {
        notes.problem(
            "service",
            "the Service has a selector, so that Kubernetes leads clients to followers too",
            "remove `spec.selector` from the Service, and find out who added it",
        );
    } else if address.type_ == "LoadBalancer" && address.hosts.is_empty() {
        notes.warning(
            "service",
            "the load balancer has given the Service no address",
            "see the events of the Service, and whether a load balancer takes its class",
        );
    } else {
        notes.good(
            "service",
            format!("{} is {}", address.type_, address.hosts.join(", ")),
        );
    }
}

fn members(group: &Group, notes: &mut Notes) {
    for name in group.names() {
        let pod = group.pods.get(&name);
        match group.answers.get(&name) {
            None => notes.problem(
                "member",
                format!("{name} has no pod"),
                "see the events of the StatefulSet (`kubectl describe`): a quota, an admission policy, or its image",
            ),
            Some(Err(why)) => {
                let trouble = pod.and_then(|pod| pod.trouble.as_deref()).unwrap_or(why);
                notes.problem(
                    "member",
                    format!("{name} does not answer: {trouble}"),
                    "`kubectl quorate logs --previous` has its last words; `kubectl describe pod` what Kubernetes says",
                );
            }
            Some(Ok(status)) => {
                let detail = status.detail.as_ref();
                if let Some(alarm) = detail.and_then(|detail| detail.alarm.as_deref()) {
                    notes.problem("member", format!("{name}: {alarm}"), "the sentence says what it needs");
                } else if !detail.is_some_and(|detail| detail.ready) {
                    notes.warning(
                        "member",
                        format!("{name} has not caught up ({}, applied {} of {})", status.role, status.applied_index, status.commit_index),
                        "wait while the numbers grow; if they do not, see its log",
                    );
                } else {
                    notes.good("member", format!("{name} is a {}, ready", status.role));
                }
            }
        }
        if let Some(pod) = pod.filter(|pod| pod.restarts >= RESTARTS) {
            notes.warning(
                "member",
                format!("{name} was started again {} times", pod.restarts),
                "`kubectl quorate logs --previous` has its last words",
            );
        }
    }
}

/// How many more members the group can lose.
fn quorum(group: &Group, notes: &mut Notes) {
    let Some(leader) = group.leader() else { return };
    let Some(detail) = &leader.status.detail else {
        return;
    };
    let voters: Vec<_> = detail.members.iter().filter(|member| member.voter).collect();
    let well = voters
        .iter()
        .filter(|voter| matches!(group.answers.get(&voter.name), Some(Ok(status)) if status.node_id == Some(voter.node_id)))
        .count();
    let majority = voters.len() / 2 + 1;
    let margin = well.saturating_sub(majority);
    let says = format!(
        "{well} of {} voters answer, {majority} are a majority",
        voters.len()
    );
    if voters.len() == 1 {
        notes.good("quorum", "a group of one: it ends with its member");
    } else if margin == 0 {
        notes.warning(
            "quorum",
            format!("{says}: the next loss stops the group"),
            "bring the silent members back before anything else, and drain no node",
        );
    } else {
        notes.good("quorum", format!("{says}: {margin} more may be lost"));
    }
    if voters.len() != group.wanted() {
        notes.warning(
            "quorum",
            format!("{} members vote, {} are wanted", voters.len(), group.wanted()),
            "the operator changes one at a time; if it does not go on, the condition Progressing says what it waits for",
        );
    }
}

/// Whether one node's loss would stop the group.
fn spread(group: &Group, notes: &mut Notes) {
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in group.pods.values() {
        if let Some(node) = &pod.node {
            *nodes.entry(node).or_default() += 1;
        }
    }
    let majority = group.wanted() / 2 + 1;
    let losing = nodes
        .iter()
        .find(|(_, members)| group.pods.len().saturating_sub(**members) < majority);
    match losing {
        Some((node, members)) if group.wanted() > 1 => notes.warning(
            "spread",
            format!("{members} members are on {node}: losing it stops the group"),
            "give the scheduler more nodes, or set `scheduling.spread: Required` and replace the pods one by one",
        ),
        _ => notes.good("spread", format!("the members are on {} nodes", nodes.len())),
    }
}

fn budget(group: &Group, notes: &mut Notes) {
    match &group.budget {
        None if group
            .unseen
            .iter()
            .any(|unseen| unseen.starts_with("poddisruptionbudgets")) => {}
        None => notes.warning(
            "budget",
            "there is no PodDisruptionBudget: draining nodes may take a majority away",
            "the operator makes it anew within seconds: see whether it runs",
        ),
        Some(budget) if budget.disruptions_allowed == 0 && group.wanted() > 1 => notes.warning(
            "budget",
            "no pod may be evicted now, so that draining a node of this group waits",
            "this ends when every member is ready",
        ),
        Some(budget) => notes.good(
            "budget",
            format!("{} pod may be evicted", budget.disruptions_allowed),
        ),
    }
}

fn storage(group: &Group, notes: &mut Notes) {
    if group.volumes.is_empty() {
        if group
            .unseen
            .iter()
            .all(|unseen| !unseen.starts_with("persistentvolumeclaims"))
        {
            notes.good("storage", "the disks go with their pods (Ephemeral)");
        }
        return;
    }
    let mut is_good = true;
    for (name, volume) in &group.volumes {
        if volume.phase != "Bound" {
            is_good = false;
            notes.problem(
                "storage",
                format!("the volume {name} is {}", volume.phase),
                "see the events of the PersistentVolumeClaim: its storage class may be missing or full",
            );
        } else if volume.capacity.is_some() && volume.requested != volume.capacity {
            is_good = false;
            notes.warning(
                "storage",
                format!(
                    "the volume {name} has {}, and {} is wanted",
                    volume.capacity.as_deref().unwrap_or("nothing"),
                    volume.requested.as_deref().unwrap_or("nothing")
                ),
                "see the events of the PersistentVolumeClaim: growing may wait for the pod's restart, or rounding may be all",
            );
        }
    }
    if is_good {
        notes.good("storage", format!("{} volumes are bound", group.volumes.len()));
    }
}

/// Restarts of one container that are worth a look.
const RESTARTS: i32 = 3;
