//! The checks at the end of a simulation.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use linearizability::{Failure, History, Operation, Outcome};

use crate::faults::Count;
use crate::world::{Summary, World};

/// How long the checker may take.
const CHECK_WITHIN: Duration = Duration::from_secs(60);

/// Checks what the clients saw.
pub(crate) fn check(world: &World, faults: Count) -> anyhow::Result<Summary> {
    let broken = world.broken();
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    let history = History {
        operations: world.history(),
    };
    let checked = linearizability::check(&history, CHECK_WITHIN).map_err(|failure| {
        let key = match &failure {
            Failure::Illegal { key, .. } | Failure::OutOfTime { key, .. } => key.clone(),
        };
        anyhow!(
            "{failure}\n\nthe history of {key}:\n{}",
            table(&history.operations, &key)
        )
    })?;
    let never = history
        .operations
        .iter()
        .filter(|operation| operation.outcome == Outcome::Never);
    Ok(Summary {
        operations: checked.operations,
        unknown: checked.unknown,
        never: never.count(),
        accepted_alone: world.local.accepted_alone.load(Ordering::Relaxed),
        watched: world.watched.count(),
        records: world.records.handed_out(),
        entries: world.records.entries(),
        leases: world.leases.ended(),
        lives: world
            .machines
            .iter()
            .map(|machine| machine.lives.load(Ordering::Relaxed))
            .sum(),
        faults,
        snapshots: world.snapshots.load(Ordering::Relaxed),
        digest: digest(&history.operations),
    })
}

fn table(operations: &[Operation], key: &str) -> String {
    let mut of_key: Vec<_> = operations
        .iter()
        .filter(|operation| operation.key == key)
        .collect();
    of_key.sort_by_key(|operation| operation.called);
    let rows = of_key.iter().map(|operation| {
        let ms = |ns: u64| format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
        format!(
            "{:>14} .. {:<14} {:<12} {operation}",
            ms(operation.called),
            ms(operation.returned),
            operation.client
        )
    });
    rows.collect::<Vec<_>>().join("\n")
}

/// The same for the same history (FNV-1a).
fn digest(operations: &[Operation]) -> u32 {
    operations.iter().fold(0x811c_9dc5, |digest, operation| {
        format!("{operation:?}").bytes().fold(digest, |digest, byte| {
            (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
    })
}
