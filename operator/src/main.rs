//! `quorate-operator`: turns custom resources into replicated services.

mod crds;

use std::path::PathBuf;

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
    /// Write the definitions of the custom resources, one file each.
    Crds {
        /// The folder to write to; it is made if it is missing.
        #[arg(long, value_name = "DIR", default_value = "crds")]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Crds { out } => crds::write(&out),
    }
}
