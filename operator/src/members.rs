//! The client of the members' admin ports: their status, and the requests of membership steps. Does I/O.

use std::time::Duration;

use futures::StreamExt;
use operator_api::admin::{AddLearner, Identity, Initialize, MemberRef, Problem};
use operator_api::membership::{Offer, Step};
use operator_api::{AUTHORIZATION_SCHEME, MemberStatus};
use reqwest::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Speaks to members of any group.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    http: reqwest::Client,
}

/// A member's admin port: where it is now, which its name in the group does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The member's name, which is its pod's name.
    pub name: String,
    /// `address:port`, by the pod's address: names take seconds to be known.
    pub admin: String,
}

/// Why a member did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskMember {
    /// It could not be reached, or the connection broke: whether it acted is unknown.
    #[error("no answer from {member}")]
    Unreachable {
        /// Its name.
        member: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// It does not lead its group any more.
    #[error("{member} does not lead its group")]
    NotLeader {
        /// Its name.
        member: String,
    },
    /// It refused.
    #[error("{member} refused: {reason}")]
    Refused {
        /// Its name.
        member: String,
        /// Its reason, in a sentence.
        reason: String,
    },
    /// The step speaks of a member that has no running pod.
    #[error("{member} has no running pod")]
    Unknown {
        /// Its name.
        member: String,
    },
}

impl Members {
    /// A client with short patience: members are near, and a reconcile waits for it.
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { http })
    }

    /// Asks every member at once how it is; `None` from those that do not answer by their own name.
    pub(crate) async fn ask_all(&self, places: Vec<Place>) -> Vec<(String, Option<MemberStatus>)> {
        futures::stream::iter(places)
            .map(|place| async move {
                let status = self.status(&place).await.ok();
                (
                    place.name.clone(),
                    status.filter(|status| status.name == place.name),
                )
            })
            .buffer_unordered(ASKED_AT_ONCE_MAX)
            .collect()
            .await
    }

    async fn status(&self, place: &Place) -> Result<MemberStatus, AskMember> {
        let request = self
            .http
            .get(format!("http://{}/v1/status", place.admin))
            .timeout(STATUS_TIMEOUT);
        read(place, request.send().await).await
    }

    /// Sends the request of a membership step; the identity that it made, if it made one. `group_id` is used by
    /// [`Step::Initialize`] only. Steps that ask no member do nothing.
    pub(crate) async fn carry_out(
        &self,
        step: &Step,
        places: &[Place],
        group_id: &str,
        token: &str,
    ) -> Result<Option<Offer>, AskMember> {
        let asking = Asking {
            http: &self.http,
            places,
            token,
        };
        match step {
            Step::Initialize { member } => {
                let body = Initialize {
                    group_id: group_id.to_owned(),
                };
                asking
                    .post::<serde_json::Value>(member, "initialize", &body)
                    .await?;
            }
            Step::AddLearner { leader, member } => {
                let body = AddLearner {
                    name: member.name.clone(),
                    peer_address: member.peer_address.clone(),
                    admin_address: member.admin_address.clone(),
                };
                let identity: Identity = asking.post(leader, "add-learner", &body).await?;
                return Ok(Some(Offer {
                    member: member.name.clone(),
                    identity,
                }));
            }
            Step::Join { member, identity } => {
                asking.post::<serde_json::Value>(member, "join", identity).await?;
            }
            Step::Promote { leader, node_id } => asking.member(leader, "promote", *node_id).await?,
            Step::Remove { leader, node_id } => asking.member(leader, "remove", *node_id).await?,
            Step::Transfer { leader, to } => asking.member(leader, "transfer", *to).await?,
            Step::Wait { .. }
            | Step::Stuck { .. }
            | Step::RecordInitialized { .. }
            | Step::Reset { .. }
            | Step::Retire { .. }
            | Step::Done => {}
        }
        Ok(None)
    }
}

/// The requests of one step.
struct Asking<'a> {
    http: &'a reqwest::Client,
    places: &'a [Place],
    token: &'a str,
}

impl Asking<'_> {
    async fn member(&self, at: &str, step: &str, node_id: u64) -> Result<(), AskMember> {
        let body = MemberRef {
            node_id: Some(node_id),
        };
        self.post::<serde_json::Value>(at, step, &body).await.map(drop)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        at: &str,
        step: &str,
        body: &impl Serialize,
    ) -> Result<T, AskMember> {
        let place = self
            .places
            .iter()
            .find(|place| place.name == at)
            .ok_or_else(|| AskMember::Unknown {
                member: at.to_owned(),
            })?;
        let request = self
            .http
            .post(format!("http://{}/v1/membership/{step}", place.admin))
            .header(
                reqwest::header::AUTHORIZATION,
                format!("{AUTHORIZATION_SCHEME} {}", self.token),
            )
            .timeout(STEP_TIMEOUT)
            .json(body);
        read(place, request.send().await).await
    }
}

async fn read<T: DeserializeOwned>(
    place: &Place,
    answer: Result<Response, reqwest::Error>,
) -> Result<T, AskMember> {
    let unreachable = |source: reqwest::Error| AskMember::Unreachable {
        member: place.name.clone(),
        source: source.without_url(),
    };
    let response = answer.map_err(unreachable)?;
    let status = response.status();
    if status.is_success() {
        return response.json().await.map_err(unreachable);
    }
    if status == StatusCode::MISDIRECTED_REQUEST {
        return Err(AskMember::NotLeader {
            member: place.name.clone(),
        });
    }
    let problem = response.json::<Problem>().await.ok();
    Err(AskMember::Refused {
        member: place.name.clone(),
        reason: problem.map_or_else(|| format!("status {status}"), |problem| problem.error),
    })
}

/// More members than a group has.
const ASKED_AT_ONCE_MAX: usize = 16;

/// Members are on the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A status is computed at once; a member that takes longer hangs, is paused or cut off.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1500);

/// A promotion waits for the member to catch up; every step is repeated when its answer is late.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Shorter than the member's patience with an idle connection, and a thousand groups must not keep sockets open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
