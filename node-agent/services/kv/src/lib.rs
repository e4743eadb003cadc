//! A key-value store that answers with a quorum, and says so when it cannot.
//!
//! `request` turns HTTP into operations and answers into JSON, `state` is what every member holds, `server` has the
//! sockets.

pub mod request;
pub mod server;
pub mod state;

pub use server::{Kv, Options};

/// The longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
