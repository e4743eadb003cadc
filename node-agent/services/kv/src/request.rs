//! HTTP to operations, answers to JSON. Pure: what is wrong with a request is said in a sentence, with a status code.

pub mod logs;
mod more;
mod path;
mod token;
mod transaction;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::KEY_BYTES_MAX;
use crate::state::{Owner, Value};
pub use more::More;
use more::PARAMETERS;
pub use token::Token;
use transaction::shown_value;
pub use transaction::{Row, transaction};

/// What a request asks for, as far as its head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `GET /v1/kv/{key}`
    Get(Arc<str>),
    /// `PUT /v1/kv/{key}`, the value as the body.
    Set(Arc<str>),
    /// `DELETE /v1/kv/{key}`
    Delete(Arc<str>),
    /// `POST /v1/kv/{key}/swap`, both values in a JSON body.
    Swap(Arc<str>),
    /// `POST /v1/sessions`
    OpenSession,
    /// `GET /v1/outcome?session=S&seq=N`
    Outcome,
    /// `POST /v1/cancel?session=S&seq=N`
    Cancel,
    /// `GET /v1/outbox`
    Outbox,
    /// `POST /v1/logs/{server}/extract`, the caller's copy of the log as the body.
    Extract(Arc<str>),
    /// `GET /v1/kv`
    Range,
    /// `GET /v1/watch/{prefix}`
    Watch(Arc<str>),
    /// `POST /v1/bus/{address}/publish`, the message as the body.
    Publish(Arc<str>),
    /// `POST /v1/bus/{address}/send`, the message as the body.
    Send(Arc<str>),
    /// `GET /v1/bus/{address}/subscribe`
    Subscribe(Arc<str>),
    /// `POST /v1/bus/reply?token=TOKEN`, the reply as the body.
    Reply,
    /// `POST /v1/journal/{name}`, the entry as the body.
    Append(Arc<str>),
    /// `GET /v1/journal/{name}`
    ReadJournal(Arc<str>),
    /// `DELETE /v1/journal/{name}`
    RemoveJournal(Arc<str>),
    /// `POST /v1/txn`
    Transact,
    /// `POST /v1/leases?ttlSeconds=N`
    GrantLease,
    /// `GET /v1/leases/{id}`
    Lease(u64),
    /// `POST /v1/leases/{id}/keepalive`
    KeepAlive(u64),
    /// `DELETE /v1/leases/{id}`
    Revoke(u64),
}

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What it asks for.
    pub target: Target,
    /// How.
    pub terms: Terms,
}

/// On which terms a request is made: the query parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// `consistent=false`: this member's answer is enough.
    pub local: bool,
    /// `blocking=true`: only an answer ends it.
    pub blocking: bool,
    /// `timeoutMs`
    pub timeout: Option<Duration>,
    /// `session` and `seq`
    pub request: Option<(u64, u64)>,
    /// `floor`: the client still waits for this one of its requests, and for later ones only.
    pub floor: u64,
    /// `first=true`: the client has not sent this request before; then a timeout needs no quorum to be certain.
    pub first: bool,
    /// Whose request it is: no parameter, the caller's token tells it.
    pub owner: Owner,
    /// The parameters of single operations.
    pub more: More,
}

/// A request that is not carried out: why, for people, and the status code of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// The status code.
    pub status: StatusCode,
    /// What is wrong, and what is expected.
    pub sentence: String,
    /// Whether it certainly did not and will not take place although a quorum could not be asked.
    pub timeout: bool,
    /// The oldest that is still there of what was asked for.
    pub oldest: Option<u64>,
}

impl Refusal {
    /// One with this status.
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self {
            status,
            sentence: sentence.into(),
            timeout: false,
            oldest: None,
        }
    }

    /// A request that no repetition makes right.
    pub fn bad(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }
}

/// What every operation answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the operation did, or found, what was asked.
    pub valid: bool,
    /// Whether it ended without a quorum's answer; then it never takes place.
    pub timeout: bool,
    /// The value; in base64 when it is no UTF-8.
    pub value: String,
    /// `base64` when the value is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
    /// The revision that wrote the value, or at which the change was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Whether the value is, or was, remembered by this member, and no quorum has stored it yet.
    #[serde(skip_serializing_if = "is_false")]
    pub remembered: bool,
    /// Whether nobody knows yet what became of the request; `GET /v1/outcome` and `POST /v1/cancel` settle it.
    #[serde(skip_serializing_if = "is_false")]
    pub unknown: bool,
    /// `SESSION.SEQ` of a request whose outcome is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The session that was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// What became of a request that was asked about: `done`, `differs`, `cancelled`, `none` (it has not taken place) or
    /// `forgotten`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Whether a log does not continue what was extracted before.
    #[serde(skip_serializing_if = "is_false")]
    pub gap: bool,
    /// How many lines of the caller's copy of a log came before those that were extracted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// How many lines of a server's log were ever extracted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The keys of a range, with their values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Row>>,
    /// What the operations of a transaction did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<Row>>,
    /// The entries of a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<Row>>,
    /// The number of the entry that was appended, or of the journal's last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// How many subscribers were given a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u64>,
    /// The members whose subscribers may not have been given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreached: Option<Vec<String>>,
    /// The oldest that is still there of what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
    /// Whether there are further ones: ask again with `after` as the last key.
    #[serde(skip_serializing_if = "is_false")]
    pub more: bool,
    /// The lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// How long the lease lasts, by this member's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Why the request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    /// Puts a value in, as text or in base64.
    #[must_use]
    pub fn with_value(mut self, value: &Value) -> Self {
        (self.value, self.encoding) = shown_value(value);
        self
    }

    /// The JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }
}

impl From<&Refusal> for Answer {
    fn from(refusal: &Refusal) -> Self {
        Self {
            timeout: refusal.timeout,
            oldest: refusal.oldest,
            error: Some(refusal.sentence.clone()),
            ..Self::default()
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde takes")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// The body of a swap.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SwapBody {
    old_value: String,
    new_value: String,
    /// `base64` when both values are.
    #[serde(default)]
    encoding: Option<Encoding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Base64,
}

/// Reads the head of a request.
///
/// # Errors
/// When there is no such path, the path does not take the method, or the key or a query parameter is not one.
pub fn head(method: &Method, path: &str, query: Option<&str>) -> Result<Head, Refusal> {
    let target = target(method, path)?;
    let terms = terms(query.unwrap_or_default())?;
    check(&target, &terms)?;
    Ok(Head { target, terms })
}

fn target(method: &Method, path: &str) -> Result<Target, Refusal> {
    let Some(rest) = path.strip_prefix("/v1/kv/") else {
        return path::target(method, path);
    };
    if method == Method::POST {
        let Some(key) = rest.strip_suffix("/swap") else {
            return Err(not_allowed("POST takes /v1/kv/{key}/swap"));
        };
        return Ok(Target::Swap(key_of(key)?));
    }
    let key = key_of(rest)?;
    match *method {
        Method::GET => Ok(Target::Get(key)),
        Method::PUT => Ok(Target::Set(key)),
        Method::DELETE => Ok(Target::Delete(key)),
        _ => Err(not_allowed("a key takes GET, PUT, DELETE, and POST at /swap")),
    }
}

/// Reads the query parameters; each at most once.
fn terms(query: &str) -> Result<Terms, Refusal> {
    let mut terms = Terms::default();
    let (mut seen, mut session, mut seq): (Vec<&str>, _, _) = (Vec::new(), None, None);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if seen.contains(&name) {
            return Err(Refusal::bad(format!(
                "the query parameter `{name}` is there twice"
            )));
        }
        seen.push(name);
        match name {
            "consistent" => terms.local = !boolean(name, value)?,
            "blocking" => terms.blocking = boolean(name, value)?,
            "timeoutMs" => {
                terms.timeout = Some(Duration::from_millis(number(name, value, 1..=TIMEOUT_MS_MAX)?))
            }
            "session" => session = Some(number(name, value, 1..=u64::MAX)?),
            "seq" => seq = Some(number(name, value, 1..=u64::MAX)?),
            "first" => terms.first = boolean(name, value)?,
            "floor" => terms.floor = number(name, value, 0..=u64::MAX)?,
            _ if terms.more.take(name, value)? => {}
            _ => {
                return Err(Refusal::bad(format!(
                    "there is no query parameter `{name}`: there are {PARAMETERS}"
                )));
            }
        }
    }
    terms.request = match (session, seq) {
        (Some(session), Some(seq)) => Some((session, seq)),
        (None, None) if !seen.contains(&"floor") && !seen.contains(&"first") => None,
        _ => {
            return Err(Refusal::bad(
                "`session` and `seq` go together, and `floor` and `first` only with them",
            ));
        }
    };
    Ok(terms)
}

fn boolean(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Refusal::bad(format!(
            "`{name}` is `{}`: it must be true or false",
            shown(value)
        ))),
    }
}

fn number(name: &str, value: &str, range: RangeInclusive<u64>) -> Result<u64, Refusal> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        Refusal::bad(format!(
            "`{name}` is `{}`: it must be a number from {} to {}",
            shown(value),
            range.start(),
            range.end()
        ))
    })
}

/// As much of a bad value as a sentence bears.
fn shown(value: &str) -> String {
    value
        .chars()
        .take(VALUE_CHARS_SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

/// Refuses what makes no sense together.
fn check(target: &Target, terms: &Terms) -> Result<(), Refusal> {
    let refuse = |sentence: &str| Err(Refusal::bad(sentence));
    if terms.blocking && terms.timeout.is_some() {
        return refuse("`timeoutMs` has no meaning with `blocking=true`: leave one of them out");
    }
    terms.more.check(target, terms.local)?;
    match target {
        Target::Swap(_)
        | Target::OpenSession
        | Target::Outcome
        | Target::Cancel
        | Target::Extract(_)
        | Target::Transact
        | Target::GrantLease
        | Target::KeepAlive(_)
        | Target::Revoke(_)
        | Target::Append(_)
        | Target::RemoveJournal(_)
            if terms.local =>
        {
            refuse("this is always consistent: leave `consistent=false` out")
        }
        Target::Outcome | Target::Cancel if terms.request.is_none() => {
            refuse("name the request: `session` and `seq`")
        }
        Target::Get(_)
        | Target::OpenSession
        | Target::Outbox
        | Target::Range
        | Target::Lease(_)
        | Target::Watch(_)
        | Target::ReadJournal(_)
        | Target::Subscribe(_)
            if terms.request.is_some() =>
        {
            refuse("this can always be repeated: leave `session` and `seq` out")
        }
        Target::Publish(_) | Target::Send(_) | Target::Reply if terms.request.is_some() => {
            refuse("messages are outside the log and have no numbers: leave `session` and `seq` out")
        }
        Target::Reply if terms.more.token.is_none() => {
            refuse("say to whom: `token`, as the request named it")
        }
        _ => Ok(()),
    }
}

/// The old and the new value of a swap.
///
/// # Errors
/// When the body is not the JSON of a swap.
pub fn swap_values(body: &[u8]) -> Result<(Value, Value), Refusal> {
    let body: SwapBody = serde_json::from_slice(body).map_err(|error| {
        Refusal::bad(format!(
            r#"the body of a swap is {{"oldValue":"…","newValue":"…"}}: {error}"#
        ))
    })?;
    let value = |name: &str, text: &str| decoded(name, text, body.encoding);
    Ok((
        value("oldValue", &body.old_value)?,
        value("newValue", &body.new_value)?,
    ))
}

/// A value from JSON.
fn decoded(name: &str, text: &str, encoding: Option<Encoding>) -> Result<Value, Refusal> {
    match encoding {
        None => Ok(Value::from(text)),
        Some(Encoding::Base64) => BASE64_STANDARD
            .decode(text)
            .map(|bytes| Value::from(&bytes[..]))
            .map_err(|error| Refusal::bad(format!("{name} is no base64: {error}"))),
    }
}

/// A body or a value in it that is larger than allowed.
pub fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body or a value in it is larger than {bytes_max} bytes"),
    )
}

fn not_allowed(sentence: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

/// A key from its place in the path.
fn key_of(encoded: &str) -> Result<Arc<str>, Refusal> {
    name_of(encoded, "key")
}

/// A key or another name from its place in the path; `what` says which, for people.
fn name_of(encoded: &str, what: &str) -> Result<Arc<str>, Refusal> {
    let name: Cow<'_, str> = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Refusal::bad(format!("the {what} is no UTF-8 once its %-escapes are resolved")))?;
    if name.is_empty() {
        return Err(Refusal::bad(format!("the {what} is empty: name one in the path")));
    }
    if name.len() > KEY_BYTES_MAX {
        return Err(Refusal::bad(format!(
            "the {what} has {} bytes: at most {KEY_BYTES_MAX} are allowed",
            name.len()
        )));
    }
    Ok(name.into())
}

/// An hour: who waits longer, waits with `blocking=true`.
const TIMEOUT_MS_MAX: u64 = 3_600_000;

/// Of a bad value.
const VALUE_CHARS_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: Method, path: &str, query: Option<&str>) -> (u16, String) {
        let refusal = head(&method, path, query).unwrap_err();
        (refusal.status.as_u16(), refusal.sentence)
    }

    #[test]
    fn heads_are_read() {
        let key: Arc<str> = "a/b c".into();
        for (method, path, expected) in [
            (Method::GET, "/v1/kv/a/b%20c", Target::Get(key.clone())),
            (Method::PUT, "/v1/kv/a%2Fb%20c", Target::Set(key.clone())),
            (Method::DELETE, "/v1/kv/a/b%20c", Target::Delete(key.clone())),
            (Method::POST, "/v1/kv/a/b%20c/swap", Target::Swap(key.clone())),
        ] {
            assert_eq!(head(&method, path, None).unwrap().target, expected);
        }
        assert_eq!(
            head(&Method::GET, "/v1/kv/x/swap", Some("")).unwrap().target,
            Target::Get("x/swap".into())
        );
    }

    #[test]
    fn bad_heads_are_refused_in_words() {
        assert_eq!(refused(Method::GET, "/", None).0, 404);
        assert_eq!(refused(Method::GET, "/v1/kv/", None).0, 400);
        assert_eq!(refused(Method::PATCH, "/v1/kv/k", None).0, 405);
        assert_eq!(refused(Method::POST, "/v1/kv/k", None).0, 405);
        assert!(refused(Method::GET, "/v1/kv/%ff", None).1.contains("no UTF-8"));
        let long = format!("/v1/kv/{}", "k".repeat(KEY_BYTES_MAX + 1));
        assert!(refused(Method::GET, &long, None).1.contains("1025 bytes"));
        assert!(
            refused(Method::GET, "/v1/kv/k", Some("loud=1"))
                .1
                .contains("`loud`")
        );
    }

    #[test]
    fn terms_are_read() {
        let query = "consistent=false&timeoutMs=250&session=3&seq=9&floor=7";
        let terms = head(&Method::PUT, "/v1/kv/k", Some(query)).unwrap().terms;
        let expected = Terms {
            local: true,
            blocking: false,
            timeout: Some(Duration::from_millis(250)),
            request: Some((3, 9)),
            floor: 7,
            first: false,
            owner: Owner::NOBODY,
            more: More::default(),
        };
        assert_eq!(terms, expected);
    }

    #[test]
    fn bad_terms_are_refused_in_words() {
        let key = "/v1/kv/k";
        for (path, query, words) in [
            (
                key,
                "consistent=yes",
                "`consistent` is `yes`: it must be true or false",
            ),
            (key, "timeoutMs=0", "from 1 to 3600000"),
            (key, "timeoutMs=-1", "`-1`"),
            (key, "blocking=true&timeoutMs=5", "no meaning"),
            (key, "blocking=true&blocking=true", "twice"),
            (key, "session=1", "go together"),
            (key, "floor=1", "go together"),
            (key, "session=1&seq=2", "leave `session`"),
            ("/v1/outcome", "", "name the request"),
        ] {
            let (status, sentence) = refused(Method::GET, path, Some(query));
            assert!(sentence.contains(words), "{query}: {sentence}");
            assert_eq!(status, 400);
        }
        let (_, sentence) = refused(Method::POST, "/v1/kv/k/swap", Some("consistent=false"));
        assert!(sentence.contains("always consistent"), "{sentence}");
        assert_eq!(refused(Method::GET, "/v1/sessions", None).0, 405);
    }

    #[test]
    fn swap_bodies_are_read() {
        let (old, new) = swap_values(br#"{"oldValue":"a","newValue":"b"}"#).unwrap();
        assert_eq!((old, new), ("a".into(), "b".into()));
        let (old, _) = swap_values(br#"{"oldValue":"/w==","newValue":"","encoding":"base64"}"#).unwrap();
        assert_eq!(old.as_ref(), [0xff]);
        for (body, words) in [
            (r#"{"oldValue":"a"}"#, "newValue"),
            (r#"{"oldValue":"a","newValue":1}"#, "expected a string"),
            (r#"{"oldValue":"a","newValue":"b","x":1}"#, "`x`"),
            (
                r#"{"oldValue":"?","newValue":"","encoding":"base64"}"#,
                "no base64",
            ),
            ("", "EOF"),
        ] {
            let error = swap_values(body.as_bytes()).unwrap_err();
            assert!(error.sentence.contains(words), "{error}");
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_answered_in_base64() {
        let answer = Answer::default().with_value(&Value::from(&[0xff][..]));
        assert_eq!(
            answer.to_json(),
            br#"{"valid":false,"timeout":false,"value":"/w==","encoding":"base64"}"#
        );
    }
}
