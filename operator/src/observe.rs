//! What there is of a group: its objects as they were last watched, and its members' own answers. Does I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1::{self as core, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use operator_api::membership::{Initialization, Offer};
use operator_api::resources::Quantity;
use sha2::{Digest, Sha256};

use crate::build::{self, ADMIN_PORT, LeaderEndpoint, TOKEN_KEY};
use crate::members::{Members, Place};
use crate::plan::{Certificates, Observed, Pod, StatefulSet};
use crate::validate::{IpFamily, Validated};

/// What is watched of one kind of resource in one scope.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    /// Pods, without what nobody reads.
    pub pods: Store<core::Pod>,
    /// StatefulSets, without their templates.
    pub stateful_sets: Store<apps::StatefulSet>,
    /// The leaders' slices.
    pub slices: Store<EndpointSlice>,
}

impl Stores {
    /// Waits until everything that exists has been seen once. One task alone may wait.
    pub(crate) async fn filled(&self) {
        // A writer that is gone ends the controller, and with it this wait.
        self.pods.wait_until_ready().await.ok();
        self.stateful_sets.wait_until_ready().await.ok();
        self.slices.wait_until_ready().await.ok();
    }
}

/// The secret of a group: what requests that change something carry, and whether the group exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupSecret {
    /// The token.
    pub token: String,
    /// The mark.
    pub initialization: Initialization,
    /// For a write that nobody else's write may precede.
    pub resource_version: String,
}

/// The annotation of the group's secret that says whether the group exists. The status says it too, but a status can
/// be lost: a backup that is restored does not have it.
pub(crate) const INITIALIZATION_ANNOTATION: &str = "quorate.dev/initialization";

/// Why a group could not be seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadSecret {
    /// The API server did not answer, or refused.
    #[error("the secret {name} cannot be read")]
    Api {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// It is not what this operator writes.
    #[error("the secret {name} {why}")]
    Unusable {
        /// Its name.
        name: String,
        /// What is wrong, and what helps.
        why: &'static str,
    },
}

/// A hash of the certificates that members read at their start only; none while one of their Secrets is missing.
pub(crate) async fn certificates(client: Client, service: &Validated) -> Result<Option<String>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client, &service.namespace);
    let mut hash = Sha256::new();
    for name in &service.certificates_read_once {
        let Some(secret) = api.get_opt(name).await? else {
            return Ok(None);
        };
        for (key, ByteString(value)) in secret.data.iter().flatten() {
            hash.update((key.len() as u64).to_le_bytes());
            hash.update(key);
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(value);
        }
    }
    Ok(Some(hex::encode(&hash.finalize()[..CERTIFICATES_HASH_BYTES])))
}

/// Reads the group's secret; none before it is made.
pub(crate) async fn group_secret(
    client: Client,
    service: &Validated,
) -> Result<Option<GroupSecret>, ReadSecret> {
    let name = build::token_secret_name(service);
    let api: Api<Secret> = Api::namespaced(client, &service.namespace);
    let secret = api.get_opt(&name).await.map_err(|source| ReadSecret::Api {
        name: name.clone(),
        source,
    })?;
    let Some(secret) = secret else { return Ok(None) };
    let unusable = |why| ReadSecret::Unusable {
        name: name.clone(),
        why,
    };
    if !is_owned(&secret, &service.owner.uid) {
        return Err(unusable(
            "belongs to somebody else: rename the resource, or delete the secret",
        ));
    }
    let token = secret
        .data
        .as_ref()
        .and_then(|data| data.get(TOKEN_KEY))
        .and_then(|token| String::from_utf8(token.0.clone()).ok())
        .ok_or_else(|| unusable("has no key `token`: delete it, and it is made anew"))?;
    let mark = secret
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(INITIALIZATION_ANNOTATION));
    let initialization = match mark {
        None => Initialization::Never,
        Some(mark) => serde_json::from_str(mark).map_err(|_| {
            unusable("has an annotation quorate.dev/initialization that was edited: restore it")
        })?,
    };
    Ok(Some(GroupSecret {
        token,
        initialization,
        resource_version: secret.metadata.resource_version.unwrap_or_default(),
    }))
}

/// Whether a resource controls an object.
pub(crate) fn is_owned<K: Resource>(object: &K, owner_uid: &str) -> bool {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == owner_uid && owner.controller == Some(true))
}

/// Looks at the group's objects, and asks its members.
pub(crate) async fn observe(
    service: &Validated,
    stores: &Stores,
    members: &Members,
    initialization: Initialization,
    offer: Option<Offer>,
) -> Observed {
    let stateful_set = stateful_set(service, stores);
    // Without a StatefulSet its pods may still be there.
    let seats = stateful_set
        .as_ref()
        .map_or(PODS_MAX, |found| found.replicas)
        .max(service.replicas)
        .min(PODS_MAX);
    let now = Timestamp::now();
    let names: Vec<_> = (0..seats)
        .map(|ordinal| build::pod_name(service, ordinal))
        .collect();
    let pods: BTreeMap<_, _> = names
        .iter()
        .filter_map(|name| find(&stores.pods, service, name))
        .filter(|found| is_pod_of(found, service))
        .map(|found| pod(&found, now))
        .map(|pod| (pod.name.clone(), pod))
        .collect();
    let places = places(pods.values());
    let mut answers: BTreeMap<_, _> = members.ask_all(places).await.into_iter().collect();
    for name in names.into_iter().take(service.replicas_usize()) {
        answers.entry(name).or_insert(None);
    }
    for name in pods.keys() {
        answers.entry(name.clone()).or_insert(None);
    }
    Observed {
        pods,
        stateful_set,
        initialization,
        answers,
        offer,
    }
}

/// Where the members are that have a running pod.
pub(crate) fn places<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<Place> {
    pods.filter_map(|pod| {
        let address: std::net::IpAddr = pod.addresses.first()?.parse().ok()?;
        Some(Place {
            name: pod.name.clone(),
            admin: std::net::SocketAddr::new(address, ADMIN_PORT).to_string(),
        })
    })
    .collect()
}

/// Where clients are to be led to; none without a serving leader whose pod is known.
pub(crate) fn leader_endpoint(observed: &Observed) -> Option<LeaderEndpoint> {
    let leader = observed.leader()?;
    let pod = observed.pods.get(&leader.name)?;
    Some(LeaderEndpoint {
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        node: pod.node.clone()?,
        addresses: pod.addresses.clone(),
        epoch: operator_api::LeaderEpoch {
            term: leader.term,
            node_id: leader.node_id?,
        },
    })
}

/// The leader's slice of a family, as it was last watched.
pub(crate) fn slice(service: &Validated, stores: &Stores, family: IpFamily) -> Option<Arc<EndpointSlice>> {
    find(&stores.slices, service, &build::slice_name(service, family))
}

fn find<K>(store: &Store<K>, service: &Validated, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(&service.namespace))
}

fn stateful_set(service: &Validated, stores: &Stores) -> Option<StatefulSet> {
    let found = find(&stores.stateful_sets, service, &service.name)?;
    if !is_owned(&*found, &service.owner.uid) {
        return None;
    }
    let status = found.status.clone().unwrap_or_default();
    // Until its controller has seen the newest change, its revision is that of the change before.
    let is_seen =
        status.observed_generation.is_some() && status.observed_generation == found.metadata.generation;
    let spec = found.spec.as_ref();
    let claims = spec.and_then(|spec| spec.volume_claim_templates.as_ref());
    Some(StatefulSet {
        uid: found.metadata.uid.clone().unwrap_or_default(),
        is_terminating: found.metadata.deletion_timestamp.is_some(),
        volume_size: claims
            .and_then(|claims| claims.first())
            .and_then(|claim| {
                claim
                    .spec
                    .as_ref()?
                    .resources
                    .as_ref()?
                    .requests
                    .as_ref()?
                    .get("storage")
            })
            .map(|size| Quantity(size.0.clone())),
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or_default(),
        of_generation: found
            .annotations()
            .get(build::GENERATION_ANNOTATION)
            .and_then(|generation| generation.parse().ok()),
        certificates: Certificates {
            seen: found.annotations().get(build::CERTIFICATES_ANNOTATION).cloned(),
            pods: found
                .annotations()
                .get(build::PODS_CERTIFICATES_ANNOTATION)
                .cloned(),
        },
        update_revision: status.update_revision.filter(|_| is_seen),
    })
}

fn is_pod_of(pod: &core::Pod, service: &Validated) -> bool {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    build::selector(service)
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn pod(found: &core::Pod, now: Timestamp) -> Pod {
    let status = found.status.clone().unwrap_or_default();
    let condition = |type_: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == type_)
    };
    let ready = condition("Ready").filter(|ready| ready.status == "True");
    let unready_since = condition("Ready")
        .and_then(|ready| ready.last_transition_time.as_ref())
        .or(found.metadata.creation_timestamp.as_ref());
    let addresses = status.pod_ips.iter().flatten().map(|address| address.ip.clone());
    Pod {
        name: found.metadata.name.clone().unwrap_or_default(),
        uid: found.metadata.uid.clone().unwrap_or_default(),
        revision: found
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("controller-revision-hash"))
            .cloned()
            .unwrap_or_default(),
        node: found.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        addresses: addresses.collect(),
        ready_seconds: ready.map(|ready| seconds_since(ready.last_transition_time.as_ref(), now)),
        unready_seconds: match ready {
            Some(_) => 0,
            None => seconds_since(unready_since, now),
        },
        is_terminating: found.metadata.deletion_timestamp.is_some(),
        trouble: container_trouble(&status).or_else(|| {
            condition("PodScheduled")
                .filter(|scheduled| scheduled.status == "False")
                .map(|scheduled| {
                    let why = scheduled.message.as_deref().unwrap_or("no node takes it");
                    format!("it is not scheduled: {}", shortened(why))
                })
        }),
    }
}

/// Why a container does not run, when Kubernetes has given up for the moment.
fn container_trouble(status: &core::PodStatus) -> Option<String> {
    status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        if !TROUBLES.contains(&reason) {
            return None;
        }
        let last = container
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        Some(match last {
            Some(ended) => format!("{reason}, exit code {}; its log says why", ended.exit_code),
            None => format!(
                "{reason}: {}",
                shortened(waiting.message.as_deref().unwrap_or("no message"))
            ),
        })
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

fn seconds_since(time: Option<&Time>, now: Timestamp) -> i64 {
    time.map_or(0, |time| (now.as_second() - time.0.as_second()).max(0))
}

/// Reasons of a waiting container that do not pass by themselves soon.
const TROUBLES: [&str; 8] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// Of Kubernetes' own messages, in a condition of ours.
const MESSAGE_CHARS_MAX: usize = 300;

/// A group has seven members at most, and may be between two sizes; more is an edited StatefulSet.
const PODS_MAX: i32 = 16;

/// Tells certificates apart, and tells nothing of them.
const CERTIFICATES_HASH_BYTES: usize = 8;
