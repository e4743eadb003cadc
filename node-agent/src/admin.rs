//! The admin port: health, readiness, metrics, status, and the membership and file requests of people and operators.
//!
//! Reading is open to anyone who reaches the port. Whatever changes something needs the group's token.
//! A request that only the leader can serve is answered with 421 and the leader's admin address.

mod backup;
pub(crate) mod files;
pub(crate) mod hub;
mod membership;
pub(crate) mod page;
pub(crate) mod server;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::future::BoxFuture;
use operator_api::admin::{GroupMember, MemberDetail, MemberStatus, Problem, Role};
use operator_api::{AUTHORIZATION_SCHEME, ServiceKind};
use replication::{Identity, MembershipError, Node, NodeId, NodeStatus};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use uuid::Uuid;

use crate::telemetry::Metrics;
use files::FileStore;
use hub::HubDesk;

/// What the admin port asks of the member's Raft node; a trait so that tests need no Raft.
pub(crate) trait Control: Send + Sync + 'static {
    /// What the member knows of itself and its group.
    fn status(&self) -> NodeStatus;
    /// Makes this member the only voter of a new group.
    fn initialize(&self, group_id: Uuid) -> Step<'_, Identity>;
    /// Admits a new member that does not vote yet.
    fn add_learner(&self, name: String, peer_address: String, admin_address: String) -> Step<'_, Identity>;
    /// Takes the identity that the leader gave to this member.
    fn join(&self, identity: Identity) -> Step<'_, ()>;
    /// Lets a member vote.
    fn promote(&self, id: NodeId) -> Step<'_, ()>;
    /// Removes a member.
    fn remove(&self, id: NodeId) -> Step<'_, ()>;
    /// Hands leadership over.
    fn transfer(&self, to: Option<NodeId>) -> Step<'_, ()>;
    /// A backup that holds everything up to an index at least.
    fn backup(&self, service: ServiceKind, at_least: u64) -> Step<'_, Bytes>;
}

/// One membership step under way.
pub(crate) type Step<'a, T> = BoxFuture<'a, Result<T, MembershipError>>;

impl Control for Node {
    fn status(&self) -> NodeStatus {
        Self::status(self)
    }
    fn initialize(&self, group_id: Uuid) -> Step<'_, Identity> {
        Box::pin(Self::initialize(self, group_id))
    }
    fn add_learner(&self, name: String, peer_address: String, admin_address: String) -> Step<'_, Identity> {
        Box::pin(Self::add_learner(self, name, peer_address, admin_address))
    }
    fn join(&self, identity: Identity) -> Step<'_, ()> {
        Box::pin(Self::join(self, identity))
    }
    fn promote(&self, id: NodeId) -> Step<'_, ()> {
        Box::pin(Self::promote(self, id))
    }
    fn remove(&self, id: NodeId) -> Step<'_, ()> {
        Box::pin(Self::remove(self, id))
    }
    fn transfer(&self, to: Option<NodeId>) -> Step<'_, ()> {
        Box::pin(Self::transfer(self, to))
    }
    fn backup(&self, service: ServiceKind, at_least: u64) -> Step<'_, Bytes> {
        Box::pin(Self::backup(self, service.name(), at_least))
    }
}

/// How far the process is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It works.
    Running,
    /// It was asked to stop, and hands its work over.
    Stopping,
    /// It cannot go on; the reason.
    Failed(String),
}

/// What a service adds to the status: an object or a list of objects, empty when nothing runs.
pub(crate) type Detail = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Says what a service lacks before its member is ready; none when nothing.
pub(crate) type Lacks = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Everything that the admin port shows or changes.
pub(crate) struct Admin {
    /// The service the member runs.
    pub service: ServiceKind,
    /// The member's name.
    pub name: String,
    /// Where clients reach the leader.
    pub client_address: String,
    /// Where others reach this admin port.
    pub admin_address: String,
    /// The member's Raft node.
    pub control: Arc<dyn Control>,
    /// What the service adds to the status.
    pub detail: Detail,
    /// What the service lacks before this member is ready.
    pub lacks: Lacks,
    /// The files of the service, if it has any.
    pub files: Option<Arc<dyn FileStore>>,
    /// The hub, if the service is one.
    pub hub: Option<Arc<dyn HubDesk>>,
    /// Where a backup is kept that is sent to this member before it founds its group, if it takes one.
    pub sent_backup: Option<PathBuf>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The token that changing requests carry; without one they are refused.
    pub token: Option<String>,
    /// How far the process is in its life.
    pub phase: watch::Receiver<Phase>,
}

/// The routes of the admin port.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .merge(membership::routes())
        .merge(files::routes())
        .merge(hub::routes())
        .merge(backup::routes())
        .fallback(async || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "there is no such page; GET / lists the member",
            )
        })
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address does not serve that method",
            )
        })
        .with_state(Arc::new(admin))
}

type Shared = State<Arc<Admin>>;

async fn root(State(admin): Shared, headers: HeaderMap) -> Response {
    let status = admin.status();
    if wants_json(&headers) {
        axum::Json(status).into_response()
    } else {
        page::response(&status)
    }
}

/// Whether JSON was asked for by name; browsers ask for HTML first, and curl for anything.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let place = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    place("application/json") < place("text/html")
}

/// Never depends on the role, nor on other members: a restart would not help against either.
async fn healthz(State(admin): Shared) -> Response {
    match &*admin.phase.borrow() {
        Phase::Running | Phase::Stopping => "ok\n".into_response(),
        Phase::Failed(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz(State(admin): Shared) -> Response {
    match admin.not_ready(&admin.control.status()) {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(admin): Shared) -> Response {
    let status = admin.control.status();
    match admin.metrics.render(&status, admin.not_ready(&status).is_none()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics unreadable: {error}"),
        )
        .into_response(),
    }
}

async fn status(State(admin): Shared) -> axum::Json<MemberStatus> {
    axum::Json(admin.status())
}

impl Admin {
    /// Why the member is not ready; none when it is.
    fn not_ready(&self, status: &NodeStatus) -> Option<String> {
        match &*self.phase.borrow() {
            Phase::Running => {}
            Phase::Stopping => return Some("stopping".to_owned()),
            Phase::Failed(reason) => return Some(reason.clone()),
        }
        if status.ready {
            return (self.lacks)();
        }
        let mut reason = if status.node_id.is_none() {
            "has not joined a group yet".to_owned()
        } else if status.leader.is_none() {
            "knows no leader".to_owned()
        } else {
            format!(
                "catching up: applied {} of {} entries",
                status.applied_index, status.commit_index
            )
        };
        if let Some(alarm) = &status.alarm {
            reason.push_str(": ");
            reason.push_str(alarm);
        }
        Some(reason)
    }

    /// What the member says of itself.
    fn status(&self) -> MemberStatus {
        let status = self.control.status();
        let ready = self.not_ready(&status).is_none();
        MemberStatus {
            service: self.service,
            name: self.name.clone(),
            node_id: status.node_id,
            pid: Some(std::process::id()),
            role: role(status.role),
            term: status.term,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            client_address: self.client_address.clone(),
            admin_address: self.admin_address.clone(),
            detail: Some(MemberDetail {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                group_id: status.group_id.map(|id| id.to_string()),
                leader_id: status.leader,
                serving: status.serving,
                ready,
                first_log_index: status.first_log_index,
                last_log_index: status.last_log_index,
                snapshot_index: status.snapshot_index,
                members: members(status.members),
                alarm: status.alarm,
                peer_certificates: status.peer_certificates,
                service_detail: (self.detail)(),
            }),
        }
    }

    /// The answer to a request that this member cannot serve because it does not lead.
    fn misdirected(&self, leader: Option<NodeId>) -> Refusal {
        let members = self.control.status().members;
        let leader = members.into_iter().find(|member| Some(member.id) == leader);
        Refusal::not_leader(leader.map(|member| member.admin_address))
    }
}

fn members(members: Vec<replication::MemberInfo>) -> Vec<GroupMember> {
    let mut members: Vec<GroupMember> = members
        .into_iter()
        .map(|member| GroupMember {
            node_id: member.id,
            name: member.name,
            peer_address: member.peer_address,
            admin_address: member.admin_address,
            voter: member.voter,
            matched_index: member.matched_index,
        })
        .collect();
    members.sort_by_key(|member| member.node_id);
    members
}

fn role(role: replication::Role) -> Role {
    match role {
        replication::Role::Leader => Role::Leader,
        replication::Role::Follower => Role::Follower,
        replication::Role::Learner => Role::Learner,
        replication::Role::Candidate => Role::Candidate,
    }
}

/// An answer that is no success: a status and a [`Problem`].
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            problem: Problem {
                error: error.into(),
                leader_admin_address: None,
            },
        }
    }

    /// 421 (RFC 9110 §15.5.20): the request belongs to the leader, named when it is known.
    fn not_leader(leader_admin_address: Option<String>) -> Self {
        let error = match &leader_admin_address {
            Some(address) => format!("this member does not lead its group; send the request to {address}"),
            None => "this member does not lead its group and knows no leader; try again soon".to_owned(),
        };
        Self {
            status: StatusCode::MISDIRECTED_REQUEST,
            problem: Problem {
                error,
                leader_admin_address,
            },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.problem)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1: a 401 names the scheme that would do.
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(AUTHORIZATION_SCHEME),
            );
        }
        response
    }
}

/// Proof that a request carried the group's token. Handlers that change something take it as an argument.
struct Authorized;

impl FromRequestParts<Arc<Admin>> for Authorized {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Refusal> {
        authorize(admin.token.as_deref(), &parts.headers)
    }
}

fn authorize(token: Option<&str>, headers: &HeaderMap) -> Result<Authorized, Refusal> {
    let Some(token) = token else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this member accepts no changes: its configuration names no tokenFile",
        ));
    };
    let carried = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes)
        .and_then(|value| value.split_at_checked(AUTHORIZATION_SCHEME.len()))
        // RFC 9110 §11.1: the scheme's name is case-insensitive.
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(AUTHORIZATION_SCHEME.as_bytes()))
        .and_then(|(_, rest)| rest.strip_prefix(b" "));
    let Some(carried) = carried else {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "changes need the group's token: send `Authorization: Bearer <token>`",
        ));
    };
    // The time this takes must not tell how much of a guess was right.
    if bool::from(carried.ct_eq(token.as_bytes())) {
        Ok(Authorized)
    } else {
        Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "the token is not this group's token",
        ))
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
