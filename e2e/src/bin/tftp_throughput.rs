//! Benchmark: how fast files are served, beside Debian's tftpd-hpa in the same run, and what the members cost.
#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use e2e::clock::now;
use e2e::data::{MIB, ensure_identical, random_bytes};
use e2e::group::pid;
use e2e::process::{processor_time, resident_bytes};
use e2e::reference::Reference;
use e2e::report::{Table, write_json};
use e2e::{Client, Group};
use operator_api::Role;
use serde::Serialize;

/// Throughput of downloads: one client, and many at once; and what the members cost while idle.
#[derive(Parser)]
struct Arguments {
    /// The MiB of the file that one client downloads.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// How many clients run at once in the second case, 1 MiB each.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds for which the idle members are watched, before the downloads and after them.
    #[arg(long, default_value_t = 10)]
    idle: u64,
    /// The program `in.tftpd` of tftpd-hpa.
    #[arg(long)]
    reference: PathBuf,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
}

/// The median of the rounds of one case, in MB/s (10^6 bytes).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    client: String,
    clients: usize,
    quorate: f64,
    /// None where the peer does not know what the client asks for.
    reference: Option<f64>,
    /// Processor time of all members together for each MB, in milliseconds: the downloads', not the idle members'.
    processor_ms_per_mb: f64,
}

/// What the members cost while nobody asks for anything.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Idle {
    when: &'static str,
    role: Role,
    /// Of one processor.
    processor_percent: f64,
    resident_mib: f64,
}

#[derive(Serialize)]
struct Results {
    cases: Vec<Case>,
    idle: Vec<Idle>,
}

/// Who downloads, and whether tftpd-hpa can serve it what it asks for.
const CLIENTS: [(Client, bool); 7] = [
    (Client::Curl { block_size: 512 }, true),
    (Client::Curl { block_size: 1468 }, true),
    (Client::Curl { block_size: 8192 }, true),
    (Client::Curl { block_size: 65_464 }, true),
    (windowed(1), true),
    // It does not know `windowsize` (RFC 7440).
    (windowed(8), false),
    (windowed(64), false),
];

const fn windowed(window: u32) -> Client {
    Client::AtftpOptions {
        block_size: 1428,
        window,
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let group = Group::start()?;
    let reference = Reference::start(&arguments.reference)?;
    let scratch = tempfile::tempdir().context("making a directory")?;
    let watch = Duration::from_secs(arguments.idle);
    let mut idle = watch_idle(&group, "before the downloads", watch)?;
    let mut cases = Vec::new();
    for (clients, size) in [(1, arguments.size), (arguments.clients, 1)] {
        let file = format!("throughput-{clients}.bin");
        let content = random_bytes(1, size * MIB);
        group.put(&file, &content)?;
        reference.put(&file, &content)?;
        let bench = Bench {
            group: &group,
            reference: &reference,
            file,
            content,
            clients,
            rounds: arguments.rounds,
            scratch: scratch.path(),
        };
        for (client, is_comparable) in CLIENTS {
            let case = bench.case(client, is_comparable)?;
            println!("{case:?}");
            cases.push(case);
        }
    }
    idle.extend(watch_idle(&group, "after them", watch)?);
    let results = Results { cases, idle };
    println!(
        "{}\n{}",
        throughput_table(&results.cases),
        idle_table(&results.idle)
    );
    write_json(&arguments.results.join("tftp-throughput.json"), &results)
}

/// One file that a number of clients download at once.
struct Bench<'a> {
    group: &'a Group,
    reference: &'a Reference,
    file: String,
    content: Vec<u8>,
    clients: usize,
    rounds: usize,
    scratch: &'a Path,
}

impl Bench<'_> {
    fn case(&self, client: Client, is_comparable: bool) -> anyhow::Result<Case> {
        let (mut ours, mut theirs, mut costs) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let us = || -> anyhow::Result<(f64, f64)> {
                let before = group_processor_time(self.group)?;
                let rate = self.fetch_all(client, self.group.tftp_port())?;
                let used = group_processor_time(self.group)?.saturating_sub(before);
                Ok((rate, used.as_secs_f64() * 1e3 / self.megabytes()))
            };
            let they = || -> anyhow::Result<Option<f64>> {
                is_comparable
                    .then(|| self.fetch_all(client, self.reference.port()))
                    .transpose()
            };
            // First and second change places, so that neither always finds the machine warm.
            let ((rate, cost), their_rate) = if round % 2 == 0 {
                let us = us()?;
                (us, they()?)
            } else {
                let they = they()?;
                (us()?, they)
            };
            ours.push(rate);
            costs.push(cost);
            theirs.extend(their_rate);
        }
        Ok(Case {
            client: client.name(),
            clients: self.clients,
            quorate: median(&mut ours).unwrap_or_default(),
            reference: median(&mut theirs),
            processor_ms_per_mb: median(&mut costs).unwrap_or_default(),
        })
    }

    /// Downloads with all clients at once and returns the MB/s of all together.
    fn fetch_all(&self, client: Client, port: u16) -> anyhow::Result<f64> {
        let local = |number: usize| self.scratch.join(number.to_string());
        let started = now();
        let mut downloads = (0..self.clients)
            .map(|number| client.start(port, &self.file, &local(number)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for download in &mut downloads {
            download.process().finish()?;
        }
        let seconds = started.elapsed().as_secs_f64();
        for number in 0..self.clients {
            ensure_identical(&local(number), &self.content)?;
            std::fs::remove_file(local(number)).context("removing what was downloaded")?;
        }
        Ok(self.megabytes() / seconds)
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn megabytes(&self) -> f64 {
        (self.content.len() * self.clients) as f64 / 1e6
    }
}

/// The processor time that all members together have used.
fn group_processor_time(group: &Group) -> anyhow::Result<Duration> {
    let members = group.statuses();
    members
        .iter()
        .flatten()
        .map(|member| processor_time(pid(member)?))
        .sum()
}

/// What each member uses while nothing happens.
#[expect(clippy::cast_precision_loss, reason = "MiB for people")]
fn watch_idle(group: &Group, when: &'static str, watch: Duration) -> anyhow::Result<Vec<Idle>> {
    let members: Vec<_> = group.statuses().into_iter().flatten().collect();
    let times = || -> anyhow::Result<Vec<Duration>> {
        members
            .iter()
            .map(|member| processor_time(pid(member)?))
            .collect()
    };
    let before = times()?;
    std::thread::sleep(watch);
    let after = times()?;
    let used = before.iter().zip(after).map(|(before, after)| after - *before);
    members
        .iter()
        .zip(used)
        .map(|(member, used)| {
            Ok(Idle {
                when,
                role: member.role,
                processor_percent: used.as_secs_f64() / watch.as_secs_f64() * 100.0,
                resident_mib: resident_bytes(pid(member)?)? as f64 / MIB as f64,
            })
        })
        .collect()
}

fn throughput_table(cases: &[Case]) -> Table {
    let titles = [
        "clients",
        "client",
        "quorate, 3 members",
        "tftpd-hpa",
        "ratio",
        "CPU of all members",
    ];
    let mut table = Table::new(&titles);
    for case in cases {
        let reference = case.reference;
        table.row([
            case.clients.to_string(),
            case.client.clone(),
            format!("{:.1} MB/s", case.quorate),
            reference.map_or_else(|| "no windowsize".to_owned(), |rate| format!("{rate:.1} MB/s")),
            reference.map_or_else(|| "-".to_owned(), |rate| format!("{:.2}x", case.quorate / rate)),
            format!("{:.1} ms/MB", case.processor_ms_per_mb),
        ]);
    }
    table
}

fn idle_table(members: &[Idle]) -> Table {
    let mut table = Table::new(&["idle", "role", "CPU", "resident"]);
    for member in members {
        table.row([
            member.when.to_owned(),
            format!("{:?}", member.role).to_lowercase(),
            format!("{:.1} %", member.processor_percent),
            format!("{:.1} MiB", member.resident_mib),
        ]);
    }
    table
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
