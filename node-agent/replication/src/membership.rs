//! The steps of a group's life: found, admit, join, promote, remove, hand over, stop. One at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use crate::identity::{Identity, Stored};
use crate::member::{Member, Running};
use crate::raft::snapshot::SnapshotFile;
use crate::raft::types::{MemberNode, TypeConfig};
use crate::runtime::blocking;
use crate::timers::timers;
use crate::tls::Certificates;
use crate::{MemberInfo, MembershipError, NodeId, NodeStatus, Role};

/// How long a membership step may take: a change that waits for a quorum longer than this is reported as unknown.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// How far behind the leader's last entry a learner may be when it becomes a voter.
const PROMOTE_LAG_MAX: u64 = 50;
/// How long a transfer of leadership may take before the next candidate is tried.
const TRANSFER_TIMEOUT: Duration = Duration::from_millis(300);
/// How long stopping waits for the tasks of the member.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

type Metrics = openraft::RaftMetrics<TypeConfig>;
type MetricsReceiver = openraft::alias::WatchReceiverOf<TypeConfig, Metrics>;
type Step<T> = Result<T, MembershipError>;

/// What the member says of itself.
pub(crate) fn status(member: &Member) -> NodeStatus {
    let alarm = member
        .alarm
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let certificates = member.certificates.as_ref();
    let alarm = alarm.or_else(|| certificates?.alarm());
    let peer_certificates = certificates.map(Certificates::digest);
    let Some(running) = member.running() else {
        return NodeStatus {
            alarm,
            peer_certificates,
            ..NodeStatus::default()
        };
    };
    let metrics = running.raft.metrics();
    let metrics = metrics.borrow_watched();
    let index = |id: Option<crate::raft::types::LogId>| id.map_or(0, |id| id.index);
    let full = running.lacks_space().then(|| {
        format!(
            "the disk under {} is full: free some space",
            member.data.path().display()
        )
    });
    let applied_index = index(metrics.last_applied);
    let commit_index = index(metrics.local_committed);
    NodeStatus {
        group_id: Some(running.identity.group_id),
        node_id: Some(running.identity.node_id),
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        },
        term: metrics.current_term,
        commit_index,
        applied_index,
        first_log_index: running.wal.first_index().unwrap_or(0),
        last_log_index: running.wal.last().map_or(0, |last| last.index),
        snapshot_index: index(metrics.snapshot),
        leader: metrics.current_leader,
        serving: member.lease.is_valid(),
        ready: metrics.current_leader.is_some()
            && applied_index >= commit_index
            && metrics
                .membership_config
                .membership()
                .get_node(&running.identity.node_id)
                .is_some(),
        members: members(&metrics),
        alarm: full.or(alarm),
        peer_certificates,
    }
}

fn members(metrics: &Metrics) -> Vec<MemberInfo> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let matched = |id: &NodeId| {
        let replication = metrics.replication.as_ref()?;
        replication
            .get(id)
            .map(|matched| matched.as_ref().map_or(0, |matched| matched.index))
    };
    membership
        .nodes()
        .map(|(id, node)| MemberInfo {
            id: *id,
            name: node.name.clone(),
            peer_address: node.peer_address.clone(),
            admin_address: node.admin_address.clone(),
            voter: voters.contains(id),
            matched_index: matched(id),
        })
        .collect()
}

fn running(member: &Member) -> Step<&Running> {
    member.running().ok_or(MembershipError::NotLeader {
        leader_admin_address: None,
    })
}

/// Takes an identity, durably, and starts Raft under it, on a snapshot where one is given.
pub(crate) async fn become_member(member: &Arc<Member>, stored: Stored, snapshot: Option<Bytes>) -> Step<()> {
    let _step = member.step.lock().await;
    if let Some(running) = member.running() {
        return if running.identity == stored.identity {
            Ok(())
        } else {
            let Identity { group_id, node_id } = running.identity;
            Err(MembershipError::Invalid(format!(
                "this member is node {node_id} of group {group_id} already"
            )))
        };
    }
    if stored.identity.node_id == 0 {
        return Err(MembershipError::Invalid("a node id is at least 1".to_owned()));
    }
    let failed = |error: String| MembershipError::Invalid(format!("this member cannot join: {error}"));
    if let Some(snapshot) = snapshot {
        // Before the identity: what lies around without one belongs to nobody, and goes at the next start.
        let file = SnapshotFile::new(member.data.path());
        tokio::task::spawn_blocking(move || file.write(&snapshot))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
    }
    member
        .data
        .set_identity(&stored)
        .map_err(|error| failed(error.to_string()))?;
    member
        .run(stored)
        .await
        .map_err(|error| failed(error.to_string()))?;
    *member.alarm.lock().unwrap_or_else(PoisonError::into_inner) = None;
    Ok(())
}

/// Waits for a change to be committed, within the step's time, and sorts its errors.
async fn committed<T>(
    member: &Member,
    change: impl Future<Output = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>>,
) -> Step<T> {
    match timeout(STEP_TIMEOUT, change).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(MembershipError::NotLeader {
                leader_admin_address: forward.leader_node.map(|node| node.admin_address),
            })
        }
        Ok(Err(RaftError::Fatal(_))) if member.stop.is_cancelled() => Err(MembershipError::Stopping),
        Ok(Err(error)) => Err(MembershipError::Invalid(error.to_string())),
        Err(_) => Err(MembershipError::Timeout(format!(
            "the change was not committed within {} s and may yet be: look at the members before trying again",
            STEP_TIMEOUT.as_secs()
        ))),
    }
}

pub(crate) async fn add_learner(member: &Arc<Member>, node: MemberNode) -> Step<Identity> {
    let _step = member.step.lock().await;
    let running = running(member)?;
    // The index of a committed entry is unique for ever, so it can name the member.
    let blank = committed(member, running.raft.write_blank()).await?;
    let node_id = blank.log_id.index;
    info!(node = node_id, name = node.name, "admitting a learner");
    committed(member, running.raft.add_learner(node_id, node, false)).await?;
    Ok(Identity {
        group_id: running.identity.group_id,
        node_id,
    })
}

pub(crate) async fn promote(member: &Arc<Member>, id: NodeId) -> Step<()> {
    let _step = member.step.lock().await;
    let running = running(member)?;
    // The learner was called before it had joined, so replication to it may be pausing.
    running
        .raft
        .trigger()
        .reset_backoff([id])
        .await
        .map_err(|_| MembershipError::Stopping)?;
    let mut metrics = running.raft.metrics();
    let caught_up = async {
        loop {
            {
                let now = metrics.borrow_and_update();
                let membership = now.membership_config.membership();
                if membership.voter_ids().any(|voter| voter == id) {
                    return Ok(true);
                }
                if membership.get_node(&id).is_none() {
                    return Err(MembershipError::Invalid(format!(
                        "node {id} is not a member: add it as a learner first"
                    )));
                }
                let Some(replication) = &now.replication else {
                    return Err(not_leader(&now));
                };
                let matched = replication
                    .get(&id)
                    .and_then(|id| id.as_ref())
                    .map_or(0, |id| id.index);
                if matched > 0 && matched + PROMOTE_LAG_MAX >= now.last_log_index.unwrap_or(0) {
                    return Ok(false);
                }
            }
            metrics.changed().await.map_err(|_| MembershipError::Stopping)?;
        }
    };
    let already = timeout(STEP_TIMEOUT, caught_up).await.map_err(|_| {
        MembershipError::Timeout(format!(
            "node {id} did not catch up within {} s",
            STEP_TIMEOUT.as_secs()
        ))
    })??;
    if already {
        return Ok(());
    }
    info!(node = id, "promoting a learner");
    let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
    committed(member, running.raft.change_membership(change, true)).await?;
    Ok(())
}

fn not_leader(metrics: &Metrics) -> MembershipError {
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id);
    let node = leader.and_then(|leader| metrics.membership_config.membership().get_node(&leader).cloned());
    MembershipError::NotLeader {
        leader_admin_address: node.map(|node| node.admin_address),
    }
}

pub(crate) async fn remove(member: &Arc<Member>, id: NodeId) -> Step<()> {
    let _step = member.step.lock().await;
    let running = running(member)?;
    let (known, voter) = {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return Err(not_leader(&metrics));
        }
        let membership = metrics.membership_config.membership();
        (
            membership.get_node(&id).is_some(),
            membership.voter_ids().any(|voter| voter == id),
        )
    };
    if id == running.identity.node_id {
        return Err(MembershipError::Invalid(format!(
            "node {id} leads: transfer leadership first, then remove it"
        )));
    }
    if !known {
        return Ok(());
    }
    info!(node = id, "removing a member");
    let change = if voter {
        ChangeMembers::RemoveVoters(BTreeSet::from([id]))
    } else {
        ChangeMembers::RemoveNodes(BTreeSet::from([id]))
    };
    committed(member, running.raft.change_membership(change, false)).await?;
    Ok(())
}

/// Voters that could take over, the furthest first.
fn candidates(metrics: &Metrics) -> Vec<NodeId> {
    let Some(replication) = &metrics.replication else {
        return Vec::new();
    };
    let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
    let others = replication
        .iter()
        .filter(|(id, _)| **id != metrics.id && voters.contains(id));
    let mut furthest: BTreeMap<(u64, NodeId), NodeId> = BTreeMap::new();
    for (id, matched) in others {
        furthest.insert((matched.as_ref().map_or(0, |matched| matched.index), *id), *id);
    }
    furthest.into_values().rev().collect()
}

pub(crate) async fn transfer(member: &Arc<Member>, to: Option<NodeId>) -> Step<()> {
    let _step = member.step.lock().await;
    let running = running(member)?;
    let me = running.identity.node_id;
    let mut metrics = running.raft.metrics();
    let candidates = {
        let metrics = metrics.borrow_and_update();
        if metrics.state != ServerState::Leader {
            return Err(not_leader(&metrics));
        }
        let all = candidates(&metrics);
        match to {
            Some(to) if to == me => return Ok(()),
            Some(to) if all.contains(&to) => vec![to],
            Some(to) => {
                return Err(MembershipError::Invalid(format!(
                    "node {to} is not a voter of this group"
                )));
            }
            None => all,
        }
    };
    if candidates.is_empty() {
        return Err(MembershipError::Invalid(
            "there is no other voter to hand leadership to".to_owned(),
        ));
    }
    // Serving stops first: two leaders never answer clients at the same time.
    member.lease.set_handing_over(true);
    member
        .leadership
        .send_replace(crate::Leadership::Follower { leader: None });
    let handed_over = hand_over(running, &mut metrics, &candidates).await;
    member.lease.set_handing_over(false);
    handed_over
}

async fn hand_over(running: &Running, metrics: &mut MetricsReceiver, candidates: &[NodeId]) -> Step<()> {
    let me = running.identity.node_id;
    for candidate in candidates {
        info!(to = candidate, "handing leadership over");
        running
            .raft
            .trigger()
            .transfer_leader(*candidate)
            .await
            .map_err(|_| MembershipError::Stopping)?;
        if timeout(TRANSFER_TIMEOUT, another_leads(metrics, me))
            .await
            .is_ok()
        {
            return Ok(());
        }
        warn!(to = candidate, "leadership was not taken over in time");
    }
    // openraft cannot take a transfer back: this member sends no more heartbeats, so the others elect.
    timeout(STEP_TIMEOUT, another_leads(metrics, me))
        .await
        .map_err(|_| MembershipError::Timeout("nobody took leadership over".to_owned()))
}

/// Resolves when another member than `me` is known to lead, or Raft has stopped.
async fn another_leads(metrics: &mut MetricsReceiver, me: NodeId) {
    while metrics
        .borrow_and_update()
        .current_leader
        .is_none_or(|leader| leader == me)
    {
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

pub(crate) async fn stop(member: &Arc<Member>) {
    if let Some(running) = member.running() {
        let leads = running.raft.metrics().borrow_watched().state == ServerState::Leader;
        let patience = Duration::from_millis(4 * timers(member.options.timing).election_max);
        let deadline = Instant::now() + patience;
        if leads && let Ok(Err(error)) = timeout_at(deadline, transfer(member, None)).await {
            warn!(%error, "leadership was not handed over");
        }
        member.stop.cancel();
        if let Err(error) = running.raft.shutdown().await {
            warn!(%error, "Raft ended badly");
        }
        let wal = running.wal.clone();
        let flushed = blocking(move || wal.flush()).await;
        if matches!(flushed, Ok(Ok(())))
            && let Err(error) = member.data.mark(member.options.durability, true)
        {
            warn!(%error, "boot.json was not written");
        }
    }
    member.stop.cancel();
    member.tasks.close();
    if timeout(STOP_TIMEOUT, member.tasks.wait()).await.is_err() {
        warn!("some tasks did not end in time");
    }
}

impl Default for NodeStatus {
    fn default() -> Self {
        Self {
            group_id: None,
            node_id: None,
            role: Role::Learner,
            term: 0,
            commit_index: 0,
            applied_index: 0,
            first_log_index: 0,
            last_log_index: 0,
            snapshot_index: 0,
            leader: None,
            serving: false,
            ready: false,
            members: Vec::new(),
            alarm: None,
            peer_certificates: None,
        }
    }
}
