//! `quorate-agent backup` and `restore`: a group's whole state into a file, and a new group from it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use futures::StreamExt;
use operator_api::config::ServiceKind;
use replication::{Backup, BackupHeader};

use crate::client::AdminClient;
use crate::client::leader::Leader;
use crate::local;
use crate::target::Target;

/// What `quorate-agent backup` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// The service whose group is meant.
    #[arg(long, value_name = "SERVICE", default_value = "kv", value_parser = crate::members::service)]
    service: ServiceKind,
    /// Where to write it. The file appears when it is whole and checked.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What `quorate-agent restore` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// A file that `quorate-agent backup` wrote.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only check the file, and say what it holds.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    local: local::Args,
}

/// Writes a backup that holds everything that was acknowledged before.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let leader = args.target.leader(args.service)?;
    let known = leader.ask(|client, _| async move { client.status().await }).await;
    let (at_least, members) = match known {
        // Followers first: encoding the state holds up whoever does it.
        Ok(status) => {
            let members = status.detail.map(|detail| detail.members).unwrap_or_default();
            let (mut others, own): (Vec<_>, Vec<_>) = members
                .into_iter()
                .map(|member| member.admin_address)
                .partition(|address| *address != status.admin_address);
            others.extend(own);
            let clients = others.iter().map(|address| leader.client_at(address)).collect();
            (status.commit_index, clients)
        }
        Err(error) => {
            writeln!(
                std::io::stderr(),
                "quorate-agent: no leader answers ({error:#}); the backup holds what one member knows, and may lack \
                 the newest writes"
            )?;
            (0, furthest_first(&leader).await)
        }
    };
    let mut problem = anyhow::anyhow!("the group has no members");
    for client in members {
        match fetch(&client, at_least, &args.file).await {
            Ok((header, bytes)) => {
                let text = format!("{}, {bytes} bytes", describe(&header));
                writeln!(std::io::stdout(), "{text}")?;
                return Ok(());
            }
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

/// Starts a group on this machine that begins with the file.
pub(crate) async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let header = check(&args.file)?;
    writeln!(std::io::stdout(), "{}", describe(&header))?;
    if args.check {
        return Ok(());
    }
    local::run(args.local.restoring(args.file)?).await
}

/// Reads the whole file and makes sure that it is as it was written.
pub(crate) fn check(file: &Path) -> anyhow::Result<BackupHeader> {
    Ok(Backup::read(file)
        .with_context(|| format!("{} is not used", file.display()))?
        .header)
}

/// The service that a checked file is of.
pub(crate) fn service_of(header: &BackupHeader) -> anyhow::Result<ServiceKind> {
    let known = ServiceKind::ALL
        .into_iter()
        .find(|kind| kind.name() == header.service);
    known.with_context(|| format!("this program knows no {} service", header.service))
}

fn describe(header: &BackupHeader) -> String {
    let BackupHeader {
        service,
        group_id,
        member,
        index,
        ..
    } = header;
    format!("{service} group {group_id} as {member} held it at log index {index}")
}

/// All members that answer, the one that has applied most first.
async fn furthest_first(leader: &Leader) -> Vec<AdminClient> {
    let mut answers = Vec::new();
    for client in leader.clients() {
        if let Ok(status) = client.status().await {
            answers.push((status.applied_index, client));
        }
    }
    answers.sort_by_key(|(applied, _)| std::cmp::Reverse(*applied));
    answers.into_iter().map(|(_, client)| client).collect()
}

/// Writes one member's backup aside, checks it, and puts it in its place.
async fn fetch(client: &AdminClient, at_least: u64, file: &Path) -> anyhow::Result<(BackupHeader, u64)> {
    let response = client.backup(at_least).await?;
    let mut name = file.file_name().context("FILE names no file")?.to_owned();
    name.push(".partial");
    let aside = file.with_file_name(name);
    let written = async {
        let mut options = std::fs::OpenOptions::new();
        // It holds everybody's secrets.
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = options
            .open(&aside)
            .with_context(|| format!("writing {}", aside.display()))?;
        let mut pieces = response.bytes_stream();
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.context("the backup broke off")?;
            out.write_all(&piece)
                .with_context(|| format!("writing {}", aside.display()))?;
            bytes += piece.len() as u64;
        }
        out.sync_all()
            .with_context(|| format!("writing {}", aside.display()))?;
        let header = check(&aside)?;
        std::fs::rename(&aside, file).with_context(|| format!("writing {}", file.display()))?;
        anyhow::Ok((header, bytes))
    };
    let outcome = written.await;
    if outcome.is_err() {
        std::fs::remove_file(&aside).ok();
    }
    outcome
}

impl local::Args {
    /// The same, for a group that begins with a backup.
    fn restoring(mut self, file: PathBuf) -> anyhow::Result<Self> {
        if self.restore.is_some() {
            bail!("name the backup once: leave --restore out");
        }
        let service = service_of(&check(&file)?)?;
        if self.services.iter().any(|named| *named != service) {
            bail!("the backup is one of a {service} group: name no other service");
        }
        self.services = vec![service];
        self.restore = Some(file);
        Ok(self)
    }
}
