//! Who may open a conversation with a member.
//!
//! Only incoming traffic is restricted. A new leader sends to clients whose transfers another pod began: for the
//! network these are new conversations, and a rule about outgoing traffic would end every such transfer.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::names::selector;
use super::stateful_set::{ADMIN_PORT, PEER_PORT};
use crate::validate::Validated;

pub(super) fn network_policy(service: &Validated) -> NetworkPolicy {
    let members = LabelSelector {
        match_labels: Some(selector(service)),
        ..LabelSelector::default()
    };
    let port = |number: u16, protocol: &str| NetworkPolicyPort {
        port: Some(IntOrString::Int(number.into())),
        protocol: Some(protocol.to_owned()),
        ..NetworkPolicyPort::default()
    };
    // Reading is open to all, and changes need the token: kubelets, Prometheus, the operator, people.
    let mut open = vec![port(ADMIN_PORT, "TCP")];
    for client in &service.ports {
        let ports = [Some(client.pod_port), client.member_port];
        open.extend(
            ports
                .into_iter()
                .flatten()
                .map(|number| port(number, client.protocol)),
        );
    }
    NetworkPolicy {
        metadata: metadata(service, service.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(members.clone()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    ports: Some(open),
                    ..NetworkPolicyIngressRule::default()
                },
                NetworkPolicyIngressRule {
                    from: Some(vec![NetworkPolicyPeer {
                        pod_selector: Some(members),
                        ..NetworkPolicyPeer::default()
                    }]),
                    ports: Some(vec![port(PEER_PORT, "TCP")]),
                },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}
