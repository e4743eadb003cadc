//! Quorate's promises to its users, tested on real processes with real clients: the pieces the tests and the
//! benchmarks share.
//!
//! Start with [`Group`] (three real agents on loopback), [`Client`] (stock TFTP clients), [`Proxy`] (a UDP link that
//! watches and disturbs), [`kv::campaign`] (a key-value group under faults), [`adc::Meeting`] (three clients on a hub) and
//! [`eventually`], the only place that waits for a state.

pub mod adc;
pub mod adc_user;
pub mod admin;
pub mod client;
pub mod clock;
pub mod data;
pub mod disk;
pub mod gaps;
pub mod group;
pub mod kubernetes;
pub mod kv;
pub mod kv_bench;
pub mod ports;
pub mod process;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod reference;
pub mod report;
pub mod scenario;
pub mod serving;
pub mod wire;

pub use adc_user::AdcUser;
pub use admin::Admin;
pub use client::Client;
pub use clock::eventually;
pub use group::{Group, GroupOptions};
pub use proxy::{Link, Proxy};
