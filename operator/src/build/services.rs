//! The Services of a group.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::names::{every_member_service_name, leader_service_name, members_service_name, selector};
use super::stateful_set::{ADMIN_PORT, PEER_PORT};
use crate::validate::Validated;

/// Names for the members, known before they are ready: they must find each other to become ready.
pub(super) fn members(service: &Validated) -> Service {
    Service {
        metadata: metadata(service, members_service_name(service)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(service)),
            ports: Some(vec![tcp("peer", PEER_PORT), tcp("admin", ADMIN_PORT)]),
            ..families(service)
        }),
        ..Service::default()
    }
}

/// The clients' address. It has no selector: the leader itself writes where it leads to; unless clients may come to any
/// member.
pub(super) fn clients(service: &Validated) -> Service {
    let shape = &service.service;
    let ports = client_ports(service).map(|port| ServicePort {
        node_port: shape.node_port,
        ..port
    });
    let mut object = Service {
        metadata: metadata(service, service.name.clone()),
        spec: Some(ServiceSpec {
            type_: Some(shape.type_.to_owned()),
            selector: service.serves_everywhere.then(|| selector(service)),
            ports: Some(ports.collect()),
            external_traffic_policy: shape.external_traffic_policy.map(str::to_owned),
            load_balancer_class: shape.load_balancer_class.clone(),
            load_balancer_source_ranges: (!shape.load_balancer_source_ranges.is_empty())
                .then(|| shape.load_balancer_source_ranges.clone()),
            ..families(service)
        }),
        ..Service::default()
    };
    if !shape.annotations.is_empty() {
        object.metadata.annotations = Some(shape.annotations.clone());
    }
    object
}

/// The address of the leader alone, beside one that leads to every member. It has no selector.
pub(super) fn leader(service: &Validated) -> Service {
    Service {
        metadata: metadata(service, leader_service_name(service)),
        spec: Some(ServiceSpec {
            ports: Some(client_ports(service).collect()),
            ..families(service)
        }),
        ..Service::default()
    }
}

fn client_ports(service: &Validated) -> impl Iterator<Item = ServicePort> {
    service.ports.iter().map(|port| ServicePort {
        name: Some(port.name.to_owned()),
        port: port.service_port.into(),
        protocol: Some(port.protocol.to_owned()),
        target_port: Some(IntOrString::Int(port.route_port().into())),
        ..ServicePort::default()
    })
}

/// All ready members, for clients that may ask any of them, and for people.
pub(super) fn every_member(service: &Validated) -> Service {
    let mut ports = vec![tcp("admin", ADMIN_PORT)];
    let open = service.ports.iter();
    let open = open.filter_map(|port| Some((port, port.member_port?)));
    ports.extend(open.map(|(port, member_port)| ServicePort {
        name: Some(port.name.to_owned()),
        port: port.service_port.into(),
        protocol: Some(port.protocol.to_owned()),
        target_port: Some(IntOrString::Int(member_port.into())),
        ..ServicePort::default()
    }));
    Service {
        metadata: metadata(service, every_member_service_name(service)),
        spec: Some(ServiceSpec {
            selector: Some(selector(service)),
            ports: Some(ports),
            ..families(service)
        }),
        ..Service::default()
    }
}

fn families(service: &Validated) -> ServiceSpec {
    let shape = &service.service;
    ServiceSpec {
        ip_families: (!shape.ip_families.is_empty()).then(|| {
            let families = shape.ip_families.iter();
            families.map(|family| family.address_type().to_owned()).collect()
        }),
        ip_family_policy: shape.ip_family_policy.map(str::to_owned),
        ..ServiceSpec::default()
    }
}

fn tcp(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
