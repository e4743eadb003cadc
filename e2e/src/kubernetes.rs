//! A real Kubernetes, for tests: a [`Cluster`], a namespace for each test ([`Space`]), clients in pods ([`ClientPod`])
//! and what may go wrong ([`faults`]).
//!
//! `e2e/run kubernetes` brings the cluster up and runs the tests `kubernetes_*.rs` beside it, on the network that joins
//! its nodes, where clients outside the pod network are.

use std::time::Duration;

mod clients;
mod cluster;
pub mod faults;
mod hub;
mod kv;
mod operator;
mod outside;
pub mod probe;
mod repeat;
mod resource;
mod route;
mod space;
mod tftp;
mod watch;

pub use clients::{ClientPod, PodDownload};
pub use cluster::{Cluster, image};
pub use hub::{AdcHub, OwnAddress};
pub use kv::{KvCluster, end_and_check};
pub use operator::Operator;
pub use outside::LoadBalancer;
pub use repeat::Repeated;
pub use resource::{ADMIN_PORT, Resource};
pub use route::{Election, Route};
pub use space::Space;
pub use tftp::{TftpCluster, UnderWay};

/// How long any state of the cluster may take before a test calls it a failure. Generous: pods start slowly on a machine
/// that does other things as well, and a test that ends well never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(180);
