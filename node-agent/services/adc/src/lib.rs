//! An ADC hub whose community survives the loss of a member.
//!
//! | file | role | I/O? |
//! |---|---|---|
//! | `message.rs` | lines as clients send them | no |
//! | `session.rs` | one client's conversation, a state machine | no |
//! | `vault.rs` | passwords at rest | no |
//! | `state.rs` | the directory, on every member: who is here, accounts, bans, topic, history | no |
//! | `peer.rs` | what members ask each other | no |
//! | `server.rs` | sockets, tasks, timers: drives the others | yes |

pub mod message;
pub mod peer;
pub mod server;
pub mod session;
pub mod state;
pub mod vault;

pub use server::{Adc, Metrics, Options};
