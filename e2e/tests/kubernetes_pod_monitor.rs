//! Where the Prometheus operator is installed, each group has a PodMonitor that leads to every member's metrics.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use e2e::clock::PATIENCE as SOON;
use e2e::kubernetes::{Cluster, Operator, Space, TftpCluster};

/// The part of the Prometheus operator's definition that says what a PodMonitor may have (API monitoring.coreos.com/v1); the
/// API server refuses what is not in it.
const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, plural: podmonitors, singular: podmonitor}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [selector]
            properties:
              selector:
                type: object
                properties:
                  matchLabels: {type: object, additionalProperties: {type: string}}
              podMetricsEndpoints:
                type: array
                items:
                  type: object
                  properties:
                    port: {type: string}
                    path: {type: string}
                    interval: {type: string}
";

const GROUP: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec: {replicas: 3, timing: Edge}
"#;

/// The definition, as long as this lives: no other test expects it.
struct Definition<'a>(&'a Cluster);

impl<'a> Definition<'a> {
    fn install(cluster: &'a Cluster) -> Self {
        let definition = Self(cluster);
        cluster.apply(DEFINITION).unwrap();
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", NAME];
        cluster.kubectl(&wait).unwrap();
        definition
    }
}

impl Drop for Definition<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.kubectl(&["delete", "--ignore-not-found", NAME]) {
            eprintln!("{error:#}");
        }
    }
}

const NAME: &str = "crd/podmonitors.monitoring.coreos.com";

#[test]
fn members_are_found_by_the_prometheus_operator() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let definition = Definition::install(&cluster);
    let space = Space::new(&cluster, "monitor").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", GROUP).unwrap();
    let monitor = space.get("podmonitor", "boot").unwrap();

    let owner = &monitor["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], boot.get().unwrap()["metadata"]["uid"]);
    // As the Prometheus operator does: pods by their labels, and of each the port of that name.
    let labels = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let selector: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap()))
        .collect();
    let pods = space.list("pods", &selector.join(",")).unwrap();
    let names = |pods: &[serde_json::Value]| -> Vec<String> {
        let mut names: Vec<_> = pods
            .iter()
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&pods), names(&boot.pods().unwrap()));
    let [endpoint] = &monitor["spec"]["podMetricsEndpoints"].as_array().unwrap()[..] else {
        panic!("one endpoint: {monitor}")
    };
    for pod in &pods {
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        let port = ports
            .iter()
            .find(|port| port["name"] == endpoint["port"])
            .unwrap();
        let (name, address) = (pod["metadata"]["name"].as_str().unwrap(), &pod["status"]["podIP"]);
        let at = (address.as_str().unwrap(), port["containerPort"].as_u64().unwrap());
        let url = format!("http://{}:{}{}", at.0, at.1, endpoint["path"].as_str().unwrap());
        let metrics = std::process::Command::new("curl")
            .args(["-sSf", &url])
            .output()
            .unwrap();
        let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
        assert!(
            metrics.contains(&format!("member=\"{name}\"")),
            "{url}: {metrics}"
        );
    }

    space
        .kubectl(&["delete", "tftpcluster", "boot", "--wait=false"])
        .unwrap();
    space.await_gone("podmonitor", "boot", SOON).unwrap();
    drop(definition);
}
