//! What the store answers.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// What every operation answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Answer {
    /// Whether the operation did, or found, what was asked.
    pub valid: bool,
    /// Whether it ended without a quorum's answer. Then it never takes place, unless it is `remembered`.
    pub timeout: bool,
    /// The value, in base64 when `encoding` says so; see [`Answer::bytes`].
    #[serde(default)]
    pub value: String,
    /// `base64` when the value is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The revision that wrote the value, or at which the change was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Whether the value is remembered by the member asked, and no quorum has stored it yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub remembered: bool,
    /// Whether nobody knows yet what became of the request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unknown: bool,
    /// What settles a request whose outcome is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// What became of a request that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The keys of a range, or of a lease.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Row>,
    /// What each operation of a transaction did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Row>,
    /// Whether there are further keys: ask again with `after` as the last one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// How long the lease lasts, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Whether a log does not continue what was extracted before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gap: bool,
    /// The number of the entry that was appended, or of the journal's last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The entries of a journal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Entry>,
    /// How many subscribers were given a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u64>,
    /// The members whose subscribers may not have been given it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<String>,
    #[serde(default, skip_serializing)]
    pub(crate) oldest: Option<u64>,
    #[serde(default, skip_serializing)]
    pub(crate) session: Option<u64>,
    #[serde(default, skip_serializing)]
    pub(crate) error: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde takes")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Answer {
    /// The value's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.value, self.encoding.as_deref())
    }

    pub(crate) fn timed_out() -> Self {
        Self {
            timeout: true,
            ..Self::default()
        }
    }

    pub(crate) fn unknown(ticket: Ticket) -> Self {
        Self {
            unknown: true,
            ticket: Some(ticket),
            ..Self::default()
        }
    }
}

pub(crate) fn bytes(value: &str, encoding: Option<&str>) -> Vec<u8> {
    match encoding {
        None => value.as_bytes().to_vec(),
        // What a member sends in base64 can be read.
        Some(_) => BASE64_STANDARD.decode(value).unwrap_or_default(),
    }
}

/// A key of a range, or what an operation of a transaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Row {
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether the operation did, or found, what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<bool>,
    /// The value, in base64 when `encoding` says so; see [`Row::bytes`].
    #[serde(default)]
    pub value: String,
    /// `base64` when the value is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The revision that wrote the value, or at which the change was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Whether no quorum has stored the value yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub remembered: bool,
}

impl Row {
    /// The value's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.value, self.encoding.as_deref())
    }
}

/// An entry of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Entry {
    /// Its number, from 1.
    pub index: u64,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What it says, in base64 when `encoding` says so; see [`Entry::bytes`].
    #[serde(default)]
    pub value: String,
    /// `base64` when the value is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

impl Entry {
    /// The value's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.value, self.encoding.as_deref())
    }
}

/// Names one request: its session and its number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ticket {
    /// The session.
    pub session: u64,
    /// The number in the session.
    pub seq: u64,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session, self.seq)
    }
}

impl FromStr for Ticket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('.');
        let numbers = parts.and_then(|(session, seq)| Some((session.parse().ok()?, seq.parse().ok()?)));
        let (session, seq) = numbers.ok_or_else(|| format!("`{}` is no SESSION.SEQ", text.escape_debug()))?;
        Ok(Self { session, seq })
    }
}

impl From<Ticket> for String {
    fn from(ticket: Ticket) -> Self {
        ticket.to_string()
    }
}

impl TryFrom<String> for Ticket {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// A remembered write lost a conflict.
    Dropped,
    /// It took place.
    Done,
    /// It changed nothing: something else was there.
    Differs,
    /// It never takes place.
    Cancelled,
    /// It has not taken place so far.
    None,
    /// It was settled long ago, and nobody remembers how.
    Forgotten,
}
