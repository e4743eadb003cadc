//! Orders from outside the hub: the admin port, the file of registered users.

use std::collections::BTreeSet;
use std::sync::Arc;

use replication::{NodeId, ProposeError, Replica};

use super::PasswordKey;
use crate::state::{AdcState, Class, Command, Limits, Order, OrderError, Outcome, SealedPassword, folded};
use crate::vault::Vault;

/// Bytes of a password.
const PASSWORD_BYTES_MAX: usize = 256;

/// Takes orders from outside. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    replica: Replica<AdcState>,
    limits: Limits,
    vault: Option<Arc<Vault>>,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// Another member leads, or nobody.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The directory refuses it.
    #[error(transparent)]
    Refused(OrderError),
    /// Something is missing here.
    #[error("{0}")]
    Invalid(&'static str),
    /// Whether it was carried out is unknown, or the member cannot.
    #[error(transparent)]
    Unavailable(ProposeError),
}

/// Somebody that is to be registered.
pub struct Registration {
    /// Its nick.
    pub nick: String,
    /// What it may do.
    pub class: Class,
    /// What it has to know.
    pub password: String,
}

impl Desk {
    /// A desk of this member.
    #[must_use]
    pub fn new(replica: Replica<AdcState>, limits: Limits, key: Option<&PasswordKey>) -> Self {
        Self {
            replica,
            limits,
            vault: key.map(|key| Arc::new(Vault::new(&key.0))),
        }
    }

    /// Reads this member's directory as it is.
    pub fn read<T>(&self, read: impl FnOnce(&AdcState) -> T) -> T {
        self.replica.local(read)
    }

    /// Carries an order out; what came of it, in words. Only the leader can.
    ///
    /// # Errors
    /// When it was refused, or is not known to be carried out.
    pub async fn order(&self, by: &str, order: Order) -> Result<String, DeskError> {
        self.read(|state| state.check_order(&order, &self.limits))
            .map_err(DeskError::Refused)?;
        let command = Command::Order {
            by: by.to_owned(),
            order,
            limits: self.limits,
        };
        match self.replica.propose(command).await {
            Ok(Outcome::Ordered(ordered)) => ordered.map_err(DeskError::Refused),
            Ok(Outcome::Applied) => Ok("done".to_owned()),
            Err(ProposeError::NotLeader { leader }) => Err(DeskError::NotLeader { leader }),
            Err(error) => Err(DeskError::Unavailable(error)),
        }
    }

    /// The order that registers somebody.
    ///
    /// # Errors
    /// When there is no key, or the password is none.
    pub fn registration(&self, registration: &Registration) -> Result<Order, DeskError> {
        let Registration {
            nick,
            class,
            password,
        } = registration;
        Ok(Order::PutAccount {
            nick: nick.clone(),
            class: *class,
            password: self.seal(nick, password)?,
        })
    }

    fn seal(&self, nick: &str, password: &str) -> Result<SealedPassword, DeskError> {
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(DeskError::Invalid("a password has 1 to 256 bytes"));
        }
        let vault = self.vault.as_ref().ok_or(DeskError::Invalid(
            "nobody can be registered: the configuration names no passwordKeyFile",
        ))?;
        Ok(vault.seal(&folded(nick, &self.limits), password, rand::random()))
    }

    /// Whether somebody is registered just so.
    #[must_use]
    pub fn is_registered(&self, registration: &Registration) -> bool {
        let key = folded(&registration.nick, &self.limits);
        let sealed = self.read(|state| {
            let account = state.account(&key)?;
            (account.class == registration.class).then(|| account.password.clone())
        });
        match (sealed, &self.vault) {
            (Some(sealed), Some(vault)) => vault
                .open(&key, &sealed)
                .is_ok_and(|password| password == registration.password),
            _ => false,
        }
    }

    /// The order that registers somebody who is in the file of registered users.
    ///
    /// # Errors
    /// When there is no key, or the password is none.
    pub fn listing(&self, registration: &Registration) -> Result<Order, DeskError> {
        let Registration {
            nick,
            class,
            password,
        } = registration;
        Ok(Order::ListAccount {
            nick: nick.clone(),
            class: *class,
            password: self.seal(nick, password)?,
        })
    }

    /// Whether somebody is registered just so, and because of the file.
    #[must_use]
    pub fn is_listed(&self, registration: &Registration) -> bool {
        let key = folded(&registration.nick, &self.limits);
        self.is_registered(registration) && self.read(|state| state.is_listed(&key))
    }

    /// The nicks that are registered because of the file, and are not among these.
    #[must_use]
    pub fn listed_besides(&self, nicks: &[&str]) -> Vec<String> {
        let kept: BTreeSet<String> = nicks.iter().map(|nick| folded(nick, &self.limits)).collect();
        self.read(|state| {
            let gone = state.listed().filter(|listed| !kept.contains(*listed));
            let nick = |key: &str| state.account(key).map(|account| account.nick.clone());
            gone.filter_map(nick).collect()
        })
    }

    /// Whether this member leads and may answer.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.replica.lease().is_valid()
    }
}
