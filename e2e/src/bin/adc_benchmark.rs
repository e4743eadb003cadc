//! Benchmark: our hub, with one member and with three, beside Debian's uhub in the same run.
#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use e2e::adc::contest::{Hub, Measured, Plan, measure};
use e2e::adc::swarm::raise_limit_of_files;
use e2e::report::{Table, plot_distribution_of, write_json};

/// Logins, chat, private messages, memory, slow readers and the loss of a hub, with thousands of users.
#[derive(Parser)]
struct Arguments {
    /// How many users, one number for each round.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000")]
    users: Vec<usize>,
    /// Seconds for which messages are sent in each case.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds after which a wave of logins is given up.
    #[arg(long, default_value_t = 600)]
    wave_seconds_max: u64,
    /// Which hubs: uhub, and quorate with so many members.
    #[arg(long, value_delimiter = ',', default_value = "uhub,1,3")]
    hubs: Vec<String>,
    /// Processors of the hub, as `taskset -c` takes them; all but the last one of this machine without it.
    #[arg(long)]
    hub_cores: Option<String>,
    /// Processors of the users; the last one of this machine without it.
    #[arg(long)]
    swarm_cores: Option<String>,
    /// A look that takes a minute or two: 300 users, two seconds for each case.
    #[arg(long)]
    quick: bool,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        arguments.users = vec![300];
        arguments.seconds = 2;
    }
    let plan = plan(&arguments)?;
    // Before the hubs are started: they inherit it.
    raise_limit_of_files(arguments.users.iter().copied().max().unwrap_or(0))?;
    println!(
        "hubs on processors {}, users on {}",
        plan.hub_cores, plan.swarm_cores
    );
    let mut all = Vec::new();
    for users in &arguments.users {
        for name in &arguments.hubs {
            let mut hub = match name.as_str() {
                "uhub" => Hub::uhub(&plan)?,
                members => {
                    let members = members.parse().with_context(|| format!("{members} is no hub"))?;
                    Hub::quorate(members, &plan)?
                }
            };
            let measured = measure(&mut hub, *users, &plan);
            println!("{}", one_line(&measured));
            all.push(measured);
        }
    }
    println!("\n{}", table(&all));
    // The name of a quick look's files says so: they are no results.
    let name = if arguments.quick { "adc-quick" } else { "adc" };
    write_json(&arguments.results.join(format!("{name}.json")), &all)?;
    let largest = all.iter().map(|one| one.users).max().unwrap_or(0);
    plot(&arguments.results.join(format!("{name}.svg")), largest, &all)
}

fn plan(arguments: &Arguments) -> anyhow::Result<Plan> {
    let processors = std::thread::available_parallelism()
        .context("counting processors")?
        .get();
    let hubs = processors.saturating_sub(1).max(1);
    let hub_cores = match (&arguments.hub_cores, hubs) {
        (Some(cores), _) => cores.clone(),
        (None, 1) => "0".to_owned(),
        (None, hubs) => format!("0-{}", hubs - 1),
    };
    Ok(Plan {
        seconds: arguments.seconds,
        wave_seconds_max: arguments.wave_seconds_max,
        hub_cores,
        swarm_cores: arguments
            .swarm_cores
            .clone()
            .unwrap_or_else(|| (processors - 1).to_string()),
        threads: u16::try_from(hubs).unwrap_or(u16::MAX),
    })
}

fn one_line(measured: &Measured) -> String {
    let Measured { hub, users, .. } = measured;
    let wave = value(measured.wave_seconds, 2, "s");
    let failure = measured.failure.as_deref().unwrap_or("done");
    format!("{users} users on {hub}: all in after {wave}; {failure}")
}

/// A number with its unit; a dash for none.
fn value(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$} {unit}"))
}

/// One row of the table: what it is called, how it is read, and whether more is better.
struct Row {
    title: &'static str,
    digits: usize,
    unit: &'static str,
    more_is_better: bool,
    read: fn(&Measured) -> Option<f64>,
}

const fn row(
    title: &'static str,
    digits: usize,
    unit: &'static str,
    read: fn(&Measured) -> Option<f64>,
) -> Row {
    Row {
        title,
        digits,
        unit,
        more_is_better: false,
        read,
    }
}

const fn rate(title: &'static str, read: fn(&Measured) -> Option<f64>) -> Row {
    Row {
        more_is_better: true,
        ..row(title, 0, "/s", read)
    }
}

const ROWS: [Row; 20] = [
    row("all logged in", 2, "s", |of| of.wave_seconds),
    row("processor time for that", 2, "s", |of| of.wave_processor_seconds),
    row("storm: all in again", 2, "s", |of| of.storm_seconds),
    rate("deliveries of chat", |of| Some(of.broadcast.as_ref()?.per_second)),
    row("half of them within", 1, "ms", |of| {
        Some(of.broadcast.as_ref()?.p50_ms)
    }),
    row("99 % of them within", 1, "ms", |of| {
        Some(of.broadcast.as_ref()?.p99_ms)
    }),
    rate("deliveries with 1 % slow readers", |of| {
        Some(of.broadcast_with_slow_readers.as_ref()?.per_second)
    }),
    row("99 % of them within", 1, "ms", |of| {
        Some(of.broadcast_with_slow_readers.as_ref()?.p99_ms)
    }),
    rate("deliveries with 10,000 probes", |of| {
        Some(of.broadcast_with_probes.as_ref()?.per_second)
    }),
    row("99 % of them within", 1, "ms", |of| {
        Some(of.broadcast_with_probes.as_ref()?.p99_ms)
    }),
    row("SIDs spent on them", 0, "", |of| {
        of.sids_spent_on_probes.map(f64::from)
    }),
    rate("private messages", |of| Some(of.relay.as_ref()?.per_second)),
    row("99 % of them within", 1, "ms", |of| {
        Some(of.relay.as_ref()?.p99_ms)
    }),
    row("memory for an idle user, all members", 1, "KiB", |of| {
        of.idle_kib_per_user
    }),
    row("memory for a member's own user", 1, "KiB", |of| {
        of.idle_kib_per_user_of_a_member
    }),
    row("memory after the storm", 0, "MiB", |of| of.storm_mib),
    row("loss: users cut", 0, "", |of| {
        u32::try_from(of.loss.as_ref()?.cut).ok().map(f64::from)
    }),
    row("loss: silence of the others", 0, "ms", |of| {
        of.loss.as_ref()?.silence_of_others_ms
    }),
    row("loss: all users back", 0, "ms", |of| {
        Some(of.loss.as_ref()?.all_back_ms)
    }),
    row("loss: a line reaches all", 0, "ms", |of| {
        Some(of.loss.as_ref()?.all_chat_ms)
    }),
];

fn table(all: &[Measured]) -> Table {
    let mut hubs: Vec<&str> = Vec::new();
    for measured in all {
        if !hubs.contains(&measured.hub.as_str()) {
            hubs.push(&measured.hub);
        }
    }
    let titles: Vec<&str> = ["users", "what"]
        .into_iter()
        .chain(hubs.iter().copied())
        .collect();
    let mut table = Table::new(&titles);
    let mut counts: Vec<usize> = all.iter().map(|measured| measured.users).collect();
    counts.dedup();
    for users in counts {
        for row in &ROWS {
            let find = |hub: &str| all.iter().find(|one| one.users == users && one.hub == hub);
            let peer = find("uhub").and_then(row.read);
            let cells = hubs.iter().map(|hub| {
                let found = find(hub).and_then(row.read);
                let text = value(found, row.digits, row.unit);
                match (found, peer) {
                    (Some(ours), Some(peer)) if *hub != "uhub" && peer > 0.0 && ours > 0.0 => {
                        let times = if row.more_is_better {
                            ours / peer
                        } else {
                            peer / ours
                        };
                        format!("{text} ({times:.2}x)")
                    }
                    _ => text,
                }
            });
            table.row([users.to_string(), row.title.to_owned()].into_iter().chain(cells));
        }
    }
    table
}

/// Draws how late lines to all came with the most users.
fn plot(path: &std::path::Path, users: usize, all: &[Measured]) -> anyhow::Result<()> {
    let series: Vec<(String, Vec<Duration>)> = all
        .iter()
        .filter(|measured| measured.users == users)
        .filter_map(|measured| {
            let points = measured.broadcast.as_ref()?.delays.distribution();
            let delays = points
                .into_iter()
                .map(|(ms, _)| Duration::from_secs_f64(ms / 1e3));
            Some((measured.hub.clone(), delays.collect()))
        })
        .collect();
    let title = format!("Chat with {users} users, 20 lines on their way at any time");
    plot_distribution_of("deliveries", path, &title, &series)
}
