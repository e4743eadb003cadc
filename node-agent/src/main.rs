//! `quorate-agent`: one replica of one service (`run`), a whole group on one machine (`local`), and the commands that
//! look at a group and change it (`status`, `files`, `members`, `backup`, `restore`).

mod admin;
mod backup;
mod client;
mod config;
mod files;
mod group;
mod https;
mod hub;
mod kubernetes;
mod kv;
mod local;
mod members;
mod run;
mod services;
mod status;
mod table;
mod target;
mod telemetry;

use std::io::Write;
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Quorate replicates small network services so that their clients do not notice when a machine dies.
#[derive(Debug, Parser)]
#[command(name = "quorate-agent", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole group on this machine until ctrl-C.
    Local(local::Args),
    /// Run one member; what pods run.
    Run(run::Args),
    /// Show the members of a local group.
    Status(status::Args),
    /// Store, read, list and remove the files of a TFTP group.
    Files(files::Args),
    /// Look at a hub and keep order in it.
    Adc(hub::Args),
    /// List members, hand leadership over, remove a member.
    Members(members::Args),
    /// Read and change the key-value store. Exit status: 0 done, 1 not, 3 timed out, 4 unknown, 5 refused.
    Kv(kv::Args),
    /// Write the whole state of a group into a file.
    Backup(backup::Args),
    /// Start a new group on this machine that begins with a backup.
    Restore(backup::RestoreArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(dispatch(cli.command));
        // Threads that still read a file must not hold the end up.
        runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nothing left to tell then.
            writeln!(std::io::stderr(), "quorate-agent: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Local(args) => local::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Run(args) => run::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Files(args) => files::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Adc(args) => hub::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Members(args) => members::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Kv(args) => kv::run(args).await,
        Command::Backup(args) => backup::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => backup::restore(args).await.map(|()| ExitCode::SUCCESS),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(RUNTIME_THREADS_MIN, NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.max(RUNTIME_THREADS_MIN))
        .enable_all()
        .build()
        .context("starting the runtime")
}

/// Whether the reader of our output has gone, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// With one thread, a task that computes for long would delay heartbeats.
const RUNTIME_THREADS_MIN: usize = 2;

/// For blocking file operations that are under way at the end.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn group_can_be_named_before_or_after_the_command() {
        for line in [
            "quorate-agent files ls --dir d",
            "quorate-agent files --dir d ls --json",
            "quorate-agent files put x y --admin h:1 --token-file t --wait 3",
            "quorate-agent files get x -o y",
            "quorate-agent members transfer 5 --dir d",
            "quorate-agent members --service tftp ls",
            "quorate-agent adc ban 10.0.0.0/8 spam --for 30m --dir d",
            "quorate-agent adc --dir d account put op owner",
            "quorate-agent status --json --dir d",
            "quorate-agent run --config c.json",
            "quorate-agent backup --service kv --dir d file",
            "quorate-agent restore file --dir d --replicas 3",
            "quorate-agent restore file --check",
            "quorate-agent kv get key --dir d --json",
            "quorate-agent kv --endpoint http://h:1 --endpoint http://h:2 swap key old new --blocking",
            "quorate-agent kv set key --local --token-file t",
            "quorate-agent kv cancel 7.1",
            "quorate-agent kv range app/ --limit 5 --dir d",
            "quorate-agent kv lease grant 60 --json",
            "quorate-agent kv extract server --whole-lines",
            "quorate-agent kv watch app/ --from 1 --count 2 --json",
            "quorate-agent kv append journal entry",
            "quorate-agent kv entries journal --from 3 --limit 2",
            "quorate-agent kv publish address message",
            "quorate-agent kv subscribe address --count 1",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(Cli::try_parse_from("quorate-agent files ls --dir d --admin h:1".split(' ')).is_err());
    }
}
