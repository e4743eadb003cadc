//! Answers to what users ask the hub for in the main chat.

use bytes::Bytes;

use super::super::events::ToWorker;
use super::super::words;
use super::{Client, Hub};
use crate::message::Sid;
use crate::session::bot::{self, Request};
use crate::state::{Account, Ban, Class, Event, LinkId, Order, SealedPassword, folded};

/// Lines of a list in the chat.
const LIST_LINES_MAX: usize = 100;
/// Bytes of a password.
const PASSWORD_BYTES_MAX: usize = 256;

impl Hub {
    /// Carries a user's command out, or answers it.
    pub(super) fn command(&mut self, link: LinkId, text: &str) {
        let Some(Client::User { sid }) = self.clients.get(&link) else {
            return;
        };
        let sid = *sid;
        let class = self
            .replica
            .local(|state| state.user(sid).map_or(Class::Guest, |user| user.class));
        match bot::parse(text) {
            Ok(request) => self.request(sid, class, link, request),
            Err(error) => self.say_to(sid, &error),
        }
    }

    fn request(&mut self, sid: Sid, class: Class, link: LinkId, request: Request) {
        let answer = match request {
            Request::Help => bot::help(class),
            Request::Rules if self.settings.rules.is_empty() => "There are no rules.".to_owned(),
            Request::Rules => self.settings.rules.clone(),
            Request::Motd => self.settings.motd.clone(),
            Request::Topic => {
                let topic = self.replica.local(|state| state.topic().map(ToOwned::to_owned));
                topic.unwrap_or_else(|| "There is no topic.".to_owned())
            }
            Request::History => return self.tell_history(link),
            Request::MyAddress => {
                let address = self
                    .replica
                    .local(|state| state.user(sid).map(|user| user.address));
                address.map_or_else(String::new, |address| address.to_string())
            }
            Request::Bans if class >= Class::Operator => self.replica.local(|state| {
                list(
                    state.bans().map(|(id, ban)| describe_ban(id, ban)),
                    "Nobody is banned.",
                )
            }),
            Request::Accounts if class >= Class::Owner => self
                .replica
                .local(|state| list(state.accounts().map(describe_account), "Nobody is registered.")),
            Request::Bans | Request::Accounts => "You may not do this.".to_owned(),
            Request::Register { password } => match self.register(sid, class, &password) {
                Ok(order) => return self.conveyor.put(Event::Order { sid, order }),
                Err(error) => error.to_owned(),
            },
            Request::RegisterOther {
                nick,
                class,
                password,
            } => match self.seal_password(&nick, &password) {
                Ok(password) => {
                    let order = Order::PutAccount {
                        nick,
                        class,
                        password,
                    };
                    return self.conveyor.put(Event::Order { sid, order });
                }
                Err(error) => error.to_owned(),
            },
            Request::Order(order) => {
                let checked = self
                    .replica
                    .local(|state| state.check_order(&order, &self.limits));
                match checked {
                    Ok(()) => return self.conveyor.put(Event::Order { sid, order }),
                    Err(error) => error.to_string(),
                }
            }
        };
        self.say_to(sid, &answer);
    }

    fn register(&self, sid: Sid, class: Class, password: &str) -> Result<Order, &'static str> {
        if class == Class::Guest && !self.settings.self_registration {
            return Err("Ask an owner of this hub to register you.");
        }
        let nick = self
            .replica
            .local(|state| state.user(sid).map(|user| user.nick.to_string()));
        let password = self.seal_password(&nick.unwrap_or_default(), password)?;
        Ok(Order::Register { password })
    }

    fn seal_password(&self, nick: &str, password: &str) -> Result<SealedPassword, &'static str> {
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err("A password has 1 to 256 bytes.");
        }
        let vault = self.vault.as_ref();
        let vault = vault.ok_or("This hub cannot register anybody: it has no passwordKeyFile.")?;
        Ok(vault.seal(&folded(nick, &self.limits), password, rand::random()))
    }

    fn tell_history(&mut self, link: LinkId) {
        let lines: String = self
            .replica
            .local(|state| state.history().map(words::remembered).collect());
        self.seal();
        let lines = Bytes::from(lines);
        self.order(link, ToWorker::One { link, lines });
    }
}

fn list(lines: impl Iterator<Item = String>, none: &str) -> String {
    let mut all: Vec<String> = lines.take(LIST_LINES_MAX).collect();
    if all.is_empty() {
        all.push(none.to_owned());
    }
    all.join("\n")
}

fn describe_ban(id: u64, ban: &Ban) -> String {
    let Ban {
        target,
        reason,
        by,
        until_unix_ms,
    } = ban;
    let until = until_unix_ms.map_or_else(
        || "for ever".to_owned(),
        |until| format!("until {} (Unix time)", until / 1000),
    );
    format!("{id}: {target}, {until}, by {by}: {reason}")
}

fn describe_account(account: &Account) -> String {
    format!("{}: {}", account.nick, account.class.name())
}
