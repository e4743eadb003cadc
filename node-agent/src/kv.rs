//! `quorate-agent kv`: the key-value store from the command line, for people and scripts.

mod command;
mod streams;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use kv_client::{Answer, Client, Options, Terms};
use operator_api::MemberStatus;
use operator_api::admin::Role;
use operator_api::config::ServiceKind;

use crate::client::AdminClient;
use crate::group::{self, GroupDescription};
use command::{Command, Lease};

/// What `quorate-agent kv` takes.
///
/// The exit status says what came of it: 0 done or found, 1 nothing changed or not found, 2 wrong arguments, 3 timed out
/// and never takes place, 4 nobody knows yet, 5 refused or no member reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of a local group; by default the one that runs.
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// A member's address for clients, instead of a local group; several may be given.
    #[arg(long = "endpoint", value_name = "URL", conflicts_with = "dir", global = true)]
    endpoints: Vec<String>,
    /// The file with the token of the store.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Certificates to trust, PEM; by default those of the system.
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// The name that the members' certificates carry, where it is not the endpoint's host.
    #[arg(long, value_name = "NAME", global = true)]
    server_name: Option<String>,
    /// One member's answer is enough: without a quorum it reads what it knows, and remembers what is written.
    #[arg(long, global = true)]
    local: bool,
    /// Only an answer ends the command.
    #[arg(long, global = true)]
    blocking: bool,
    /// After how many milliseconds the request is given up, certainly.
    #[arg(long, value_name = "MS", conflicts_with = "blocking", global = true)]
    timeout_ms: Option<u32>,
    /// Print the whole answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Nothing was changed, or nothing is there.
const EXIT_NOT_VALID: u8 = 1;
/// It timed out, and never takes place.
const EXIT_TIMEOUT: u8 = 3;
/// Nobody knows yet.
const EXIT_UNKNOWN: u8 = 4;
/// It was refused, or no member was reached.
const EXIT_FAILED: u8 = 5;

/// Carries the command out.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match carry_out(args).await {
        Ok(code) => Ok(code),
        Err(error) => {
            writeln!(std::io::stderr(), "quorate-agent: {error:#}")?;
            Ok(ExitCode::from(EXIT_FAILED))
        }
    }
}

async fn carry_out(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(options(&args).await?)?;
    let terms = args.terms();
    let answer = match &args.command {
        Command::Get { key } => client.get(key, terms).await,
        Command::Set { key, value, lease } => {
            let value = given(value.as_deref())?;
            match lease {
                Some(lease) => client.set_with_lease(key, value, *lease, terms).await,
                None => client.set(key, value, terms).await,
            }
        }
        Command::Range { prefix, after, limit } => {
            client.range(prefix, after.as_deref(), *limit, terms).await
        }
        Command::Txn { json } => {
            let json = String::from_utf8(given(json.as_deref())?).context("the transaction is no UTF-8")?;
            client.transact(&json, terms).await
        }
        Command::Extract { server, whole_lines } => {
            client.extract(server, stdin()?, *whole_lines, terms).await
        }
        Command::Lease { command } => lease(&client, command, terms).await,
        Command::Swap { key, old, new } => client.swap(key, old, new, terms).await,
        Command::Delete { key } => client.delete(key, terms).await,
        Command::Outcome { ticket } => client.outcome(*ticket, terms).await,
        Command::Cancel { ticket } => client.cancel(*ticket, terms).await,
        Command::Append { journal, value } => client.append(journal, given(value.as_deref())?, terms).await,
        Command::Entries { journal, from, limit } => client.entries(journal, *from, *limit, terms).await,
        Command::Publish { address, message } => client.publish(address, given(message.as_deref())?).await,
        Command::Send { address, message } => client.send(address, given(message.as_deref())?, terms).await,
        Command::Reply { token, reply } => client.reply(token, given(reply.as_deref())?).await,
        Command::Watch {
            prefix,
            exact,
            from,
            count,
        } => {
            let watch = client.watch(prefix, *exact, *from).await?;
            return streams::changes(watch, *count, args.json).await;
        }
        Command::Subscribe { address, count } => {
            let subscription = client.subscribe(address).await?;
            return streams::messages(subscription, *count, args.json).await;
        }
        Command::Outbox => {
            let outbox = client.outbox().await?;
            writeln!(std::io::stdout(), "{outbox}")?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let shows = match args.command {
        Command::Get { .. } | Command::Swap { .. } | Command::Send { .. } => Shows::Value,
        Command::Extract { .. } => Shows::Log,
        _ => Shows::Rest,
    };
    report(&answer?, shows, args.json)
}

async fn lease(client: &Client, command: &Lease, terms: Terms) -> Result<Answer, kv_client::Error> {
    match command {
        Lease::Grant { seconds } => {
            client
                .grant_lease(Duration::from_secs((*seconds).into()), terms)
                .await
        }
        Lease::Show { id } => client.lease(*id, terms).await,
        Lease::Keepalive { id } => client.keep_alive(*id, terms).await,
        Lease::Revoke { id } => client.revoke_lease(*id, terms).await,
    }
}

/// What of an answer is printed, where not all of it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// The value, as a line.
    Value,
    /// The value as it is.
    Log,
    /// What there is besides.
    Rest,
}

/// Prints an answer; its exit status.
fn report(answer: &Answer, shows: Shows, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(answer)?)?;
    } else if let Some(outcome) = answer.outcome {
        let outcome = serde_json::to_value(outcome)?;
        writeln!(out, "{}", outcome.as_str().unwrap_or_default())?;
    } else if !answer.timeout && !answer.unknown {
        out.write_all(&printed(answer, shows))?;
    }
    let code = code(answer);
    if !json {
        match (code, answer.ticket) {
            (EXIT_TIMEOUT, _) => writeln!(
                std::io::stderr(),
                "quorate-agent: timed out; it did not take place, and never will"
            )?,
            (EXIT_UNKNOWN, Some(ticket)) => writeln!(
                std::io::stderr(),
                "quorate-agent: nobody knows yet what became of it; `quorate-agent kv outcome {ticket}` tells, and \
                 `kv cancel {ticket}` settles it"
            )?,
            _ => {}
        }
    }
    Ok(ExitCode::from(code))
}

/// What people and scripts read of an answer.
fn printed(answer: &Answer, shows: Shows) -> Vec<u8> {
    let mut text = match shows {
        Shows::Log => return answer.bytes(),
        Shows::Value => answer.bytes(),
        Shows::Rest => Vec::new(),
    };
    if shows == Shows::Value && (answer.valid || !text.is_empty()) {
        text.push(b'\n');
    }
    // An answer has one of these at most.
    let number = answer.lease.or(answer.delivered).or(answer.index);
    if let Some(number) = number.filter(|_| shows == Shows::Rest && answer.entries.is_empty()) {
        text.extend(format!("{number}\n").bytes());
    }
    for entry in &answer.entries {
        text.extend(format!("{}\t", entry.index).bytes());
        text.extend(entry.bytes());
        text.push(b'\n');
    }
    for row in answer.items.iter().chain(&answer.results) {
        if let Some(key) = &row.key {
            text.extend(key.bytes());
            text.push(b'\t');
        }
        text.extend(row.bytes());
        text.push(b'\n');
    }
    text
}

fn code(answer: &Answer) -> u8 {
    match answer {
        Answer { unknown: true, .. } => EXIT_UNKNOWN,
        // Remembered is valid, too.
        Answer { valid: true, .. } => 0,
        Answer {
            timeout: true,
            outcome: None,
            ..
        } => EXIT_TIMEOUT,
        Answer { outcome: Some(_), .. } => 0,
        _ => EXIT_NOT_VALID,
    }
}

fn given(value: Option<&str>) -> anyhow::Result<Vec<u8>> {
    match value {
        Some(value) => Ok(value.as_bytes().to_vec()),
        None => stdin(),
    }
}

fn stdin() -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    let reading = std::io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX + 1)
        .read_to_end(&mut value);
    reading.context("reading the value from standard input")?;
    ensure!(
        value.len() as u64 <= VALUE_BYTES_MAX,
        "the value has more than {VALUE_BYTES_MAX} bytes"
    );
    Ok(value)
}

impl Args {
    fn terms(&self) -> Terms {
        let mut terms = Terms::default();
        if self.local {
            terms = terms.local();
        }
        if self.blocking {
            terms = terms.blocking();
        }
        if let Some(ms) = self.timeout_ms {
            terms = terms.within(Duration::from_millis(ms.into()));
        }
        terms
    }
}

async fn options(args: &Args) -> anyhow::Result<Options> {
    Ok(Options {
        endpoints: if args.endpoints.is_empty() {
            local_endpoints(args).await?
        } else {
            args.endpoints.clone()
        },
        token: args.token_file.as_deref().map(group::read_token).transpose()?,
        ca_file: args.ca_file.clone(),
        server_name: args.server_name.clone(),
    })
}

/// The members' own addresses, the leader's first: it answers without asking another one.
async fn local_endpoints(args: &Args) -> anyhow::Result<Vec<String>> {
    let dir = group::resolve_dir(args.dir.as_deref())?;
    let description = GroupDescription::read(&dir)?;
    let members = description.members.into_iter();
    let members: Vec<_> = members
        .filter(|member| member.service == ServiceKind::Kv)
        .collect();
    ensure!(
        !members.is_empty(),
        "the local group in {} runs no kv service",
        dir.display()
    );
    let client = AdminClient::new("", None)?;
    let asked = members.iter().map(|member| {
        let client = client.at(&member.admin_address);
        async move { client.status().await.ok() }
    });
    let mut answered: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    answered.sort_by_key(|status| status.role != Role::Leader);
    let endpoints: Vec<_> = answered.iter().filter_map(own_address).collect();
    ensure!(
        !endpoints.is_empty(),
        "no member of the group in {} answers; see `quorate-agent status`",
        dir.display()
    );
    Ok(endpoints)
}

fn own_address(status: &MemberStatus) -> Option<String> {
    let detail = status.detail.as_ref()?;
    let address = detail.service_detail.get("memberAddress")?.as_str()?;
    Some(format!("http://{address}"))
}

/// More than any store takes.
const VALUE_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_tells_scripts_what_came_of_it() {
        let read = |json: &str| code(&serde_json::from_str(json).unwrap());
        assert_eq!(read(r#"{"valid":true,"timeout":false}"#), 0);
        assert_eq!(read(r#"{"valid":true,"timeout":true,"remembered":true}"#), 0);
        assert_eq!(
            read(r#"{"valid":false,"timeout":false,"value":"x"}"#),
            EXIT_NOT_VALID
        );
        assert_eq!(read(r#"{"valid":false,"timeout":true}"#), EXIT_TIMEOUT);
        assert_eq!(
            read(r#"{"valid":false,"timeout":false,"unknown":true,"ticket":"1.2"}"#),
            EXIT_UNKNOWN
        );
        assert_eq!(read(r#"{"valid":false,"timeout":true,"outcome":"cancelled"}"#), 0);
    }
}
