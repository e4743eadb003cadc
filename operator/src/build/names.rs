//! Names, labels and addresses of a group's objects. They outlive an upgrade: selectors cannot be changed.

use std::collections::BTreeMap;

use operator_api::membership::WantedMember;

use super::{ADMIN_PORT, DATA_CLAIM, PEER_PORT};
use crate::validate::{IpFamily, Validated};

/// The field manager of everything but status.
pub(crate) const MANAGER: &str = "quorate-operator";

/// The label that says whose objects these are, as a selector.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by=quorate-operator";

/// What `endpointslice.kubernetes.io/managed-by` says on the leader's slice: no controller of Kubernetes touches it,
/// and the admission policy knows it by this.
pub(crate) const SLICE_MANAGER: &str = "quorate.dev";

/// What finds a group's pods and nothing else.
pub(crate) fn selector(service: &Validated) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "quorate".to_owned()),
        (
            "app.kubernetes.io/component".to_owned(),
            service.kind.name().to_owned(),
        ),
        ("app.kubernetes.io/instance".to_owned(), service.name.clone()),
    ])
}

/// The selector as text, for the scale subresource.
pub(crate) fn selector_text(service: &Validated) -> String {
    let pairs: Vec<_> = selector(service)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// The labels of every object of the group.
pub(crate) fn labels(service: &Validated) -> BTreeMap<String, String> {
    let mut labels = selector(service);
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        "quorate-operator".to_owned(),
    );
    labels
}

/// The pod of an ordinal, which is the member's name too.
pub(crate) fn pod_name(service: &Validated, ordinal: i32) -> String {
    format!("{}-{ordinal}", service.name)
}

/// The number of a pod of the group; none for another name.
pub(crate) fn ordinal(service: &Validated, pod: &str) -> Option<i32> {
    pod.strip_prefix(&service.name)?.strip_prefix('-')?.parse().ok()
}

/// The volume claim of an ordinal, as the StatefulSet names it.
pub(crate) fn claim_name(service: &Validated, ordinal: i32) -> String {
    format!("{DATA_CLAIM}-{}", pod_name(service, ordinal))
}

/// The headless Service that names every member.
pub(super) fn members_service_name(service: &Validated) -> String {
    format!("{}-members", service.name)
}

/// The Service of all ready members.
pub(super) fn every_member_service_name(service: &Validated) -> String {
    format!("{}-read", service.name)
}

/// The Service that leads to the leader alone: the clients' own, unless that leads to every member.
pub(crate) fn leader_service_name(service: &Validated) -> String {
    if service.serves_everywhere {
        format!("{}-leader", service.name)
    } else {
        service.name.clone()
    }
}

/// The leader's endpoint slice of a family.
pub(crate) fn slice_name(service: &Validated, family: IpFamily) -> String {
    slice_name_of(&service.name, family)
}

/// The same, by the resource's name.
pub(crate) fn slice_name_of(resource: &str, family: IpFamily) -> String {
    format!("{resource}-leader-{}", family.address_type().to_lowercase())
}

/// The secret that requests which change something carry; also what remembers that the group exists.
pub(crate) fn token_secret_name(service: &Validated) -> String {
    format!("{}-token", service.name)
}

/// The authority of the certificates between peers, with its key: members do not get it.
pub(crate) fn authority_secret_name(service: &Validated) -> String {
    format!("{}-peer-ca", service.name)
}

/// The certificates between peers.
pub(crate) fn tls_secret_name(service: &Validated) -> String {
    format!("{}-peer-tls", service.name)
}

/// The configuration. Another configuration has another name: a pod that restarts by itself during an upgrade keeps
/// the configuration of its own revision.
pub(crate) fn config_map_name(service: &Validated) -> String {
    format!("{}-config-{}", service.name, service.config_hash)
}

/// Where peers reach a member, by name: a pod's address changes.
pub(crate) fn peer_address(service: &Validated, pod: &str) -> String {
    format!("{}:{PEER_PORT}", host(service, pod))
}

/// Where people and `Follower` hints reach a member's admin port.
pub(crate) fn admin_address(service: &Validated, pod: &str) -> String {
    format!("{}:{ADMIN_PORT}", host(service, pod))
}

fn host(service: &Validated, pod: &str) -> String {
    format!(
        "{pod}.{}.{}.svc.{}",
        members_service_name(service),
        service.namespace,
        service.cluster_domain
    )
}

/// The members that the group is to have.
pub(crate) fn members(service: &Validated) -> Vec<WantedMember> {
    (0..service.replicas)
        .map(|ordinal| {
            let name = pod_name(service, ordinal);
            WantedMember {
                peer_address: peer_address(service, &name),
                admin_address: admin_address(service, &name),
                name,
            }
        })
        .collect()
}
