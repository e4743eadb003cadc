//! Metrics of every member, where the Prometheus operator is installed. A `ServiceMonitor` would see nothing: the
//! leader's Service has no selector.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};

use super::metadata;
use super::names::selector;
use crate::validate::Validated;

/// The API of `PodMonitor`.
pub(crate) fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor"),
        "podmonitors",
    )
}

pub(super) fn pod_monitor(service: &Validated) -> DynamicObject {
    let mut object = DynamicObject::new(&service.name, &resource()).data(serde_json::json!({
        "spec": {
            "selector": {"matchLabels": selector(service)},
            "podMetricsEndpoints": [{"port": "admin", "path": "/metrics"}],
        }
    }));
    object.metadata = metadata(service, service.name.clone());
    object
}
