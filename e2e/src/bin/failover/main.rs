//! Benchmark: how long a Service's address is without an answer when its leader is lost, on a real Kubernetes.
//!
//! Each trial asks the leader's Service every 10 ms, from outside the pod network, at the node port of a node that is not
//! the leader's. What it is without is the longest time between two good answers. It is split where a member began to lead
//! (its own status), and where the API server told the new route (a watch).
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use e2e::clock::now;
use e2e::kubernetes::faults::{CutNode, PausedPod, kill_pod, kill_processes};
use e2e::kubernetes::probe::{Asked, Probe, Request};
use e2e::kubernetes::{
    ADMIN_PORT, Cluster, Election, KvCluster, Operator, PATIENCE, Resource, Route, Space, TftpCluster,
};
use e2e::report::write_json;
use report::{plot, summary, table};
use serde::{Deserialize, Serialize};

/// How long the leader's Service is without an answer, by what happens to the leader.
#[derive(Parser)]
struct Arguments {
    /// Trials of each fault, each service, with the operator and without it.
    #[arg(long, default_value_t = 30)]
    trials: u32,
    /// The faults; all when none is named.
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
    /// The services; all when none is named.
    #[arg(long, value_enum)]
    service: Vec<Service>,
    /// Leaves out the trials without the operator.
    #[arg(long)]
    with_operator_only: bool,
    /// Measures nothing: the table and the plots of what these files of earlier runs hold.
    #[arg(long)]
    of: Vec<PathBuf>,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
enum Fault {
    PodKilled,
    Killed,
    Stopped,
    NodeCut,
    PlannedTransfer,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::PodKilled,
        Self::Killed,
        Self::Stopped,
        Self::NodeCut,
        Self::PlannedTransfer,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::PodKilled => "pod killed",
            Self::Killed => "SIGKILL",
            Self::Stopped => "SIGSTOP",
            Self::NodeCut => "node cut off",
            Self::PlannedTransfer => "planned transfer",
        }
    }

    /// What was aimed at, at the 50th and the 99th percentile.
    fn aim(self) -> &'static str {
        match self {
            Self::PodKilled | Self::Killed => "1.0 s, 2 s",
            Self::Stopped => "",
            Self::NodeCut => "-, 4 s",
            Self::PlannedTransfer => "-, 0.3 s",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
enum Service {
    Tftp,
    Kv,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Tftp => "TFTP",
            Self::Kv => "KV",
        }
    }
}

/// One trial. Times are in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trial {
    service: Service,
    fault: Fault,
    operator: bool,
    /// Between the last good answer before the gap and the first one after it.
    without_answer: f64,
    /// From the gap's begin until a member led and was heard by a quorum.
    election: Option<f64>,
    /// From there until the API server told the new route.
    publication: Option<f64>,
    /// From there until the first good answer.
    kube_proxy: Option<f64>,
    requests: usize,
    /// Requests that had no good answer within 5 s.
    failed: usize,
}

const GROUPS: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec: {replicas: 3, service: {type: NodePort}}
---
apiVersion: quorate.dev/v1alpha1
kind: KvCluster
metadata: {name: settings}
spec: {replicas: 3, service: {type: NodePort}}
"#;

/// What goes wrong in a trial beside the fault itself ends that trial; more of them end the run.
const BROKEN_MAX: u32 = 10;

/// Good answers before the fault, and after it.
const ANSWERS_AROUND: usize = 20;

/// By then every node leads to the new leader: kube-proxy writes once a second. Before, the old leader may hide that they do
/// not, as long as it lives.
const ROUTES_SETTLE: Duration = Duration::from_millis(1500);

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let trials = if arguments.of.is_empty() {
        measure(&arguments)?
    } else {
        arguments
            .of
            .iter()
            .map(|file| earlier(file))
            .collect::<anyhow::Result<Vec<_>>>()?
            .concat()
    };
    write_json(&arguments.results.join("failover.json"), &trials)?;
    println!("{}", table(&trials));
    for service in [Service::Tftp, Service::Kv] {
        plot(&arguments.results, service, &trials)?;
    }
    println!("results are in {}", arguments.results.display());
    Ok(())
}

/// What an earlier run found.
fn earlier(file: &Path) -> anyhow::Result<Vec<Trial>> {
    let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is no result of this benchmark", file.display()))
}

fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Trial>> {
    let cluster = Cluster::connect()?;
    Operator::define(&cluster)?;
    let space = Space::new(&cluster, "failover")?;
    let mut operator = Some(Operator::start(&space)?);
    let boot = TftpCluster::apply(&space, "boot", GROUPS)?;
    boot.put("probe", b"one block")?;
    let settings = KvCluster::apply(&space, "settings", GROUPS)?;
    set_probe(&settings)?;
    let (mut trials, mut broken) = (Vec::new(), 0);
    let faults = if arguments.fault.is_empty() {
        &Fault::ALL[..]
    } else {
        &arguments.fault
    };
    for with_operator in [true, false] {
        if !with_operator {
            if arguments.with_operator_only {
                break;
            }
            operator = None;
        }
        for fault in faults {
            block(
                arguments,
                (*fault, with_operator),
                (&boot, &settings),
                &mut trials,
                &mut broken,
            )?;
            // Half of a long run is worth something, too.
            write_json(&arguments.results.join("failover.json"), &trials)?;
        }
    }
    drop(operator);
    println!("{broken} trials went wrong and are not among these");
    Ok(trials)
}

/// All trials of one fault, the services taking turns.
fn block(
    arguments: &Arguments,
    (fault, operator): (Fault, bool),
    (boot, settings): (&TftpCluster<'_>, &KvCluster<'_>),
    trials: &mut Vec<Trial>,
    broken: &mut u32,
) -> anyhow::Result<()> {
    // The API server ends a watch after half an hour.
    let benches = [
        Bench::new(boot, Service::Tftp)?,
        Bench::new(settings, Service::Kv)?,
    ];
    let is_asked = |service| arguments.service.is_empty() || arguments.service.contains(&service);
    for number in 1..=arguments.trials {
        for bench in benches.iter().filter(|bench| is_asked(bench.service)) {
            match bench.trial(fault, operator) {
                Ok(trial) => {
                    println!("{number:3} {}", summary(&trial));
                    trials.push(trial);
                }
                Err(error) => {
                    let (service, fault) = (bench.service.name(), fault.name());
                    println!("{number:3} {service} {fault}: NOT MEASURED: {error:#}");
                    *broken += 1;
                    ensure!(*broken <= BROKEN_MAX, "{broken} trials went wrong");
                }
            }
        }
    }
    Ok(())
}

fn set_probe(settings: &KvCluster<'_>) -> anyhow::Result<()> {
    let entries = settings.node_ports()?;
    let kv = e2e::kv::request::Kv::at(entries, PATIENCE)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let request = e2e::kv::request::Request::set("probe", "one").blocking();
    let answer = runtime.block_on(kv.ask(0, &request)).answer()?;
    ensure!(answer.valid, "the key was not set: {answer:?}");
    Ok(())
}

/// One service under test.
struct Bench<'a> {
    resource: &'a Resource<'a>,
    service: Service,
    route: Route,
    token: String,
    node_port: u16,
}

impl<'a> Bench<'a> {
    fn new(resource: &'a Resource<'a>, service: Service) -> anyhow::Result<Self> {
        let object = resource.space().get("service", resource.name())?;
        let port = object["spec"]["ports"][0]["nodePort"].as_u64();
        Ok(Self {
            resource,
            service,
            route: Route::watch(resource)?,
            token: resource.token()?,
            node_port: port
                .and_then(|port| port.try_into().ok())
                .context("no node port")?,
        })
    }

    fn trial(&self, fault: Fault, operator: bool) -> anyhow::Result<Trial> {
        self.resource.await_settled()?;
        let leader = self.resource.leader()?;
        let uid = self.resource.uid(&leader)?;
        let uid = uid.as_str().context("the leader's pod has no UID")?;
        let probe = Probe::start(self.entry(&leader)?, self.asked());
        probe.await_answers_since(now(), ANSWERS_AROUND, PATIENCE)?;
        let admin = format!("{}:{ADMIN_PORT}", self.resource.address_of(&leader)?);
        let election = Election::watch(self.others(&leader)?);
        let commanded = now();
        let undo = self.happen(fault, &leader, &admin)?;
        let moved = e2e::eventually("the route moves", PATIENCE, || {
            self.route
                .moved(commanded, uid)
                .context("it still names the old leader")
        })?;
        probe.await_answers_since(moved + ROUTES_SETTLE, ANSWERS_AROUND, PATIENCE)?;
        let requests = probe.finish()?;
        let won = election.won();
        drop(election);
        undo.undo(self.resource.space())?;
        Ok(self.judge(fault, operator, &requests, (commanded, won, moved)))
    }

    fn judge(
        &self,
        fault: Fault,
        operator: bool,
        requests: &[Request],
        (commanded, won, moved): (Instant, Option<Instant>, Instant),
    ) -> Trial {
        let (begin, end) = longest_gap(requests, commanded);
        let answered = |request: &&Request| request.answered.is_some();
        let won = won.filter(|won| *won <= end).map(|won| won.max(begin));
        Trial {
            service: self.service,
            fault,
            operator,
            without_answer: in_ms(end - begin),
            election: won.map(|won| in_ms(won - begin)),
            publication: won.map(|won| in_ms(moved.saturating_duration_since(won))),
            kube_proxy: won.map(|won| in_ms(end.saturating_duration_since(moved.max(won)))),
            requests: requests.len(),
            failed: requests.len() - requests.iter().filter(answered).count(),
        }
    }

    /// The node port of a node that is not the leader's.
    fn entry(&self, leader: &str) -> anyhow::Result<SocketAddr> {
        let cluster = self.resource.space().cluster();
        let node = self.resource.node_of(leader)?;
        let other = cluster.nodes()?.into_iter().find(|other| *other != node);
        let address = cluster.node_address(&other.context("there is one node only")?)?;
        format!("{address}:{}", self.node_port)
            .parse()
            .context("reading a node's address")
    }

    fn asked(&self) -> Asked {
        match self.service {
            Service::Tftp => Asked::File("probe".to_owned()),
            Service::Kv => Asked::Key("probe".to_owned()),
        }
    }

    /// The admin ports of all members but one.
    fn others(&self, leader: &str) -> anyhow::Result<Vec<String>> {
        let pods = self.resource.pods()?.into_iter();
        let others = pods.filter(|pod| pod["metadata"]["name"] != leader);
        others
            .map(|pod| {
                let address = pod["status"]["podIP"].as_str().context("a pod has no address")?;
                Ok(format!("{address}:{ADMIN_PORT}"))
            })
            .collect()
    }

    fn happen(&self, fault: Fault, leader: &str, admin: &str) -> anyhow::Result<Undo<'a>> {
        let space = self.resource.space();
        match fault {
            Fault::PodKilled => kill_pod(space, leader).map(|()| Undo::Nothing),
            Fault::Killed => kill_processes(space, leader).map(|()| Undo::Replace(leader.to_owned())),
            Fault::Stopped => PausedPod::pause(space, leader).map(Undo::Continue),
            Fault::NodeCut => {
                let node = self.resource.node_of(leader)?;
                CutNode::cut(space.cluster(), &node).map(Undo::Heal)
            }
            Fault::PlannedTransfer => self
                .resource
                .hand_over(admin, &self.token)
                .map(|()| Undo::Nothing),
        }
    }
}

enum Undo<'a> {
    Nothing,
    /// By a new pod: the kubelet would let a container that is killed again and again wait for minutes.
    Replace(String),
    Continue(PausedPod<'a>),
    Heal(CutNode<'a>),
}

impl Undo<'_> {
    fn undo(self, space: &Space<'_>) -> anyhow::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Replace(pod) => kill_pod(space, &pod),
            Self::Continue(paused) => {
                drop(paused);
                Ok(())
            }
            Self::Heal(cut) => cut.heal(PATIENCE),
        }
    }
}

/// The longest time between two good answers that ended after `since`, and while there was somebody who asked: what a lost
/// request waits for its repetition afterwards is no silence of the Service.
fn longest_gap(requests: &[Request], since: Instant) -> (Instant, Instant) {
    let Some(asked_until) = requests.iter().map(|request| request.sent).max() else {
        return (since, since);
    };
    let answers = requests.iter().filter_map(|request| request.answered);
    let mut answers: Vec<Instant> = answers.filter(|answer| *answer <= asked_until).collect();
    answers.sort();
    let gaps = answers.windows(2).map(|pair| (pair[0], pair[1]));
    gaps.filter(|(_, end)| *end >= since)
        .max_by_key(|(begin, end)| *end - *begin)
        .unwrap_or((since, since))
}

fn in_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
