//! Benchmark: the key-value store beside etcd, in the same run, by the same load generator.
#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use e2e::kv_bench::cost::{
    Counters, Machine, allow_many_files, largest_resident_mib, load_average, program_mb,
};
use e2e::kv_bench::generator::{Load, Mix, Outcome, Pace, Protocol, Until, run};
use e2e::kv_bench::grpc::Api;
use e2e::kv_bench::latency::Spread;
use e2e::kv_bench::plot::plot_over_time;
use e2e::kv_bench::side::Side;
use e2e::kv_bench::wire::Operation;
use e2e::program::agent;
use e2e::report::{Table, write_json};
use serde::Serialize;

/// Puts and gets of 1 to 1,000 clients, writes at a given rate, memory, disk and processor time; beside etcd.
#[derive(Parser)]
struct Arguments {
    /// The program `etcd`; without it only Quorate is measured.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
    /// Quorate's clients speak gRPC and share a hundred connections, as etcd's do, instead of HTTP/1.1 on one each.
    #[arg(long)]
    grpc: bool,
    /// A run of a few minutes: three members, short phases.
    #[arg(long)]
    quick: bool,
    /// Only the cases whose names contain this, such as `put, 1 clients` or `1000 clients, 256 B`; `none` for none of them.
    #[arg(long, default_value = "")]
    only: String,
    /// Group sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 5])]
    members: Vec<u16>,
    /// Seconds that are counted of each case, after one that is not.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Puts after which memory is read, on the first group size; they also fill the store.
    #[arg(long, default_value_t = 250_000)]
    fill: u64,
    /// Writes a second at a given rate, on the last group size.
    #[arg(long, value_delimiter = ',', default_values_t = [2_500, 5_000, 10_000])]
    rates: Vec<u32>,
    /// Seconds for which each rate is held.
    #[arg(long, default_value_t = 30)]
    rate_seconds: u64,
}

impl Arguments {
    fn parse_and_shorten() -> Self {
        let mut arguments = Self::parse();
        if arguments.quick {
            arguments.members = vec![3];
            arguments.seconds = 2;
            arguments.fill = 50_000;
            arguments.rates = vec![2_500, 10_000];
            arguments.rate_seconds = 8;
        }
        arguments
    }
}

/// What one side did in one case.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    store: &'static str,
    per_second: f64,
    /// In milliseconds.
    latency: Spread,
    /// Of all members.
    processor_seconds: f64,
    processor_us_per_request: f64,
    /// Of all members, by the kernel's account of their processes.
    written_kib_per_request: f64,
    /// By the count of the disk, whoever wrote.
    device_kib_per_request: f64,
    /// Of the largest member, at the end.
    resident_mib: f64,
    right: u64,
    wrong: u64,
    lost: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by_second: Vec<u64>,
}

/// A case, done by both sides one after the other.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    members: u16,
    clients: usize,
    value_bytes: usize,
    sides: Vec<Measured>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    machine: Machine,
    load_after: String,
    program_mb: Vec<(&'static str, f64)>,
    idle_mib: Vec<(&'static str, f64)>,
    filled: Case,
    cases: Vec<Case>,
    rates: Vec<Case>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse_and_shorten();
    allow_many_files()?;
    let machine = Machine::look(&std::env::temp_dir())?;
    println!("{machine:?}");
    let mut bench = Bench {
        arguments: &arguments,
        turn: 0,
    };
    let (mut cases, mut rates, mut filled, mut idle_mib) = (Vec::new(), Vec::new(), None, Vec::new());
    for (place, members) in arguments.members.iter().enumerate() {
        let sides = bench.start(*members)?;
        if filled.is_none() {
            for side in &sides {
                idle_mib.push((side.name, largest_resident_mib(&side.pids)?));
            }
        }
        let fill = if place == 0 { arguments.fill } else { 20_000 };
        let case = bench.case(&sides, "fill", &fill_load(fill), Target::Leader)?;
        filled.get_or_insert(case);
        for (name, load, target) in plan(arguments.seconds) {
            let named = format!("{name}, {} clients, {} B", load.clients, load.value_bytes);
            if named.contains(&arguments.only) {
                cases.push(bench.case(&sides, &name, &load, target)?);
            }
        }
        if place + 1 == arguments.members.len() {
            for rate in &arguments.rates {
                let (name, load) = rate_load(*rate, arguments.rate_seconds);
                rates.push(bench.case(&sides, &name, &load, Target::Leader)?);
            }
        }
    }
    let mut programs = vec![("quorate", program_mb(&agent()?)?)];
    if let Some(reference) = &arguments.reference {
        programs.push(("etcd", program_mb(reference)?));
    }
    let results = Results {
        machine,
        load_after: load_average()?,
        program_mb: programs,
        idle_mib,
        filled: filled.context("no group size was given")?,
        cases,
        rates,
    };
    println!("\n{}", summary(&results));
    println!("{}", throughput_table(&results));
    println!("{}", latency_table(&results));
    write_json(&arguments.results.join("kv.json"), &results)?;
    let figures: Vec<_> = results.rates.iter().map(figure).collect();
    if figures.is_empty() {
        return Ok(());
    }
    plot_over_time(&arguments.results.join("kv-rates.svg"), &figures)
}

/// Which members are asked.
#[derive(Debug, Clone, Copy)]
enum Target {
    Leader,
    All,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    /// Cases so far: who was first changes places, so that neither always finds the machine warm.
    turn: usize,
}

impl Bench<'_> {
    fn start(&self, members: u16) -> anyhow::Result<Vec<Side>> {
        let protocol = if self.arguments.grpc {
            Protocol::Grpc(Api::Quorate)
        } else {
            Protocol::Http
        };
        let mut sides = vec![Side::quorate(members, protocol)?];
        if let Some(reference) = &self.arguments.reference {
            sides.insert(0, Side::etcd(reference, members)?);
        }
        Ok(sides)
    }

    fn case(&mut self, sides: &[Side], name: &str, load: &Load, target: Target) -> anyhow::Result<Case> {
        self.turn += 1;
        let measure = |side: &Side| {
            let measured = measure(side, load, target)
                .with_context(|| format!("{}: {name}, {} clients", side.name, load.clients))?;
            println!(
                "{} members, {name}, {} clients, {} B: {} {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {:.1} us CPU, {} wrong",
                side.members.len(),
                load.clients,
                load.value_bytes,
                side.name,
                measured.per_second,
                measured.latency.p50,
                measured.latency.p99,
                measured.processor_us_per_request,
                measured.wrong + measured.lost,
            );
            Ok(measured)
        };
        let mut measured = if self.turn.is_multiple_of(2) {
            sides.iter().map(measure).collect::<anyhow::Result<Vec<_>>>()?
        } else {
            sides
                .iter()
                .rev()
                .map(measure)
                .collect::<anyhow::Result<Vec<_>>>()?
        };
        measured.sort_by_key(|measured| measured.store);
        Ok(Case {
            name: name.to_owned(),
            members: u16::try_from(sides[0].members.len())?,
            clients: load.clients,
            value_bytes: load.value_bytes,
            sides: measured,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn measure(side: &Side, load: &Load, target: Target) -> anyhow::Result<Measured> {
    let ports = match target {
        Target::Leader => vec![side.leader],
        Target::All => side.members.clone(),
    };
    let data = std::env::temp_dir();
    let before = Counters::read(&side.pids, &data)?;
    let outcome: Outcome = run(side.protocol, &ports, load)?;
    let cost = Counters::read(&side.pids, &data)?.since(before);
    let requests = outcome.right.max(1) as f64;
    let by_second = match load.pace {
        Pace::Open(_) => outcome.by_second.clone(),
        Pace::Closed => Vec::new(),
    };
    Ok(Measured {
        store: side.name,
        per_second: outcome.rate(),
        latency: outcome.latencies.spread(),
        processor_seconds: cost.processor.as_secs_f64(),
        processor_us_per_request: cost.processor.as_secs_f64() * 1e6 / requests,
        written_kib_per_request: cost.written as f64 / 1024.0 / requests,
        device_kib_per_request: cost.device as f64 / 1024.0 / requests,
        resident_mib: largest_resident_mib(&side.pids)?,
        right: outcome.right,
        wrong: outcome.wrong,
        lost: outcome.lost,
        by_second,
    })
}

fn closed(mix: Mix, clients: usize, value_bytes: usize, until: Until) -> Load {
    Load {
        mix,
        value_bytes,
        clients,
        pace: Pace::Closed,
        warm_up: match until {
            Until::Time(_) => Duration::from_secs(1),
            Until::Count(_) => Duration::ZERO,
        },
        until,
    }
}

fn fill_load(puts: u64) -> Load {
    closed(Mix::Only(Operation::Put), 1000, 1024, Until::Count(puts))
}

fn rate_load(rate: u32, seconds: u64) -> (String, Load) {
    let load = Load {
        pace: Pace::Open(rate),
        warm_up: Duration::ZERO,
        ..closed(
            Mix::Only(Operation::Put),
            1000,
            256,
            Until::Time(Duration::from_secs(seconds)),
        )
    };
    (format!("put at {rate} a second"), load)
}

/// The cases of one group size.
fn plan(seconds: u64) -> Vec<(String, Load, Target)> {
    let until = Until::Time(Duration::from_secs(seconds));
    let mut plan = Vec::new();
    let mut add = |name: &str, mix, clients, bytes, target| {
        plan.push((name.to_owned(), closed(mix, clients, bytes, until), target));
    };
    let all_clients = [1, 64, 1000];
    for bytes in [256, 1024] {
        for clients in all_clients {
            add("put", Mix::Only(Operation::Put), clients, bytes, Target::Leader);
        }
    }
    for (name, operation) in [("get", Operation::Get), ("local get", Operation::LocalGet)] {
        for clients in all_clients {
            add(name, Mix::Only(operation), clients, 256, Target::Leader);
        }
    }
    for clients in [64, 1000] {
        add("half get, half put", Mix::Half, clients, 256, Target::Leader);
    }
    add(
        "put, any member",
        Mix::Only(Operation::Put),
        1000,
        256,
        Target::All,
    );
    add(
        "get, any member",
        Mix::Only(Operation::Get),
        1000,
        256,
        Target::All,
    );
    plan
}

fn summary(results: &Results) -> Table {
    let mut table = Table::new(&["", "etcd", "quorate", "ratio"]);
    let mut row = |name: &str, etcd: Option<f64>, quorate: Option<f64>, unit: &str| {
        let shown =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} {unit}"));
        table.row([name.to_owned(), shown(etcd), shown(quorate), ratio(quorate, etcd)]);
    };
    let of = |values: &[(&'static str, f64)], name: &str| {
        values
            .iter()
            .find(|(store, _)| *store == name)
            .map(|(_, value)| *value)
    };
    let (program, idle) = (&results.program_mb, &results.idle_mib);
    row("program", of(program, "etcd"), of(program, "quorate"), "MB");
    row(
        "memory of a member, empty",
        of(idle, "etcd"),
        of(idle, "quorate"),
        "MiB",
    );
    let filled = |name: &str| {
        results
            .filled
            .sides
            .iter()
            .find(|side| side.store == name)
            .map(|side| side.resident_mib)
    };
    let puts = results.filled.sides.iter().map(|side| side.right).max();
    let name = format!("memory after {} puts", puts.unwrap_or_default());
    row(&name, filled("etcd"), filled("quorate"), "MiB");
    table
}

fn ratio(quorate: Option<f64>, etcd: Option<f64>) -> String {
    match (quorate, etcd) {
        (Some(quorate), Some(etcd)) if etcd > 0.0 => format!("{:.2}x", quorate / etcd),
        _ => "-".to_owned(),
    }
}

fn sides(case: &Case) -> (Option<&Measured>, Option<&Measured>) {
    let of = |name: &str| case.sides.iter().find(|side| side.store == name);
    (of("etcd"), of("quorate"))
}

fn all(results: &Results) -> impl Iterator<Item = &Case> {
    std::iter::once(&results.filled)
        .chain(&results.cases)
        .chain(&results.rates)
}

fn head(case: &Case) -> [String; 4] {
    [
        case.members.to_string(),
        case.name.clone(),
        case.clients.to_string(),
        format!("{} B", case.value_bytes),
    ]
}

fn throughput_table(results: &Results) -> Table {
    let mut table = Table::new(&[
        "members",
        "",
        "clients",
        "value",
        "etcd /s",
        "quorate /s",
        "ratio",
        "etcd CPU",
        "quorate CPU",
        "etcd written",
        "quorate written",
        "ratio",
        "failed",
    ]);
    for case in all(results) {
        let (etcd, quorate) = sides(case);
        let shown = |side: Option<&Measured>, show: fn(&Measured) -> String| {
            side.map_or_else(|| "-".to_owned(), show)
        };
        let written = |side: Option<&Measured>| side.map(|side| side.written_kib_per_request);
        let rate = |side: Option<&Measured>| side.map(|side| side.per_second);
        let mut cells = head(case).to_vec();
        for side in [etcd, quorate] {
            cells.push(shown(side, |side| format!("{:.0}", side.per_second)));
        }
        cells.push(ratio(rate(quorate), rate(etcd)));
        for side in [etcd, quorate] {
            cells.push(shown(side, |side| {
                format!("{:.0} us", side.processor_us_per_request)
            }));
        }
        for side in [etcd, quorate] {
            cells.push(shown(side, |side| {
                format!("{:.2} KiB", side.written_kib_per_request)
            }));
        }
        cells.push(ratio(written(quorate), written(etcd)));
        let failed = |side: &Measured| (side.wrong + side.lost).to_string();
        cells.push(format!("{} / {}", shown(etcd, failed), shown(quorate, failed)));
        table.row(cells);
    }
    table
}

fn latency_table(results: &Results) -> Table {
    let mut table = Table::new(&[
        "members",
        "",
        "clients",
        "value",
        "etcd p50 / p99 / p99.9 / max",
        "quorate p50 / p99 / p99.9 / max",
        "ratio p50",
        "ratio p99",
    ]);
    for case in all(results) {
        let (etcd, quorate) = sides(case);
        let shown = |side: Option<&Measured>| {
            side.map_or_else(
                || "-".to_owned(),
                |side| {
                    let Spread { p50, p99, p999, max } = side.latency;
                    format!("{p50:.2} / {p99:.2} / {p999:.1} / {max:.0} ms")
                },
            )
        };
        let p50 = |side: Option<&Measured>| side.map(|side| side.latency.p50);
        let p99 = |side: Option<&Measured>| side.map(|side| side.latency.p99);
        let mut cells = head(case).to_vec();
        cells.extend([
            shown(etcd),
            shown(quorate),
            ratio(p50(quorate), p50(etcd)),
            ratio(p99(quorate), p99(etcd)),
        ]);
        table.row(cells);
    }
    table
}

fn figure(case: &Case) -> (String, Vec<(String, Vec<u64>)>) {
    let series = case
        .sides
        .iter()
        .map(|side| (side.store.to_owned(), side.by_second.clone()));
    (
        format!("{}, {} members", case.name, case.members),
        series.collect(),
    )
}
