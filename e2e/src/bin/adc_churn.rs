//! A thousand users come, talk, search and go on a hub of three members, for ten minutes: see `e2e::adc::churn`.
#![expect(clippy::print_stdout, reason = "the result is what this program is for")]

use std::time::Duration;

use clap::Parser;
use e2e::adc::churn::{Churn, run};
use e2e::adc::contest::unlimited;
use e2e::adc::swarm::raise_limit_of_files;
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;

/// Users come and go; the members agree on who is left, and keep nothing of the others.
#[derive(Parser)]
struct Arguments {
    /// How many users.
    #[arg(long, default_value_t = 1_000)]
    users: usize,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How often the leader is killed meanwhile.
    #[arg(long, default_value_t = 0)]
    kills: u32,
    /// What chance makes of it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Before the members are started: they inherit it.
    raise_limit_of_files(arguments.users)?;
    let group = Group::start_with(GroupOptions {
        service: ServiceKind::Adc,
        // The crowd acts by chance: sometimes the same user talks more than a person would.
        adc_options: Some(unlimited(0)),
        ..GroupOptions::default()
    })?;
    let churn = Churn {
        users: arguments.users,
        lasts: Duration::from_secs(arguments.seconds),
        acts_min: 0,
        kills: arguments.kills,
        seed: arguments.seed,
    };
    println!("{churn:?}");
    let done = run(&group, &churn)?;
    println!("{done:?}: all members agree, and nothing is left");
    Ok(())
}
