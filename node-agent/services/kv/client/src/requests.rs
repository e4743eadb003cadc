//! The operations, and how they are repeated.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::Method;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::time::{Instant, sleep, timeout_at};

use crate::answer::{Answer, Outcome, Ticket};
use crate::session::Number;
use crate::transport::{Call, Sent};
use crate::{Client, Error, Terms};

/// How long a request waits that may time out and does not say; the store's own default.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a local write is tried to be put under quorum; the store's own default.
const LOCAL_TIMEOUT: Duration = Duration::from_millis(50);
/// What a member may take beyond the time of a request before it says what it knows: it says `unknown` after 30 s.
const GRACE: Duration = Duration::from_secs(40);
/// For settling a request whose member did not answer.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two rounds in which no member answered.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// What stands for itself in no part of a path, and in no parameter.
pub(crate) const NAME: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'=')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

impl Client {
    /// The value of a key; not valid when there is none.
    ///
    /// # Errors
    /// When no member answers in time, or one refuses.
    pub async fn get(&self, key: &str, terms: Terms) -> Result<Answer, Error> {
        self.read(call(Method::GET, path("kv", key, ""), Bytes::new()), terms)
            .await
    }

    /// Stores a value.
    ///
    /// # Errors
    /// When a member refuses, or a local write is in doubt.
    pub async fn set(&self, key: &str, value: impl AsRef<[u8]>, terms: Terms) -> Result<Answer, Error> {
        let value = Bytes::copy_from_slice(value.as_ref());
        self.change(call(Method::PUT, path("kv", key, ""), value), terms)
            .await
    }

    /// Removes a key; not valid when there is none.
    ///
    /// # Errors
    /// When a member refuses, or a local write is in doubt.
    pub async fn delete(&self, key: &str, terms: Terms) -> Result<Answer, Error> {
        self.change(call(Method::DELETE, path("kv", key, ""), Bytes::new()), terms)
            .await
    }

    /// Stores `new` if `old` is there; an empty `old` also stands for an absent key. Always consistent.
    ///
    /// # Errors
    /// When a member refuses.
    pub async fn swap(
        &self,
        key: &str,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
        terms: Terms,
    ) -> Result<Answer, Error> {
        let body = swap_body(old.as_ref(), new.as_ref());
        self.change(call(Method::POST, path("kv", key, "/swap"), body), terms)
            .await
    }

    /// What the member asked remembers and no quorum has stored yet, as JSON.
    ///
    /// # Errors
    /// When no member answers, or one refuses.
    pub async fn outbox(&self) -> Result<String, Error> {
        let call = call(Method::GET, "/v1/outbox".to_owned(), Bytes::new());
        let mut problem = String::new();
        for _ in 0..self.0.transport.members() {
            let number = self.0.transport.preferred();
            match self.0.transport.text(number, &call).await {
                Ok(text) => return Ok(text),
                Err(Sent::Refused(status, sentence)) => return Err(Error::Refused { status, sentence }),
                Err(Sent::NotReached(words) | Sent::InDoubt(words)) => problem = words,
                Err(Sent::Answer(_) | Sent::Forgotten(..)) => {}
            }
            self.0.transport.prefer_another(number);
        }
        Err(Error::Unreachable(problem))
    }

    /// What became of a request.
    ///
    /// # Errors
    /// When no member answers in time, or one refuses.
    pub async fn outcome(&self, ticket: Ticket, terms: Terms) -> Result<Answer, Error> {
        let call = named(call(Method::GET, "/v1/outcome".to_owned(), Bytes::new()), ticket);
        self.read(call, terms).await
    }

    /// Makes a request never take place, unless it did already; the answer says which.
    ///
    /// # Errors
    /// When no member settles it in time, or one refuses.
    pub async fn cancel(&self, ticket: Ticket, terms: Terms) -> Result<Answer, Error> {
        let call = named(call(Method::POST, "/v1/cancel".to_owned(), Bytes::new()), ticket);
        self.read(call, terms).await
    }

    /// Sends what can always be repeated, to one member after the other.
    pub(crate) async fn read(&self, call: Call, terms: Terms) -> Result<Answer, Error> {
        let wait = Wait::new(terms, TIMEOUT);
        let mut failures = 0;
        loop {
            let sent = self.ask(&wait.put(&call, terms), wait.hard).await;
            let words = match sent {
                Sent::Answer(answer) => return Ok(answer),
                // The member has not joined yet, or asked for no quorum in vain.
                Sent::Refused(503, words) | Sent::NotReached(words) | Sent::InDoubt(words) => words,
                Sent::Refused(status, sentence) => return Err(Error::Refused { status, sentence }),
                Sent::Forgotten(oldest, sentence) => return Err(Error::Compacted { oldest, sentence }),
            };
            failures += 1;
            if wait.is_over() {
                return Err(Error::Unreachable(words));
            }
            self.pause(failures).await;
        }
    }

    /// Sends a change, again and again under one number, until it is known what became of it.
    pub(crate) async fn change(&self, call: Call, terms: Terms) -> Result<Answer, Error> {
        let _slot = self
            .0
            .changes
            .acquire()
            .await
            .expect("nobody closes the semaphore");
        let wait = Wait::new(terms, if terms.is_local { LOCAL_TIMEOUT } else { TIMEOUT });
        loop {
            let number = match self.number(terms, wait).await? {
                Numbered::By(number) => number,
                Numbered::Not => return self.once(&call, terms, wait).await,
                Numbered::TimedOut => return Ok(Answer::timed_out()),
            };
            match self.numbered_change(&call, terms, wait, &number).await? {
                Some(answer) => return Ok(answer),
                // The store has forgotten the session, and this was the first copy of the request: it did nothing.
                None => self.0.session.lost(number.ticket.session),
            }
        }
    }

    /// None when the session is lost and nothing was done.
    async fn numbered_change(
        &self,
        call: &Call,
        terms: Terms,
        wait: Wait,
        number: &Number<'_>,
    ) -> Result<Option<Answer>, Error> {
        let (mut was_sent, mut failures, mut last) = (false, 0, None);
        loop {
            let mut copy = named(wait.put(call, terms), number.ticket);
            copy.query
                .push(("floor", self.0.session.floor(number).to_string()));
            if !was_sent {
                copy.query.push(("first", "true".to_owned()));
            }
            match self.ask(&copy, wait.hard).await {
                Sent::Answer(answer) => return Ok(Some(answer)),
                Sent::NotReached(words) => last = Some(words),
                Sent::InDoubt(_) => was_sent = true,
                Sent::Refused(410, _) if !was_sent => return Ok(None),
                Sent::Refused(410, _) => return Ok(Some(Answer::unknown(number.ticket))),
                Sent::Refused(503, _) => {}
                Sent::Refused(status, sentence) if !was_sent => {
                    return Err(Error::Refused { status, sentence });
                }
                Sent::Refused(..) | Sent::Forgotten(..) => {}
            }
            failures += 1;
            if wait.is_over() {
                return match last {
                    _ if was_sent => Ok(Some(self.settle(number.ticket).await)),
                    Some(words) => Err(Error::Unreachable(words)),
                    None => Ok(Some(Answer::timed_out())),
                };
            }
            self.pause(failures).await;
        }
    }

    /// Sends what must not be repeated to the first member that is reached: a message, or a write without a session, which
    /// only a quorum opens.
    async fn once(&self, call: &Call, terms: Terms, wait: Wait) -> Result<Answer, Error> {
        let mut failures = 0;
        loop {
            match self.ask(&wait.put(call, terms), wait.hard).await {
                Sent::Answer(answer) => return Ok(answer),
                Sent::Forgotten(oldest, sentence) => return Err(Error::Compacted { oldest, sentence }),
                Sent::InDoubt(words) => return Err(Error::InDoubt(words)),
                Sent::NotReached(words) | Sent::Refused(503, words) => {
                    failures += 1;
                    // Each member once, however short the time is.
                    if wait.is_over() && failures >= self.0.transport.members() {
                        return Err(Error::Unreachable(words));
                    }
                }
                Sent::Refused(status, sentence) => return Err(Error::Refused { status, sentence }),
            }
            self.pause(failures).await;
        }
    }

    /// Sends a message to the first member that is reached.
    pub(crate) async fn message(&self, call: &Call, terms: Terms) -> Result<Answer, Error> {
        self.once(call, terms, Wait::new(terms, TIMEOUT)).await
    }

    /// Makes sure that a doubtful request never takes place, or learns that it did.
    async fn settle(&self, ticket: Ticket) -> Answer {
        let cancelled = self.cancel(ticket, Terms::default().within(SETTLE_TIMEOUT)).await;
        match cancelled {
            Ok(answer) if matches!(answer.outcome, Some(Outcome::Done | Outcome::Differs)) => Answer {
                outcome: None,
                ..answer
            },
            Ok(answer) if answer.outcome == Some(Outcome::Cancelled) => Answer::timed_out(),
            _ => Answer::unknown(ticket),
        }
    }

    /// A number for a change.
    async fn number(&self, terms: Terms, wait: Wait) -> Result<Numbered<'_>, Error> {
        let session = &self.0.session;
        loop {
            if let Some(number) = session.next() {
                return Ok(Numbered::By(number));
            }
            if terms.is_local {
                return Ok(Numbered::Not);
            }
            let _opening = session.opening.lock().await;
            if let Some(number) = session.next() {
                return Ok(Numbered::By(number));
            }
            let open = call(Method::POST, "/v1/sessions".to_owned(), Bytes::new());
            let opened = self.read(open, terms).await?;
            match opened.session {
                Some(id) => session.opened(id),
                None if wait.is_over() => return Ok(Numbered::TimedOut),
                None => {}
            }
        }
    }

    async fn ask(&self, call: &Call, hard: Option<Instant>) -> Sent {
        let sending = self.0.transport.send(call);
        match hard {
            None => sending.await,
            Some(hard) => match timeout_at(hard, sending).await {
                Ok(sent) => sent,
                Err(_) => Sent::InDoubt("the member did not answer".to_owned()),
            },
        }
    }

    /// After each round of members that did not answer.
    pub(crate) async fn pause(&self, failures: usize) {
        if failures.is_multiple_of(self.0.transport.members()) {
            sleep(PAUSE).await;
        }
    }
}

/// How a change is named.
enum Numbered<'a> {
    By(Number<'a>),
    /// It is a local one, and no session is open.
    Not,
    /// No quorum opened a session in time: nothing was done.
    TimedOut,
}

/// How long a request may take.
#[derive(Clone, Copy)]
struct Wait {
    /// When it is given up; never where it is blocking.
    end: Option<Instant>,
    /// When a member that has not answered is given up.
    hard: Option<Instant>,
}

impl Wait {
    fn new(terms: Terms, default: Duration) -> Self {
        let end = (!terms.is_blocking).then(|| Instant::now() + terms.timeout.unwrap_or(default));
        Self {
            end,
            hard: end.map(|end| end + GRACE),
        }
    }

    fn left(self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// The call with the terms as they are now.
    fn put(self, call: &Call, terms: Terms) -> Call {
        let mut call = call.clone();
        if terms.is_local {
            call.query.push(("consistent", "false".to_owned()));
        }
        match self.left() {
            None => call.query.push(("blocking", "true".to_owned())),
            Some(left) => {
                let ms = left.as_millis().clamp(1, TIMEOUT_MS_MAX);
                call.query.push(("timeoutMs", ms.to_string()));
            }
        }
        call
    }
}

/// The largest that the store takes.
const TIMEOUT_MS_MAX: u128 = 3_600_000;

pub(crate) fn call(method: Method, path: String, body: Bytes) -> Call {
    Call {
        method,
        path,
        query: Vec::new(),
        body,
    }
}

fn named(mut call: Call, ticket: Ticket) -> Call {
    call.query.push(("session", ticket.session.to_string()));
    call.query.push(("seq", ticket.seq.to_string()));
    call
}

/// `/v1/{kind}/{name}{end}`, escaped.
pub(crate) fn path(kind: &str, name: &str, end: &str) -> String {
    format!("/v1/{kind}/{}{end}", utf8_percent_encode(name, NAME))
}

fn swap_body(old: &[u8], new: &[u8]) -> Bytes {
    let json = match (std::str::from_utf8(old), std::str::from_utf8(new)) {
        (Ok(old), Ok(new)) => serde_json::json!({ "oldValue": old, "newValue": new }),
        _ => serde_json::json!({
            "oldValue": BASE64_STANDARD.encode(old),
            "newValue": BASE64_STANDARD.encode(new),
            "encoding": "base64",
        }),
    };
    json.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_into_paths() {
        assert_eq!(path("kv", "a/b c?%ü", "/swap"), "/v1/kv/a/b%20c%3F%25%C3%BC/swap");
    }

    #[test]
    fn values_that_are_no_text_are_swapped_in_base64() {
        assert_eq!(swap_body(b"a", b"b"), r#"{"newValue":"b","oldValue":"a"}"#);
        assert_eq!(
            swap_body(b"", &[0xff]),
            r#"{"encoding":"base64","newValue":"/w==","oldValue":""}"#
        );
    }
}
