//! What members of a key-value store say while their node is cut off the network: the old leader nothing that claims to be
//! consistent, and a single one everything that needs no quorum.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use e2e::eventually;
use e2e::kubernetes::faults::CutNode;
use e2e::kubernetes::{ClientPod, Cluster, KvCluster, Operator, PATIENCE, Space};
use serde_json::{Value, json};

const SETTINGS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: KvCluster
metadata: {name: settings}
spec: {replicas: 3, timing: Edge}
"#;

/// curl with its answer on the last line, as JSON; null when none came.
const CURL: [&str; 5] = ["curl", "-sS", "--max-time", "8", "--connect-timeout"];

const URL: &str = "http://settings:2390/v1/kv/colour";

/// The port of the leader, and the port on which every member answers.
const PORTS: [u16; 2] = [2390, 2391];

/// Sets at the Service from a pod, as often as it takes.
fn set_through_the_service(pod: &ClientPod<'_>, value: &str) {
    ask_the_service(pod, &["-X", "PUT", "-d", value]);
}

/// Reads at the Service from a pod.
fn get_through_the_service(pod: &ClientPod<'_>) -> Value {
    ask_the_service(pod, &[])["value"].clone()
}

fn ask_the_service(pod: &ClientPod<'_>, arguments: &[&str]) -> Value {
    eventually("the Service answers", PATIENCE, || {
        let command = [&CURL[..], &["2"], arguments, &[URL]].concat();
        let answer = read(&pod.run(&command)?);
        anyhow::ensure!(answer["valid"] == true && answer["timeout"] == false, "{answer}");
        Ok(answer)
    })
    .unwrap()
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Whether an answer says that nothing was read and nothing will be done. That a key is absent would be a claim, too.
fn claims_nothing(answer: &Value) -> bool {
    let is_refused = answer["error"].is_string();
    answer["valid"] == false && answer["value"] == "" && (answer["timeout"] == true || is_refused)
}

#[test]
fn cut_off_leader_claims_nothing_and_its_late_write_is_refused() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "deposed").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let settings = KvCluster::apply(&space, "settings", SETTINGS).unwrap();
    settings.await_settled().unwrap();

    let leader = settings.leader().unwrap();
    let (uid, address) = (
        settings.uid(&leader).unwrap(),
        settings.address_of(&leader).unwrap(),
    );
    let node = settings.node_of(&leader).unwrap();
    let elsewhere = cluster
        .nodes()
        .unwrap()
        .into_iter()
        .find(|other| *other != node)
        .unwrap();
    let client = ClientPod::start(&space, "client", Some(&elsewhere)).unwrap();
    set_through_the_service(&client, "red");
    let token = token_of(&space, &leader, uid.as_str().unwrap());
    let before = space.get("endpointslice", settings.slice()).unwrap();

    let cut = CutNode::cut(&cluster, &node).unwrap();
    settings.await_leader_after(&uid).unwrap();
    set_through_the_service(&client, "blue");

    for port in PORTS {
        let url = format!("http://{address}:{port}/v1/kv/colour?timeoutMs=1500");
        for request in [vec![], vec!["-X", "PUT", "-d", "green"], vec!["-X", "DELETE"]] {
            let command = [&CURL[..], &["2"], &request, &[url.as_str()]].concat();
            match cluster.on_node(&node, &command).map(|text| read(&text)) {
                // Silence: it holds its port and answers nobody.
                Err(_) | Ok(Value::Null) => {}
                Ok(answer) => assert!(
                    claims_nothing(&answer),
                    "{request:?} at the port {port} of a leader without a quorum: {answer}"
                ),
            }
        }
    }
    // It is well otherwise: what needs no quorum is answered.
    let url_here = format!("http://{address}:{}/v1/kv/colour?consistent=false", PORTS[1]);
    let command = [&CURL[..], &["2", url_here.as_str()]].concat();
    let answer = read(&cluster.on_node(&node, &command).unwrap());
    assert!(answer["valid"] == true && answer["value"] == "red", "{answer}");

    late_write_is_refused(&space, &settings, &token, &before);

    cut.heal(PATIENCE).unwrap();
    settings.await_settled().unwrap();
    // What was answered `timeout` never takes place.
    assert_eq!(get_through_the_service(&client), "blue");
}

/// What the old leader would write if it knew nothing of the new one, or had read the slice since.
fn late_write_is_refused(space: &Space<'_>, settings: &KvCluster<'_>, token: &str, before: &Value) {
    let now = space.get("endpointslice", settings.slice()).unwrap();
    let error = space.replace_as(token, before).unwrap_err();
    assert!(format!("{error:#}").contains("has been modified"), "{error:#}");
    let mut late = before.clone();
    late["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    let error = format!("{:#}", space.replace_as(token, &late).unwrap_err());
    assert!(error.contains("the leader epoch may not fall"), "{error}");
    let after = space.get("endpointslice", settings.slice()).unwrap();
    assert_eq!(after["endpoints"], now["endpoints"]);
}

/// A token as the kubelet mounts it into the pod.
fn token_of(space: &Space<'_>, pod: &str, uid: &str) -> String {
    let account = space.get("pod", pod).unwrap()["spec"]["serviceAccountName"].clone();
    let bound = [
        "--bound-object-kind=Pod",
        "--bound-object-name",
        pod,
        "--bound-object-uid",
        uid,
    ];
    let command = [&["create", "token", account.as_str().unwrap()], &bound[..]].concat();
    space.kubectl(&command).unwrap().trim().to_owned()
}

#[test]
fn one_member_alone_answers_what_needs_no_quorum() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "alone").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let settings = KvCluster::apply(&space, "settings", SETTINGS).unwrap();
    settings.await_settled().unwrap();

    // The harder case: the one that is left does not lead.
    let leader_node = settings.leader_node().unwrap();
    let nodes = cluster.nodes().unwrap();
    let left = nodes.iter().find(|node| **node != leader_node).unwrap();
    let client = ClientPod::start(&space, "client", Some(left)).unwrap();
    set_through_the_service(&client, "red");
    let all_members = space.get("service", "settings-read").unwrap()["spec"]["clusterIP"].clone();
    let all_members = format!("http://{}:2390/v1/kv/colour", all_members.as_str().unwrap());

    let cuts: Vec<_> = nodes
        .iter()
        .filter(|node| *node != left)
        .map(|node| CutNode::cut(&cluster, node).unwrap())
        .collect();
    // Two of three connections lead nowhere before Kubernetes has noticed; clients try again.
    let ask = |arguments: &[&str]| {
        eventually("the member that is left answers", PATIENCE, || {
            let command = [&CURL[..], &["0.3"], arguments].concat();
            let answer = read(&client.run(&command)?);
            anyhow::ensure!(answer.is_object(), "no answer");
            Ok(answer)
        })
        .unwrap()
    };
    let answer = ask(&[&format!("{all_members}?consistent=false")]);
    assert!(answer["valid"] == true && answer["value"] == "red", "{answer}");
    let answer = ask(&[
        "-X",
        "PUT",
        "-d",
        "green",
        &format!("{all_members}?consistent=false"),
    ]);
    assert!(
        answer["remembered"] == true && answer["timeout"] == true,
        "{answer}"
    );
    let answer = ask(&[&format!("{all_members}?consistent=false")]);
    assert_eq!(answer["value"], json!("green"), "{answer}");
    let answer = ask(&[&format!("{all_members}?timeoutMs=500")]);
    assert!(answer["valid"] == false && answer["timeout"] == true, "{answer}");

    for cut in cuts {
        cut.heal(PATIENCE).unwrap();
    }
    settings.await_settled().unwrap();
    eventually("what was remembered is stored", PATIENCE, || {
        let value = get_through_the_service(&client);
        anyhow::ensure!(value == "green", "{value}");
        Ok(())
    })
    .unwrap();
}
