//! Benchmark: how fast files are served, beside Debian's tftpd-hpa in the same run.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use e2e::clock::now;
use e2e::data::{MIB, random_bytes};
use e2e::reference::Reference;
use e2e::report::{Table, write_json};
use e2e::{Client, Group};
use serde::Serialize;

/// Throughput of downloads by curl: one client, and many at once.
#[derive(Parser)]
struct Arguments {
    /// The MiB that are downloaded in each round, by all clients together.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// How many clients run at once in the second case.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
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
    clients: usize,
    block_size: u32,
    quorate: f64,
    reference: f64,
}

const BLOCK_SIZES: [u32; 3] = [512, 1468, 8192];

/// How long one download may take.
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(600);

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let group = Group::start()?;
    let reference = Reference::start(&arguments.reference)?;
    let scratch = tempfile::tempdir().context("making a directory")?;
    let mut cases = Vec::new();
    for clients in [1, arguments.clients] {
        let name = format!("throughput-{clients}.bin");
        let content = random_bytes(1, arguments.size * MIB / clients);
        group.put(&name, &content)?;
        reference.put(&name, &content)?;
        for block_size in BLOCK_SIZES {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..arguments.rounds {
                let us = || {
                    fetch_all(
                        group.tftp_port(),
                        &name,
                        &content,
                        clients,
                        block_size,
                        scratch.path(),
                    )
                };
                let they = || {
                    fetch_all(
                        reference.port(),
                        &name,
                        &content,
                        clients,
                        block_size,
                        scratch.path(),
                    )
                };
                // First and second change places, so that neither always finds the machine warm.
                if round % 2 == 0 {
                    ours.push(us()?);
                    theirs.push(they()?);
                } else {
                    theirs.push(they()?);
                    ours.push(us()?);
                }
            }
            let case = Case {
                clients,
                block_size,
                quorate: median(&mut ours),
                reference: median(&mut theirs),
            };
            println!("{case:?}");
            cases.push(case);
        }
    }
    let mut table = Table::new(&["clients", "blksize", "quorate, 3 members", "tftpd-hpa", "ratio"]);
    for Case {
        clients,
        block_size,
        quorate,
        reference,
    } in &cases
    {
        table.row([
            clients.to_string(),
            block_size.to_string(),
            format!("{quorate:.1} MB/s"),
            format!("{reference:.1} MB/s"),
            format!("{:.2}x", quorate / reference),
        ]);
    }
    println!("{table}");
    write_json(&arguments.results.join("tftp-throughput.json"), &cases)
}

/// Downloads with all clients at once and returns the MB/s of all together.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn fetch_all(
    port: u16,
    name: &str,
    content: &[u8],
    clients: usize,
    block_size: u32,
    scratch: &Path,
) -> anyhow::Result<f64> {
    let client = Client::Curl { block_size };
    let started = now();
    let mut downloads = (0..clients)
        .map(|number| client.start(port, name, &scratch.join(number.to_string())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for download in &mut downloads {
        download.process().succeed(DOWNLOAD_WITHIN)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    for download in &mut downloads {
        download.ends_identical(content, DOWNLOAD_WITHIN)?;
    }
    Ok((content.len() * clients) as f64 / seconds / 1e6)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
