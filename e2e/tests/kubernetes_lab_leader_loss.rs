//! Downloads inside and outside the pod network outlive their leader, whatever takes it away, and whoever else is gone.

use e2e::Client;
use e2e::data::random_bytes;
use e2e::kubernetes::faults::{CutNode, PausedPod, StoppedProgram, kill_pod};
use e2e::kubernetes::{ClientPod, Cluster, LoadBalancer, Operator, PATIENCE, Space, TftpCluster, UnderWay};

/// Long enough in 512-byte blocks that a leader can be lost in the middle, also on a machine that does nothing else.
const LONG: usize = 192 << 20;

/// As the sample for network boot: clients outside are seen by their own addresses.
const EXPOSED: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec:
  replicas: 3
  timing: Edge
  service: {type: LoadBalancer, externalTrafficPolicy: Local}
"#;

/// A group, clients inside and outside, and what they download.
struct Scene<'a> {
    boot: TftpCluster<'a>,
    balancer: LoadBalancer,
    /// One on each node: that of the leader may be cut off together with its client.
    pods: Vec<(String, ClientPod<'a>)>,
    content: Vec<u8>,
    directory: tempfile::TempDir,
}

impl<'a> Scene<'a> {
    fn set(space: &'a Space<'a>) -> anyhow::Result<Self> {
        let boot = TftpCluster::apply(space, "boot", EXPOSED)?;
        let balancer = LoadBalancer::give(&boot, "10.99.200.1")?;
        let content = random_bytes(3, LONG);
        boot.put("image", &content)?;
        let nodes = space.cluster().nodes()?.into_iter();
        let pods = nodes.map(|node| {
            let pod = ClientPod::start(space, &format!("client-{node}"), Some(&node))?;
            Ok((node, pod))
        });
        Ok(Self {
            pods: pods.collect::<anyhow::Result<_>>()?,
            directory: tempfile::tempdir()?,
            boot,
            balancer,
            content,
        })
    }

    /// Lets clients inside and outside download, does something to the leader, and compares what they got.
    fn downloads_outlive<T>(&self, fault: impl FnOnce(&str) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.boot.await_settled()?;
        let leader_node = self.boot.leader_node()?;
        let mut downloads: Vec<Box<dyn UnderWay + '_>> = Vec::new();
        for (node, pod) in &self.pods {
            if *node != leader_node {
                downloads.push(Box::new(pod.download("tftp://boot/image")?));
            }
        }
        let local = self.directory.path().join("image");
        std::fs::remove_file(&local).ok();
        let outside = Client::TftpHpa.start_at(self.balancer.address(), 69, "image", &local)?;
        // The quickest to ask how far it is.
        downloads.insert(0, Box::new(outside));
        self.boot.downloads_across(downloads, &self.content, fault)
    }
}

#[test]
fn downloads_inside_and_outside_outlive_their_leader() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "leader-loss").unwrap();
    let operator = Operator::start(&space).unwrap();
    let scene = Scene::set(&space).unwrap();
    let kill = |leader: &str| kill_pod(&space, leader);
    let cut = |leader: &str| CutNode::cut(&cluster, &scene.boot.node_of(leader)?);

    scene.downloads_outlive(kill).unwrap();
    let node = scene.downloads_outlive(cut).unwrap();
    node.heal(PATIENCE).unwrap();
    let paused = scene
        .downloads_outlive(|leader| PausedPod::pause(&space, leader))
        .unwrap();
    drop(paused);

    // Nobody makes slices, and nobody makes pods.
    scene.boot.await_settled().unwrap();
    let manager = StoppedProgram::stop(&cluster, "kube-controller-manager").unwrap();
    scene.downloads_outlive(kill).unwrap();
    drop(manager);

    scene.boot.await_settled().unwrap();
    drop(operator);
    let node = scene.downloads_outlive(cut).unwrap();
    node.heal(PATIENCE).unwrap();
    scene.boot.await_settled().unwrap();
}
