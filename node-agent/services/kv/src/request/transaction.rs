//! The JSON of transactions, and of the rows that answers list.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{Encoding, Refusal, Token, decoded, is_false};
use crate::KEY_BYTES_MAX;
use crate::state::{Comparison, Condition, Lifetime, Made, Operation, Transaction, Value};

/// Comparisons, and operations of each list, in one transaction.
const OPERATIONS_MAX: usize = 128;

/// One row of an answer's list: a key, what an operation of a transaction did, or an entry of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// The number of an entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Whether an operation did, or found, what was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<bool>,
    /// The value; in base64 when it is no UTF-8.
    pub value: String,
    /// `base64` when the value is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
    /// The revision that wrote the value, or at which the change was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Whether this member remembers the value, and no quorum has stored it yet.
    #[serde(skip_serializing_if = "is_false")]
    pub remembered: bool,
    /// Whether a value was too large to be kept for a repetition of the request.
    #[serde(skip_serializing_if = "is_false")]
    pub forgotten: bool,
    /// Where a reply is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// When it was written, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix_ms: Option<u64>,
}

impl Row {
    /// Puts a value in, as text or in base64.
    #[must_use]
    pub fn with_value(mut self, value: &Value) -> Self {
        (self.value, self.encoding) = shown_value(value);
        self
    }
}

impl From<&Made> for Row {
    fn from(made: &Made) -> Self {
        match made {
            Made::Changed { revision } => Self {
                valid: Some(true),
                revision: Some(*revision),
                ..Self::default()
            },
            Made::Found {
                value: Some(value),
                revision,
            } => Self {
                valid: Some(true),
                revision: Some(*revision),
                ..Self::default().with_value(value)
            },
            Made::Forgotten => Self {
                valid: Some(true),
                forgotten: true,
                ..Self::default()
            },
            Made::Absent | Made::Found { value: None, .. } => Self {
                valid: Some(false),
                ..Self::default()
            },
        }
    }
}

/// A value as text, or in base64 and that it is.
pub(super) fn shown_value(value: &Value) -> (String, Option<&'static str>) {
    match std::str::from_utf8(value.as_ref()) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (BASE64_STANDARD.encode(value), Some("base64")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    compare: Vec<Compared>,
    #[serde(default)]
    then: Vec<Done>,
    #[serde(default, rename = "else")]
    otherwise: Vec<Done>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compared {
    key: String,
    value: Option<String>,
    encoding: Option<Encoding>,
    revision: Option<u64>,
    exists: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Done {
    set: Option<String>,
    value: Option<String>,
    encoding: Option<Encoding>,
    ttl_seconds: Option<u32>,
    lease: Option<u64>,
    delete: Option<String>,
    get: Option<String>,
}

/// The transaction of a body.
///
/// # Errors
/// When the body is not the JSON of a transaction, or a key or value in it is none.
pub fn transaction(body: &[u8], value_bytes_max: usize) -> Result<Transaction, Refusal> {
    let body: Body = serde_json::from_slice(body).map_err(|error| {
        Refusal::bad(format!(
            r#"the body of a transaction is {{"compare":[{{"key":"…","value":"…"}}],"then":[{{"set":"…","value":"…"}}],"else":[{{"get":"…"}}]}}: {error}"#
        ))
    })?;
    for (name, length) in [
        ("compare", body.compare.len()),
        ("then", body.then.len()),
        ("else", body.otherwise.len()),
    ] {
        if length > OPERATIONS_MAX {
            return Err(Refusal::bad(format!(
                "`{name}` lists {length}: at most {OPERATIONS_MAX} are allowed"
            )));
        }
    }
    let operations = |list: Vec<Done>| {
        list.into_iter()
            .map(|one| operation(one, value_bytes_max))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Transaction {
        compare: body
            .compare
            .into_iter()
            .map(comparison)
            .collect::<Result<_, _>>()?,
        then: operations(body.then)?,
        otherwise: operations(body.otherwise)?,
    })
}

fn comparison(one: Compared) -> Result<Comparison, Refusal> {
    let condition = match (one.value, one.revision, one.exists) {
        (Some(value), None, None) => Condition::Value(decoded("value", &value, one.encoding)?),
        (None, Some(revision), None) => Condition::Revision(revision),
        (None, None, Some(exists)) => Condition::Exists(exists),
        _ => {
            return Err(Refusal::bad(
                "a comparison has one of `value`, `revision` and `exists`",
            ));
        }
    };
    Ok(Comparison {
        key: key(one.key)?,
        condition,
    })
}

fn operation(one: Done, value_bytes_max: usize) -> Result<Operation, Refusal> {
    match (one.set, one.value, one.delete, one.get) {
        (Some(set), Some(value), None, None) => {
            let value = decoded("value", &value, one.encoding)?;
            if value.as_ref().len() > value_bytes_max {
                return Err(super::too_large(value_bytes_max));
            }
            let lifetime = match (one.ttl_seconds, one.lease) {
                (None, None) => Lifetime::Forever,
                (Some(seconds), None) if seconds > 0 => Lifetime::Millis(u64::from(seconds) * 1000),
                (None, Some(lease)) => Lifetime::Lease(lease),
                _ => {
                    return Err(Refusal::bad(
                        "a value ends after `ttlSeconds` of at least 1, or with a `lease`",
                    ));
                }
            };
            Ok(Operation::Set {
                key: key(set)?,
                value,
                lifetime,
            })
        }
        (None, None, Some(delete), None) => Ok(Operation::Delete { key: key(delete)? }),
        (None, None, None, Some(get)) => Ok(Operation::Get { key: key(get)? }),
        _ => Err(Refusal::bad(
            r#"an operation is {"set":"key","value":"…"}, {"delete":"key"} or {"get":"key"}"#,
        )),
    }
}

fn key(text: String) -> Result<Arc<str>, Refusal> {
    if text.is_empty() || text.len() > KEY_BYTES_MAX {
        return Err(Refusal::bad(format!(
            "a key has {} bytes: 1 to {KEY_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        transaction(body.as_bytes(), 8).unwrap_err().sentence
    }

    #[test]
    fn transactions_are_read() {
        let body = r#"{"compare":[{"key":"a","value":"x"},{"key":"b","revision":0},{"key":"c","exists":true}],
            "then":[{"set":"a","value":"eQ==","encoding":"base64","ttlSeconds":2},{"delete":"b"}],"else":[{"get":"a"}]}"#;
        let read = transaction(body.as_bytes(), 8).unwrap();
        assert_eq!(read.compare[0].condition, Condition::Value("x".into()));
        assert_eq!(read.compare[1].condition, Condition::Revision(0));
        assert_eq!(read.compare[2].condition, Condition::Exists(true));
        let set = Operation::Set {
            key: "a".into(),
            value: "y".into(),
            lifetime: Lifetime::Millis(2000),
        };
        assert_eq!(read.then, [set, Operation::Delete { key: "b".into() }]);
        assert_eq!(read.otherwise, [Operation::Get { key: "a".into() }]);
    }

    #[test]
    fn bad_transactions_are_refused_in_words() {
        assert!(refused("7").contains("the body of a transaction"));
        assert!(refused(r#"{"when":[]}"#).contains("unknown field `when`"));
        assert!(refused(r#"{"compare":[{"key":"a"}]}"#).contains("one of"));
        assert!(refused(r#"{"then":[{"set":"a"}]}"#).contains("an operation is"));
        assert!(refused(r#"{"then":[{"get":""}]}"#).contains("0 bytes"));
        assert!(refused(r#"{"then":[{"set":"a","value":"123456789"}]}"#).contains("8 bytes"));
        assert!(refused(r#"{"then":[{"set":"a","value":"1","ttlSeconds":0}]}"#).contains("ttlSeconds"));
        let many = vec![r#"{"get":"a"}"#; OPERATIONS_MAX + 1].join(",");
        assert!(refused(&format!(r#"{{"then":[{many}]}}"#)).contains("129"));
    }
}
