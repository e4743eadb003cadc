//! `quorate-agent adc`: who is on a hub, and orders as operators give them. All of it is recorded in the hub's audit.

use std::io::{BufRead as _, Write as _};

use adc::session::bot::parse_duration;
use anyhow::{Context, anyhow};
use operator_api::admin::hub::{HubAccount, HubAudit, HubBan, HubOrder, HubUser};
use operator_api::config::ServiceKind;

use crate::client::leader::Leader;
use crate::table;
use crate::target::Target;

/// What `quorate-agent adc` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Who is here.
    Users,
    /// Who is banned.
    Bans,
    /// What operators did.
    Audit,
    /// Remove a user; it may come back.
    Kick {
        /// Its nick.
        nick: String,
        /// What it is told.
        #[arg(default_value = "no reason was given")]
        reason: String,
    },
    /// Keep somebody out: a nick, `cid:CID`, an address, a network such as 10.0.0.0/8.
    Ban {
        /// Whom.
        target: String,
        /// What the banned are told.
        #[arg(default_value = "no reason was given")]
        reason: String,
        /// For how long: 90s, 30m, 2h, 7d; for ever, without.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        seconds: Option<u64>,
    },
    /// Lift a ban.
    Unban {
        /// Its number.
        id: u64,
    },
    /// Silence a nick in the main chat.
    Mute {
        /// The nick.
        nick: String,
        /// For how long: 90s, 30m, 2h, 7d; until lifted, without.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        seconds: Option<u64>,
    },
    /// Let a nick speak again.
    Unmute {
        /// The nick.
        nick: String,
    },
    /// Send a user to another hub.
    Redirect {
        /// Its nick.
        nick: String,
        /// The other hub; several, of which the user may choose, are separated by commas.
        address: String,
        /// What it is told.
        #[arg(default_value = "you are expected elsewhere")]
        reason: String,
        /// Its client may forget this hub.
        #[arg(long)]
        permanent: bool,
    },
    /// Set the topic, or clear it.
    Topic {
        /// The new one; none clears it.
        topic: Option<String>,
    },
    /// Registered users.
    Account {
        #[command(subcommand)]
        command: Account,
    },
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Account {
    /// Who is registered.
    Ls,
    /// Register a nick, or change it. The password is read from standard input, where no list of processes shows it.
    Put {
        /// The nick.
        nick: String,
        /// What it may do.
        #[arg(value_parser = ["registered", "operator", "owner"])]
        class: String,
    },
    /// Remove a registered user.
    Rm {
        /// Its nick.
        nick: String,
    },
}

fn seconds(text: &str) -> Result<u64, String> {
    let ms = parse_duration(text).ok_or("a time is a number with s, m, h or d: 30m")?;
    Ok(ms / 1000)
}

/// Carries the command out on the leader.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let leader = args.target.leader(ServiceKind::Adc)?;
    let text = match args.command {
        Command::Users => render_users(&list(&leader, "users").await?),
        Command::Bans => render_bans(&list(&leader, "bans").await?),
        Command::Audit => render_audit(&list(&leader, "audit").await?),
        Command::Account { command: Account::Ls } => render_accounts(&list(&leader, "accounts").await?),
        command => {
            let order = order(command)?;
            let done = leader
                .ask(|client, _| {
                    let order = order.clone();
                    async move { client.hub_order(&order).await }
                })
                .await?;
            format!("{}\n", done.done)
        }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

async fn list<T: serde::de::DeserializeOwned>(leader: &Leader, what: &'static str) -> anyhow::Result<Vec<T>> {
    leader
        .ask(|client, _| async move { client.hub_list(what).await })
        .await
}

fn order(command: Command) -> anyhow::Result<HubOrder> {
    Ok(match command {
        Command::Kick { nick, reason } => HubOrder::Kick { nick, reason },
        Command::Ban {
            target,
            reason,
            seconds,
        } => HubOrder::Ban {
            target,
            seconds,
            reason,
        },
        Command::Unban { id } => HubOrder::Unban { id },
        Command::Mute { nick, seconds } => HubOrder::Mute { nick, seconds },
        Command::Unmute { nick } => HubOrder::Unmute { nick },
        Command::Redirect {
            nick,
            address,
            reason,
            permanent,
        } => HubOrder::Redirect {
            nick,
            address,
            reason,
            permanent,
        },
        Command::Topic { topic } => HubOrder::Topic { topic },
        Command::Account {
            command: Account::Put { nick, class },
        } => HubOrder::PutAccount {
            nick,
            class,
            password: read_password()?,
        },
        Command::Account {
            command: Account::Rm { nick },
        } => HubOrder::RemoveAccount { nick },
        Command::Users | Command::Bans | Command::Audit | Command::Account { .. } => {
            return Err(anyhow!("this command is no order"));
        }
    })
}

fn read_password() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("reading the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn render_users(users: &[HubUser]) -> String {
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            let member = user.member.map_or("away".to_owned(), |member| member.to_string());
            let addresses = [Some(user.address.as_str()), user.second_address.as_deref()];
            [
                user.sid.clone(),
                user.nick.clone(),
                user.class.clone(),
                addresses.into_iter().flatten().collect::<Vec<_>>().join(","),
                member,
                user.cid.clone(),
            ]
        })
        .collect();
    table::render(["SID", "NICK", "CLASS", "ADDRESS", "MEMBER", "CID"], &rows)
}

fn render_bans(bans: &[HubBan]) -> String {
    let rows: Vec<_> = bans
        .iter()
        .map(|ban| {
            let until = ban.until_unix_seconds;
            [
                ban.id.to_string(),
                ban.target.clone(),
                until.map_or("for ever".to_owned(), |until| until.to_string()),
                ban.by.clone(),
                ban.reason.clone(),
            ]
        })
        .collect();
    table::render(["ID", "TARGET", "UNTIL (UNIX)", "BY", "REASON"], &rows)
}

fn render_accounts(accounts: &[HubAccount]) -> String {
    let rows: Vec<_> = accounts
        .iter()
        .map(|account| [account.nick.clone(), account.class.clone()])
        .collect();
    table::render(["NICK", "CLASS"], &rows)
}

fn render_audit(audit: &[HubAudit]) -> String {
    let rows: Vec<_> = audit
        .iter()
        .map(|entry| {
            [
                entry.unix_seconds.to_string(),
                entry.by.clone(),
                entry.what.clone(),
            ]
        })
        .collect();
    table::render(["UNIX TIME", "BY", "WHAT"], &rows)
}
