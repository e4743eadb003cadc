//! Keeps the group: founds it, admits members with an empty disk under new node ids, promotes them, hands leadership over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{anyhow, bail};
use replication::{Identity, MembershipError, NodeStatus, Role};
use uuid::Uuid;

use crate::member::{Inside, Machine};
use crate::world::{World, event, lock};

/// Between two looks at the group.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long a member may take to say how it is, and to take a step.
const STATUS_WITHIN: Duration = Duration::from_millis(500);
const STEP_WITHIN: Duration = Duration::from_secs(10);

struct Seen {
    status: NodeStatus,
    remembered: usize,
}

/// Works until the simulation ends.
pub(crate) async fn keep(world: Arc<World>) -> turmoil::Result {
    found(&world).await;
    while !world.stopped() {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut seen = Vec::new();
        for (machine, id) in world.machines.iter().zip(&world.node_ids) {
            let look = look(machine).await;
            if let Some(look) = &look {
                id.store(look.status.node_id.unwrap_or(0), Ordering::Relaxed);
            }
            seen.push(look);
        }
        let snapshots = seen.iter().flatten().map(|seen| seen.status.snapshot_index).max();
        world
            .snapshots
            .fetch_max(snapshots.unwrap_or(0), Ordering::Relaxed);
        let Some((leader, led)) = leader(&seen) else {
            world.whole.store(false, Ordering::Relaxed);
            world.leader.store(usize::MAX, Ordering::Relaxed);
            continue;
        };
        world.leader.store(leader, Ordering::Relaxed);
        world.whole.store(is_whole(&world, &seen, led), Ordering::Relaxed);
        if let Err(error) = step(&world, leader, led, &seen).await {
            event(format!("membership: {error:#}"));
        }
    }
    Ok(())
}

async fn found(world: &World) {
    let group = Uuid::from_u128(u128::from(world.plan.seed));
    loop {
        let asked = world.machines[0].ask(STEP_WITHIN, move |inside: Inside| {
            Box::pin(async move { inside.node.initialize(group).await })
        });
        if let Ok(Ok(_)) = asked.await {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(machine: &Machine) -> Option<Seen> {
    let asked = machine.ask(STATUS_WITHIN, |inside: Inside| {
        Box::pin(async move {
            Seen {
                status: inside.node.status(),
                remembered: inside.front.remembered(),
            }
        })
    });
    asked.await.ok()
}

fn leader(seen: &[Option<Seen>]) -> Option<(usize, &NodeStatus)> {
    let statuses = seen.iter().enumerate();
    let statuses = statuses.filter_map(|(number, seen)| Some((number, &seen.as_ref()?.status)));
    statuses
        .filter(|(_, status)| status.role == Role::Leader && status.serving)
        .max_by_key(|(_, status)| status.term)
}

fn is_whole(world: &World, seen: &[Option<Seen>], led: &NodeStatus) -> bool {
    seen.iter().flatten().count() == world.machines.len()
        && led.members.len() == world.machines.len()
        && led.members.iter().all(|member| member.voter)
        && seen.iter().flatten().all(|seen| {
            let knows = led
                .members
                .iter()
                .any(|member| Some(member.id) == seen.status.node_id);
            knows
                && seen.status.ready
                && seen.remembered == 0
                && seen.status.applied_index + 100 > led.commit_index
        })
}

/// Takes one step towards a whole group.
async fn step(world: &World, leader: usize, led: &NodeStatus, seen: &[Option<Seen>]) -> anyhow::Result<()> {
    let at_leader = &world.machines[leader];
    if world.wishes.swap(0, Ordering::Relaxed) > 0 {
        event(format!("{} hands over", at_leader.name));
        at_leader
            .ask(STEP_WITHIN, |inside: Inside| {
                Box::pin(async move { inside.node.transfer(None).await })
            })
            .await
            .map_err(|no| anyhow!("{no:?}"))??;
        return Ok(());
    }
    for (number, machine) in world.machines.iter().enumerate() {
        let Some(Seen { status, .. }) = &seen[number] else {
            continue;
        };
        let recorded = led.members.iter().find(|member| member.name == machine.name);
        match (status.node_id, recorded) {
            (None, Some(old)) if old.id == led.node_id.unwrap_or(0) => bail!("the leader has no identity"),
            (None, Some(old)) => {
                event(format!("removes {} as node {}", machine.name, old.id));
                let id = old.id;
                return change(at_leader, move |inside| {
                    Box::pin(async move { inside.node.remove(id).await })
                })
                .await;
            }
            (None, None) => return admit(at_leader, machine).await,
            // It never comes back under a node id that was removed.
            (Some(id), _) if led.members.iter().all(|member| member.id != id) => {
                lock(&world.resets).insert(number);
            }
            (Some(id), Some(member)) if member.id == id && !member.voter => {
                return change(at_leader, move |inside| {
                    Box::pin(async move { inside.node.promote(id).await })
                })
                .await;
            }
            _ => {}
        }
    }
    Ok(())
}

type Step = futures::future::LocalBoxFuture<'static, Result<(), MembershipError>>;

async fn change(at: &Machine, step: impl FnOnce(Inside) -> Step + Send + 'static) -> anyhow::Result<()> {
    at.ask(STEP_WITHIN, step)
        .await
        .map_err(|no| anyhow!("{no:?}"))?
        .map_err(Into::into)
}

async fn admit(leader: &Machine, machine: &Machine) -> anyhow::Result<()> {
    let name = machine.name.clone();
    let admitted = leader
        .ask(STEP_WITHIN, move |inside: Inside| {
            Box::pin(async move {
                let (peer, admin) = (format!("{name}:7000"), format!("{name}:1"));
                inside.node.add_learner(name, peer, admin).await
            })
        })
        .await
        .map_err(|no| anyhow!("{no:?}"))?;
    let identity: Identity = admitted?;
    event(format!("admits {} as node {}", machine.name, identity.node_id));
    change(machine, move |inside| {
        Box::pin(async move { inside.node.join(identity).await })
    })
    .await
}
