//! Benchmark: what an operator needs for a thousand resources, on a real API server.
//!
//! The resources' pods wait for a node that does not exist, so that the operator alone is measured: it makes every object
//! and writes every status, but asks no members.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::clock::{eventually, now};
use e2e::kubernetes::{Cluster, Operator, Space};
use e2e::process::{processor_time, resident_bytes};
use e2e::report::{Table, write_json};
use serde::Serialize;
use serde_json::json;

/// What an operator needs for many resources.
#[derive(Parser)]
struct Arguments {
    /// How many resources.
    #[arg(long, default_value_t = 1000)]
    resources: u64,
    /// How many resources are applied between two looks.
    #[arg(long, default_value_t = 100)]
    batch: u64,
    /// Where the results go.
    #[arg(long)]
    results: PathBuf,
}

/// What was seen with so many resources.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Look {
    resources: u64,
    memory_mib: f64,
    processor_seconds: f64,
    seconds: f64,
}

/// For one batch of resources.
const BATCH_WITHIN: Duration = Duration::from_secs(600);

#[expect(clippy::cast_precision_loss, reason = "mebibytes of one process")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let cluster = Cluster::connect()?;
    Operator::define(&cluster)?;
    let space = Space::new(&cluster, "many")?;
    let operator = Operator::start(&space)?;
    let begun = now();
    let mut looks = Vec::new();
    let mut look = |resources: u64| -> anyhow::Result<()> {
        let seen = Look {
            resources,
            memory_mib: resident_bytes(operator.pid())? as f64 / f64::from(1 << 20),
            processor_seconds: processor_time(operator.pid())?.as_secs_f64(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        println!("{seen:?}");
        looks.push(seen);
        Ok(())
    };
    look(0)?;
    let mut made = 0;
    while made < arguments.resources {
        let batch: Vec<_> = (made..(made + arguments.batch).min(arguments.resources))
            .map(resource)
            .collect();
        made += batch.len() as u64;
        space.apply(&json!({"apiVersion": "v1", "kind": "List", "items": batch}).to_string())?;
        eventually("the operator has seen all", BATCH_WITHIN, || {
            let seen = space.kubectl(&[
                "get",
                "kvclusters",
                "-o",
                "jsonpath={range .items[*]}{.status.observedGeneration}{\"\\n\"}{end}",
            ])?;
            let seen = seen.lines().filter(|line| !line.trim().is_empty()).count();
            ensure!(seen as u64 == made, "{seen} of {made}");
            Ok(())
        })?;
        look(made)?;
    }
    // With no change any more, and every resource looked at again.
    let rounds = operator.rounds("KvCluster")?;
    eventually("the operator looks at all again", BATCH_WITHIN, || {
        let now = operator.rounds("KvCluster")?;
        ensure!(now >= rounds + 2 * made, "{} rounds", now - rounds);
        Ok(())
    })?;
    look(made)?;
    let mut table = Table::new(&["resources", "memory", "processor time", "after"]);
    for look in &looks {
        table.row([
            look.resources.to_string(),
            format!("{:.1} MiB", look.memory_mib),
            format!("{:.1} s", look.processor_seconds),
            format!("{:.0} s", look.seconds),
        ]);
    }
    println!("{table}");
    write_json(&arguments.results.join("operator.json"), &looks).context("keeping the results")
}

fn resource(number: u64) -> serde_json::Value {
    json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": format!("kv-{number}")},
        "spec": {
            "replicas": 1,
            "storage": {"type": "Ephemeral", "size": "256Mi", "whenDeleted": "Delete"},
            "scheduling": {"nodeSelector": {"quorate.dev/nowhere": "true"}},
        },
    })
}
