//! The watches of one controller. Does I/O.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{self as core, ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::build::MANAGED_BY;
use crate::kinds::Group;
use crate::memory::Memories;
use crate::observe::Stores;

/// The resources themselves. Their status is the operator's own writing: it calls for no round.
pub(super) fn resources<K: Group>(
    api: Api<K>,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send) {
    let (reader, writer) = store();
    let stream = watcher(api, watcher::Config::default().page_size(PAGE_OBJECTS))
        .default_backoff()
        .modify(|resource| {
            resource.managed_fields_mut().clear();
            // The specification once more, as text.
            resource.annotations_mut().remove(LAST_APPLIED);
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            Default::default(),
        );
    (reader, stream)
}

/// The objects of one kind of resources, in one namespace or in all.
pub(super) struct Scope {
    client: Client,
    namespace: Option<String>,
    config: watcher::Config,
    memories: Arc<Memories>,
}

impl Scope {
    /// Of the resources of kind `K`.
    pub(super) fn of<K: Group>(client: Client, namespace: Option<String>, memories: Arc<Memories>) -> Self {
        let labels = format!("{MANAGED_BY},app.kubernetes.io/component={}", K::SERVICE.name());
        Self {
            client,
            namespace,
            // A connection that died unseen is noticed this much later at most.
            config: watcher::Config::default()
                .labels(&labels)
                .page_size(PAGE_OBJECTS)
                .timeout(WATCH_SECONDS_MAX),
            memories,
        }
    }

    /// Lets every change of an object call for a round through its resource.
    pub(super) fn attach<K: Group>(&self, controller: Controller<K>) -> (Stores, Controller<K>) {
        let (pods, pod_writer) = store();
        let (stateful_sets, stateful_set_writer) = store();
        let (slices, slice_writer) = store();
        let pod_stream = watcher(self.api::<Pod>(), self.config.clone())
            .default_backoff()
            .modify(trim_pod)
            .reflect(pod_writer)
            .touched_objects();
        let memories = Arc::clone(&self.memories);
        let stateful_set_stream = watcher(self.api::<StatefulSet>(), self.config.clone())
            .default_backoff()
            .inspect_ok(move |event| memories.saw(event))
            .modify(trim_stateful_set)
            .reflect(stateful_set_writer)
            .touched_objects();
        let slice_stream = watcher(self.api::<EndpointSlice>(), self.config.clone())
            .default_backoff()
            .modify(|slice| slice.managed_fields_mut().clear())
            .reflect(slice_writer)
            .touched_objects();
        let controller = controller
            .watches_stream(pod_stream, |pod: Pod| owner_of_pod::<K>(&pod))
            .owns_stream(stateful_set_stream)
            .owns_stream(slice_stream)
            .owns_stream(self.versions::<ServiceAccount>())
            .owns_stream(self.versions::<Role>())
            .owns_stream(self.versions::<RoleBinding>())
            .owns_stream(self.versions::<ConfigMap>())
            .owns_stream(self.versions::<Service>())
            .owns_stream(self.versions::<PodDisruptionBudget>())
            .owns_stream(self.versions::<NetworkPolicy>());
        let stores = Stores {
            pods,
            stateful_sets,
            slices,
        };
        (stores, controller)
    }

    /// Of these nothing is kept but that they changed.
    fn versions<C>(&self) -> impl Stream<Item = Result<PartialObjectMeta<C>, watcher::Error>> + Send + use<C>
    where
        C: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let memories = Arc::clone(&self.memories);
        watcher(self.api::<PartialObjectMeta<C>>(), self.config.clone())
            .default_backoff()
            .inspect_ok(move |event| memories.saw(event))
            .touched_objects()
    }

    fn api<C>(&self) -> Api<C>
    where
        C: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

/// Pods belong to the StatefulSet; their label names the resource.
fn owner_of_pod<K: Group>(pod: &Pod) -> Option<ObjectRef<K>> {
    let instance = pod.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(instance).within(&pod.namespace()?))
}

/// A thousand groups have several thousand pods, of which most is never read.
fn trim_pod(pod: &mut Pod) {
    pod.managed_fields_mut().clear();
    pod.metadata.owner_references = None;
    pod.metadata.annotations = None;
    pod.labels_mut()
        .retain(|name, _| POD_LABELS.contains(&name.as_str()));
    if let Some(spec) = &mut pod.spec {
        *spec = core::PodSpec {
            node_name: spec.node_name.take(),
            ..Default::default()
        };
    }
    if let Some(status) = &mut pod.status {
        trim_pod_status(status);
    }
}

/// Keeps what `observe.rs` reads: conditions, addresses, and why a container does not run.
fn trim_pod_status(status: &mut core::PodStatus) {
    let mut conditions = status.conditions.take().unwrap_or_default();
    conditions.retain(|condition| matches!(condition.type_.as_str(), "Ready" | "PodScheduled"));
    conditions.shrink_to_fit();
    let containers = status.container_statuses.take().unwrap_or_default();
    let mut waiting: Vec<_> = containers
        .into_iter()
        .filter(|container| {
            container
                .state
                .as_ref()
                .is_some_and(|state| state.waiting.is_some())
        })
        .map(|container| core::ContainerStatus {
            state: container.state,
            last_state: container.last_state,
            ..Default::default()
        })
        .collect();
    waiting.shrink_to_fit();
    *status = core::PodStatus {
        conditions: Some(conditions),
        pod_ips: status.pod_ips.take(),
        container_statuses: (!waiting.is_empty()).then_some(waiting),
        ..Default::default()
    };
}

fn trim_stateful_set(stateful_set: &mut StatefulSet) {
    stateful_set.managed_fields_mut().clear();
    if let Some(status) = &mut stateful_set.status {
        status.conditions = None;
    }
    if let Some(spec) = &mut stateful_set.spec {
        *spec = k8s_openapi::api::apps::v1::StatefulSetSpec {
            replicas: spec.replicas,
            // For the size of the volumes.
            volume_claim_templates: spec.volume_claim_templates.take(),
            ..Default::default()
        };
    }
}

/// Where plain `kubectl apply` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The labels of pods that are read: whose they are, and of which revision.
const POD_LABELS: [&str; 4] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "controller-revision-hash",
];

/// Objects that a list brings at once: a page of pods has ten kilobytes each, all of which are in memory for a moment.
const PAGE_OBJECTS: u32 = 100;

/// Half a minute: the longest for which a change may go unseen because a connection died without a word.
const WATCH_SECONDS_MAX: u32 = 30;
