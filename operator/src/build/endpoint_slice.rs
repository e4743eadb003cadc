//! Where the leader's Service leads to. The operator makes the slice; from then on the leader writes its own address
//! into it, and the operator only repairs what nobody else repairs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use operator_api::LeaderEpoch;
use operator_api::epoch::LEADER_EPOCH_ANNOTATION;

use super::metadata;
use super::names::{SLICE_MANAGER, leader_service_name, slice_name};
use crate::validate::{IpFamily, Validated};

/// The leader's pod, as clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaderEndpoint {
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The node it runs on.
    pub node: String,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<String>,
    /// Of its leadership.
    pub epoch: LeaderEpoch,
}

impl LeaderEndpoint {
    fn address(&self, family: IpFamily) -> Option<&String> {
        self.addresses.iter().find(|address| family.has(address))
    }
}

/// The slice as it should be; without an endpoint while no leader is known, which only the very first slice is.
pub(crate) fn leader_slice(
    service: &Validated,
    family: IpFamily,
    leader: Option<&LeaderEndpoint>,
) -> EndpointSlice {
    let mut metadata = metadata(service, slice_name(service, family));
    metadata
        .labels
        .get_or_insert_default()
        .extend(slice_labels(service));
    let published = leader.and_then(|leader| Some((leader, leader.address(family)?)));
    if let Some((leader, _)) = published {
        metadata.annotations = Some(BTreeMap::from([(
            LEADER_EPOCH_ANNOTATION.to_owned(),
            leader.epoch.to_string(),
        )]));
    }
    EndpointSlice {
        metadata,
        address_type: family.address_type().to_owned(),
        endpoints: published
            .map(|(leader, address)| vec![endpoint(service, leader, address)])
            .unwrap_or_default(),
        ports: Some(ports(service)),
    }
}

/// Whether a slice needs no repair: it is labelled for its Service and leads to this leader, or to a later one.
pub(crate) fn is_right(
    found: &EndpointSlice,
    service: &Validated,
    family: IpFamily,
    leader: &LeaderEndpoint,
) -> bool {
    let Some(address) = leader.address(family) else {
        return true;
    };
    let labels = found.metadata.labels.clone().unwrap_or_default();
    let is_labelled = slice_labels(service)
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value));
    if !is_labelled || found.ports.as_deref() != Some(&ports(service)) {
        return false;
    }
    let published = epoch(found);
    if is_ahead(found, leader) {
        // Somebody knows more than this operator.
        return true;
    }
    // A leader that handed its work over stays behind its successor for a while.
    let first = match found.endpoints.as_slice() {
        [only] => only,
        [first, leaving] if !is_ready(leaving) => first,
        _ => return false,
    };
    let target = first.target_ref.as_ref().and_then(|target| target.name.as_ref());
    published == Some(leader.epoch)
        && first.addresses == [address.clone()]
        && target == Some(&leader.pod)
        && is_ready(first)
}

fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready) != Some(false)
}

/// Whether a slice claims a later leader than this one.
pub(crate) fn is_ahead(found: &EndpointSlice, leader: &LeaderEndpoint) -> bool {
    epoch(found).is_some_and(|published| published > leader.epoch)
}

/// The epoch that a slice carries.
pub(crate) fn epoch(slice: &EndpointSlice) -> Option<LeaderEpoch> {
    let annotations = slice.metadata.annotations.as_ref()?;
    annotations.get(LEADER_EPOCH_ANNOTATION)?.parse().ok()
}

fn slice_labels(service: &Validated) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            "kubernetes.io/service-name".to_owned(),
            leader_service_name(service),
        ),
        (
            "endpointslice.kubernetes.io/managed-by".to_owned(),
            SLICE_MANAGER.to_owned(),
        ),
    ])
}

/// Named as in the Service: kube-proxy joins the two by name and protocol.
fn ports(service: &Validated) -> Vec<EndpointPort> {
    let ports = service.ports.iter().map(|port| EndpointPort {
        name: Some(port.name.to_owned()),
        port: Some(port.route_port().into()),
        protocol: Some(port.protocol.to_owned()),
        ..EndpointPort::default()
    });
    ports.collect()
}

fn endpoint(service: &Validated, leader: &LeaderEndpoint, address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        // MetalLB and `externalTrafficPolicy: Local` look for it.
        node_name: Some(leader.node.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(service.namespace.clone()),
            name: Some(leader.pod.clone()),
            uid: Some(leader.pod_uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}
