//! A key-value group under faults and load, group after group, each with a seed of its own; every history is checked.
#![expect(clippy::print_stdout, reason = "progress is what this program is for")]

use std::collections::BTreeMap;

use anyhow::ensure;
use clap::Parser;
use e2e::kv::campaign::{Campaign, Summary};

/// Faults under load, then all checks, for many groups.
#[derive(Parser)]
struct Arguments {
    /// How many groups, one after the other. Every second one has five members.
    #[arg(long, default_value_t = 10)]
    groups: u32,
    /// Faults in each.
    #[arg(long, default_value_t = 30)]
    faults: u32,
    /// What chance is drawn from; the next group's is greater by one. A random one is drawn and printed when none is
    /// given.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients with consistent operations.
    #[arg(long, default_value_t = 16)]
    clients: u64,
}

/// A group whose clients got so few answers for each fault checked nothing.
const OPERATIONS_A_FAULT_MIN: usize = 20;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Not near the greatest number: it is counted up.
    let seed = arguments.seed.unwrap_or_else(|| rand::random::<u64>() >> 8);
    let mut total = Summary::default();
    for group in 0..arguments.groups {
        let seed = seed + u64::from(group);
        let replicas = if group.is_multiple_of(2) { 3 } else { 5 };
        println!(
            "group {group}: {replicas} members, {} faults, seed {seed}",
            arguments.faults
        );
        let campaign = Campaign {
            replicas,
            faults: arguments.faults,
            only: Vec::new(),
            seed,
            clients: arguments.clients,
            local: true,
        };
        let summary = campaign.run(|line| println!("{line}"))?;
        println!("{}", words(&summary));
        ensure!(
            summary.operations >= OPERATIONS_A_FAULT_MIN * arguments.faults as usize,
            "only {} operations",
            summary.operations
        );
        add(&mut total, &summary);
    }
    println!("all groups: {}", words(&total));
    Ok(())
}

fn add(total: &mut Summary, summary: &Summary) {
    for (fault, count) in &summary.faults {
        *total.faults.entry(*fault).or_default() += count;
    }
    for (why, count) in &summary.refusals {
        *total.refusals.entry(why.clone()).or_default() += count;
    }
    total.keys += summary.keys;
    total.operations += summary.operations;
    total.unknown += summary.unknown;
    total.never += summary.never;
    total.accepted_alone += summary.accepted_alone;
}

fn words(summary: &Summary) -> String {
    let list = |counts: Vec<String>| counts.join(", ");
    let faults: BTreeMap<_, _> = summary.faults.iter().collect();
    format!(
        "{} keys with {} operations are linearizable ({} unknown, {} timed out or refused); {} writes accepted alone, \
         none lost; faults: {}; refusals: {}",
        summary.keys,
        summary.operations,
        summary.unknown,
        summary.never,
        summary.accepted_alone,
        list(
            faults
                .iter()
                .map(|(fault, count)| format!("{fault:?} {count}"))
                .collect()
        ),
        list(
            summary
                .refusals
                .iter()
                .map(|(why, count)| format!("{why:?} {count}"))
                .collect()
        ),
    )
}
