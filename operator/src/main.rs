//! `quorate-operator`: turns custom resources into replicated services.

mod apply;
mod build;
mod certificates;
mod controller;
mod crds;
mod election;
mod kinds;
mod members;
mod memory;
mod metrics;
mod observe;
mod plan;
mod run;
mod status;
mod validate;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Runs replicated TFTP, key-value and chat services on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "quorate-operator", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look after the resources of the cluster.
    Run(Box<run::Args>),
    /// Write the definitions of the custom resources, one file each.
    Crds {
        /// The folder to write to; it is made if it is missing.
        #[arg(long, value_name = "DIR", default_value = "crds")]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(args) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .context("starting the threads")?
            .block_on(run::run(*args)),
        Command::Crds { out } => crds::write(&out).map(|()| ExitCode::SUCCESS),
    }
}

/// The operator mostly waits. On large nodes a thread for each processor would cost memory and do nothing: the allocator
/// keeps a heap for each.
const THREADS: usize = 2;
