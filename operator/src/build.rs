//! The Kubernetes objects of a group, one file per kind. Pure.
//!
//! Every object is whole: what stands here is what the operator owns of it, by server-side apply.

mod config_map;
mod endpoint_slice;
mod names;
mod network_policy;
mod pod_disruption_budget;
mod pod_monitor;
mod rbac;
mod secrets;
mod services;
mod stateful_set;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde::Serialize;

use crate::plan::Certificates;
use crate::validate::Validated;

pub(crate) use endpoint_slice::{
    LeaderEndpoint, is_ahead as is_slice_ahead, is_right as is_slice_right, leader_slice,
};
pub(crate) use names::{
    MANAGED_BY, MANAGER, admin_address, authority_secret_name, claim_name, config_map_name, labels, members,
    ordinal, peer_address, pod_name, selector, selector_text, slice_name, slice_name_of, tls_secret_name,
    token_secret_name,
};
pub(crate) use pod_monitor::resource as pod_monitor_resource;
pub(crate) use secrets::{
    Authority, PASSWORD_KEY, PREVIOUS_KEY, PeerCertificates, TOKEN_KEY, authority_secret, peer_tls_secret,
    server_name, token_secret,
};
pub(crate) use stateful_set::{
    ADMIN_PORT, CERTIFICATES_ANNOTATION, DATA_CLAIM, GENERATION_ANNOTATION, PEER_PORT,
    PODS_CERTIFICATES_ANNOTATION,
};

/// An object to apply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Child {
    /// Which API it belongs to.
    pub api: ApiResource,
    /// Its name.
    pub name: String,
    /// The whole object, as it is sent.
    pub body: serde_json::Value,
}

impl Child {
    /// Wraps a typed object.
    pub(crate) fn of<K>(object: &K) -> Self
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        Self {
            api: ApiResource::erase::<K>(&()),
            name: object.name_any(),
            body: serde_json::to_value(object).expect("Kubernetes objects are JSON"),
        }
    }

    /// Wraps an object of an API that has no type here.
    pub(crate) fn dynamic(api: ApiResource, object: &DynamicObject) -> Self {
        Self {
            api,
            name: object.name_any(),
            body: serde_json::to_value(object).expect("Kubernetes objects are JSON"),
        }
    }
}

/// What the objects depend on beyond the resource itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Surroundings {
    /// How many pods there are to be: not always as many as are wanted, see `plan.rs`.
    pub pods: i32,
    /// Whether the cluster knows `PodMonitor`.
    pub has_pod_monitors: bool,
    /// The size of the volumes that the StatefulSet asks for. It cannot be changed: see `plan/volumes.rs`.
    pub volume_size: Option<Quantity>,
    /// The certificates that the pods are made for.
    pub certificates: Certificates,
    /// Whether the StatefulSet is being deleted, to be made anew.
    pub is_between_stateful_sets: bool,
}

/// Every object that is applied as a whole, in the order in which they need each other. The secrets and the leader's
/// endpoint slice are not among them: what is in them must not be made anew.
pub(crate) fn children(service: &Validated, around: &Surroundings) -> Vec<Child> {
    let mut children = vec![
        Child::of(&rbac::service_account(service)),
        Child::of(&rbac::role(service)),
        Child::of(&rbac::role_binding(service)),
        Child::of(&config_map::config_map(service)),
        Child::of(&services::members(service)),
        Child::of(&services::clients(service)),
        Child::of(&services::every_member(service)),
        Child::of(&pod_disruption_budget::pod_disruption_budget(service)),
        Child::of(&network_policy::network_policy(service)),
    ];
    if service.serves_everywhere {
        children.push(Child::of(&services::leader(service)));
    }
    if !around.is_between_stateful_sets {
        children.push(Child::of(&stateful_set::stateful_set(service, around)));
    }
    if around.has_pod_monitors {
        children.push(Child::dynamic(
            pod_monitor::resource(),
            &pod_monitor::pod_monitor(service),
        ));
    }
    children
}

/// Metadata of an object that the resource owns.
fn metadata(service: &Validated, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(service.namespace.clone()),
        labels: Some(labels(service)),
        owner_references: Some(vec![service.owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
