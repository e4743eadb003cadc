//! What Quorate's programs exchange: the agent's configuration, the bodies of its admin API, and the
//! decisions about membership that every driver of a group makes alike.
//!
//! Types and pure functions only: no I/O, no clock, no Kubernetes client.

pub mod admin;
pub mod config;
pub mod epoch;
pub mod membership;
#[cfg(feature = "resources")]
#[expect(
    unreachable_pub,
    reason = "`KubeSchema` copies each type with its visibility into a function"
)]
pub mod resources;

pub use admin::{GroupMember, MemberStatus, Role};
pub use config::{AgentConfig, ServiceKind};
pub use epoch::LeaderEpoch;

/// The request header that carries the group's token (`Authorization: Bearer <token>`).
pub const AUTHORIZATION_SCHEME: &str = "Bearer";
