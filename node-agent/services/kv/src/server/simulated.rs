//! The operations without HTTP, for a simulation of whole members. Compiled with `--cfg simulation` only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use replication::simulation::{Bug, is_planted};
use replication::{Replica, ServeError, Shutdown};
use tokio_util::task::TaskTracker;

use super::answers::{found, timeout};
use super::told::Told;
use super::writes::{Identity, Patience, Settled};
use super::{Context, Metrics, Options, Shown};
use crate::request::{Answer, Refusal, Terms};
use crate::state::{Change, Compacted, Event, KvState, Operation, Owner, Transaction};

/// How long a caller in doubt waits before it is told so.
const DOUBT: Duration = Duration::from_secs(2);

/// One member's front.
#[derive(Clone)]
pub struct Front(Arc<Context>);

impl Front {
    /// Opens it; its tasks run in `tasks`.
    ///
    /// # Errors
    /// When the outbox cannot be opened.
    pub async fn open(
        outbox_file: PathBuf,
        replica: Replica<KvState>,
        tasks: &TaskTracker,
    ) -> Result<Self, ServeError> {
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options {
            listen: nowhere,
            socket: None,
            member_listen: nowhere,
            value_bytes_max: 1 << 20,
            quota_bytes: u64::MAX,
            connections_max: 1,
            doubt: DOUBT,
            policies: Vec::new(),
            outbox_file,
            access: super::AccessFiles::default(),
            metrics: Metrics::register(&prometheus::Registry::new(), Shown::default())
                .map_err(|error| ServeError(error.to_string()))?,
            shown: Shown::default(),
        };
        let context = Context::open(&options, replica, tasks).await?;
        Ok(Self(Arc::new(context)))
    }

    /// Keeps this member's session, and ends what is due. Never ends itself.
    pub async fn run(&self) {
        tokio::join!(self.0.keep_session(), self.0.end_what_is_due());
    }

    /// `get`
    pub async fn get(&self, key: &str, terms: &Terms) -> Answer {
        self.0.get(key, terms).await
    }

    /// `set`, `delete` and `swap`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn change(&self, change: Change, terms: &Terms) -> Result<Answer, Refusal> {
        match change {
            Change::Set { key, value } if terms.local => self.0.change_here(key, Some(value), terms).await,
            Change::Delete { key } if terms.local => self.0.change_here(key, None, terms).await,
            change => self.0.change(change, terms).await,
        }
    }

    /// Opens a session for a client.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open_session(&self, terms: &Terms) -> Result<Answer, Refusal> {
        self.0.open_session(terms).await
    }

    /// The keys that begin with a prefix.
    pub async fn range(&self, terms: &Terms) -> Answer {
        self.0.range(terms).await
    }

    /// The changes of all keys from a revision on, as far as this member applies them; they end where they are forgotten.
    ///
    /// # Errors
    /// When they are forgotten already, or it does not know yet what it knew before it was started.
    pub async fn watch(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<Vec<Event>, Compacted>>, Refusal> {
        let mut terms = Terms::default();
        terms.more.from = Some(from);
        let told = self.0.watch("".into(), &terms, None, Shutdown::new()).await?;
        let changes = told.filter_map(async |told| match told {
            Told::Changes(events) => Some(Ok(events)),
            Told::Compacted { oldest } => Some(Err(Compacted { oldest })),
            _ => None,
        });
        Ok(changes.boxed())
    }

    /// What is new in a copy of a server's log.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn extract(&self, server: &str, copy: &[u8], terms: &Terms) -> Result<Answer, Refusal> {
        self.0.extract(server.into(), copy, terms).await
    }

    /// The entries of a journal.
    ///
    /// # Errors
    /// When they are forgotten.
    pub async fn read_journal(&self, name: &str, terms: &Terms) -> Result<Answer, Refusal> {
        self.0.read_journal(name.into(), terms).await
    }

    /// What became of a request.
    pub async fn outcome(&self, terms: &Terms) -> Answer {
        self.0.outcome(terms).await
    }

    /// Makes a request never take place, unless it did.
    ///
    /// # Errors
    /// When nobody can tell in time.
    pub async fn cancel(&self, terms: &Terms) -> Result<Answer, Refusal> {
        self.0.cancel(terms).await
    }

    /// How many writes are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.0.memory.summary().0
    }
}

impl Context {
    /// The planted [`Bug::TransactionInParts`] and [`Bug::SwapDecidedOutside`].
    pub(super) async fn decide_here(&self, change: Change, patience: Patience) -> Result<Change, Answer> {
        if let Change::Transact(transaction) = &change
            && transaction.compare.is_empty()
            && is_planted(Bug::TransactionInParts)
        {
            self.begin_with_one(transaction, patience).await;
        }
        let Change::Swap { key, old, new } = &change else {
            return Ok(change);
        };
        if !is_planted(Bug::SwapDecidedOutside) {
            return Ok(change);
        }
        let Some(item) = self.consistent(patience, |state| state.get(key).cloned()).await else {
            return Err(timeout());
        };
        if item.as_ref().map_or(&[][..], |item| item.value.as_ref()) != old.as_ref() {
            let answer = found(item.as_ref());
            return Err(Answer {
                valid: false,
                ..answer
            });
        }
        Ok(Change::Set {
            key: key.clone(),
            value: new.clone(),
        })
    }

    /// Carries out the first operation of a transaction before the others, if it sets a key.
    async fn begin_with_one(&self, transaction: &Transaction, patience: Patience) {
        if let Some(Operation::Set { key, value, .. }) = transaction.then.first()
            && let Some(number) = self.number(Owner::NOBODY, patience).await
        {
            let change = Change::Set {
                key: key.clone(),
                value: value.clone(),
            };
            let _: Settled = self.write(&Identity::Own(number), change, patience).await;
        }
    }
}
