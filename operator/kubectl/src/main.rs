//! `kubectl-quorate`, which `kubectl` runs as `kubectl quorate`: looks at groups, moves leadership, and says what is
//! wrong.

mod act;
mod backup;
mod doctor;
#[cfg(test)]
mod fixture;
mod gather;
mod inspect;
mod logs;
mod reach;
mod restore;
mod tree;
mod view;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use kube::Client;

use crate::doctor::Verdict;
use crate::gather::Selection;
use crate::reach::Where;

/// Looks at Quorate's groups in a cluster, moves leadership, and says what is wrong.
#[derive(Debug, Parser)]
#[command(name = "kubectl-quorate", bin_name = "kubectl quorate", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Where,
    /// The namespace; the context's own without it.
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs: one JSON value.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show groups as trees: leader, epochs, members with role, node and lag.
    Status {
        /// `boot`, `tftp/boot` or `TftpCluster/boot`; all groups of the namespace without any.
        names: Vec<String>,
    },
    /// Print the name of the pod that leads.
    Leader {
        /// The resource.
        name: String,
    },
    /// Hand leadership over, without an error for any client.
    Transfer {
        /// The resource.
        name: String,
        /// The pod that is to lead; the leader chooses without it.
        #[arg(long, value_name = "POD")]
        to: Option<String>,
    },
    /// Let the operator keep its hands off.
    Pause {
        /// The resource.
        name: String,
    },
    /// Let the operator work on it again.
    Resume {
        /// The resource.
        name: String,
    },
    /// Write the state of a key-value store or a hub into a file, while it serves.
    Backup {
        /// The resource.
        name: String,
        /// Where to write it. The file appears when it is whole and checked.
        file: std::path::PathBuf,
    },
    /// Let a new group begin with a backup, and wait until it does.
    Restore(restore::Args),
    /// Print the logs of all members, each line after its pod's name.
    Logs(logs::Args),
    /// Say what is wrong and what to do about it; the exit code is 1 when there is a problem.
    Doctor {
        /// As for `status`.
        names: Vec<String>,
        /// Say also what is as it should be.
        #[arg(short, long)]
        verbose: bool,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = arguments.place.connect().await?;
    let namespace = (!arguments.all_namespaces).then(|| {
        let own = arguments.namespace.clone();
        own.unwrap_or_else(|| client.default_namespace().to_owned())
    });
    let select = |names: Vec<String>| Selection {
        namespace: namespace.clone(),
        names,
    };
    let output = arguments.output;
    match arguments.command {
        Command::Status { names } => status(&client, &select(names), output).await?,
        Command::Doctor { names, verbose } => return doctor(&client, &select(names), output, verbose).await,
        Command::Leader { name } => {
            let group = act::one(&client, &select(vec![name])).await?;
            let leader = act::leader(&group)?;
            match output {
                Output::Text => print(&format!("{}\n", leader.status.name)),
                Output::Json => print_json(&serde_json::json!({
                    "name": leader.status.name,
                    "epoch": leader.epoch.to_string(),
                    "nodeId": leader.status.node_id,
                }))?,
            }
        }
        Command::Transfer { name, to } => {
            let said = act::transfer(&client, &select(vec![name]), to.as_deref()).await?;
            print(&format!("{said}\n"));
        }
        Command::Pause { name } => print(&act::pause(&client, &select(vec![name]), true).await?),
        Command::Resume { name } => print(&act::pause(&client, &select(vec![name]), false).await?),
        Command::Backup { name, file } => {
            print(&backup::backup(&client, &select(vec![name]), &file).await?);
        }
        Command::Restore(args) => {
            print(&restore::restore(&client, namespace.clone(), &args).await?);
        }
        Command::Logs(args) => {
            let selection = select(vec![args.name.clone()]);
            logs::logs(&client, &selection, &args, &mut |line| print(line)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(client: &Client, selection: &Selection, output: Output) -> anyhow::Result<()> {
    let groups = gather::groups(client, gather::find(client, selection).await?).await;
    if output == Output::Json {
        return print_json(&serde_json::json!({ "groups": groups }));
    }
    if groups.is_empty() {
        let place = selection.namespace.as_deref().unwrap_or("any namespace");
        print(&format!("there are no groups in {place}; -A looks everywhere\n"));
    }
    for (index, group) in groups.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        print(&format!("{gap}{}", tree::tree(group)));
    }
    Ok(())
}

async fn doctor(
    client: &Client,
    selection: &Selection,
    output: Output,
    verbose: bool,
) -> anyhow::Result<ExitCode> {
    let groups = async {
        let found = gather::find(client, selection).await?;
        anyhow::Ok(gather::groups(client, found).await)
    };
    let (cluster, groups) = tokio::join!(inspect::cluster(client), groups);
    let groups = groups?;
    let findings = doctor::examine(&cluster, &groups);
    match output {
        Output::Text => print(&doctor::render(&findings, groups.len(), verbose)),
        Output::Json => print_json(&serde_json::json!({ "findings": findings }))?,
    }
    let is_broken = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if is_broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    print(&format!("{text}\n"));
    Ok(())
}

/// A reader that has read enough ends the program quietly, as `head` does.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
