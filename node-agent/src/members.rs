//! `quorate-agent members`: the membership of a group, seen and changed by hand.

use std::io::Write;

use anyhow::{Context, bail};
use operator_api::MemberStatus;
use operator_api::admin::GroupMember;
use operator_api::config::ServiceKind;

use crate::client::ClientError;
use crate::client::leader::Leader;
use crate::table;
use crate::target::Target;

/// What `quorate-agent members` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// The service whose group is meant.
    #[arg(long, value_name = "SERVICE", default_value = "tftp", value_parser = service, global = true)]
    service: ServiceKind,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// List the members as the leader knows them.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Hand leadership over, without any client noticing.
    Transfer {
        /// The node id of the new leader; without it the leader chooses a member that has caught up.
        id: Option<u64>,
    },
    /// Remove a member for good. Its node id is never used again.
    Remove {
        /// Its node id.
        id: u64,
    },
}

/// Carries the command out on the leader.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let leader = args.target.leader(args.service)?;
    let mut out = std::io::stdout();
    match args.command {
        Command::Ls { json } => {
            let (status, members) = members(&leader).await?;
            let text = if json {
                format!("{}\n", serde_json::to_string(&members)?)
            } else {
                render(&status, &members)
            };
            out.write_all(text.as_bytes())?;
        }
        Command::Transfer { id } => {
            let (before, _) = members(&leader).await?;
            if id.is_some() && before.node_id == id {
                writeln!(out, "{} leads already", before.name)?;
                return Ok(());
            }
            leader
                .ask(|client, attempt| {
                    let former = before.admin_address.clone();
                    async move {
                        // When an attempt went unanswered and another member leads now, it was successful. Asking
                        // that member too would move leadership once more.
                        if id.is_none() && attempt > 0 && client.address() != former {
                            return Ok(());
                        }
                        client.transfer(id).await
                    }
                })
                .await?;
            let (after, _) = members(&leader).await?;
            writeln!(out, "{} leads now, in term {}", after.name, after.term)?;
        }
        Command::Remove { id } => {
            let (_, members) = members(&leader).await?;
            let Some(member) = members.iter().find(|member| member.node_id == id) else {
                bail!("the group has no member with the node id {id}; `quorate-agent members ls` lists them");
            };
            leader
                .ask(|client, _| async move { client.remove(id).await })
                .await?;
            writeln!(out, "{} (node id {id}) is no member any more", member.name)?;
        }
    }
    Ok(())
}

/// The leader's own status, and its members.
async fn members(leader: &Leader) -> anyhow::Result<(MemberStatus, Vec<GroupMember>)> {
    let status = leader
        .ask(|client, _| async move {
            let status = client.status().await?;
            match &status.detail {
                Some(detail) if detail.serving => Ok(status),
                // It was the leader a moment ago.
                _ => Err(ClientError::NotLeader {
                    address: client.address().to_owned(),
                    leader: None,
                }),
            }
        })
        .await?;
    let members = status
        .detail
        .as_ref()
        .context("the leader's status lists no members")?
        .members
        .clone();
    Ok((status, members))
}

fn render(leader: &MemberStatus, members: &[GroupMember]) -> String {
    let last = leader.detail.as_ref().map_or(0, |detail| detail.last_log_index);
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            let part = match (Some(member.node_id) == leader.node_id, member.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            };
            let lag = member
                .matched_index
                .map(|matched| last.saturating_sub(matched).to_string());
            [
                member.node_id.to_string(),
                member.name.clone(),
                part.to_owned(),
                lag.unwrap_or_else(|| "-".to_owned()),
                member.peer_address.clone(),
                member.admin_address.clone(),
            ]
        })
        .collect();
    table::render(["ID", "NAME", "PART", "LAG", "PEERS", "ADMIN"], &rows)
}

pub(crate) fn service(name: &str) -> Result<ServiceKind, String> {
    ServiceKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| {
            let known: Vec<&str> = ServiceKind::ALL.into_iter().map(ServiceKind::name).collect();
            format!("there is no service `{name}`; there is {}", known.join(", "))
        })
}
