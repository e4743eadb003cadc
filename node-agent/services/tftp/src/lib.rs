//! A TFTP server whose transfers outlive the member that serves them.
//!
//! | file | role | I/O? |
//! |---|---|---|
//! | `packet.rs`, `netascii.rs`, `path.rs` | bytes and names as clients send them | no |
//! | `transfer.rs` | one download, a state machine | no |
//! | `upload.rs` | one upload, a state machine | no |
//! | `state.rs` | files and sessions, on every member | no |
//! | `content.rs` | the bytes of files on this member's disk | disk |
//! | `files.rs` | files through the group: put, get, remove, fetch from peers | through `replication` |
//! | `server.rs` | the front that clients meet on the leader | yes |

pub mod content;
pub mod files;
pub mod netascii;
pub mod packet;
pub mod path;
pub mod server;
pub mod state;
pub mod transfer;
pub mod upload;

pub use server::{Metrics, MovingAddress, Options, Tftp, UploadRule, Uploads};
