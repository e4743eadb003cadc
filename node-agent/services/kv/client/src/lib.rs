//! The client of Quorate's key-value store.
//!
//! ```no_run
//! # async fn example() -> Result<(), kv_client::Error> {
//! use kv_client::{Client, Options, Terms};
//!
//! let client = Client::new(Options::at(["http://127.0.0.1:2391", "http://127.0.0.1:2392"]))?;
//! client.set("greeting", "hello", Terms::default()).await?;
//! let swapped = client.swap("greeting", "hello", "bye", Terms::default().blocking()).await?;
//! assert!(swapped.valid);
//! # Ok(())
//! # }
//! ```
//!
//! A change carries a session and a number. When a member does not answer, the same request goes to the next one, and acts
//! once, whatever became of the first copy. What timed out never takes place; where nobody can know, the answer is
//! `unknown`, with a ticket that [`Client::outcome`] and [`Client::cancel`] settle later.

mod answer;
mod features;
mod requests;
mod session;
mod streams;
mod transport;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use answer::{Answer, Entry, Outcome, Row, Ticket};
use session::Session;
pub use streams::{Change, Message, Subscription, Watch};
use transport::Transport;

/// Changes of one client that are under way at a time; further ones wait. The store remembers more answers than these.
const CHANGES_MAX: usize = 512;

/// How a client reaches the store.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `http://` or `https://` addresses of members, those to ask first at the front. One that lives is enough.
    pub endpoints: Vec<String>,
    /// The token that each request carries.
    pub token: Option<String>,
    /// Certificates to trust, PEM; those of the system without it.
    pub ca_file: Option<PathBuf>,
    /// The name that the members' certificates carry, where it is not the host of the endpoint.
    pub server_name: Option<String>,
}

impl Options {
    /// Members at these addresses, without a token.
    pub fn at<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// On which terms a request is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    is_local: bool,
    is_blocking: bool,
    timeout: Option<Duration>,
}

impl Terms {
    /// Consistent, and given up after a second.
    pub const DEFAULT: Self = Self {
        is_local: false,
        is_blocking: false,
        timeout: None,
    };

    /// The answer of the member asked is enough (`consistent=false`): without a quorum it reads what it knows, and remembers
    /// what is written.
    #[must_use]
    pub const fn local(mut self) -> Self {
        self.is_local = true;
        self
    }

    /// Only an answer ends the request.
    #[must_use]
    pub const fn blocking(mut self) -> Self {
        self.is_blocking = true;
        self
    }

    /// How long the request waits before it is given up, certainly; a second without it, and 50 ms for local writes.
    #[must_use]
    pub const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options cannot be used.
    #[error("{0}")]
    Options(String),
    /// No member could be reached in time. Nothing was done.
    #[error("no member answered in time; the last one: {0}")]
    Unreachable(String),
    /// The connection broke after the request was sent, and it has no number under which it could be settled: it may have
    /// been carried out.
    #[error("the request may have been carried out: {0}")]
    InDoubt(String),
    /// What was asked for is forgotten.
    #[error("{sentence}")]
    Compacted {
        /// The oldest revision, or number of an entry, that is known.
        oldest: u64,
        /// Why, for people.
        sentence: String,
    },
    /// A subscription was interrupted: messages may have been missed.
    #[error("messages may have been missed: {0}")]
    Missed(String),
    /// A member refused the request.
    #[error("{sentence}")]
    Refused {
        /// The status code of HTTP.
        status: u16,
        /// Why, for people.
        sentence: String,
    },
}

/// A client. Clones share connections and session.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    transport: Transport,
    session: Session,
    changes: Semaphore,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        f.write_str("Client")
    }
}

impl Client {
    /// A client of the members at the options' endpoints. Nothing is sent yet.
    ///
    /// # Errors
    /// When an endpoint is no address, or the certificates cannot be read.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            transport: Transport::new(options)?,
            session: Session::default(),
            changes: Semaphore::new(CHANGES_MAX),
        })))
    }
}
