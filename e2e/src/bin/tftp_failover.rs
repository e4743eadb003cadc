//! Benchmark: downloads whose server dies. How many end identical, and how long the client was without data.
//!
//! Quorate with three members (the leader killed with SIGKILL at a random block; and leadership handed over as an
//! operator does) beside Debian's tftpd-hpa under a supervisor, in one run on one machine.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::clock::{PATIENCE, eventually, now};
use e2e::data::{MIB, random_bytes};
use e2e::reference::Reference;
use e2e::report::{Table, milliseconds, percentile, plot_distribution, write_json};
use e2e::{Client, Group, Link, Proxy};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// How many downloads outlive the death of their leader, and how long they are without data.
#[derive(Parser)]
struct Arguments {
    /// Downloads whose leader is killed.
    #[arg(long, default_value_t = 100)]
    downloads: u32,
    /// Downloads during which leadership is handed over.
    #[arg(long, default_value_t = 50)]
    planned: u32,
    /// Downloads from the reference server, which is killed. 0 leaves the reference out.
    #[arg(long, default_value_t = 20)]
    reference_downloads: u32,
    /// The size of the file in MiB.
    #[arg(long, default_value_t = 4)]
    size: usize,
    /// What chance is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program `in.tftpd` of tftpd-hpa.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
}

/// How a server is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Event {
    Killed,
    Transferred,
    ReferenceKilled,
}

/// One download.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Trial {
    event: Event,
    client: String,
    at_block: u64,
    blocks: u64,
    identical: bool,
    /// The longest time between two new blocks that ended after the event; for the reference, the time from the
    /// event until the file was there, the client started again when it gave up.
    without_data: Option<Duration>,
    client_time_outs: u32,
    server_repeats: u32,
    problem: Option<String>,
}

/// How long a client may take in all: curl waits 72 s before it repeats itself.
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(150);

/// How long a client of the dead reference server is left to recover: twice the five seconds of the demonstration.
const REFERENCE_PATIENCE: Duration = Duration::from_secs(10);

/// systemd's pause before it restarts a service (`RestartSec`, 100 ms unless configured).
const SUPERVISOR_PAUSE: Duration = Duration::from_millis(100);

/// The gap of the Akka demonstration, the reference this benchmark was asked to beat.
const DEMONSTRATION_GAP: Duration = Duration::from_secs(5);

/// The name of the file on the servers.
const NAME: &str = "image.bin";

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let content = random_bytes(arguments.seed, arguments.size * MIB);
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    println!(
        "seed {}, {} MiB, {} kills",
        arguments.seed, arguments.size, arguments.downloads
    );
    let mut trials = Vec::new();
    if arguments.downloads + arguments.planned > 0 {
        trials.extend(quorate_trials(&arguments, &content, &mut rng)?);
    }
    if let (Some(program), true) = (&arguments.reference, arguments.reference_downloads > 0) {
        trials.extend(reference_trials(
            program,
            arguments.reference_downloads,
            &content,
            &mut rng,
        )?);
    }
    println!("{}", table(&trials));
    println!("{}", verdict(&trials));
    write_json(&arguments.results.join("tftp-failover.json"), &trials)?;
    plot(&arguments.results.join("tftp-failover.svg"), &trials)?;
    println!("results are in {}", arguments.results.display());
    Ok(())
}

fn quorate_trials(arguments: &Arguments, content: &[u8], rng: &mut StdRng) -> anyhow::Result<Vec<Trial>> {
    let group = Group::start()?;
    group.put(NAME, content)?;
    let mut trials = Vec::new();
    let events = (0..arguments.downloads)
        .map(|number| (Event::Killed, number))
        .chain((0..arguments.planned).map(|number| (Event::Transferred, number)));
    for (event, number) in events {
        let client = usual(number);
        let trial = quorate_trial(&group, event, client, content, rng)?;
        println!("{event:?} {:3} {}", number + 1, summary(&trial));
        trials.push(trial);
    }
    Ok(trials)
}

fn quorate_trial(
    group: &Group,
    event: Event,
    client: Client,
    content: &[u8],
    rng: &mut StdRng,
) -> anyhow::Result<Trial> {
    group.all_ready()?;
    let leader = group.leader()?;
    let blocks = block_count(client, content);
    let at_block = rng.random_range(0..blocks * 9 / 10);
    let proxy = Proxy::start(group.tftp_port(), Link::default())?;
    let passed = proxy.at_block(at_block);
    let local = group.scratch().join("download");
    std::fs::remove_file(&local).ok();
    let mut download = client.start(proxy.port(), NAME, &local)?;
    passed
        .recv_timeout(PATIENCE)
        .with_context(|| format!("block {at_block} never passed"))?;
    let since = now();
    match event {
        Event::Transferred => group.transfer()?,
        _ => e2e::process::signal(e2e::group::pid(&leader)?, rustix::process::Signal::KILL)?,
    }
    let outcome = download.ends_identical(content, DOWNLOAD_WITHIN);
    let seen = proxy.conversation()?;
    Ok(Trial {
        event,
        client: client.name(),
        at_block,
        blocks,
        identical: outcome.is_ok(),
        without_data: outcome.is_ok().then(|| seen.longest_silence_since(since)),
        client_time_outs: seen.client_time_outs,
        server_repeats: seen.server_repeats,
        problem: outcome.err().map(|error| format!("{error:#}")),
    })
}

fn reference_trials(
    program: &Path,
    count: u32,
    content: &[u8],
    rng: &mut StdRng,
) -> anyhow::Result<Vec<Trial>> {
    let mut server = Reference::start(program)?;
    server.put(NAME, content)?;
    let scratch = tempfile::tempdir().context("making a directory")?;
    let local = scratch.path().join("download");
    let mut trials = Vec::new();
    for number in 0..count {
        let client = usual(number);
        let trial = reference_trial(&mut server, client, content, &local, rng)?;
        println!("{:?} {:3} {}", trial.event, number + 1, summary(&trial));
        trials.push(trial);
    }
    Ok(trials)
}

fn reference_trial(
    server: &mut Reference,
    client: Client,
    content: &[u8],
    local: &Path,
    rng: &mut StdRng,
) -> anyhow::Result<Trial> {
    let blocks = block_count(client, content);
    let at_block = rng.random_range(0..blocks * 9 / 10);
    std::fs::remove_file(local).ok();
    let mut download = client.start(server.port(), NAME, local)?;
    let bytes = at_block * client.block_size() as u64;
    eventually("the download comes to its random block", PATIENCE, || {
        ensure!(
            download.arrived() >= bytes,
            "{} bytes have arrived",
            download.arrived()
        );
        Ok(())
    })?;
    let since = now();
    server.kill()?;
    // Not a wait for a state: the supervisor's own pause is part of what is measured.
    std::thread::sleep(SUPERVISOR_PAUSE);
    server.launch()?;
    let outcome = download.ends_identical(content, REFERENCE_PATIENCE);
    drop(download);
    let finished = match &outcome {
        Ok(()) => None,
        Err(_) => Some(again(server, client, content, local, since)?),
    };
    Ok(Trial {
        event: Event::ReferenceKilled,
        client: client.name(),
        at_block,
        blocks,
        identical: outcome.is_ok(),
        without_data: finished,
        client_time_outs: 0,
        server_repeats: 0,
        problem: outcome.err().map(|error| format!("{error:#}")),
    })
}

/// Starts the client again, as its user has to, and returns the time from the event to the complete file.
fn again(
    server: &Reference,
    client: Client,
    content: &[u8],
    local: &Path,
    since: Instant,
) -> anyhow::Result<Duration> {
    std::fs::remove_file(local).ok();
    client.fetch(server.port(), NAME, local, content, DOWNLOAD_WITHIN)?;
    Ok(since.elapsed())
}

fn usual(number: u32) -> Client {
    Client::USUAL[number as usize % Client::USUAL.len()]
}

fn block_count(client: Client, content: &[u8]) -> u64 {
    (content.len() / client.block_size() + 1) as u64
}

fn summary(trial: &Trial) -> String {
    let end = if trial.identical { "identical" } else { "FAILED" };
    let gap = milliseconds(trial.without_data);
    let problem = trial
        .problem
        .as_deref()
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default();
    let Trial {
        client,
        at_block,
        blocks,
        client_time_outs,
        ..
    } = trial;
    format!(
        "{client}, block {at_block} of {blocks}: {end}, {gap} without data, {client_time_outs} time-outs {problem}"
    )
}

fn of(trials: &[Trial], event: Event, client: Option<&str>) -> Vec<Trial> {
    let wanted = |trial: &&Trial| trial.event == event && client.is_none_or(|client| trial.client == client);
    trials.iter().filter(wanted).cloned().collect()
}

fn gaps(trials: &[Trial]) -> Vec<Duration> {
    trials.iter().filter_map(|trial| trial.without_data).collect()
}

fn table(trials: &[Trial]) -> Table {
    let mut table = Table::new(&[
        "server",
        "client",
        "identical",
        "p50",
        "p90",
        "longest",
        "client time-outs",
        "5 s / p50",
    ]);
    let servers = [
        (Event::Killed, "quorate, leader killed -9"),
        (Event::Transferred, "quorate, leadership transferred"),
        (
            Event::ReferenceKilled,
            "tftpd-hpa killed -9, restarted, client restarted",
        ),
    ];
    let names = Client::USUAL.map(Client::name);
    for (event, server) in servers {
        for client in names.iter().map(|name| Some(name.as_str())).chain([None]) {
            let rows = of(trials, event, client);
            if !rows.is_empty() {
                table.row(row(server, client.unwrap_or("all"), &rows));
            }
        }
    }
    table
}

fn row(server: &str, client: &str, rows: &[Trial]) -> [String; 8] {
    let gaps_here = gaps(rows);
    let median = percentile(&gaps_here, 0.5);
    let ratio = |of: Duration| match median {
        Some(median) if !median.is_zero() => format!("{:.1}x", of.div_duration_f64(median)),
        _ => "-".to_owned(),
    };
    let identical = rows.iter().filter(|trial| trial.identical).count();
    let seen_by_proxy = rows.iter().all(|trial| trial.event != Event::ReferenceKilled);
    let time_outs: u32 = rows.iter().map(|trial| trial.client_time_outs).sum();
    [
        server.to_owned(),
        client.to_owned(),
        format!("{identical} of {}", rows.len()),
        milliseconds(median),
        milliseconds(percentile(&gaps_here, 0.9)),
        milliseconds(percentile(&gaps_here, 1.0)),
        if seen_by_proxy {
            time_outs.to_string()
        } else {
            "-".to_owned()
        },
        // Of the peer's restarted downloads the time is another one: until the whole file is there.
        if seen_by_proxy {
            ratio(DEMONSTRATION_GAP)
        } else {
            "-".to_owned()
        },
    ]
}

/// The aims of this run and whether it met them.
fn verdict(trials: &[Trial]) -> String {
    let (killed, moved) = (
        of(trials, Event::Killed, None),
        of(trials, Event::Transferred, None),
    );
    let at_most = |trials: &[Trial], part, ms| {
        percentile(&gaps(trials), part).is_some_and(|gap| gap <= Duration::from_millis(ms))
    };
    let mut aims = Vec::new();
    if !killed.is_empty() {
        aims.push((
            "killed: all downloads end identical",
            killed.iter().all(|trial| trial.identical),
        ));
        aims.push(("killed: p50 at most 0.6 s", at_most(&killed, 0.5, 600)));
    }
    if !moved.is_empty() {
        aims.push((
            "transferred: all downloads end identical",
            moved.iter().all(|trial| trial.identical),
        ));
        aims.push(("transferred: never more than 50 ms", at_most(&moved, 1.0, 50)));
        aims.push((
            "transferred: no client time-out",
            moved.iter().all(|trial| trial.client_time_outs == 0),
        ));
    }
    let lines = aims
        .iter()
        .map(|(aim, met)| format!("{} {aim}", if *met { "met:    " } else { "NOT MET:" }));
    lines.collect::<Vec<_>>().join("\n")
}

fn plot(path: &Path, trials: &[Trial]) -> anyhow::Result<()> {
    let names = Client::USUAL.map(Client::name);
    let mut series: Vec<(String, Vec<Duration>)> = names
        .iter()
        .map(|name| {
            (
                format!("{name}, killed"),
                gaps(&of(trials, Event::Killed, Some(name))),
            )
        })
        .collect();
    series.push((
        "all, transferred".to_owned(),
        gaps(&of(trials, Event::Transferred, None)),
    ));
    series.push((
        "tftpd-hpa, client restarted".to_owned(),
        gaps(&of(trials, Event::ReferenceKilled, None)),
    ));
    series.retain(|(_, gaps)| !gaps.is_empty());
    plot_distribution(
        path,
        "Time without data when the server of a TFTP download dies",
        &series,
    )
}
