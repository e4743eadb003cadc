//! The key-value benchmark: one load generator for Quorate and for etcd, and what their processes cost meanwhile.
//!
//! The generator shares the machine with the servers, so it must cost little and the same for both: one thread, requests
//! written into buffers by hand, answers read only as far as it takes to tell whether they are right.

pub mod cost;
pub mod generator;
pub mod grpc;
pub mod http;
pub mod latency;
pub mod plot;
pub mod side;
pub mod wire;
