//! What changes something: leadership, and whether the operator works. Does I/O.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use operator_api::admin::MemberRef;

use crate::gather::{self, Found, Selection};
use crate::reach::{self, Member};
use crate::view::{Group, Leader};

/// The one resource that is meant.
pub(crate) async fn one_resource(client: &Client, selection: &Selection) -> anyhow::Result<Found> {
    let mut found = gather::find(client, selection).await?;
    if found.len() > 1 {
        let names: Vec<_> = found
            .iter()
            .map(|(kind, resource)| {
                let namespace = resource.namespace().unwrap_or_default();
                format!("{}/{} in {namespace}", kind.short, resource.name_any())
            })
            .collect();
        bail!(
            "several resources have that name: say which ({})",
            names.join("; ")
        );
    }
    found.pop().context("there is no such resource")
}

/// The one group that is meant, as it is now.
pub(crate) async fn one(client: &Client, selection: &Selection) -> anyhow::Result<Group> {
    let (kind, resource) = one_resource(client, selection).await?;
    Ok(gather::group(client, kind, resource).await)
}

/// The serving leader.
pub(crate) fn leader(group: &Group) -> anyhow::Result<Leader<'_>> {
    group.leader().ok_or_else(|| {
        anyhow!(
            "no member of {} leads with a quorum that hears it: `kubectl quorate doctor` says more",
            group.title()
        )
    })
}

/// Hands leadership over, and waits until the new leader serves and the Service leads to it.
pub(crate) async fn transfer(
    client: &Client,
    selection: &Selection,
    to: Option<&str>,
) -> anyhow::Result<String> {
    let (kind, resource) = one_resource(client, selection).await?;
    let group = gather::group(client, kind, resource.clone()).await;
    let old = leader(&group)?;
    let body = MemberRef {
        node_id: to.map(|name| node_id(&group, old, name)).transpose()?,
    };
    let token = reach::token(client, &group.namespace, &group.name).await?;
    let member = Member {
        client,
        namespace: &group.namespace,
        name: &old.status.name,
    };
    member
        .post("/v1/membership/transfer", &token, &body)
        .await
        .with_context(|| format!("asking {} to hand leadership over", old.status.name))?;
    let mut last = "nobody serves yet".to_owned();
    for _ in 0..LOOKS {
        let now = gather::group(client, kind, resource.clone()).await;
        if let Some(new) = now.leader().filter(|new| new.epoch > old.epoch) {
            let name = new.status.name.clone();
            let is_routed = now.routes.values().all(|route| route.pod.as_ref() == Some(&name));
            if is_routed && !now.routes.is_empty() {
                return Ok(format!(
                    "{name} leads, epoch {}, and the Service leads to it; it was {}",
                    new.epoch, old.status.name
                ));
            }
            last = format!("{name} leads, and the Service does not lead to it yet");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    bail!("leadership was handed over, but {last}: `kubectl quorate doctor` says more")
}

/// The node id of a member that may lead.
fn node_id(group: &Group, leader: Leader<'_>, name: &str) -> anyhow::Result<u64> {
    if leader.status.name == name {
        bail!("{name} leads already");
    }
    let detail = leader
        .status
        .detail
        .as_ref()
        .context("the leader does not tell its members")?;
    let member = detail
        .members
        .iter()
        .find(|member| member.name == name)
        .with_context(|| format!("{name} is no member of {}", group.title()))?;
    if !member.voter {
        bail!("{name} does not vote yet: it has to catch up first");
    }
    Ok(member.node_id)
}

/// Sets or removes the annotation that the operator obeys.
pub(crate) async fn pause(client: &Client, selection: &Selection, is_paused: bool) -> anyhow::Result<String> {
    let (kind, resource) = one_resource(client, selection).await?;
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &gather::resource(kind));
    let value = is_paused.then_some("true");
    let patch = serde_json::json!({"metadata": {"annotations": {"quorate.dev/pause": value}}});
    api.patch(
        &resource.name_any(),
        &PatchParams::default(),
        &Patch::Merge(patch),
    )
    .await
    .with_context(|| format!("changing {}/{}", kind.kind, resource.name_any()))?;
    let what = if is_paused {
        "is paused: the operator changes nothing; leadership still moves by itself"
    } else {
        "is looked after again"
    };
    Ok(format!("{}/{} {what}\n", kind.kind, resource.name_any()))
}

/// Between two looks at a group that moves.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// For about 15 s: an election, a write, and the operator's repair.
const LOOKS: usize = 50;
