//! The API server refuses what must never be written into a slice that names a leader, whoever asks.

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::kubernetes::{ClientPod, Cluster, PATIENCE, Space};
use serde_json::{Value, json};

const POLICY: &str = "charts/quorate/files/leader-slice-policy.yaml";
const SLICE: &str = "boot-leader-ipv4";
const EPOCH: &str = "quorate.dev/leader-epoch";

/// Two pods of one service account, which may write the slice and nothing else, and the slice at epoch 10.3.
struct Scene<'a> {
    space: Space<'a>,
    /// A token of each pod, as the kubelet mounts them.
    tokens: [String; 2],
}

impl<'a> Scene<'a> {
    fn set(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let space = Space::new(cluster, "leader-slice")?;
        space.apply(PERMISSION)?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": SLICE,
                "labels": {
                    "endpointslice.kubernetes.io/managed-by": "quorate.dev",
                    "kubernetes.io/service-name": "boot",
                },
                "annotations": {EPOCH: "10.3"},
            },
            "addressType": "IPv4",
            "endpoints": [endpoint("boot-0", true)],
            "ports": [{"name": "tftp", "port": 6969, "protocol": "UDP"}],
        });
        space.apply(&slice.to_string())?;
        let token = |pod: &str| -> anyhow::Result<String> {
            ClientPod::start_as(&space, pod, None, "agent")?;
            let uid = space.get("pod", pod)?["metadata"]["uid"].clone();
            let uid = uid.as_str().context("the pod has no UID")?;
            let bound = [
                "--bound-object-kind=Pod",
                "--bound-object-name",
                pod,
                "--bound-object-uid",
                uid,
            ];
            let token = space.kubectl(&[&["create", "token", "agent"], &bound[..]].concat())?;
            Ok(token.trim().to_owned())
        };
        let tokens = [token("boot-0")?, token("boot-1")?];
        Ok(Self { space, tokens })
    }

    /// The pod with that number replaces the slice after `change`.
    fn write(&self, pod: usize, change: impl Fn(&mut Value)) -> anyhow::Result<()> {
        let mut slice = self.space.get("endpointslice", SLICE)?;
        change(&mut slice);
        self.space.replace_as(&self.tokens[pod], &slice)
    }

    /// The same, and it must be refused in words with `reason`.
    fn refused(&self, pod: usize, reason: &str, change: impl Fn(&mut Value)) -> anyhow::Result<()> {
        let before = self.space.get("endpointslice", SLICE)?;
        let result = self.write(pod, change);
        let error = format!("{:#}", result.err().context("the write was accepted")?);
        ensure!(error.contains(reason), "refused for another reason: {error}");
        ensure!(
            self.space.get("endpointslice", SLICE)? == before,
            "the slice changed"
        );
        Ok(())
    }
}

/// What the operator grants its members.
const PERMISSION: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: agent}
rules:
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  resourceNames: [boot-leader-ipv4]
  verbs: [get, list, watch, update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: agent}
subjects: [{kind: ServiceAccount, name: agent}]
"#;

fn endpoint(pod: &str, ready: bool) -> Value {
    json!({
        "addresses": ["10.88.0.200"],
        "conditions": {"ready": ready, "serving": ready, "terminating": false},
        "targetRef": {"kind": "Pod", "name": pod},
    })
}

/// Names `pod` with `epoch`.
fn publish(slice: &mut Value, epoch: &str, pod: &str) {
    slice["metadata"]["annotations"][EPOCH] = json!(epoch);
    slice["endpoints"] = json!([endpoint(pod, true)]);
}

#[test]
fn late_and_foreign_writes_are_refused_by_the_api_server() {
    let cluster = Cluster::connect().unwrap();
    cluster.apply_file(POLICY).unwrap();
    let scene = Scene::set(&cluster).unwrap();

    // The API server learns of a new policy a moment after it has stored it. Whatever it let pass before is undone.
    eventually("the policy is in force", PATIENCE, || {
        let refused = scene.refused(0, "may not fall", |slice| publish(slice, "9.9", "boot-0"));
        if refused.is_err() {
            let mut slice = scene.space.get("endpointslice", SLICE)?;
            publish(&mut slice, "10.3", "boot-0");
            scene.space.apply(&without_managed_fields(slice).to_string())?;
        }
        refused
    })
    .unwrap();

    bad_writes_are_refused(&scene).unwrap();

    // The new leader, with the old one still draining.
    let move_on = |slice: &mut Value| {
        publish(slice, "11.4", "boot-1");
        slice["endpoints"] = json!([endpoint("boot-1", true), endpoint("boot-0", false)]);
    };
    scene.write(1, move_on).unwrap();
    // The same leader again, and in a term with more digits.
    scene.write(1, |slice| publish(slice, "11.4", "boot-1")).unwrap();
    scene.write(1, |slice| publish(slice, "100.4", "boot-1")).unwrap();
    // The deposed one, late.
    scene
        .refused(0, "the leader epoch may not fall", |slice| {
            publish(slice, "10.3", "boot-0");
        })
        .unwrap();

    // Administrators repair: they may name any pod, or none, but not turn the epoch back.
    let repaired = |epoch: &str, pod: &str| {
        let mut slice = scene.space.get("endpointslice", SLICE)?;
        publish(&mut slice, epoch, pod);
        scene.space.apply(&without_managed_fields(slice).to_string())
    };
    repaired("100.4", "boot-0").unwrap();
    let error = repaired("99.9", "boot-0").unwrap_err();
    assert!(format!("{error:#}").contains("may not fall"), "{error:#}");
    scene.write(1, |slice| publish(slice, "100.4", "boot-1")).unwrap();
}

/// Whatever a member must not write while the slice names boot-0 with the epoch 10.3.
fn bad_writes_are_refused(scene: &Scene<'_>) -> anyhow::Result<()> {
    let refused = |pod, reason, change: &dyn Fn(&mut Value)| {
        scene
            .refused(pod, reason, change)
            .with_context(|| reason.to_owned())
    };
    // As numbers: as text, 9 is after 10.
    refused(0, "the leader epoch may not fall, from 10.3 to 9.30", &|slice| {
        publish(slice, "9.30", "boot-0")
    })?;
    refused(0, "the leader epoch may not fall", &|slice| {
        publish(slice, "10.2", "boot-0")
    })?;
    refused(0, "must be '<term>.<node id>'", &|slice| {
        publish(slice, "soon", "boot-0")
    })?;
    refused(0, "must be '<term>.<node id>'", &|slice| {
        slice["metadata"]["annotations"][EPOCH].take();
    })?;
    refused(1, "a pod may only publish itself", &|slice| {
        publish(slice, "11.4", "boot-0")
    })?;
    refused(1, "a pod may only publish itself", &|slice| {
        publish(slice, "11.4", "boot-1");
        slice["endpoints"][0]["targetRef"].take();
    })?;
    refused(1, "exactly one endpoint must be ready", &|slice| {
        publish(slice, "11.4", "boot-1");
        slice["endpoints"] = json!([]);
    })?;
    refused(1, "exactly one endpoint must be ready", &|slice| {
        slice["endpoints"] = json!([endpoint("boot-1", true), endpoint("boot-0", true)]);
    })?;
    refused(1, "may not take the slice away", &|slice| {
        publish(slice, "11.4", "boot-1");
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!("another");
    })?;
    refused(1, "may not take the slice away", &|slice| {
        publish(slice, "11.4", "boot-1");
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("nobody");
    })
}

/// Server-side apply takes no object that carries them.
fn without_managed_fields(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}
