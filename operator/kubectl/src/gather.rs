//! Looks at groups: their objects, and what their members say. Does I/O.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use operator_api::MemberStatus;
use operator_api::epoch::LEADER_EPOCH_ANNOTATION;

use crate::reach::Member;
use crate::view::{Address, Budget, Group, KINDS, Kind, Pod, Route, Volume};

/// Which groups are meant.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// The namespace; all without one.
    pub namespace: Option<String>,
    /// `boot`, `tftp/boot`, `TftpCluster/boot`; all groups without any.
    pub names: Vec<String>,
}

/// The API of a kind.
pub(crate) fn resource(kind: &Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk("quorate.dev", "v1alpha1", kind.kind);
    ApiResource::from_gvk_with_plural(&gvk, kind.plural)
}

/// A resource with its kind.
pub(crate) type Found = (&'static Kind, DynamicObject);

/// The resources that are meant, sorted. Each name must be somebody's.
pub(crate) async fn find(client: &Client, selection: &Selection) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in &KINDS {
        let api: Api<DynamicObject> = match &selection.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(kind)),
            None => Api::all_with(client.clone(), &resource(kind)),
        };
        let list = match api.list(&ListParams::default()).await {
            Ok(list) => list,
            // The definition of this kind is not installed.
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error).with_context(|| format!("listing {}", kind.plural)),
        };
        found.extend(list.items.into_iter().map(|resource| (kind, resource)));
    }
    if !selection.names.is_empty() {
        for name in &selection.names {
            if !found.iter().any(|found| is_meant(found, name)) {
                let place = selection.namespace.as_deref().unwrap_or("any namespace");
                bail!("there is no resource `{name}` in {place}: `kubectl get quorate -A` lists all");
            }
        }
        found.retain(|found| selection.names.iter().any(|name| is_meant(found, name)));
    }
    found.sort_by_key(|(kind, resource)| (resource.namespace(), resource.name_any(), kind.kind));
    Ok(found)
}

/// Whether somebody who types a name means this resource.
fn is_meant((kind, resource): &Found, typed: &str) -> bool {
    let (of_kind, name) = match typed.split_once('/') {
        Some((of_kind, name)) => (Some(of_kind.to_ascii_lowercase()), name),
        None => (None, typed),
    };
    let names = [
        kind.kind.to_ascii_lowercase(),
        kind.plural.to_owned(),
        kind.short.to_owned(),
    ];
    name == resource.name_any() && of_kind.is_none_or(|typed| names.contains(&typed))
}

/// Looks at many groups at once.
pub(crate) async fn groups(client: &Client, found: Vec<Found>) -> Vec<Group> {
    stream::iter(found)
        .map(|(kind, resource)| group(client, kind, resource))
        .buffered(GROUPS_AT_ONCE_MAX)
        .collect()
        .await
}

/// Looks at one group.
pub(crate) async fn group(client: &Client, kind: &'static Kind, resource: DynamicObject) -> Group {
    let mut seen = Group {
        kind: kind.kind.to_owned(),
        namespace: resource.namespace().unwrap_or_default(),
        name: resource.name_any(),
        generation: resource.metadata.generation,
        is_paused: resource
            .annotations()
            .get("quorate.dev/pause")
            .map(String::as_str)
            == Some("true"),
        serves_everywhere: kind.kind == "AdcHub" && resource.data["spec"]["frontends"] == "EveryMember",
        spec: None,
        status: serde_json::from_value(resource.data["status"].clone()).unwrap_or_default(),
        pods: BTreeMap::new(),
        answers: BTreeMap::new(),
        routes: BTreeMap::new(),
        address: None,
        budget: None,
        volumes: BTreeMap::new(),
        unseen: Vec::new(),
    };
    match serde_json::from_value(resource.data["spec"].clone()) {
        Ok(spec) => seen.spec = Some(spec),
        Err(error) => seen.unseen.push(format!("the specification: {error}")),
    }
    objects(client, &mut seen).await;
    seen.answers = answers(client, &seen).await;
    seen
}

async fn objects(client: &Client, seen: &mut Group) {
    let component = match seen.kind.as_str() {
        "TftpCluster" => "tftp",
        "KvCluster" => "kv",
        _ => "adc",
    };
    let labels = format!(
        "app.kubernetes.io/name=quorate,app.kubernetes.io/component={component},app.kubernetes.io/instance={}",
        seen.name
    );
    let ours = ListParams::default().labels(&labels);
    let space = seen.namespace.as_str();
    let (pods, slices, budgets, claims, service) = (
        Api::<core::Pod>::namespaced(client.clone(), space),
        Api::<EndpointSlice>::namespaced(client.clone(), space),
        Api::<PodDisruptionBudget>::namespaced(client.clone(), space),
        Api::<core::PersistentVolumeClaim>::namespaced(client.clone(), space),
        Api::<core::Service>::namespaced(client.clone(), space),
    );
    let (pods, slices, budgets, claims, service) = tokio::join!(
        pods.list(&ours),
        slices.list(&ours),
        budgets.list(&ours),
        claims.list(&ours),
        service.get_opt(&seen.name),
    );
    let mut unseen = Vec::new();
    let pods = taken("pods", pods, &mut unseen).unwrap_or_default();
    seen.pods = pods.iter().map(|found| (found.name_any(), pod(found))).collect();
    let slices = taken("endpointslices", slices, &mut unseen).unwrap_or_default();
    let leading = format!("{}-leader-", seen.name);
    seen.routes = slices
        .iter()
        .filter(|slice| slice.name_any().starts_with(&leading))
        .map(|slice| (slice.name_any(), route(slice)))
        .collect();
    let budgets = taken("poddisruptionbudgets", budgets, &mut unseen).unwrap_or_default();
    seen.budget = budgets.first().map(|found| Budget {
        disruptions_allowed: found
            .status
            .as_ref()
            .map_or(0, |status| status.disruptions_allowed),
    });
    let claims = taken("persistentvolumeclaims", claims, &mut unseen).unwrap_or_default();
    seen.volumes = claims
        .iter()
        .map(|found| (found.name_any(), volume(found)))
        .collect();
    match service {
        Ok(found) => seen.address = found.as_ref().map(address),
        Err(error) => unseen.push(format!("services: {error}")),
    }
    seen.unseen.append(&mut unseen);
}

fn taken<K: Clone>(
    what: &str,
    list: Result<kube::api::ObjectList<K>, kube::Error>,
    unseen: &mut Vec<String>,
) -> Option<Vec<K>> {
    list.map(|list| list.items)
        .map_err(|error| unseen.push(format!("{what}: {error}")))
        .ok()
}

fn pod(found: &core::Pod) -> Pod {
    let status = found.status.clone().unwrap_or_default();
    let containers = status.container_statuses.clone().unwrap_or_default();
    let condition = |type_: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == type_).cloned()
    };
    let waiting = containers.iter().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| *reason != "ContainerCreating")?;
        let message = waiting.message.as_deref().unwrap_or("its log says why");
        Some(format!("{reason}: {message}"))
    });
    let unscheduled = condition("PodScheduled")
        .filter(|scheduled| scheduled.status == "False")
        .and_then(|scheduled| scheduled.message)
        .map(|why| format!("no node takes it: {why}"));
    Pod {
        node: found.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        is_ready: condition("Ready").is_some_and(|ready| ready.status == "True"),
        phase: status.phase.clone().unwrap_or_default(),
        restarts: containers.iter().map(|container| container.restart_count).sum(),
        trouble: waiting.or(unscheduled),
    }
}

fn route(slice: &EndpointSlice) -> Route {
    let ready = slice.endpoints.iter().find(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    Route {
        pod: ready
            .and_then(|endpoint| endpoint.target_ref.as_ref())
            .and_then(|target| target.name.clone()),
        addresses: ready
            .map(|endpoint| endpoint.addresses.clone())
            .unwrap_or_default(),
        epoch: slice.annotations().get(LEADER_EPOCH_ANNOTATION).cloned(),
    }
}

fn volume(claim: &core::PersistentVolumeClaim) -> Volume {
    let (spec, status) = (
        claim.spec.clone().unwrap_or_default(),
        claim.status.clone().unwrap_or_default(),
    );
    let storage =
        |amounts: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            amounts.and_then(|amounts| amounts.get("storage").map(|amount| amount.0.clone()))
        };
    Volume {
        phase: status.phase.unwrap_or_default(),
        requested: storage(spec.resources.and_then(|resources| resources.requests)),
        capacity: storage(status.capacity),
        class: spec.storage_class_name,
    }
}

fn address(service: &core::Service) -> Address {
    let spec = service.spec.clone().unwrap_or_default();
    let balancer = service
        .status
        .clone()
        .unwrap_or_default()
        .load_balancer
        .unwrap_or_default();
    let mut hosts: Vec<_> = balancer
        .ingress
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.ip.or(ingress.hostname))
        .collect();
    if hosts.is_empty() {
        hosts = spec.cluster_ips.clone().unwrap_or_default();
    }
    let ports = spec.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
            None => format!("{}/{protocol}", port.port),
        }
    });
    Address {
        type_: spec.type_.clone().unwrap_or_default(),
        hosts,
        ports: ports.collect(),
        has_selector: spec.selector.is_some_and(|selector| !selector.is_empty()),
    }
}

/// Asks every member that has a running pod; the others are said not to run.
pub(crate) async fn answers(client: &Client, seen: &Group) -> BTreeMap<String, Result<MemberStatus, String>> {
    stream::iter(&seen.pods)
        .map(|(name, pod)| async move {
            if pod.phase != "Running" {
                return (name.clone(), Err(format!("its pod is {}", pod.phase)));
            }
            let member = Member {
                client,
                namespace: &seen.namespace,
                name,
            };
            let answer = member.status().await;
            (name.clone(), answer.map_err(|error| format!("{error:#}")))
        })
        .buffer_unordered(MEMBERS_AT_ONCE_MAX)
        .collect()
        .await
}

/// A person waits; an API server has other work too.
const GROUPS_AT_ONCE_MAX: usize = 4;

/// More members than a group has.
const MEMBERS_AT_ONCE_MAX: usize = 8;
