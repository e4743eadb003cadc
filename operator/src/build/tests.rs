use expect_test::expect_file;
use operator_api::resources::{AdcHub, KvCluster, TftpCluster};

use super::*;
use crate::validate::{IpFamily, Settings, validate};

fn settings() -> Settings {
    Settings {
        agent_image: Some("registry.example/quorate-agent:1.2.3".to_owned()),
        cluster_domain: "cluster.local".to_owned(),
        ip_family: IpFamily::V4,
    }
}

fn service(spec: serde_json::Value) -> Validated {
    let resource: TftpCluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "TftpCluster",
        "metadata": {"name": "boot", "namespace": "racks", "uid": "11111111-1111", "generation": 4},
        "spec": spec,
    }))
    .unwrap();
    validate(&resource, &settings()).unwrap()
}

fn around(pods: i32) -> Surroundings {
    Surroundings {
        pods,
        has_pod_monitors: false,
        volume_size: None,
        certificates: Certificates::default(),
        is_between_stateful_sets: false,
    }
}

/// One YAML document for each object, as `kubectl get -o yaml` would show them.
fn documents(children: &[Child]) -> String {
    children
        .iter()
        .map(|child| format!("---\n{}", serde_yaml::to_string(&child.body).unwrap()))
        .collect()
}

fn child<'a>(children: &'a [Child], kind: &str, name: &str) -> &'a serde_json::Value {
    let found = children
        .iter()
        .find(|child| child.api.kind == kind && child.name.starts_with(name));
    &found.unwrap_or_else(|| panic!("no {kind} {name}")).body
}

#[test]
fn shortest_resource_becomes_these_objects() {
    let service = service(serde_json::json!({}));
    expect_file!["snapshots/shortest.yaml"].assert_eq(&documents(&children(&service, &around(3))));
}

#[test]
fn every_field_of_the_resource_arrives() {
    let service = service(serde_json::json!({
        "replicas": 5,
        "image": "registry.example/agent:9",
        "imagePullPolicy": "IfNotPresent",
        "imagePullSecrets": [{"name": "pull"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "storage": {"type": "PersistentVolume", "size": "7Gi", "storageClassName": "fast", "whenDeleted": "Delete"},
        "service": {
            "type": "LoadBalancer", "port": 1069, "nodePort": 30069, "annotations": {"a.example/b": "c"},
            "externalTrafficPolicy": "Local", "loadBalancerClass": "lb.example/x",
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "ipFamilies": ["IPv6", "IPv4"], "hostNetwork": true
        },
        "timing": "Edge",
        "durability": "Relaxed",
        "scheduling": {
            "nodeSelector": {"disk": "ssd"}, "spread": "Preferred", "priorityClassName": "high",
            "tolerations": [{"operator": "Exists", "key": "k", "effect": "NoExecute", "tolerationSeconds": 60}]
        },
        "tls": {"mode": "SelfIssued"},
        "logLevel": "debug",
        "logFormat": "Text",
        "drainSeconds": 40,
        "upgrade": {"type": "OnDelete", "minReadySeconds": 3, "progressDeadlineSeconds": 60},
        "uploads": [{"prefix": "backup/", "overwrite": true, "from": ["192.0.2.0/24"]}],
        "sources": [
            {"name": "boot", "type": "ConfigMap", "configMap": {"name": "boot-files", "prefix": "pxe"}},
            {"name": "images", "type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "images"}},
            {"name": "kernel", "type": "Http", "http": {
                "url": "https://mirror.example/vmlinuz", "path": "vmlinuz", "bytesMax": "64Mi", "caConfigMapRef": {"name": "roots"},
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            }}
        ],
        "limits": {"sessionsMax": 10, "sessionsPerClientMax": 9, "blockSizeMax": 1468, "cacheBytesMax": "8Mi"}
    }));
    let children = children(
        &service,
        &Surroundings {
            has_pod_monitors: true,
            ..around(5)
        },
    );
    expect_file!["snapshots/every-field.yaml"].assert_eq(&documents(&children));
}

#[test]
fn ephemeral_disk_goes_with_its_pod() {
    let service = service(serde_json::json!({"storage": {
        "type": "Ephemeral", "size": "300Mi", "whenDeleted": "Delete"
    }}));
    let children = children(&service, &around(1));
    let spec = &child(&children, "StatefulSet", "boot")["spec"];
    assert_eq!(spec.get("volumeClaimTemplates"), None);
    let volumes = spec["template"]["spec"]["volumes"].as_array().unwrap();
    let data = volumes.iter().find(|volume| volume["name"] == "data").unwrap();
    assert_eq!(data["emptyDir"]["sizeLimit"], "300Mi");
}

#[test]
fn another_configuration_has_another_name_and_so_another_revision() {
    let (one, other) = (
        service(serde_json::json!({})),
        service(serde_json::json!({"logLevel": "debug"})),
    );
    assert_ne!(config_map_name(&one), config_map_name(&other));
    let template = |service: &Validated| {
        child(&children(service, &around(3)), "StatefulSet", "boot")["spec"]["template"].to_string()
    };
    assert_ne!(template(&one), template(&other));
    // The number of members is no part of it: scaling restarts nobody.
    let larger = service(serde_json::json!({"replicas": 5}));
    assert_eq!(template(&one), template(&larger));
}

#[test]
fn the_agent_reads_its_configuration() {
    let service = service(serde_json::json!({}));
    let read: operator_api::AgentConfig = serde_json::from_str(&service.config_text).unwrap();
    assert_eq!(read, service.agent);
}

fn leader(pod: &str, epoch: &str) -> LeaderEndpoint {
    LeaderEndpoint {
        pod: pod.to_owned(),
        pod_uid: format!("uid-of-{pod}"),
        node: "n1".to_owned(),
        addresses: vec!["10.1.0.7".to_owned(), "fd00::7".to_owned()],
        epoch: epoch.parse().unwrap(),
    }
}

#[test]
fn first_slice_is_empty_and_needs_repair_once_somebody_leads() {
    let service = service(serde_json::json!({}));
    let slice = leader_slice(&service, IpFamily::V4, None);
    expect_file!["snapshots/first-slice.yaml"].assert_eq(&serde_yaml::to_string(&slice).unwrap());
    assert!(!is_slice_right(
        &slice,
        &service,
        IpFamily::V4,
        &leader("boot-0", "1.1")
    ));
}

#[test]
fn slice_is_right_for_its_leader_and_for_later_ones_only() {
    let service = service(serde_json::json!({}));
    let now = leader("boot-1", "3.2");
    let slice = leader_slice(&service, IpFamily::V4, Some(&now));
    expect_file!["snapshots/slice.yaml"].assert_eq(&serde_yaml::to_string(&slice).unwrap());
    let is_right = |slice: &_, leader: &_| is_slice_right(slice, &service, IpFamily::V4, leader);
    assert!(is_right(&slice, &now));
    // Whoever wrote it knows of a later leader than this operator does.
    assert!(is_right(&slice, &leader("boot-0", "2.9")));
    assert!(is_slice_ahead(&slice, &leader("boot-0", "2.9")) && !is_slice_ahead(&slice, &now));
    assert!(!is_right(&slice, &leader("boot-0", "3.3")));
    assert!(!is_right(&slice, &leader("boot-0", "10.1")));
    let edits: [fn(&mut k8s_openapi::api::discovery::v1::EndpointSlice); 6] = [
        |slice| slice.endpoints.clear(),
        |slice| slice.endpoints[0].addresses = vec!["10.9.9.9".to_owned()],
        |slice| slice.endpoints.push(slice.endpoints[0].clone()),
        |slice| slice.ports = None,
        |slice| slice.metadata.labels = None,
        |slice| slice.metadata.annotations = None,
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let mut edited = slice.clone();
        edit(&mut edited);
        assert!(!is_right(&edited, &now), "edit {number}");
    }
    let mut drains = slice.clone();
    drains.endpoints.push(slice.endpoints[0].clone());
    let leaving = drains.endpoints[1].conditions.get_or_insert_default();
    (leaving.ready, leaving.serving, leaving.terminating) = (Some(false), Some(true), Some(true));
    assert!(is_right(&drains, &now), "the leader before this one drains");
    drains.endpoints.reverse();
    assert!(!is_right(&drains, &now), "the leader itself is not ready");
}

#[test]
fn services_that_ask_for_no_family_have_the_clusters() {
    let resource: TftpCluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "TftpCluster",
        "metadata": {"name": "boot", "namespace": "racks", "uid": "11111111-1111"}, "spec": {},
    }))
    .unwrap();
    let served_at = |host| {
        let settings = Settings {
            ip_family: IpFamily::of(host),
            ..settings()
        };
        let service = validate(&resource, &settings).unwrap();
        let operator_api::config::ServiceConfig::Tftp(tftp) = &service.agent.service else {
            panic!("{:?}", service.agent.service);
        };
        (service.service.slices.clone(), tftp.listen.to_string())
    };
    let ipv4 = (vec![IpFamily::V4], "0.0.0.0:6969".to_owned());
    assert_eq!(served_at(None), ipv4);
    assert_eq!(served_at(Some("10.96.0.1")), ipv4);
    assert_eq!(served_at(Some("api.example")), ipv4);
    assert_eq!(
        served_at(Some("fd00:96::1")),
        (vec![IpFamily::V6], "[::]:6969".to_owned())
    );
}

#[test]
fn slices_take_the_address_of_their_own_family() {
    let service = service(serde_json::json!({"service": {"ipFamilies": ["IPv4", "IPv6"]}}));
    let leader = leader("boot-1", "3.2");
    let address = |family| leader_slice(&service, family, Some(&leader)).endpoints[0].addresses[0].clone();
    assert_eq!(
        (address(IpFamily::V4), address(IpFamily::V6)),
        ("10.1.0.7".into(), "fd00::7".into())
    );
    let mut single = leader.clone();
    single.addresses.pop();
    // A pod without an address of a family has nothing to publish there.
    let slice = leader_slice(&service, IpFamily::V6, Some(&single));
    assert!(slice.endpoints.is_empty());
    assert!(is_slice_right(&slice, &service, IpFamily::V6, &single));
}

#[test]
fn members_of_a_key_value_store_have_a_port_beside_the_leaders() {
    let resource: KvCluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "settings", "namespace": "racks", "uid": "11111111-1111", "generation": 1},
        "spec": {"limits": {"valueBytesMax": "64Ki", "connectionsMax": 7}},
    }))
    .unwrap();
    let service = validate(&resource, &settings()).unwrap();
    let operator_api::config::ServiceConfig::Kv(kv) = &service.agent.service else {
        panic!("{:?}", service.agent.service);
    };
    assert_eq!((kv.value_bytes_max, kv.connections_max), (65_536, 7));
    assert_eq!((kv.listen.port(), kv.member_listen.port()), (2390, 2391));
    let children = children(&service, &around(3));
    let leads_to = |name: &str, port: &str| {
        let object = children
            .iter()
            .find(|child| child.api.kind == "Service" && child.name == name)
            .unwrap();
        let ports = object.body["spec"]["ports"].as_array().unwrap();
        let port = ports.iter().find(|found| found["name"] == port).unwrap();
        (port["port"].clone(), port["targetPort"].clone())
    };
    // The leader's own port is closed while leadership moves.
    assert_eq!(leads_to("settings", "kv"), (2390.into(), 2391.into()));
    assert_eq!(leads_to("settings-read", "kv"), (2390.into(), 2391.into()));
    let pod = child(&children, "StatefulSet", "settings");
    let ports = pod["spec"]["template"]["spec"]["containers"][0]["ports"].to_string();
    assert!(ports.contains("2390") && ports.contains("2391"), "{ports}");
    let policy = child(&children, "NetworkPolicy", "settings").to_string();
    assert!(policy.contains("2390") && policy.contains("2391"), "{policy}");
}

#[test]
fn stateful_set_keeps_its_volume_size_until_it_is_made_anew() {
    let service = service(serde_json::json!({"storage": {"size": "8Gi"}}));
    let size_of = |around: &Surroundings| {
        let children = children(&service, around);
        let templates = &child(&children, "StatefulSet", "boot")["spec"]["volumeClaimTemplates"];
        templates[0]["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!(size_of(&around(3)), "8Gi");
    let standing = Surroundings {
        volume_size: Some(Quantity("2Gi".to_owned())),
        ..around(3)
    };
    assert_eq!(size_of(&standing), "2Gi");
    let between = Surroundings {
        is_between_stateful_sets: true,
        ..around(3)
    };
    assert!(
        children(&service, &between)
            .iter()
            .all(|child| child.api.kind != "StatefulSet")
    );
}

#[test]
fn store_mounts_its_tokens_and_certificate() {
    let resource: KvCluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "settings", "namespace": "racks", "uid": "3"},
        "spec": {"tokens": {"secretRef": {"name": "access"}}, "clientTls": {"secretRef": {"name": "front"}}},
    }))
    .unwrap();
    let service = validate(&resource, &settings()).unwrap();
    let objects = children(&service, &around(3));
    let pod = &child(&objects, "StatefulSet", "settings")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    for (volume, secret) in [("tokens", "access"), ("client-tls", "front")] {
        let found = volumes.iter().find(|found| found["name"] == volume).unwrap();
        assert_eq!(found["secret"]["secretName"], secret);
    }
    let config: serde_json::Value = serde_json::from_str(&service.config_text).unwrap();
    assert_eq!(config["service"]["tokensFile"], "/etc/quorate/tokens/tokens.json");
    assert_eq!(
        config["service"]["tls"]["keyFile"],
        "/etc/quorate/client-tls/tls.key"
    );
}

fn hub(spec: serde_json::Value) -> Validated {
    let resource: AdcHub = serde_json::from_value(serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "AdcHub",
        "metadata": {"name": "lounge", "namespace": "talk", "uid": "22222222-2222"},
        "spec": spec,
    }))
    .unwrap();
    validate(&resource, &settings()).unwrap()
}

#[test]
fn hub_is_reached_at_every_member_or_at_its_leader() {
    let every = hub(serde_json::json!({}));
    let objects = children(&every, &around(3));
    let named = |objects: &[Child], name: &str| {
        let services = objects.iter().filter(|child| child.api.kind == "Service");
        let mut found = services.filter(|child| child.name == name);
        found.next().map(|child| child.body["spec"].clone())
    };
    let selector = named(&objects, "lounge").unwrap()["selector"].clone();
    assert_eq!(selector["app.kubernetes.io/instance"], "lounge");
    assert_eq!(named(&objects, "lounge-leader").unwrap().get("selector"), None);
    let slice = leader_slice(&every, IpFamily::V4, None);
    let label = "kubernetes.io/service-name";
    assert_eq!(slice.metadata.labels.unwrap()[label], "lounge-leader");

    let leader = hub(serde_json::json!({"frontends": "Leader"}));
    let objects = children(&leader, &around(3));
    assert_eq!(named(&objects, "lounge").unwrap().get("selector"), None);
    assert_eq!(named(&objects, "lounge-leader"), None);
    let slice = leader_slice(&leader, IpFamily::V4, None);
    assert_eq!(slice.metadata.labels.unwrap()[label], "lounge");
}

#[test]
fn hub_mounts_its_users_and_certificate() {
    let service = hub(serde_json::json!({
        "registeredUsers": {"secretRef": {"name": "people"}},
        "clientTls": {"secretRef": {"name": "front"}},
    }));
    let objects = children(&service, &around(3));
    let pod = &child(&objects, "StatefulSet", "lounge")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    for (volume, secret) in [("users", "people"), ("client-tls", "front")] {
        let found = volumes.iter().find(|found| found["name"] == volume).unwrap();
        assert_eq!(found["secret"]["secretName"], secret);
    }
    let config: serde_json::Value = serde_json::from_str(&service.config_text).unwrap();
    assert_eq!(config["service"]["usersFile"], "/etc/quorate/users/users.json");
    assert_eq!(
        config["service"]["tls"]["certFile"],
        "/etc/quorate/client-tls/tls.crt"
    );
    assert_eq!(
        config["service"]["passwordKeyFile"],
        "/etc/quorate/token/password-key"
    );
    let secret = token_secret(&service, "t", Some("k"));
    assert_eq!(secret.data.unwrap()["password-key"].0, b"k");
}

#[test]
fn replaced_certificates_are_told_on_the_pods_and_beside_them() {
    let around = Surroundings {
        certificates: Certificates {
            seen: Some("b".to_owned()),
            pods: Some("a".to_owned()),
        },
        ..around(3)
    };
    let children = children(&service(serde_json::json!({})), &around);
    let set = child(&children, "StatefulSet", "boot");
    let own = &set["metadata"]["annotations"];
    assert_eq!(own[CERTIFICATES_ANNOTATION], "b");
    assert_eq!(own[PODS_CERTIFICATES_ANNOTATION], "a");
    let pods = &set["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(pods[CERTIFICATES_ANNOTATION], "a");
}
