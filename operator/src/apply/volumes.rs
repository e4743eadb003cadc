//! Volumes that grow: the claims first, then a StatefulSet whose template asks for as much. Does I/O.
//!
//! A StatefulSet's claim template cannot be changed. So the object is deleted and made anew around its running pods,
//! which it takes over: nothing restarts, and the revisions stay the same.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use operator_api::resources::Quantity;
use serde_json::json;

use super::{Apply, is_gone};
use crate::build::{self, MANAGER};
use crate::validate::Validated;

/// Asks for larger volumes, and makes way for a StatefulSet with a larger template.
pub(super) async fn grow(
    client: &Client,
    service: &Validated,
    pods: i32,
    (stateful_set_uid, size): (&str, &str),
) -> Result<(), Apply> {
    for ordinal in 0..pods {
        let name = build::claim_name(service, ordinal);
        grow_claim(client, service, &name, size).await?;
    }
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &service.namespace);
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        preconditions: Some(Preconditions {
            uid: Some(stateful_set_uid.to_owned()),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    is_gone(api.delete(&service.name, &params).await, || {
        format!(
            "making way for a StatefulSet {} with larger volumes",
            service.name
        )
    })
}

async fn grow_claim(client: &Client, service: &Validated, name: &str, size: &str) -> Result<(), Apply> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &service.namespace);
    let found = api.get_opt(name).await.map_err(|source| Apply::Api {
        what: format!("reading the volume claim {name}"),
        source,
    })?;
    // One that does not exist yet is made with the size that the template will ask for.
    let Some(found) = found else { return Ok(()) };
    let requests = found.spec.and_then(|spec| spec.resources?.requests);
    let asked = requests.and_then(|requests| requests.get("storage").cloned());
    let bytes = |text: &str| Quantity(text.to_owned()).bytes();
    if asked.is_some_and(|asked| bytes(&asked.0) >= bytes(size)) {
        return Ok(());
    }
    let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => Err(Apply::CannotGrow {
            claim: name.to_owned(),
            size: size.to_owned(),
            why: status.message.clone(),
        }),
        Err(source) => Err(Apply::Api {
            what: format!("growing the volume claim {name}"),
            source,
        }),
    }
}
