//! The operations besides those for single keys.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use percent_encoding::utf8_percent_encode;

use crate::answer::Answer;
use crate::requests::{NAME, call, path};
use crate::{Client, Error, Terms};

impl Client {
    /// The keys that begin with a prefix, in order, with their values, as `items`; at most `limit` (100 without it, never more
    /// than 1000), and those behind `after`.
    ///
    /// # Errors
    /// When no member answers in time, or one refuses.
    pub async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: Option<u32>,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let escaped = |text: &str| utf8_percent_encode(text, NAME).to_string();
        let mut call = call(Method::GET, "/v1/kv".to_owned(), Bytes::new());
        call.query.push(("prefix", escaped(prefix)));
        if let Some(after) = after {
            call.query.push(("after", escaped(after)));
        }
        if let Some(limit) = limit {
            call.query.push(("limit", limit.to_string()));
        }
        self.read(call, terms).await
    }

    /// If all comparisons hold, one list of operations is carried out, otherwise another one, in one step. The JSON is that of
    /// `POST /v1/txn`; `valid` says which list, `results` what each operation did.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn transact(&self, json: &str, terms: Terms) -> Result<Answer, Error> {
        let body = Bytes::copy_from_slice(json.as_bytes());
        self.change(call(Method::POST, "/v1/txn".to_owned(), body), terms)
            .await
    }

    /// Takes a copy of a server's log; the value is what nobody was handed before. A time-out means that nothing was handed out.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn extract(
        &self,
        server: &str,
        log: impl AsRef<[u8]>,
        whole_lines: bool,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let body = Bytes::copy_from_slice(log.as_ref());
        let mut call = call(Method::POST, path("logs", server, "/extract"), body);
        if whole_lines {
            call.query.push(("wholeLines", "true".to_owned()));
        }
        self.change(call, terms).await
    }

    /// Grants a lease; keys that are bound to it end with it.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn grant_lease(&self, ttl: Duration, terms: Terms) -> Result<Answer, Error> {
        let mut call = call(Method::POST, "/v1/leases".to_owned(), Bytes::new());
        call.query.push(("ttlSeconds", ttl.as_secs().max(1).to_string()));
        self.change(call, terms).await
    }

    /// The keys of a lease, and what is left of its time.
    ///
    /// # Errors
    /// When no member answers in time, or one refuses.
    pub async fn lease(&self, id: u64, terms: Terms) -> Result<Answer, Error> {
        let path = path("leases", &id.to_string(), "");
        self.read(call(Method::GET, path, Bytes::new()), terms).await
    }

    /// Gives a lease its whole time again.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn keep_alive(&self, id: u64, terms: Terms) -> Result<Answer, Error> {
        let path = path("leases", &id.to_string(), "/keepalive");
        self.change(call(Method::POST, path, Bytes::new()), terms).await
    }

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn revoke_lease(&self, id: u64, terms: Terms) -> Result<Answer, Error> {
        let path = path("leases", &id.to_string(), "");
        self.change(call(Method::DELETE, path, Bytes::new()), terms).await
    }

    /// Stores a value that ends with a lease.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn set_with_lease(
        &self,
        key: &str,
        value: impl AsRef<[u8]>,
        lease: u64,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let value = Bytes::copy_from_slice(value.as_ref());
        let mut call = call(Method::PUT, path("kv", key, ""), value);
        call.query.push(("lease", lease.to_string()));
        self.change(call, terms).await
    }

    /// Appends an entry to a journal; `index` is its number.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn append(
        &self,
        journal: &str,
        value: impl AsRef<[u8]>,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let value = Bytes::copy_from_slice(value.as_ref());
        self.change(call(Method::POST, path("journal", journal, ""), value), terms)
            .await
    }

    /// The entries of a journal, at most `limit` (100 without it, never more than 1000), from a number on or from the oldest that
    /// is kept; `index` is the number of its last one. Not valid when there is no such journal.
    ///
    /// # Errors
    /// [`Error::Compacted`] when the entry `from` has made room for newer ones; when no member answers in time, or one refuses.
    pub async fn entries(
        &self,
        journal: &str,
        from: Option<u64>,
        limit: Option<u32>,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let mut call = call(Method::GET, path("journal", journal, ""), Bytes::new());
        for (name, number) in [("from", from), ("limit", limit.map(u64::from))] {
            call.query.extend(number.map(|number| (name, number.to_string())));
        }
        self.read(call, terms).await
    }

    /// Removes a journal; not valid when there is none.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn remove_journal(&self, journal: &str, terms: Terms) -> Result<Answer, Error> {
        self.change(
            call(Method::DELETE, path("journal", journal, ""), Bytes::new()),
            terms,
        )
        .await
    }

    /// Gives a message to all subscribers of an address, wherever they are connected; `delivered` counts them.
    ///
    /// # Errors
    /// When no member is reached in time, the connection breaks, or a member refuses.
    pub async fn publish(&self, address: &str, message: impl AsRef<[u8]>) -> Result<Answer, Error> {
        let body = Bytes::copy_from_slice(message.as_ref());
        let call = call(Method::POST, path("bus", address, "/publish"), body);
        self.message(&call, Terms::DEFAULT).await
    }

    /// Gives a message to one subscriber of an address in turn; the value is its reply. A time-out means that nobody was given
    /// the message, `unknown` that somebody was, or may have been, and did not reply in time.
    ///
    /// # Errors
    /// When no member is reached in time, the connection breaks, or a member refuses.
    pub async fn send(
        &self,
        address: &str,
        message: impl AsRef<[u8]>,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let body = Bytes::copy_from_slice(message.as_ref());
        self.message(&call(Method::POST, path("bus", address, "/send"), body), terms)
            .await
    }

    /// Replies to a message that was sent.
    ///
    /// # Errors
    /// When nobody waits for the reply any more, no member is reached in time, the connection breaks, or a member refuses.
    pub async fn reply(&self, token: &str, reply: impl AsRef<[u8]>) -> Result<Answer, Error> {
        let mut call = call(
            Method::POST,
            "/v1/bus/reply".to_owned(),
            Bytes::copy_from_slice(reply.as_ref()),
        );
        let token = utf8_percent_encode(token, NAME).to_string();
        call.query.push(("token", token));
        self.message(&call, Terms::DEFAULT).await
    }
}
