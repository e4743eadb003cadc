//! Looks at what a cluster has beside the groups. Does I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1 as coordination;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::doctor::{Cluster, Lease, Operator, OperatorPods, Policy};

/// Looks at everything at once.
pub(crate) async fn cluster(client: &Client) -> Cluster {
    let (version, served, policy, operators) =
        tokio::join!(version(client), served(client), policy(client), operators(client));
    Cluster {
        version,
        served,
        policy,
        operators,
    }
}

async fn version(client: &Client) -> Result<(u32, u32), String> {
    let version = client
        .apiserver_version()
        .await
        .map_err(|error| error.to_string())?;
    // Some providers write `33+`.
    let number = |text: &str| {
        text.trim_end_matches('+')
            .parse()
            .map_err(|_| format!("`{text}` is no version"))
    };
    Ok((number(&version.major)?, number(&version.minor)?))
}

async fn served(client: &Client) -> Result<Vec<String>, String> {
    match client.list_api_group_resources("quorate.dev/v1alpha1").await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}

async fn policy(client: &Client) -> Result<Policy, String> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let found = policies
        .get_opt(POLICY)
        .await
        .map_err(|error| error.to_string())?;
    if found.is_none() {
        return Ok(Policy::Missing);
    }
    let bindings = bindings
        .list(&ListParams::default())
        .await
        .map_err(|error| error.to_string())?;
    let is_bound = bindings
        .items
        .iter()
        .filter_map(|binding| binding.spec.as_ref())
        .any(|binding| {
            let actions = binding.validation_actions.iter().flatten();
            binding.policy_name.as_deref() == Some(POLICY)
                && actions.into_iter().any(|action| action == "Deny")
        });
    Ok(if is_bound {
        Policy::Enforced
    } else {
        Policy::Unbound
    })
}

async fn operators(client: &Client) -> Result<Vec<Operator>, String> {
    let deployments: Api<Deployment> = Api::all(client.clone());
    let ours =
        ListParams::default().labels("app.kubernetes.io/name=quorate,app.kubernetes.io/component=operator");
    let found = deployments.list(&ours).await.map_err(|error| error.to_string())?;
    let (own, outside) = tokio::join!(
        futures::future::join_all(found.items.iter().map(|deployment| operator(client, deployment))),
        outside(client, leases_of(&found.items)),
    );
    let mut operators: Vec<_> = own;
    match outside {
        // What a removed installation left behind says nothing beside another one.
        Ok(found) if operators.is_empty() => operators.extend(found),
        Ok(found) => operators.extend(found.into_iter().filter(is_at_work)),
        Err(why) if operators.is_empty() => return Err(why),
        Err(_) => {}
    }
    Ok(operators)
}

fn is_at_work(operator: &Operator) -> bool {
    matches!(&operator.lease, Ok(Some(lease)) if lease.is_renewed)
}

/// The Leases of these Deployments: namespace and name.
fn leases_of(deployments: &[Deployment]) -> BTreeSet<(String, String)> {
    let place = |deployment: &Deployment| {
        let namespace = deployment.namespace().unwrap_or_default();
        (namespace, lease_name(deployment))
    };
    deployments.iter().map(place).collect()
}

/// Operators that no Deployment runs: on somebody's machine, say. Their Lease has the usual name.
async fn outside(client: &Client, known: BTreeSet<(String, String)>) -> Result<Vec<Operator>, String> {
    let leases: Api<coordination::Lease> = Api::all(client.clone());
    let usual = ListParams::default().fields(&format!("metadata.name={LEASE}"));
    let found = leases.list(&usual).await.map_err(|error| error.to_string())?;
    let places = found
        .items
        .iter()
        .map(|lease| (lease.namespace().unwrap_or_default(), lease.name_any()));
    let operators = places
        .filter(|place| !known.contains(place))
        .map(|(namespace, name)| async move {
            Operator {
                name: format!("{namespace}/{name}"),
                pods: None,
                lease: lease(client, &namespace, &name).await,
            }
        });
    Ok(futures::future::join_all(operators).await)
}

async fn operator(client: &Client, deployment: &Deployment) -> Operator {
    let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas);
    Operator {
        pods: Some(OperatorPods {
            wanted: wanted.unwrap_or(1),
            ready: ready.unwrap_or(0),
        }),
        lease: lease(client, &namespace, &lease_name(deployment)).await,
        name: format!("{namespace}/{name}"),
    }
}

/// The Lease has the name that the chart gives it, unless somebody set another.
fn lease_name(deployment: &Deployment) -> String {
    let containers = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .map(|pod| pod.containers.as_slice())
        .unwrap_or_default();
    containers
        .iter()
        .flat_map(|container| container.env.iter().flatten())
        .find(|variable| variable.name == "LEASE_NAME")
        .and_then(|variable| variable.value.clone())
        .unwrap_or_else(|| LEASE.to_owned())
}

/// Watches a Lease until it is renewed. The times in it are another machine's clock, so that they say nothing here.
async fn lease(client: &Client, namespace: &str, name: &str) -> Result<Option<Lease>, String> {
    let leases: Api<coordination::Lease> = Api::namespaced(client.clone(), namespace);
    let look = async || leases.get_opt(name).await.map_err(|error| error.to_string());
    let Some(first) = look().await? else {
        return Ok(None);
    };
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(now) = look().await? else { return Ok(None) };
        if now.metadata.resource_version != first.metadata.resource_version {
            return Ok(Some(read(&now, true)));
        }
    }
    Ok(Some(read(&first, false)))
}

fn read(lease: &coordination::Lease, is_renewed: bool) -> Lease {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    Lease {
        holder: holder.filter(|holder| !holder.is_empty()),
        is_renewed,
    }
}

/// As operators name it when they are told no other name.
const LEASE: &str = "quorate-operator";

/// As the chart names it.
const POLICY: &str = "quorate-leader-slices";

/// An operator renews its Lease every 2 s.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// For 6 s.
const LOOKS: usize = 12;
