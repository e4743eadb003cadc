//! What operators do: kicks, bans, mutes, redirects, topic, accounts. All of it is recorded.

use std::sync::Arc;

use replication::{LogTime, NodeId};
use serde::{Deserialize, Serialize};

use super::{
    Account, AdcState, Ban, BanTarget, Class, Departure, Effect, Limits, Mute, SealedPassword, User, folded,
};
use crate::message::Sid;

/// Entries of the audit that are kept.
const AUDIT_ENTRIES_MAX: usize = 1000;
/// Bytes of a reason, a topic or an address in an order; longer ones are refused.
const TEXT_BYTES_MAX: usize = 1024;
/// Nicks that may be muted at once.
const MUTES_MAX: usize = 10_000;

/// What a guest is told whose nick is registered by the file of registered users.
const NICK_REGISTERED: &str = "This nick is registered now: come back with its password";

/// An operator's order. A stored format: variants and fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Removes a user; it may come back.
    Kick {
        /// Its nick.
        nick: String,
        /// What it is told.
        reason: String,
    },
    /// Keeps somebody out, and removes whom it hits.
    Ban {
        /// Whom; a nick is folded when the order is carried out.
        target: BanTarget,
        /// For how long, in milliseconds; for ever, without.
        for_ms: Option<u64>,
        /// What the banned are told.
        reason: String,
    },
    /// Lifts a ban.
    Unban {
        /// Its number.
        id: u64,
    },
    /// Silences a nick in the main chat.
    Mute {
        /// The nick.
        nick: String,
        /// For how long, in milliseconds; until lifted, without.
        for_ms: Option<u64>,
    },
    /// Lets a nick speak again.
    Unmute {
        /// The nick.
        nick: String,
    },
    /// Sends a user to another hub.
    Redirect {
        /// Its nick.
        nick: String,
        /// The other hub; several, of which the user may choose, are separated by commas.
        address: String,
        /// What it is told.
        reason: String,
    },
    /// Sets or clears the topic.
    Topic {
        /// The new one.
        topic: Option<String>,
    },
    /// Makes an account, or changes it.
    PutAccount {
        /// Its nick.
        nick: String,
        /// What its owner may do; not [`Class::Guest`].
        class: Class,
        /// What its owner has to know.
        password: SealedPassword,
    },
    /// Removes an account.
    RemoveAccount {
        /// Its nick.
        nick: String,
    },
    /// A user registers its own nick.
    Register {
        /// What it will have to know.
        password: SealedPassword,
    },
    /// Makes an account that is in the file of registered users, or changes it. A guest who has the nick is put out.
    ListAccount {
        /// Its nick.
        nick: String,
        /// What its owner may do; not [`Class::Guest`].
        class: Class,
        /// What its owner has to know.
        password: SealedPassword,
    },
    /// Removes an account that was in the file of registered users, unless it was made by hand since.
    UnlistAccount {
        /// Its nick.
        nick: String,
    },
    /// Sends a user to another hub for good: its client may forget this one (ADC-EXT, RDEX).
    RedirectForGood {
        /// Its nick.
        nick: String,
        /// As in [`Order::Redirect`].
        address: String,
        /// What it is told.
        reason: String,
    },
}

/// What came of an order: in words, for who gave it.
pub type Ordered = Result<String, OrderError>;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Nobody has this nick now.
    #[error("nobody here is called {0}")]
    NoSuchUser(String),
    /// The one it is aimed at is of the same class or a higher one.
    #[error("{0} is not yours to order about")]
    Outranked(String),
    /// The operator's class does not allow it.
    #[error("you may not do this")]
    NotAllowed,
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// There is no room for more.
    #[error("there are too many {0} already")]
    TooMany(&'static str),
    /// The order makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Who.
    pub by: String,
    /// What, in words.
    pub what: String,
}

impl AdcState {
    /// An order that a user gave in the hub.
    pub(super) fn order_from_inside(
        &mut self,
        at: LogTime,
        front: NodeId,
        sid: Sid,
        order: Order,
        limits: Limits,
    ) {
        let Some(user) = self.users.get(&sid) else { return };
        let (by, class) = (user.nick.to_string(), user.class);
        let ordered = match order {
            Order::Register { password } => self.register(at, sid, password, limits),
            order => self.order(at, &by, class, order, limits),
        };
        let text = ordered.unwrap_or_else(|error| error.to_string());
        self.effects.push(Effect::Answered { front, sid, text });
    }

    pub(super) fn order(
        &mut self,
        at: LogTime,
        by: &str,
        class: Class,
        order: Order,
        limits: Limits,
    ) -> Ordered {
        let needed = match order {
            Order::PutAccount { .. }
            | Order::RemoveAccount { .. }
            | Order::ListAccount { .. }
            | Order::UnlistAccount { .. } => Class::Owner,
            Order::Register { .. } => return Err(OrderError::Invalid("only a user can register itself")),
            _ => Class::Operator,
        };
        if class < needed {
            return Err(OrderError::NotAllowed);
        }
        let what = match order {
            Order::Kick { nick, reason } => self.kick(by, class, &nick, reason, &limits)?,
            Order::Ban {
                target,
                for_ms,
                reason,
            } => self.ban(at, by, class, target, for_ms, reason, &limits)?,
            Order::Unban { id } => match self.bans.remove(&id) {
                Some(ban) => format!("lifted ban {id} of {}", ban.target),
                None => return Err(OrderError::NotFound(format!("ban {id}"))),
            },
            Order::Mute { nick, for_ms } => self.mute_nick(at, by, class, &nick, for_ms, &limits)?,
            Order::Unmute { nick } => match self.mutes.remove(&folded(&nick, &limits)) {
                Some(_) => format!("let {nick} speak again"),
                None => return Err(OrderError::NotFound(format!("mute of {nick}"))),
            },
            Order::Redirect {
                nick,
                address,
                reason,
            } => {
                let by = by.to_owned();
                self.redirect(
                    class,
                    &nick,
                    Departure::Redirected { by, address, reason },
                    &limits,
                )?
            }
            Order::RedirectForGood {
                nick,
                address,
                reason,
            } => {
                let by = by.to_owned();
                let departure = Departure::RedirectedForGood { by, address, reason };
                self.redirect(class, &nick, departure, &limits)?
            }
            Order::Topic { topic } => self.set_topic(topic)?,
            Order::PutAccount {
                nick,
                class,
                password,
            } => self.put_account(nick, class, password, &limits)?,
            Order::RemoveAccount { nick } => self.remove_account(&nick, &limits)?,
            Order::ListAccount {
                nick,
                class,
                password,
            } => self.list_account(by, nick, class, password, &limits)?,
            Order::UnlistAccount { nick } => self.unlist_account(&nick, &limits)?,
            Order::Register { .. } => return Err(OrderError::NotAllowed),
        };
        self.record(at, by, what.clone());
        Ok(what)
    }

    fn set_topic(&mut self, topic: Option<String>) -> Ordered {
        check_text(topic.as_deref().unwrap_or_default())?;
        let topic: Option<Arc<str>> = topic.map(Into::into);
        self.topic.clone_from(&topic);
        self.effects.push(Effect::Topic { topic: topic.clone() });
        Ok(topic.map_or("cleared the topic".to_owned(), |topic| {
            format!("set the topic: {topic}")
        }))
    }

    fn register(&mut self, at: LogTime, sid: Sid, password: SealedPassword, limits: Limits) -> Ordered {
        let Some(user) = self.users.get(&sid) else {
            return Err(OrderError::NotAllowed);
        };
        let nick = user.nick.to_string();
        if self.accounts.contains_key(&user.folded_nick) && user.class == Class::Guest {
            return Err(OrderError::NotAllowed);
        }
        let class = user.class.max(Class::Registered);
        let what = self.put_account(nick.clone(), class, password, &limits)?;
        self.record(at, &nick, what);
        Ok("you are registered; your client asks for the password next time".to_owned())
    }

    fn record(&mut self, at: LogTime, by: &str, what: String) {
        if self.audit.len() == AUDIT_ENTRIES_MAX {
            self.audit.pop_front();
        }
        self.audit.push_back(AuditEntry {
            unix_ms: at.unix_ms,
            by: by.to_owned(),
            what,
        });
    }

    /// The user with that nick, if it ranks below `class`.
    pub(super) fn below(&self, class: Class, nick: &str, limits: &Limits) -> Result<Sid, OrderError> {
        let user = self
            .user_by_nick(&folded(nick, limits))
            .ok_or_else(|| OrderError::NoSuchUser(nick.to_owned()))?;
        if user.class >= class {
            return Err(OrderError::Outranked(nick.to_owned()));
        }
        Ok(user.sid)
    }

    fn kick(&mut self, by: &str, class: Class, nick: &str, reason: String, limits: &Limits) -> Ordered {
        check_text(&reason)?;
        let sid = self.below(class, nick, limits)?;
        let what = format!("kicked {nick}: {reason}");
        self.depart(
            sid,
            Departure::Kicked {
                by: by.to_owned(),
                reason,
                until_unix_ms: None,
                banned: false,
            },
        );
        Ok(what)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the order's own fields, and who gives it when"
    )]
    fn ban(
        &mut self,
        at: LogTime,
        by: &str,
        class: Class,
        target: BanTarget,
        for_ms: Option<u64>,
        reason: String,
        limits: &Limits,
    ) -> Ordered {
        check_text(&reason)?;
        let target = match target {
            BanTarget::Nick(nick) => BanTarget::Nick(folded(&nick, limits)),
            target => target,
        };
        if u32::try_from(self.bans.len()).unwrap_or(u32::MAX) >= limits.bans_max {
            return Err(OrderError::TooMany("bans"));
        }
        let is_hit = |user: &&User| {
            let second = user.second_address();
            let addresses: Vec<_> = [user.address].into_iter().chain(second).collect();
            target.hits(&user.folded_nick, &user.cid, &addresses)
        };
        let hit: Vec<_> = self
            .users
            .values()
            .filter(is_hit)
            .map(|user| (user.sid, user.class))
            .collect();
        if let BanTarget::Nick(nick) = &target
            && hit.iter().any(|(_, hit)| *hit >= class)
        {
            return Err(OrderError::Outranked(nick.clone()));
        }
        let until_unix_ms = for_ms.map(|length| at.unix_ms.saturating_add(length));
        let what = format!("banned {target}: {reason}");
        self.last_ban += 1;
        self.bans.insert(
            self.last_ban,
            Ban {
                target,
                until_unix_ms,
                reason: reason.clone(),
                by: by.to_owned(),
            },
        );
        for (sid, hit) in hit {
            // A network may hold friends of the operator.
            if hit < class {
                self.depart(
                    sid,
                    Departure::Kicked {
                        by: by.to_owned(),
                        reason: reason.clone(),
                        until_unix_ms,
                        banned: true,
                    },
                );
            }
        }
        Ok(what)
    }

    fn mute_nick(
        &mut self,
        at: LogTime,
        by: &str,
        class: Class,
        nick: &str,
        for_ms: Option<u64>,
        limits: &Limits,
    ) -> Ordered {
        let sid = self.below(class, nick, limits)?;
        let Some(user) = self.users.get(&sid) else {
            return Err(OrderError::NoSuchUser(nick.to_owned()));
        };
        if self.mutes.len() >= MUTES_MAX {
            return Err(OrderError::TooMany("mutes"));
        }
        self.mutes.insert(
            user.folded_nick.clone(),
            Mute {
                until_unix_ms: for_ms.map(|length| at.unix_ms.saturating_add(length)),
                by: by.to_owned(),
            },
        );
        Ok(format!("muted {nick}"))
    }

    fn put_account(
        &mut self,
        nick: String,
        class: Class,
        password: SealedPassword,
        limits: &Limits,
    ) -> Ordered {
        if class == Class::Guest {
            return Err(OrderError::Invalid("a guest needs no account"));
        }
        if crate::message::check_nick(&nick).is_err() {
            return Err(OrderError::Invalid("nobody can have this nick"));
        }
        let key = folded(&nick, limits);
        let accounts = u32::try_from(self.accounts.len()).unwrap_or(u32::MAX);
        if !self.accounts.contains_key(&key) && accounts >= limits.accounts_max {
            return Err(OrderError::TooMany("accounts"));
        }
        let what = format!("registered {nick} as {}", class.name());
        self.listed.remove(&key);
        self.accounts.insert(
            key,
            Account {
                nick,
                class,
                password,
            },
        );
        Ok(what)
    }
}

impl AdcState {
    fn list_account(
        &mut self,
        by: &str,
        nick: String,
        class: Class,
        password: SealedPassword,
        limits: &Limits,
    ) -> Ordered {
        let key = folded(&nick, limits);
        let what = self.put_account(nick, class, password, limits)?;
        let holder = self.user_by_nick(&key).filter(|user| user.class == Class::Guest);
        if let Some(sid) = holder.map(|holder| holder.sid) {
            // It came before the nick was registered. Whether it may have it, only the password can tell.
            let departure = Departure::Kicked {
                by: by.to_owned(),
                reason: NICK_REGISTERED.to_owned(),
                until_unix_ms: None,
                banned: false,
            };
            self.depart(sid, departure);
        }
        self.listed.insert(key);
        Ok(what)
    }

    fn unlist_account(&mut self, nick: &str, limits: &Limits) -> Ordered {
        if !self.listed.contains(&folded(nick, limits)) {
            return Err(OrderError::NotFound(format!("{nick} of the file")));
        }
        self.remove_account(nick, limits)
    }

    fn remove_account(&mut self, nick: &str, limits: &Limits) -> Ordered {
        let key = folded(nick, limits);
        self.listed.remove(&key);
        match self.accounts.remove(&key) {
            Some(_) => Ok(format!("removed the account {nick}")),
            None => Err(OrderError::NotFound(format!("account {nick}"))),
        }
    }
}

pub(super) fn check_text(text: &str) -> Result<(), OrderError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(OrderError::Invalid("that text is too long"));
    }
    Ok(())
}
