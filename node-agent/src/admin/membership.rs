//! `POST /v1/membership/...`: one step at a time, each safe to repeat; who takes which step when is the caller's plan.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use operator_api::admin::{AddLearner, Identity, Initialize, MemberRef};
use replication::MembershipError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Admin, Authorized, Refusal, Shared, Step};

/// The routes; all of them change something.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/membership/initialize", post(initialize))
        .route("/v1/membership/add-learner", post(add_learner))
        .route("/v1/membership/join", post(join))
        .route("/v1/membership/promote", post(promote))
        .route("/v1/membership/remove", post(remove))
        .route("/v1/membership/transfer", post(transfer))
}

type Answer = Result<Response, Refusal>;

async fn initialize(State(admin): Shared, _: Authorized, Body(body): Body<Initialize>) -> Answer {
    let group_id = group_id(&body.group_id)?;
    admin.expect_sent_backup()?;
    let identity = take(admin.control.initialize(group_id)).await?;
    admin.forget_sent_backup();
    Ok(identity_json(&identity))
}

async fn add_learner(State(admin): Shared, _: Authorized, Body(body): Body<AddLearner>) -> Answer {
    let step = admin
        .control
        .add_learner(body.name, body.peer_address, body.admin_address);
    Ok(identity_json(&take(step).await?))
}

async fn join(State(admin): Shared, _: Authorized, Body(body): Body<Identity>) -> Answer {
    let identity = replication::Identity {
        group_id: group_id(&body.group_id)?,
        node_id: body.node_id,
    };
    done(take(admin.control.join(identity)).await)
}

async fn promote(State(admin): Shared, _: Authorized, Body(body): Body<MemberRef>) -> Answer {
    done(take(admin.control.promote(node_id(&body)?)).await)
}

async fn remove(State(admin): Shared, _: Authorized, Body(body): Body<MemberRef>) -> Answer {
    done(take(admin.control.remove(node_id(&body)?)).await)
}

async fn transfer(State(admin): Shared, _: Authorized, Body(body): Body<MemberRef>) -> Answer {
    done(take(admin.control.transfer(body.node_id)).await)
}

/// Waits for a step, within bounds.
async fn take<T>(step: Step<'_, T>) -> Result<T, Refusal> {
    match tokio::time::timeout(STEP_TIMEOUT, step).await {
        Ok(outcome) => outcome.map_err(Refusal::from),
        Err(_) => Err(Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!(
                "the step was not done within {} s; it may still happen: repeat it",
                STEP_TIMEOUT.as_secs()
            ),
        )),
    }
}

impl From<MembershipError> for Refusal {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::NotLeader { leader_admin_address } => Self::not_leader(leader_admin_address),
            MembershipError::Invalid(reason) => Self::new(StatusCode::CONFLICT, reason),
            MembershipError::Timeout(reason) => Self::new(StatusCode::GATEWAY_TIMEOUT, reason),
            MembershipError::Stopping => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "this member is stopping; ask another one",
            ),
        }
    }
}

fn group_id(text: &str) -> Result<Uuid, Refusal> {
    Uuid::parse_str(text).map_err(|error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("groupId `{}` is no UUID: {error}", text.escape_debug()),
        )
    })
}

fn node_id(body: &MemberRef) -> Result<u64, Refusal> {
    body.node_id.ok_or_else(|| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "nodeId is missing: which member is meant?",
        )
    })
}

fn identity_json(identity: &replication::Identity) -> Response {
    json(&Identity {
        group_id: identity.group_id.to_string(),
        node_id: identity.node_id,
    })
}

fn done(outcome: Result<(), Refusal>) -> Answer {
    outcome.map(|()| json(&serde_json::json!({})))
}

fn json(value: &impl Serialize) -> Response {
    axum::Json(value).into_response()
}

/// A JSON body, bounded in size and time. No body at all reads as `{}`.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Admin>> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &Arc<Admin>) -> Result<Self, Refusal> {
        let reading = axum::body::to_bytes(request.into_body(), JSON_BYTES_MAX);
        let bytes = match tokio::time::timeout(JSON_READ_TIMEOUT, reading).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => {
                return Err(Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body broke off or is larger than {JSON_BYTES_MAX} bytes"),
                ));
            }
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not arrive in time",
                ));
            }
        };
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("the body is not as expected: {error}"),
            )
        })
    }
}

/// The largest body of these requests is a few hundred bytes.
const JSON_BYTES_MAX: usize = 64 << 10;

/// Such a body fits into one packet.
const JSON_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A promotion waits until the member has caught up, which may need a snapshot; the caller repeats it.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
