//! What a member may do in the cluster: change its own group's endpoint slice, and nothing else.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::metadata;
use super::names::slice_name;
use crate::validate::Validated;

pub(super) fn service_account(service: &Validated) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(service, service.name.clone()),
        // The pod mounts a token of its own, bound to its life.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

pub(super) fn role(service: &Validated) -> Role {
    Role {
        metadata: metadata(service, service.name.clone()),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["discovery.k8s.io".to_owned()]),
            resources: Some(vec!["endpointslices".to_owned()]),
            resource_names: Some(
                service
                    .service
                    .slices
                    .iter()
                    .map(|family| slice_name(service, *family))
                    .collect(),
            ),
            // Not `create`: a name cannot restrict it.
            verbs: ["get", "list", "watch", "update"].map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        }]),
    }
}

pub(super) fn role_binding(service: &Validated) -> RoleBinding {
    RoleBinding {
        metadata: metadata(service, service.name.clone()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: service.name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: service.name.clone(),
            namespace: Some(service.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
