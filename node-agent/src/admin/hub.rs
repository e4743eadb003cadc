//! `/v1/adc`: who is on a hub, and what operators order. Everything here needs the token: it names people.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::BoxFuture;
use operator_api::admin::hub::{HubAccount, HubAudit, HubBan, HubDone, HubOrder, HubUser};
use replication::NodeId;

use super::{Admin, Authorized, Refusal, Shared};

/// Who gives the orders that come here.
pub(crate) const BY_ADMIN: &str = "the admin port";

/// A hub, as its admin port sees it.
pub(crate) trait HubDesk: Send + Sync + 'static {
    /// Who is here, as this member knows.
    fn users(&self) -> Vec<HubUser>;
    /// Who is banned.
    fn bans(&self) -> Vec<HubBan>;
    /// Who is registered.
    fn accounts(&self) -> Vec<HubAccount>;
    /// What operators did.
    fn audit(&self) -> Vec<HubAudit>;
    /// Carries an order out; what came of it, in words.
    fn order(&self, order: HubOrder) -> BoxFuture<'_, Result<String, HubError>>;
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HubError {
    /// Another member leads, or nobody.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// It makes no sense, or what it names is not there.
    #[error("{0}")]
    Refused(String),
    /// Nobody knows whether it was carried out, or the member cannot.
    #[error("{0}")]
    Unavailable(String),
}

/// The routes; without a hub they answer 404.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/adc/users", get(users))
        .route("/v1/adc/bans", get(bans))
        .route("/v1/adc/accounts", get(accounts))
        .route("/v1/adc/audit", get(audit))
        .route("/v1/adc/orders", post(order))
}

async fn users(State(admin): Shared, _: Authorized) -> Result<Json<Vec<HubUser>>, Refusal> {
    Ok(Json(admin.hub()?.users()))
}

async fn bans(State(admin): Shared, _: Authorized) -> Result<Json<Vec<HubBan>>, Refusal> {
    Ok(Json(admin.hub()?.bans()))
}

async fn accounts(State(admin): Shared, _: Authorized) -> Result<Json<Vec<HubAccount>>, Refusal> {
    Ok(Json(admin.hub()?.accounts()))
}

async fn audit(State(admin): Shared, _: Authorized) -> Result<Json<Vec<HubAudit>>, Refusal> {
    Ok(Json(admin.hub()?.audit()))
}

async fn order(
    State(admin): Shared,
    _: Authorized,
    Json(order): Json<HubOrder>,
) -> Result<Json<HubDone>, Refusal> {
    match admin.hub()?.order(order).await {
        Ok(done) => Ok(Json(HubDone { done })),
        Err(HubError::NotLeader { leader }) => Err(admin.misdirected(leader)),
        Err(HubError::Refused(reason)) => Err(Refusal::new(StatusCode::CONFLICT, reason)),
        Err(HubError::Unavailable(reason)) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

impl Admin {
    fn hub(&self) -> Result<&dyn HubDesk, Refusal> {
        self.hub.as_deref().ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("the {} service is no hub", self.service),
            )
        })
    }
}
