//! Carries out what [`operator_api::membership::plan`] decides: the requests to the members' admin ports.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use operator_api::admin::{AddLearner, Initialize, MemberStatus};
use operator_api::membership::{Offer, Step};

use super::layout::MemberPlace;
use crate::client::{AdminClient, ClientError};

/// The members' places, by name.
pub(crate) type Places = BTreeMap<String, MemberPlace>;

/// What the members answered, by name; `None` from those that did not.
pub(crate) type Answers = BTreeMap<String, Option<MemberStatus>>;

/// Asks every member at once how it is. Only the answer of the process that runs under `pids` counts: another program
/// may sit on the port of a member that is down.
pub(crate) async fn observe(client: AdminClient, places: Places, pids: BTreeMap<String, u32>) -> Answers {
    let answers = places.into_values().map(|place| {
        let client = client.at(&place.admin.to_string());
        let pid = pids.get(&place.name).copied();
        async move {
            let answer = match pid {
                Some(_) => tokio::time::timeout(STATUS_TIMEOUT, client.status()).await,
                None => return (place.name, None),
            };
            let status = answer
                .ok()
                .and_then(Result::ok)
                .filter(|status| status.pid == pid && status.name == place.name);
            (place.name, status)
        }
    });
    join_all(answers).await.into_iter().collect()
}

/// Sends the request of a step; the identity that it made, if it made one. Steps that ask no member do nothing here.
pub(crate) async fn ask(
    client: AdminClient,
    places: Places,
    group_id: String,
    step: Step,
) -> Result<Option<Offer>, ClientError> {
    let at = |name: &str| match places.get(name) {
        Some(place) => Ok(client.at(&place.admin.to_string())),
        None => Err(ClientError::Invalid(format!("there is no member {name}"))),
    };
    match step {
        Step::Initialize { member } => {
            at(&member)?.initialize(&Initialize { group_id }).await?;
        }
        Step::AddLearner { leader, member } => {
            let body = AddLearner {
                name: member.name.clone(),
                peer_address: member.peer_address,
                admin_address: member.admin_address,
            };
            let identity = at(&leader)?.add_learner(&body).await?;
            return Ok(Some(Offer {
                member: member.name,
                identity,
            }));
        }
        Step::Join { member, identity } => at(&member)?.join(&identity).await?,
        Step::Promote { leader, node_id } => at(&leader)?.promote(node_id).await?,
        Step::Remove { leader, node_id } => at(&leader)?.remove(node_id).await?,
        Step::Transfer { leader, to } => at(&leader)?.transfer(Some(to)).await?,
        Step::Wait { .. }
        | Step::Stuck { .. }
        | Step::RecordInitialized { .. }
        | Step::Reset { .. }
        | Step::Retire { .. }
        | Step::Done => {}
    }
    Ok(None)
}

/// A status is computed at once. A member that takes longer is paused or hangs, and must not hold up the others.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
