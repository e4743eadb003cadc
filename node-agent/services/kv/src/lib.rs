//! A key-value store that answers with and without a quorum, and never leaves a caller guessing.
//!
//! `access` says who may do what, `request` turns HTTP into operations and answers into JSON, `state` is what every member holds, `outbox` what one
//! member remembers while there is no quorum, `peer` what members ask each other; `server` drives them and has the
//! sockets, the clock and the disk.

pub mod access;
pub mod outbox;
pub mod peer;
pub mod proto;
pub mod request;
pub mod server;
pub mod state;

pub use server::{AccessFiles, Kv, Metrics, Options};

/// The longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
