//! The key-value service as its clients see it: requests over HTTP, a load that writes down everything it sees while
//! members are killed, and the checks of what it saw.

pub mod campaign;
pub mod faults;
pub mod load;
pub mod local_reads;
pub mod remembered;
pub mod request;

pub use request::{Answer, Kv, Reply, Request};
