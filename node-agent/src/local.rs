//! The embedded default: a whole group of each service on one machine, without Kubernetes.
//!
//! Every member is a real process of this program (`run --config FILE`), so that killing one is what it is in
//! earnest. `local` holds what a cluster would hold: it claims the ports, keeps the processes running, drives the
//! group's membership, and shows how the members are. It serves nothing itself.

mod agent;
mod directory;
mod driver;
mod import;
mod layout;
mod listener;
mod membership;
mod screen;
mod service;
mod signals;
mod supervisor;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use operator_api::config::{Durability, ServiceKind, Timing};
use operator_api::membership::Initialization;
use tokio::sync::watch;
use tokio::task::JoinSet;

use agent::Agent;
use directory::Directory;
use driver::Driver;
use layout::{Choices, Layout};
use screen::Screen;
use service::Service;
use signals::Signals;
use supervisor::Order;

use crate::{backup, group};

/// What `quorate-agent local` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The services to run; all of them when none is named.
    #[arg(value_name = "SERVICE", value_parser = service_parser())]
    pub(crate) services: Vec<ServiceKind>,
    /// How many members each group has: 1, 3, 5 or 7. By default what --dir remembers, else 3.
    #[arg(long, value_name = "N", value_parser = parse_replicas)]
    replicas: Option<u16>,
    /// Where to keep the members' data for the next start; by default in a temporary directory, removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A directory whose files are imported into the TFTP service at the start.
    #[arg(long, value_name = "DIR")]
    tftp_root: Option<PathBuf>,
    /// Lets TFTP clients upload and replace files whose names begin so; may be given several times.
    #[arg(long, value_name = "PREFIX")]
    tftp_uploads: Vec<String>,
    /// The UDP port for TFTP clients, on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = ServiceKind::Tftp.client_port())]
    tftp_port: u16,
    /// The UDP address for TFTP clients, instead of a port on 127.0.0.1: `0.0.0.0:6969`, `[::1]:6969`.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "tftp_port")]
    tftp_listen: Option<SocketAddr>,
    /// The TCP port for key-value clients, on 127.0.0.1; each member's own port follows it.
    #[arg(long, value_name = "PORT", default_value_t = ServiceKind::Kv.client_port())]
    kv_port: u16,
    /// The TCP port for ADC clients, on 127.0.0.1; the members' own ports are by 10 and more higher.
    #[arg(long, value_name = "PORT", default_value_t = ServiceKind::Adc.client_port())]
    adc_port: u16,
    /// A JSON file with options of the hub, as in the agent's configuration (docs/adc.md): `{"name": "My hub"}`.
    #[arg(long, value_name = "FILE")]
    adc_options: Option<PathBuf>,
    /// The admin port of the first TFTP member; the others have the next ones, those of the other services are by 10 and
    /// 20 higher. By default 9401, or what --dir remembers.
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// The first TFTP member's port for its peers; the others follow likewise. By default 7401, or what --dir remembers.
    #[arg(long, value_name = "PORT")]
    peer_port: Option<u16>,
    /// When a write counts as stored: once it is synced to disk, or once it is written.
    #[arg(long, default_value = "strict", value_parser = durability_parser())]
    durability: Durability,
    /// Election timers.
    #[arg(long, default_value = "lan", value_parser = timing_parser())]
    timing: Timing,
    /// Which lines the members write to their logs: `warn`, `info`, `info,tftp=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,
    /// A backup that the group of its service begins with; that group must not exist in --dir yet.
    #[arg(long, value_name = "FILE")]
    pub(crate) restore: Option<PathBuf>,
    /// Print one line of JSON for each change instead of the table.
    #[arg(long)]
    json: bool,
}

/// Runs the groups until ctrl-C.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    validate(&args)?;
    // Caught first of all, so that nothing is left behind when it comes during the start.
    let mut signals = Signals::catch()?;
    // The directory first: who starts the same group twice learns that, and not that a port is taken.
    let directory = Arc::new(Directory::open(args.dir.as_deref())?);
    let outcome = run_in(&directory, &args, &mut signals).await;
    directory.close().and(outcome)
}

async fn run_in(directory: &Arc<Directory>, args: &Args, signals: &mut Signals) -> anyhow::Result<()> {
    let screen = Screen::new(args.json);
    let mut drivers = Vec::new();
    for kind in args.kinds() {
        drivers.push(prepare(directory, kind, args, &screen)?);
    }
    // Not before every port is known to be free.
    directory.make_secrets()?;
    let (orders, order) = watch::channel(Order::Run);
    let mut groups = JoinSet::new();
    for driver in drivers {
        groups.spawn(driver.start()?.run(order.clone()));
    }
    group::announce(directory.path())?;
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            () = signals.received() => orders.send_modify(|order| {
                *order = if *order == Order::Run { Order::Stop } else { Order::Kill };
            }),
            ended = groups.join_next() => match ended {
                None => break,
                Some(ended) => {
                    // One that fails ends the others.
                    orders.send_modify(|order| *order = (*order).max(Order::Stop));
                    outcome = outcome.and(ended.context("a group's task broke").flatten());
                }
            },
        }
    }
    group::withdraw(directory.path());
    outcome
}

/// Claims the ports of a group and its place in the directory.
fn prepare(
    directory: &Arc<Directory>,
    kind: ServiceKind,
    args: &Args,
    screen: &Screen,
) -> anyhow::Result<Driver> {
    let client = service::bind(kind, args)?;
    let choices = Choices {
        replicas: args.replicas,
        admin_port: args.admin_port,
        peer_port: args.peer_port,
    };
    let layout = Layout::open(directory, kind, client.address, choices)?;
    let restore_from = restored(kind, args)?;
    ensure!(
        restore_from.is_none() || layout.initialization()? == Initialization::Never,
        "the {kind} group in {} exists already: restore into another --dir",
        directory.path().display()
    );
    let agent = Agent {
        program: std::env::current_exe().context("finding this program's file")?,
        timing: args.timing,
        durability: args.durability,
        log_level: args.log_level.clone(),
        service: Service {
            kind,
            client: client.address,
            root: service::root(kind, args),
            adc: service::adc_options(kind, args)?,
            password_key_file: directory.password_key_file(),
            uploads: args.tftp_uploads.clone(),
        },
        socket: client.socket,
        restore_from,
    };
    Driver::prepare(layout, agent, screen.clone())
}

/// The backup that the group of this service begins with.
fn restored(kind: ServiceKind, args: &Args) -> anyhow::Result<Option<PathBuf>> {
    let Some(file) = &args.restore else {
        return Ok(None);
    };
    let service = backup::service_of(&backup::check(file)?)?;
    ensure!(
        args.kinds().contains(&service),
        "--restore {}: it is a backup of a {service} group, and none is started",
        file.display()
    );
    Ok((service == kind).then(|| std::path::absolute(file)).transpose()?)
}

impl Args {
    /// The services to run, each once, in the order in which they are listed to people.
    fn kinds(&self) -> Vec<ServiceKind> {
        let all = ServiceKind::ALL.into_iter();
        all.filter(|kind| self.services.is_empty() || self.services.contains(kind))
            .collect()
    }
}

/// Checks what the parser cannot, before anything is started or written.
fn validate(args: &Args) -> anyhow::Result<()> {
    if let Some(root) = &args.tftp_root {
        ensure!(
            root.is_dir(),
            "--tftp-root {}: there is no such directory",
            root.display()
        );
    }
    args.log_level
        .parse::<tracing_subscriber::filter::Targets>()
        .with_context(|| {
            format!(
                "--log-level `{}` is not a filter such as `info` or `info,tftp=debug`",
                args.log_level
            )
        })?;
    Ok(())
}

fn parse_replicas(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(replicas) if replicas <= layout::REPLICAS_MAX && replicas % 2 == 1 => Ok(replicas),
        _ => Err(
            "a group has 1, 3, 5 or 7 members: one more than an odd number survives no more losses"
                .to_owned(),
        ),
    }
}

fn service_parser() -> impl TypedValueParser<Value = ServiceKind> {
    named(ServiceKind::ALL.map(|service| (service.name(), service)))
}

fn durability_parser() -> impl TypedValueParser<Value = Durability> {
    named([("strict", Durability::Strict), ("relaxed", Durability::Relaxed)])
}

fn timing_parser() -> impl TypedValueParser<Value = Timing> {
    named([("lan", Timing::Lan), ("edge", Timing::Edge)])
}

/// A parser of values by their names, which `--help` and errors list.
fn named<T, const N: usize>(values: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(values.each_ref().map(|(name, _)| *name)).try_map(move |text| {
        let value = values.iter().find(|(name, _)| *name == text);
        value.map(|(_, value)| value.clone()).ok_or("unknown name")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Result<Args, String> {
        let all = std::iter::once("local").chain(arguments.iter().copied());
        Cli::try_parse_from(all)
            .map(|cli| cli.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.kinds(), ServiceKind::ALL);
        assert_eq!((args.tftp_port, args.kv_port, args.adc_port), (6969, 2390, 1511));
        assert_eq!((args.durability, args.timing), (Durability::Strict, Timing::Lan));
        validate(&args).unwrap();
    }

    #[test]
    fn choices_are_read() {
        let args = parse(&[
            "tftp",
            "--replicas",
            "5",
            "--tftp-listen",
            "[::1]:69",
            "--timing",
            "edge",
        ])
        .unwrap();
        assert_eq!(args.kinds(), [ServiceKind::Tftp]);
        assert_eq!(args.replicas, Some(5));
        assert_eq!(args.tftp_listen, Some("[::1]:69".parse().unwrap()));
        assert_eq!(args.timing, Timing::Edge);
    }

    #[test]
    fn service_named_twice_runs_once() {
        let args = parse(&["kv", "tftp", "kv"]).unwrap();
        assert_eq!(args.kinds(), [ServiceKind::Tftp, ServiceKind::Kv]);
    }

    #[test]
    fn even_numbers_of_members_are_refused() {
        for replicas in ["0", "2", "4", "9", "-1", "x"] {
            let error = parse(&[&format!("--replicas={replicas}")]).unwrap_err();
            assert!(error.contains("1, 3, 5 or 7 members"), "{error}");
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        assert!(
            parse(&["ntp"])
                .unwrap_err()
                .contains("[possible values: tftp, kv, adc]")
        );
        let error = parse(&["--durability", "none"]).unwrap_err();
        assert!(error.contains("strict, relaxed"), "{error}");
        assert!(parse(&["--tftp-port", "1", "--tftp-listen", "[::1]:2"]).is_err());
    }

    #[test]
    fn missing_root_is_named_before_anything_starts() {
        let args = parse(&["--tftp-root", "/nonexistent/root"]).unwrap();
        let error = validate(&args).unwrap_err().to_string();
        assert!(error.contains("--tftp-root /nonexistent/root"), "{error}");
        let args = parse(&["--log-level", "info,x=loud"]).unwrap();
        assert!(validate(&args).unwrap_err().to_string().contains("--log-level"));
    }
}
