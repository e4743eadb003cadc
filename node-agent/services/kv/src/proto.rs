//! The messages of gRPC, and its server and client, as generated from `proto/kv.proto`.

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::disallowed_types,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("quorate.kv.v1");
}

pub use generated::*;
