//! The hub behind `/v1/adc`, and its file of registered users.

use std::path::PathBuf;
use std::time::Duration;

use adc::server::{Desk, DeskError, Registration};
use adc::session::bot::ban_target;
use adc::state::{Class, Order};
use anyhow::Context as _;
use futures::future::BoxFuture;
use operator_api::admin::hub::{HubAccount, HubAudit, HubBan, HubOrder, HubUser};
use serde::Deserialize;

use crate::admin::hub::{BY_ADMIN, HubDesk, HubError};

/// How often the file of registered users is read: a Secret that changes is there soon enough.
const USERS_FILE_EVERY: Duration = Duration::from_secs(5);
/// Who registers the users of the file.
const BY_FILE: &str = "the file of registered users";

/// The hub, for the admin port.
pub(super) struct Adapter(pub(super) Desk);

impl HubDesk for Adapter {
    fn users(&self) -> Vec<HubUser> {
        self.0.read(|state| {
            let users = state.users().map(|user| HubUser {
                sid: user.sid.to_string(),
                nick: user.nick.to_string(),
                class: user.class.name().to_owned(),
                address: user.address.to_string(),
                second_address: user.second_address().map(|second| second.to_string()),
                cid: user.cid.to_string(),
                member: user.home.front(),
                since_unix_seconds: user.since_unix_ms / 1000,
            });
            users.collect()
        })
    }

    fn bans(&self) -> Vec<HubBan> {
        self.0.read(|state| {
            let bans = state.bans().map(|(id, ban)| HubBan {
                id,
                target: ban.target.to_string(),
                until_unix_seconds: ban.until_unix_ms.map(|until| until / 1000),
                by: ban.by.clone(),
                reason: ban.reason.clone(),
            });
            bans.collect()
        })
    }

    fn accounts(&self) -> Vec<HubAccount> {
        self.0.read(|state| {
            let accounts = state.accounts().map(|account| HubAccount {
                nick: account.nick.clone(),
                class: account.class.name().to_owned(),
            });
            accounts.collect()
        })
    }

    fn audit(&self) -> Vec<HubAudit> {
        self.0.read(|state| {
            let entries = state.audit().map(|entry| HubAudit {
                unix_seconds: entry.unix_ms / 1000,
                by: entry.by.clone(),
                what: entry.what.clone(),
            });
            entries.collect()
        })
    }

    fn order(&self, order: HubOrder) -> BoxFuture<'_, Result<String, HubError>> {
        Box::pin(async move {
            let order = self.order_of(order).map_err(failed)?;
            self.0.order(BY_ADMIN, order).await.map_err(failed)
        })
    }
}

impl Adapter {
    fn order_of(&self, order: HubOrder) -> Result<Order, DeskError> {
        let ms = |seconds: Option<u64>| seconds.map(|seconds| seconds.saturating_mul(1000));
        Ok(match order {
            HubOrder::Kick { nick, reason } => Order::Kick { nick, reason },
            HubOrder::Ban {
                target,
                seconds,
                reason,
            } => Order::Ban {
                target: ban_target(&target),
                for_ms: ms(seconds),
                reason,
            },
            HubOrder::Unban { id } => Order::Unban { id },
            HubOrder::Mute { nick, seconds } => Order::Mute {
                nick,
                for_ms: ms(seconds),
            },
            HubOrder::Unmute { nick } => Order::Unmute { nick },
            HubOrder::Redirect {
                nick,
                address,
                reason,
                permanent: false,
            } => Order::Redirect {
                nick,
                address,
                reason,
            },
            HubOrder::Redirect {
                nick,
                address,
                reason,
                permanent: true,
            } => Order::RedirectForGood {
                nick,
                address,
                reason,
            },
            HubOrder::Topic { topic } => Order::Topic { topic },
            HubOrder::PutAccount {
                nick,
                class,
                password,
            } => {
                let class =
                    class_of(&class).ok_or(DeskError::Invalid("a class is registered, operator or owner"))?;
                self.0.registration(&Registration {
                    nick,
                    class,
                    password,
                })?
            }
            HubOrder::RemoveAccount { nick } => Order::RemoveAccount { nick },
        })
    }
}

fn class_of(name: &str) -> Option<Class> {
    let class = Class::ALL.into_iter().find(|class| class.name() == name);
    class.filter(|class| *class > Class::Guest)
}

fn failed(error: DeskError) -> HubError {
    match error {
        DeskError::NotLeader { leader } => HubError::NotLeader { leader },
        DeskError::Refused(_) | DeskError::Invalid(_) => HubError::Refused(error.to_string()),
        DeskError::Unavailable(_) => HubError::Unavailable(error.to_string()),
    }
}

/// A user in the file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Listed {
    nick: String,
    password: String,
    class: String,
}

/// Brings the users of the file into the group, whenever this member leads. Does not end.
pub(super) async fn follow_users_file(desk: Desk, file: Option<PathBuf>) -> std::convert::Infallible {
    let Some(file) = file else {
        return std::future::pending().await;
    };
    let mut complained = String::new();
    loop {
        tokio::time::sleep(USERS_FILE_EVERY).await;
        if !desk.leads() {
            continue;
        }
        let problem = match bring(&desk, &file).await {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        if !problem.is_empty() && problem != complained {
            tracing::warn!(file = %file.display(), problem, "the file of registered users");
        }
        complained = problem;
    }
}

async fn bring(desk: &Desk, file: &std::path::Path) -> anyhow::Result<()> {
    let bytes = tokio::fs::read(file).await.context("reading it")?;
    // The error names a place, and never shows a password.
    let listed: Vec<Listed> = serde_json::from_slice(&bytes)
        .map_err(|error| anyhow::anyhow!("line {}: not a list of users", error.line()))?;
    let registration = |Listed {
                            nick,
                            password,
                            class,
                        }: Listed| {
        let class =
            class_of(&class).with_context(|| format!("{nick}: a class is registered, operator or owner"))?;
        anyhow::Ok(Registration {
            nick,
            class,
            password,
        })
    };
    // Who is gone is known only when all of the file is.
    let registrations: Vec<Registration> = listed.into_iter().map(registration).collect::<Result<_, _>>()?;
    for registration in &registrations {
        if !desk.is_listed(registration) {
            desk.order(BY_FILE, desk.listing(registration)?).await?;
        }
    }
    let nicks: Vec<&str> = registrations.iter().map(|one| one.nick.as_str()).collect();
    for nick in desk.listed_besides(&nicks) {
        desk.order(BY_FILE, Order::UnlistAccount { nick }).await?;
    }
    Ok(())
}
