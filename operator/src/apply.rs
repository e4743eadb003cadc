//! Makes the cluster as it was decided: server-side apply of the children, and the one action of a plan. Does I/O.

pub(crate) mod certificates;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Client, Resource, ResourceExt};
use operator_api::membership::{Initialization, Step};
use operator_api::resources::GroupStatus;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::build::{self, Child, LeaderEndpoint, MANAGED_BY, MANAGER};
use crate::certificates::token;
use crate::kinds::Group;
use crate::members::{AskMember, Members};
use crate::memory::{Applied, Memory, version};
use crate::observe::{self, GroupSecret, INITIALIZATION_ANNOTATION, ReadSecret, is_owned};
use crate::plan::{Action, Observed};
use crate::validate::{IpFamily, Storage, Validated};

/// Why something was not done. It is tried again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Apply {
    /// The API server refused or did not answer.
    #[error("{what} failed")]
    Api {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: kube::Error,
    },
    /// An object of that name exists and is somebody else's.
    #[error(
        "the {kind} {name} exists and does not belong to this resource: rename one of them, or delete it"
    )]
    NotOurs {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The secret cannot be used.
    #[error(transparent)]
    Secret(#[from] ReadSecret),
    /// A member did not take its step.
    #[error("a membership step was not taken")]
    Member(#[from] AskMember),
    /// The storage class does not let volumes grow.
    #[error(
        "the volume claim {claim} cannot grow to {size}: {why}; its storage class must have `allowVolumeExpansion`, or set \
         `storage.size` back"
    )]
    CannotGrow {
        /// The claim.
        claim: String,
        /// What it is to have.
        size: String,
        /// What the API server says.
        why: String,
    },
    /// No certificates could be made.
    #[error("making certificates failed")]
    Certificates(#[source] rcgen::Error),
}

impl Apply {
    /// Whether somebody else wrote at the same time: the next round sees what.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.code == 409)
    }
}

/// Applies the children that are not known to be as they should be.
pub(crate) async fn children(
    client: &Client,
    service: &Validated,
    children: &[Child],
    memory: &mut Memory,
) -> Result<(), Apply> {
    for child in children {
        let key = (child.api.kind.clone(), child.name.clone());
        let hash = Sha256::digest(child.body.to_string()).into();
        if memory
            .applied
            .get(&key)
            .is_some_and(|applied| applied.hash == hash)
        {
            continue;
        }
        let version = apply_child(client, service, child).await?;
        memory.applied.insert(key, Applied { hash, version });
    }
    Ok(())
}

async fn apply_child(client: &Client, service: &Validated, child: &Child) -> Result<String, Apply> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &service.namespace, &child.api);
    let failed = |what: &str| {
        let what = format!("{what} the {} {}", child.api.kind, child.name);
        move |source| Apply::Api { what, source }
    };
    let found = api
        .get_metadata_opt(&child.name)
        .await
        .map_err(failed("reading"))?;
    if found.is_some_and(|found| !is_owned(&found, &service.owner.uid)) {
        return Err(Apply::NotOurs {
            kind: child.api.kind.clone(),
            name: child.name.clone(),
        });
    }
    let applied = api
        .patch(
            &child.name,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&child.body),
        )
        .await
        .map_err(failed("applying"))?;
    Ok(version(&applied))
}

/// The group's secret, made when there is none. A lost secret takes over what the status remembers, so that no group
/// is founded twice.
pub(crate) async fn secret(
    client: &Client,
    service: &Validated,
    status: Option<&GroupStatus>,
) -> Result<GroupSecret, Apply> {
    let reported = status
        .and_then(|status| status.initialization.as_ref())
        .map_or(Initialization::Never, |reported| reported.to_mark());
    if let Some(found) = observe::group_secret(client.clone(), service).await? {
        if found.initialization == Initialization::Never && reported != Initialization::Never {
            return record(client, service, &found, reported).await;
        }
        return Ok(found);
    }
    let token_text = token();
    // As many bytes as a token, in the same digits.
    let password_key = service.keeps_passwords.then(token);
    let mut secret = build::token_secret(service, &token_text, password_key.as_deref());
    if reported != Initialization::Never {
        secret.metadata.annotations = Some(BTreeMap::from([mark(&reported)]));
    }
    let made = create(client, service, &secret, "making the secret").await?;
    Ok(GroupSecret {
        token: token_text,
        initialization: reported,
        resource_version: made.metadata.resource_version.unwrap_or_default(),
    })
}

/// Writes the mark, unless somebody else wrote the secret since it was read.
pub(crate) async fn record(
    client: &Client,
    service: &Validated,
    secret: &GroupSecret,
    initialization: Initialization,
) -> Result<GroupSecret, Apply> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &service.namespace);
    let name = build::token_secret_name(service);
    let (key, value) = mark(&initialization);
    let patch = json!({
        "metadata": {"resourceVersion": secret.resource_version, "annotations": {key: value}}
    });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let written = api
        .patch(&name, &params, &Patch::Merge(&patch))
        .await
        .map_err(|source| Apply::Api {
            what: format!("recording in the secret {name} that the group exists"),
            source,
        })?;
    Ok(GroupSecret {
        token: secret.token.clone(),
        initialization,
        resource_version: written.metadata.resource_version.unwrap_or_default(),
    })
}

fn mark(initialization: &Initialization) -> (String, String) {
    (
        INITIALIZATION_ANNOTATION.to_owned(),
        serde_json::to_string(initialization).expect("a mark is JSON"),
    )
}

/// Deletes the configurations of former revisions: no pod has them any more.
pub(crate) async fn prune_configurations(client: &Client, service: &Validated) -> Result<(), Apply> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &service.namespace);
    let failed = |source| Apply::Api {
        what: "deleting former configurations".to_owned(),
        source,
    };
    let ours = ListParams::default().labels(&format!("{MANAGED_BY},{}", build::selector_text(service)));
    let current = build::config_map_name(service);
    for found in api.list_metadata(&ours).await.map_err(failed)? {
        let name = found.name_any();
        if name != current && is_owned(&found, &service.owner.uid) {
            let deleted = api.delete(&name, &DeleteParams::default()).await;
            is_gone(deleted, || format!("deleting the former configuration {name}"))?;
        }
    }
    Ok(())
}

async fn create<K>(client: &Client, service: &Validated, object: &K, what: &str) -> Result<K, Apply>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &service.namespace);
    api.create(&post(), object).await.map_err(|source| Apply::Api {
        what: what.to_owned(),
        source,
    })
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Makes a slice that is missing, with the leader in it if one is known.
pub(crate) async fn make_slice(
    client: &Client,
    service: &Validated,
    family: IpFamily,
    leader: Option<&LeaderEndpoint>,
) -> Result<(), Apply> {
    let wanted = build::leader_slice(service, family, leader);
    match create(client, service, &wanted, "making the leader's endpoint slice").await {
        // Somebody took its labels away, or it was made a moment ago.
        Err(error) if error.is_conflict() => {}
        outcome => return outcome.map(drop),
    }
    let name = build::slice_name(service, family);
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
    let found = api.get(&name).await.map_err(|source| Apply::Api {
        what: format!("reading the endpoint slice {name}"),
        source,
    })?;
    if !is_owned(&found, &service.owner.uid) {
        return Err(Apply::NotOurs {
            kind: "EndpointSlice".to_owned(),
            name,
        });
    }
    match leader {
        Some(leader) if !build::is_slice_right(&found, service, family, leader) => {
            repair_slice(client, service, &found, family, leader).await
        }
        _ => Ok(()),
    }
}

/// Writes what the leader should have written, unless it does so at this moment.
pub(crate) async fn repair_slice(
    client: &Client,
    service: &Validated,
    found: &EndpointSlice,
    family: IpFamily,
    leader: &LeaderEndpoint,
) -> Result<(), Apply> {
    let mut wanted = build::leader_slice(service, family, Some(leader));
    wanted
        .metadata
        .resource_version
        .clone_from(&found.metadata.resource_version);
    let name = build::slice_name(service, family);
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
    match api.replace(&name, &post(), &wanted).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Apply::Api {
            what: format!("repairing the endpoint slice {name}"),
            source,
        }),
    }
}

/// Deletes a slice as it was seen, and no newer one.
pub(crate) async fn delete_slice(
    client: &Client,
    service: &Validated,
    found: &EndpointSlice,
) -> Result<(), Apply> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: found.metadata.uid.clone(),
        resource_version: found.metadata.resource_version.clone(),
    });
    let name = found.name_any();
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Apply::Api {
            what: format!("deleting the endpoint slice {name}"),
            source,
        }),
    }
}

/// What an action needs to be carried out.
pub(crate) struct Hands<'a> {
    /// To Kubernetes.
    pub client: &'a Client,
    /// To the members.
    pub members: &'a Members,
    /// The group.
    pub service: &'a Validated,
    /// What was seen of it.
    pub observed: &'a Observed,
    /// Its secret.
    pub secret: &'a mut GroupSecret,
}

impl Hands<'_> {
    /// Carries out the one action of a plan.
    pub(crate) async fn carry_out(&mut self, action: &Action, memory: &mut Memory) -> Result<(), Apply> {
        match action {
            Action::Nothing => Ok(()),
            Action::Membership(step) => self.step(step, memory).await,
            Action::Replace { pod, uid, .. } => self.delete_pod(pod, uid).await,
            Action::GrowVolumes { uid, pods, size } => {
                volumes::grow(self.client, self.service, *pods, (uid, size)).await
            }
            Action::Reset { pod, uid } => {
                if let Storage::Persistent { .. } = self.service.storage {
                    self.delete_disk(pod).await?;
                }
                self.delete_pod(pod, uid).await
            }
        }
    }

    async fn step(&mut self, step: &Step, memory: &mut Memory) -> Result<(), Apply> {
        match step {
            Step::RecordInitialized { group_id } => {
                let done = Initialization::Done {
                    group_id: group_id.clone(),
                };
                *self.secret = record(self.client, self.service, self.secret, done).await?;
                return Ok(());
            }
            Step::Initialize { member } if self.secret.initialization == Initialization::Never => {
                let asked = Initialization::Asked {
                    group_id: uuid::Uuid::new_v4().to_string(),
                    member: member.clone(),
                };
                *self.secret = record(self.client, self.service, self.secret, asked).await?;
            }
            // It is handed over at most once.
            Step::Join { .. } => memory.offer = None,
            _ => {}
        }
        let group_id = match &self.secret.initialization {
            Initialization::Never => "",
            Initialization::Asked { group_id, .. } | Initialization::Done { group_id } => group_id,
        };
        let places = observe::places(self.observed.pods.values());
        let offer = self
            .members
            .carry_out(step, &places, group_id, &self.secret.token)
            .await?;
        if offer.is_some() {
            memory.offer = offer;
        }
        Ok(())
    }

    /// Deletes this very pod: one that took its name in the meantime stays.
    async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), Apply> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.service.namespace);
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            ..Preconditions::default()
        });
        is_gone(api.delete(name, &params).await, || {
            format!("deleting the pod {name}")
        })
    }

    /// It goes when its pod is gone; the pod's successor gets an empty one.
    async fn delete_disk(&self, pod: &str) -> Result<(), Apply> {
        let name = format!("{}-{pod}", build::DATA_CLAIM);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.service.namespace);
        is_gone(api.delete(&name, &DeleteParams::default()).await, || {
            format!("deleting the volume claim {name}")
        })
    }
}

fn is_gone<T>(outcome: Result<T, kube::Error>, what: impl Fn() -> String) -> Result<(), Apply> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Apply::Api { what: what(), source }),
    }
}

/// Writes the status.
pub(crate) async fn status<K: Group>(
    client: &Client,
    service: (&str, &str),
    status: &GroupStatus,
) -> Result<(), Apply> {
    let (namespace, name) = service;
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    api.patch_status(
        name,
        &PatchParams::apply(STATUS_MANAGER).force(),
        &Patch::Apply(&body),
    )
    .await
    .map(drop)
    .map_err(|source| Apply::Api {
        what: "writing the status".to_owned(),
        source,
    })
}

/// The field manager of status.
const STATUS_MANAGER: &str = "quorate-operator-status";
