//! What the leader writes into an EndpointSlice, given what is there. Pure.
//!
//! The slice leads to one endpoint at any time, the newest leader that could write: kube-proxy sends every new flow there
//! when it sees one change, and must never see an empty slice. A leader that handed its work over and passes on what still
//! comes stays behind it for a while, as serving and terminating: without that, kube-proxy would forget the flows to it at
//! once, and an answer under way would reach its client from an address that the client does not know.

use std::net::IpAddr;

use operator_api::LeaderEpoch;
use operator_api::config::KubernetesConfig;
use operator_api::epoch::LEADER_EPOCH_ANNOTATION;
use replication::NodeId;
use serde_json::{Value, json};

/// The pod that this member runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a pod of the same name that was started anew has another one.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Its addresses, one of a family.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// The pod of a valid configuration.
    pub(crate) fn new(config: &KubernetesConfig) -> Result<Self, String> {
        Ok(Self {
            namespace: config.namespace.clone(),
            name: config.pod_name.clone(),
            uid: config.pod_uid.clone(),
            node: config.node_name.clone(),
            addresses: config.addresses()?,
        })
    }
}

/// What the leader is to do about a slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Nothing: the slice names it.
    Keep,
    /// Put this in its place, unless it has changed meanwhile (the resource version says so).
    Write(Value),
    /// Nothing: a later leader was here.
    Deposed(LeaderEpoch),
    /// Nothing that it can: why not, in a sentence.
    Unable(String),
}

/// What `pod`, which leads as `epoch`, is to do about the slice that was `observed`. `drains` handed its leadership to
/// `pod`, and is not done yet.
pub(crate) fn decide(observed: &Value, pod: &Pod, epoch: LeaderEpoch, drains: Option<NodeId>) -> Decision {
    // Text that is no epoch is a hand edit, and no leader's claim.
    let published = epoch_of(observed);
    if let Some(later) = published.filter(|published| *published > epoch) {
        return Decision::Deposed(later);
    }
    let family = observed["addressType"].as_str().unwrap_or_default();
    let Some(address) = pod.addresses.iter().find(|address| is_of(**address, family)) else {
        return Decision::Unable(format!(
            "the slice wants an address of the type `{family}`, and the pod has none: it has {:?}",
            pod.addresses
        ));
    };
    let endpoint = endpoint(pod, *address);
    let leaving = match (published, drains) {
        (Some(published), Some(by)) if is_connectionless(observed) => {
            leaving(observed, pod, published == epoch, published.node_id == by)
        }
        _ => None,
    };
    let is_right = match endpoints(observed) {
        [first] => leaving.is_none() && contains(first, &endpoint),
        [first, second] => leaving.as_ref() == Some(second) && contains(first, &endpoint),
        _ => false,
    };
    if published == Some(epoch) && is_right {
        return Decision::Keep;
    }
    let mut wanted = observed.clone();
    wanted["endpoints"] = [endpoint].into_iter().chain(leaving).collect();
    let annotations = &mut wanted["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[LEADER_EPOCH_ANNOTATION] = epoch.to_string().into();
    Decision::Write(wanted)
}

/// Whether the slice is for datagrams: flows that the nodes would forget. A connection stays where it is anyway.
fn is_connectionless(slice: &Value) -> bool {
    let ports = slice["ports"].as_array().map_or(&[][..], Vec::as_slice);
    ports.iter().any(|port| port["protocol"] == "UDP")
}

/// The endpoint of a leader that is not done yet, as it is to stay in the slice: what `pod` found when it took over from it
/// (`is_from_it`), or left there itself when it wrote (`is_mine`).
fn leaving(slice: &Value, pod: &Pod, is_mine: bool, is_from_it: bool) -> Option<Value> {
    let found = match endpoints(slice) {
        [_, second] if is_mine => second,
        [first, ..] if is_from_it && !is_mine => first,
        _ => return None,
    };
    let is_another = found["targetRef"]["uid"].is_string() && found["targetRef"]["uid"] != pod.uid.as_str();
    let mut leaving = found.clone();
    leaving["conditions"] = json!({ "ready": false, "serving": true, "terminating": true });
    is_another.then_some(leaving)
}

/// The leader that a slice claims to name.
pub(crate) fn epoch_of(slice: &Value) -> Option<LeaderEpoch> {
    slice["metadata"]["annotations"][LEADER_EPOCH_ANNOTATION]
        .as_str()?
        .parse()
        .ok()
}

/// Whether clients are sent to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// All are.
    Here,
    /// Those that were sent there before: it handed its work over.
    Leaving,
    /// None is.
    Elsewhere,
}

/// Whether clients are sent to this pod.
pub(crate) fn place(slice: &Value, pod: &Pod) -> Place {
    let mut endpoints = endpoints(slice).iter();
    match endpoints.find(|endpoint| endpoint["targetRef"]["uid"] == pod.uid.as_str()) {
        None => Place::Elsewhere,
        Some(found) if found["conditions"]["ready"] == false => Place::Leaving,
        Some(_) => Place::Here,
    }
}

/// Whether `older` was overtaken by `newer`, both from the API server.
pub(crate) fn is_older(older: &Value, newer: &Value) -> bool {
    let version = |slice: &Value| slice["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok();
    let is_same_object = older["metadata"]["uid"] == newer["metadata"]["uid"];
    is_same_object && matches!((version(older), version(newer)), (Some(older), Some(newer)) if older < newer)
}

fn endpoint(pod: &Pod, address: IpAddr) -> Value {
    json!({
        "addresses": [address.to_string()],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": pod.node,
        "targetRef": { "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid },
    })
}

/// Whether what is `wanted` is found. Fields beside ours (hints, a zone) are others' affair.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| contains(found, value))),
        _ => found == wanted,
    }
}

fn endpoints(slice: &Value) -> &[Value] {
    slice["endpoints"].as_array().map_or(&[], Vec::as_slice)
}

fn is_of(address: IpAddr, family: &str) -> bool {
    match address {
        IpAddr::V4(_) => family == "IPv4",
        IpAddr::V6(_) => family == "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ordinal: u8) -> Pod {
        Pod {
            namespace: "lab".to_owned(),
            name: format!("boot-{ordinal}"),
            uid: format!("uid-{ordinal}"),
            node: format!("n{ordinal}"),
            addresses: vec![
                [10, 88, 0, ordinal].into(),
                format!("fd00::{ordinal}").parse().unwrap(),
            ],
        }
    }

    fn slice(family: &str) -> Value {
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family,
            "metadata": { "name": "boot-leader", "uid": "s", "resourceVersion": "7", "labels": { "a": "b" } },
            "endpoints": null,
            "ports": [{ "name": "tftp", "protocol": "UDP", "port": 6969 }],
        })
    }

    fn epoch(text: &str) -> LeaderEpoch {
        text.parse().unwrap()
    }

    fn written(decision: Decision) -> Value {
        match decision {
            Decision::Write(slice) => slice,
            other => panic!("{other:?}"),
        }
    }

    /// The slice after the leader `ordinal` published itself.
    fn published(ordinal: u8, at: &str) -> Value {
        written(decide(&slice("IPv4"), &pod(ordinal), epoch(at), None))
    }

    #[test]
    fn leader_writes_itself_and_leaves_the_rest() {
        let found = published(1, "3.1");
        assert_eq!(
            found["endpoints"],
            json!([{
                "addresses": ["10.88.0.1"],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": "n1",
                "targetRef": { "kind": "Pod", "namespace": "lab", "name": "boot-1", "uid": "uid-1" },
            }])
        );
        assert_eq!(
            found["metadata"]["annotations"],
            json!({ "quorate.dev/leader-epoch": "3.1" })
        );
        for kept in [
            "/metadata/labels/a",
            "/metadata/resourceVersion",
            "/ports",
            "/addressType",
        ] {
            assert_eq!(found.pointer(kept), slice("IPv4").pointer(kept), "{kept}");
        }
        assert_eq!(epoch_of(&found), Some(epoch("3.1")));
        assert_eq!(place(&found, &pod(1)), Place::Here);
        assert_eq!(place(&found, &pod(2)), Place::Elsewhere);
    }

    #[test]
    fn address_is_of_the_slice_s_family() {
        let found = written(decide(&slice("IPv6"), &pod(1), epoch("3.1"), None));
        assert_eq!(found["endpoints"][0]["addresses"], json!(["fd00::1"]));
        let mut only_v4 = pod(1);
        only_v4.addresses.truncate(1);
        for family in ["IPv6", "FQDN"] {
            let decision = decide(&slice(family), &only_v4, epoch("3.1"), None);
            assert!(
                matches!(&decision, Decision::Unable(why) if why.contains(family)),
                "{decision:?}"
            );
        }
    }

    #[derive(Debug, PartialEq)]
    enum Does {
        Keeps,
        Writes,
        Yields,
    }

    /// Checks what the pod `ordinal`, which leads as `at`, does about a slice.
    fn check(what: &str, observed: &Value, ordinal: u8, at: &str, expected: Does) {
        let found = match decide(observed, &pod(ordinal), epoch(at), None) {
            Decision::Keep => Does::Keeps,
            Decision::Write(slice) => {
                let next = decide(&slice, &pod(ordinal), epoch(at), None);
                assert_eq!(next, Decision::Keep, "{what}: one write is enough");
                assert_eq!(endpoints(&slice).len(), 1, "{what}");
                Does::Writes
            }
            Decision::Deposed(later) => {
                assert_eq!(Some(later), epoch_of(observed), "{what}");
                Does::Yields
            }
            Decision::Unable(why) => panic!("{what}: {why}"),
        };
        assert_eq!(found, expected, "{what}");
    }

    #[test]
    fn epoch_never_falls() {
        let rows = [
            ("new", slice("IPv4"), 1, "1.1", Does::Writes),
            ("same leader", published(1, "9.5"), 1, "9.5", Does::Keeps),
            ("same leader, later", published(1, "9.5"), 1, "11.5", Does::Writes),
            ("later leader", published(1, "9.5"), 2, "10.3", Does::Writes),
            ("later by its id", published(1, "9.5"), 2, "9.6", Does::Writes),
            ("earlier leader", published(1, "10.3"), 2, "9.5", Does::Yields),
            ("earlier by its id", published(1, "9.5"), 2, "9.4", Does::Yields),
        ];
        for (what, observed, ordinal, at, expected) in rows {
            check(what, &observed, ordinal, at, expected);
        }
    }

    #[test]
    fn hand_edits_are_repaired() {
        let edits: [(&str, &str, Value); 9] = [
            ("emptied", "/endpoints", json!([])),
            ("endpoints gone", "/endpoints", Value::Null),
            ("epoch lowered", EPOCH, json!("1.1")),
            ("epoch unreadable", EPOCH, json!("x")),
            ("annotations gone", "/metadata/annotations", Value::Null),
            ("other address", "/endpoints/0/addresses", json!(["10.0.0.9"])),
            ("not ready", "/endpoints/0/conditions/ready", json!(false)),
            ("terminating", "/endpoints/0/conditions/terminating", json!(true)),
            (
                "earlier pod of that name",
                "/endpoints/0/targetRef/uid",
                json!("x"),
            ),
        ];
        for (what, place, value) in edits {
            let mut observed = published(1, "9.5");
            *observed.pointer_mut(place).unwrap() = value;
            check(what, &observed, 1, "9.5", Does::Writes);
        }
        let mut doubled = published(1, "9.5");
        let first = doubled["endpoints"][0].clone();
        doubled["endpoints"] = json!([first.clone(), first]);
        check("a second endpoint", &doubled, 1, "9.5", Does::Writes);
    }

    #[test]
    fn who_handed_over_stays_while_it_drains() {
        let before = published(1, "9.5");
        let by = |node_id| Some(node_id);
        let after = written(decide(&before, &pod(2), epoch("10.6"), by(5)));
        let [leads, leaves] = endpoints(&after) else {
            panic!("{after}")
        };
        assert_eq!(leads, &published(2, "10.6")["endpoints"][0]);
        let conditions = json!({ "ready": false, "serving": true, "terminating": true });
        assert_eq!(leaves["conditions"], conditions);
        assert_eq!(
            [
                place(&after, &pod(1)),
                place(&after, &pod(2)),
                place(&after, &pod(3))
            ],
            [Place::Leaving, Place::Here, Place::Elsewhere]
        );
        let now = |observed: &Value, drains| decide(observed, &pod(2), epoch("10.6"), drains);
        assert_eq!(now(&after, by(5)), Decision::Keep);
        assert_eq!(
            written(now(&after, None)),
            published_over(&after),
            "it has drained"
        );

        let mut edited = after.clone();
        edited["endpoints"][1]["conditions"]["ready"] = json!(true);
        assert_eq!(written(now(&edited, by(5))), after, "two that are ready");
        // Somebody took it out: the nodes have forgotten its flows.
        let alone = published_over(&after);
        assert_eq!(now(&alone, by(5)), Decision::Keep);

        // Its successor does not wait for whom it does not know.
        let next = written(decide(&after, &pod(3), epoch("11.7"), None));
        assert_eq!(endpoints(&next).len(), 1);
        let next = written(decide(&after, &pod(3), epoch("11.7"), by(6)));
        assert_eq!(place(&next, &pod(2)), Place::Leaving);
        assert_eq!(place(&next, &pod(1)), Place::Elsewhere);
    }

    #[test]
    fn only_what_drains_stays() {
        let before = published(1, "9.5");
        let mut connections = before.clone();
        connections["ports"][0]["protocol"] = json!("TCP");
        let mut nobody = before.clone();
        nobody["endpoints"] = json!([]);
        let rows = [
            ("nobody handed over", &before, 2, None),
            ("another did", &before, 2, Some(4)),
            ("connections stay by themselves", &connections, 2, Some(5)),
            ("emptied", &nobody, 2, Some(5)),
            ("the pod itself, made a member anew", &before, 1, Some(5)),
        ];
        for (what, observed, ordinal, drains) in rows {
            let found = written(decide(observed, &pod(ordinal), epoch("10.6"), drains));
            assert_eq!(endpoints(&found).len(), 1, "{what}");
        }
    }

    /// A slice as it is when its leader is alone in it.
    fn published_over(slice: &Value) -> Value {
        let mut alone = slice.clone();
        alone["endpoints"].as_array_mut().unwrap().truncate(1);
        alone
    }

    #[test]
    fn what_others_add_is_left_alone() {
        let mut observed = published(1, "9.5");
        observed["endpoints"][0]["zone"] = "z".into();
        observed["metadata"]["labels"]["x"] = "y".into();
        check("a zone and a label", &observed, 1, "9.5", Does::Keeps);
    }

    /// `quorate.dev/leader-epoch`, as RFC 6901 writes it.
    const EPOCH: &str = "/metadata/annotations/quorate.dev~1leader-epoch";

    #[test]
    fn later_version_of_the_same_object_is_newer() {
        let version =
            |uid: &str, version: &str| json!({ "metadata": { "uid": uid, "resourceVersion": version } });
        assert!(is_older(&version("a", "9"), &version("a", "10")));
        assert!(!is_older(&version("a", "10"), &version("a", "9")));
        assert!(!is_older(&version("a", "9"), &version("b", "10")), "made anew");
        assert!(!is_older(&version("a", "x"), &version("a", "10")));
    }
}
