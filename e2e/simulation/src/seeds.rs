//! Seeds, one process each, a few at a time.

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use replication::simulation::{Bug, plant, with_seed};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::world::{Plan, events, run};

/// Simulates groups of key-value members under faults and checks what their clients saw.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first one. A random one is drawn and printed when none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Virtual seconds during which faults happen.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Simulations at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Plants a bug; then it is a failure if no seed finds it.
    #[arg(long)]
    plant: Option<String>,
    /// How many of the seeds run twice: what the clients saw must be the same.
    #[arg(long, default_value_t = 5)]
    twice: u64,
    /// Runs this seed in this process, and prints everything.
    #[arg(long)]
    one: Option<u64>,
}

/// Simulations that saw so few operations checked nothing.
const OPERATIONS_A_SEED_MIN: usize = 100;
/// The same of changes that were watched, records that were handed out, and entries.
const OTHERS_A_SEED_MIN: usize = 10;

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.one {
        Some(seed) => one(&arguments, seed),
        None => all(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn one(arguments: &Arguments, seed: u64) -> anyhow::Result<()> {
    let asked = std::env::var("RUST_LOG").ok();
    let shown: Targets = asked.as_deref().unwrap_or("error").parse()?;
    let told = tracing_subscriber::fmt::layer().without_time().with_ansi(false);
    tracing_subscriber::registry()
        .with(told.with_filter(shown))
        .init();
    if let Some(name) = &arguments.plant {
        plant(bug(name)?);
    }
    // A member's panic: nothing that it leaves behind can go on.
    std::panic::set_hook(Box::new(move |panic| {
        println!(
            "seed {seed}: {panic}\n\nwhat happened (virtual seconds):\n{}",
            events()
        );
        std::process::exit(1);
    }));
    let plan = Plan {
        seed,
        members: if seed.is_multiple_of(2) { 3 } else { 5 },
        lasts: Duration::from_secs(arguments.seconds),
        clients: 6,
    };
    let summary = with_seed(seed, || run(plan)).with_context(|| format!("seed {seed}"))?;
    println!("{summary}");
    ensure!(
        summary.operations >= OPERATIONS_A_SEED_MIN,
        "seed {seed}: only {} operations",
        summary.operations
    );
    let others = [summary.watched, summary.records, summary.entries];
    ensure!(
        others.iter().all(|count| *count >= OTHERS_A_SEED_MIN),
        "seed {seed}: only {others:?} changes, records and entries"
    );
    ensure!(summary.leases > 0, "seed {seed}: no lease ended");
    Ok(())
}

fn bug(name: &str) -> anyhow::Result<Bug> {
    let known = Bug::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, bug)| *bug).with_context(|| {
        let names: Vec<_> = Bug::ALL.iter().map(|(name, _)| *name).collect();
        format!("no bug {name:?}: one of {}", names.join(", "))
    })
}

/// Runs a seed in a process of its own: whether it passed, and what it printed.
fn child(arguments: &Arguments, seed: u64) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "--one",
        &seed.to_string(),
        "--seconds",
        &arguments.seconds.to_string(),
    ]);
    if let Some(name) = &arguments.plant {
        command.args(["--plant", name]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn all(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(name) = &arguments.plant {
        bug(name)?;
    }
    let first = arguments.seed.unwrap_or_else(|| rand::random::<u64>() >> 16);
    println!("seeds {first} to {}", first + arguments.seeds - 1);
    let (next, began) = (AtomicU64::new(first), Instant::now());
    let failures: Mutex<Vec<(u64, String)>> = Mutex::default();
    let failed = || failures.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + arguments.seeds || arguments.plant.is_some() && !failed().is_empty() {
                        return;
                    }
                    let twice = seed < first + arguments.twice && arguments.plant.is_none();
                    if let Some(how) = wrong(arguments, seed, twice) {
                        failed().push((seed, how));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = began.elapsed().as_secs();
    if let Some(name) = &arguments.plant {
        let (seed, how) = failures
            .first()
            .with_context(|| format!("{name}: not found by {} seeds in {took} s", arguments.seeds))?;
        let tried = seed - first + 1;
        let how: Vec<_> = how.lines().take(12).collect();
        println!(
            "{name}: found by seed {seed}, the {tried}. one, after {took} s\n{}",
            how.join("\n")
        );
        return Ok(());
    }
    for (seed, how) in &failures {
        println!(
            "seed {seed} failed; again with `e2e/run simulation --one {seed} --seconds {}`:\n{how}\n",
            arguments.seconds
        );
    }
    ensure!(
        failures.is_empty(),
        "{} of {} seeds failed",
        failures.len(),
        arguments.seeds
    );
    println!("{} seeds passed in {took} s", arguments.seeds);
    Ok(())
}

/// What a seed printed of itself. Errors that openraft logged hold the time of the real clock.
fn summary(said: &str) -> &str {
    let mut lines = said.lines();
    lines.rfind(|line| line.contains(", digest ")).unwrap_or(said)
}

/// What is wrong with a seed, if anything.
fn wrong(arguments: &Arguments, seed: u64, twice: bool) -> Option<String> {
    let (passed, said) = match child(arguments, seed) {
        Ok(ended) => ended,
        Err(error) => return Some(format!("{error:#}")),
    };
    if !passed {
        return Some(said);
    }
    if twice {
        match child(arguments, seed) {
            Ok((_, again)) if summary(&again) == summary(&said) => {}
            Ok((_, again)) => return Some(format!("not the same twice:\n{said}{again}")),
            Err(error) => return Some(format!("{error:#}")),
        }
    }
    println!("seed {seed}: {}", said.trim_end());
    None
}
