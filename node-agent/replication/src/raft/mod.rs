//! openraft behind the contract: the only place that names it, with `member.rs`, `membership.rs` and `replica.rs`.

pub(crate) mod codec;
pub(crate) mod incoming;
pub(crate) mod leadership;
pub(crate) mod log_store;
pub(crate) mod network;
pub(crate) mod pages;
pub(crate) mod peers;
pub(crate) mod proto;
pub(crate) mod server;
pub(crate) mod snapshot;
pub(crate) mod state_machine;
pub(crate) mod types;
#[cfg(not(simulation))]
pub(crate) mod whereabouts;
