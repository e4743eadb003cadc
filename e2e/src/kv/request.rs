//! Requests to members and what their answers promise.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use linearizability::{Action, Outcome};
use serde::Deserialize;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The key.
    pub key: String,
    /// What to do with it.
    pub action: Action,
    /// Whether a quorum must take part. Swaps always need one.
    pub consistent: bool,
    /// Whether the answer may take as long as it needs.
    pub blocking: bool,
    /// How long a request that does not block may take; the member's own choice when none.
    pub timeout: Option<Duration>,
    /// What makes a repetition safe.
    pub ticket: Option<Ticket>,
    /// No copy of it was sent before: without a quorum it may be answered `timeout` at once. Goes with a ticket.
    pub first: bool,
}

/// A session and the number of a request in it.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// As `POST /v1/sessions` named it.
    pub session: String,
    /// Counts from 1.
    pub seq: u64,
}

impl Request {
    /// A consistent request that does not block.
    #[must_use]
    pub fn new(key: impl Into<String>, action: Action) -> Self {
        Self {
            key: key.into(),
            action,
            consistent: true,
            blocking: false,
            timeout: None,
            ticket: None,
            first: false,
        }
    }

    /// A get.
    #[must_use]
    pub fn get(key: impl Into<String>) -> Self {
        Self::new(key, Action::Get)
    }

    /// A set.
    #[must_use]
    pub fn set(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(key, Action::Set(value.into()))
    }

    /// A swap.
    #[must_use]
    pub fn swap(key: impl Into<String>, old: impl Into<String>, new: impl Into<String>) -> Self {
        let (old, new) = (old.into(), new.into());
        Self::new(key, Action::Swap { old, new })
    }

    /// The same without a quorum.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.consistent = false;
        self
    }

    /// The same, waiting as long as it takes.
    #[must_use]
    pub fn blocking(mut self) -> Self {
        self.blocking = true;
        self
    }

    /// The same, waiting at most so long.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same, safe to repeat.
    #[must_use]
    pub fn ticket(mut self, ticket: Option<Ticket>) -> Self {
        self.ticket = ticket;
        self
    }

    fn query(&self) -> String {
        let mut query = format!("?consistent={}&blocking={}", self.consistent, self.blocking);
        if matches!(self.action, Action::Swap { .. }) {
            query = format!("?blocking={}", self.blocking);
        }
        if let Some(timeout) = self.timeout {
            query += &format!("&timeoutMs={}", timeout.as_millis());
        }
        if self.first && self.ticket.is_some() {
            query += "&first=true";
        }
        query + &ticket_query(self.ticket.as_ref())
    }
}

fn ticket_query(ticket: Option<&Ticket>) -> String {
    ticket.map_or_else(String::new, |Ticket { session, seq }| {
        format!("&session={session}&seq={seq}")
    })
}

/// The answer of every operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// It took effect, or the key is there.
    #[serde(default)]
    pub valid: bool,
    /// It ended without a quorum.
    #[serde(default)]
    pub timeout: bool,
    /// The value.
    #[serde(default)]
    pub value: String,
    /// The revision that wrote the value.
    #[serde(default)]
    pub revision: Option<u64>,
    /// A write that only this member has so far.
    #[serde(default)]
    pub remembered: bool,
    /// Nobody can know yet.
    #[serde(default)]
    pub unknown: bool,
    /// A log that was cut or replaced.
    #[serde(default)]
    pub gap: bool,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An answer in the API's terms.
    Answer(Answer),
    /// The request was refused: it has not acted and never will.
    Refused(String),
    /// No answer, or none that says what happened.
    Lost(String),
}

impl Reply {
    /// What it promises of a consistent operation.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Answer(answer) if answer.unknown => Outcome::Unknown,
            Self::Answer(answer) if answer.timeout => Outcome::Never,
            Self::Answer(Answer { valid, value, .. }) => Outcome::Answered {
                valid: *valid,
                value: value.clone(),
            },
            Self::Refused(_) => Outcome::Never,
            Self::Lost(_) => Outcome::Unknown,
        }
    }

    /// The answer; anything else is an error.
    pub fn answer(self) -> anyhow::Result<Answer> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Refused(why) => bail!("refused: {why}"),
            Self::Lost(why) => bail!("no answer: {why}"),
        }
    }
}

/// An HTTP client for all members of a group.
#[derive(Debug, Clone)]
pub struct Kv {
    http: reqwest::Client,
    members: Vec<String>,
}

/// How long a connection may take: on loopback it is there at once or never.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

impl Kv {
    /// A client for the members at these ports of loopback, that gives every request so much time.
    pub fn new(ports: Vec<u16>, answer_within: Duration) -> anyhow::Result<Self> {
        let members = ports.into_iter().map(|port| format!("127.0.0.1:{port}"));
        Self::at(members.collect(), answer_within)
    }

    /// The same for members, or whatever leads to them, at these addresses with their ports.
    pub fn at(members: Vec<String>, answer_within: Duration) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            // Members and runtimes end between requests: a connection that was kept would be a dead one.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_WITHIN)
            .timeout(answer_within)
            .build()
            .context("making an HTTP client")?;
        Ok(Self { http, members })
    }

    /// How many members it knows.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Sends a request to a member and waits for the answer.
    pub async fn ask(&self, member: usize, request: &Request) -> Reply {
        let base = format!("http://{}/v1/kv/{}", self.members[member], request.key);
        let query = request.query();
        let built = match &request.action {
            Action::Get => self.http.get(base + &query),
            Action::Set(value) => self.http.put(base + &query).body(value.clone()),
            Action::Delete => self.http.delete(base + &query),
            Action::Swap { old, new } => self
                .http
                .post(base + "/swap" + &query)
                .json(&serde_json::json!({"oldValue": old, "newValue": new})),
        };
        reply(built).await
    }

    /// `POST /v1/sessions`.
    pub async fn open_session(&self, member: usize) -> anyhow::Result<String> {
        let url = format!("http://{}/v1/sessions", self.members[member]);
        let response = self.http.post(&url).send().await.context("opening a session")?;
        let status = response.status();
        let text = response.text().await.context("reading a session")?;
        ensure!(status.is_success(), "opening a session: {status}: {text}");
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("reading {text}"))?;
        match &value["session"] {
            serde_json::Value::String(session) => Ok(session.clone()),
            serde_json::Value::Number(session) => Ok(session.to_string()),
            _ => bail!("{text} names no session"),
        }
    }

    /// `POST /v1/logs/{server}/extract`.
    pub async fn extract(&self, member: usize, server: &str, raw: String, ticket: Option<&Ticket>) -> Reply {
        let query = ticket_query(ticket).replacen('&', "?", 1);
        let url = format!("http://{}/v1/logs/{server}/extract{query}", self.members[member]);
        reply(self.http.post(url).body(raw)).await
    }
}

async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let response = match request.send().await {
        Ok(response) => response,
        // The kernel refused the connection: nothing was ever sent.
        Err(error) if error.is_connect() => return Reply::Refused("no connection".to_owned()),
        Err(error) => return Reply::Lost(format!("{error:?}")),
    };
    let status = response.status();
    let text = match response.text().await {
        Ok(text) => text,
        Err(error) => return Reply::Lost(format!("{error:?}")),
    };
    read(status.as_u16(), &text)
}

/// Reads an answer. Whatever does not say for certain what happened is [`Reply::Lost`].
fn read(status: u16, text: &str) -> Reply {
    match (status, serde_json::from_str::<Answer>(text)) {
        (200 | 202, Ok(answer)) => Reply::Answer(answer),
        (_, Ok(answer)) if answer.timeout || answer.unknown => Reply::Answer(answer),
        // 507: a quota or a disk is full, so it was not even begun.
        (400..500 | 507, _) => Reply::Refused(format!("{status}: {text}")),
        _ => Reply::Lost(format!("{status}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_promise_no_more_than_they_say() {
        let outcome = |status, text| read(status, text).outcome();
        assert_eq!(
            outcome(200, r#"{"valid":false,"timeout":true,"value":""}"#),
            Outcome::Never
        );
        assert_eq!(
            outcome(504, r#"{"valid":false,"timeout":true,"value":""}"#),
            Outcome::Never
        );
        assert_eq!(
            outcome(200, r#"{"valid":true,"timeout":false,"value":"a","revision":7}"#),
            Outcome::Answered {
                valid: true,
                value: "a".to_owned()
            }
        );
        assert_eq!(
            outcome(503, r#"{"valid":false,"timeout":false,"value":""}"#),
            Outcome::Unknown
        );
        assert_eq!(
            outcome(503, r#"{"valid":false,"unknown":true,"ticket":"1:2"}"#),
            Outcome::Unknown
        );
        assert_eq!(outcome(200, "half an ans"), Outcome::Unknown);
        assert_eq!(outcome(421, "not the leader"), Outcome::Never);
    }

    #[test]
    fn requests_are_spelled_like_the_api() {
        let ticket = Ticket {
            session: "s".to_owned(),
            seq: 3,
        };
        let request = Request::get("k")
            .local()
            .within(Duration::from_millis(50))
            .ticket(Some(ticket));
        assert_eq!(
            request.query(),
            "?consistent=false&blocking=false&timeoutMs=50&session=s&seq=3"
        );
        assert_eq!(Request::swap("k", "a", "b").blocking().query(), "?blocking=true");
    }
}
