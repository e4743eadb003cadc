//! How clients reach the leader.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Service that follows the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
        .message("`nodePort` may only be set with type 'NodePort' or 'LoadBalancer'"),
    validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'")
        .message("`externalTrafficPolicy` may only be set with type 'NodePort' or 'LoadBalancer'"),
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'")
        .message("`loadBalancerClass` may only be set with type 'LoadBalancer'"),
    validation = Rule::new("!has(self.loadBalancerSourceRanges) || self.type == 'LoadBalancer'")
        .message("`loadBalancerSourceRanges` may only be set with type 'LoadBalancer'"),
    validation = Rule::new("self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || \
            (has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && \
            (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass))")
        .message("`loadBalancerClass` may not be changed while the type is 'LoadBalancer'"),
    validation = Rule::new("!has(self.ipFamilies) || !has(oldSelf.ipFamilies) || \
            self.ipFamilies[0] == oldSelf.ipFamilies[0]")
        .message("the first of `ipFamilies` may not be changed")
)]
pub struct ServiceSpec {
    /// How far the Service reaches.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// The port that clients use; without it the service's own (TFTP 69, KV 2390).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Annotations of the Service, for load balancers and DNS.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317 && !key.startsWith('quorate.dev/'))")
        .message("keys of `annotations` may not begin with 'quorate.dev/', which is the operator's, and may have at most 317 characters"))]
    pub annotations: BTreeMap<String, String>,
    /// What nodes do with traffic from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// The implementation of load balancers to use; the cluster's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub load_balancer_class: Option<String>,
    /// The clients that the load balancer lets through (`192.0.2.0/24`); all without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(range, isCIDR(range))")
            .message("each of `loadBalancerSourceRanges` must be an address range like '192.0.2.0/24'")
    )]
    pub load_balancer_source_ranges: Vec<String>,
    /// The port of every node that leads to the leader; one is chosen without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// The families of the Service's addresses, one or both; the cluster's first without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ip_families: Vec<IpFamily>,
    /// Pods use their node's network: for clients that must see a node's address. Outside the `restricted` pod
    /// security standard, and one member a node.
    #[serde(default)]
    pub host_network: bool,
}

/// How far a Service reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    ClusterIP,
    /// Also on a port of every node.
    NodePort,
    /// Also on an address of a load balancer.
    LoadBalancer,
}

/// Whether nodes pass traffic from outside on to other nodes (`Cluster`), or keep it and the client's address (`Local`).
/// `Local` lets a download survive its leader for clients outside the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalTrafficPolicy {
    /// Every node passes it on to the leader; the leader sees the node's address.
    Cluster,
    /// Only the leader's node takes it; the leader sees the client's address.
    Local,
}

/// A family of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}
