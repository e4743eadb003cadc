//! One member at a time may be drained away.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::names::selector;
use crate::validate::Validated;

pub(super) fn pod_disruption_budget(service: &Validated) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(service, service.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(service)),
                ..LabelSelector::default()
            }),
            // A pod that is not ready protects nothing, and must not block a node's drain for ever.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
