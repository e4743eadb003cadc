//! HTTP to operations, answers to JSON. Pure: what is wrong with a request is said in a sentence, with a status code.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::KEY_BYTES_MAX;
use crate::state::Value;

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
}

/// A request that is not carried out: why, for people, and the status code of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// The status code.
    pub status: StatusCode,
    /// What is wrong, and what is expected.
    pub sentence: String,
}

impl Refusal {
    /// One with this status.
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self {
            status,
            sentence: sentence.into(),
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
    /// Why the request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    /// Puts a value in, as text or in base64.
    #[must_use]
    pub fn with_value(mut self, value: &Value) -> Self {
        match std::str::from_utf8(value.as_ref()) {
            Ok(text) => text.clone_into(&mut self.value),
            Err(_) => {
                self.value = BASE64_STANDARD.encode(value);
                self.encoding = Some("base64");
            }
        }
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
            error: Some(refusal.sentence.clone()),
            ..Self::default()
        }
    }
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
/// When there is no such path, the path does not take the method, or the key is not one.
pub fn target(method: &Method, path: &str, query: Option<&str>) -> Result<Target, Refusal> {
    let Some(rest) = path.strip_prefix("/v1/kv/") else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no such path: keys are at /v1/kv/{key}",
        ));
    };
    if let Some(name) = query.and_then(|query| query.split(['&', '=']).next())
        && !name.is_empty()
    {
        return Err(Refusal::bad(format!("there is no query parameter `{name}`")));
    }
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
    let value = |name: &str, text: &str| match body.encoding {
        None => Ok(Value::from(text)),
        Some(Encoding::Base64) => BASE64_STANDARD
            .decode(text)
            .map(|bytes| Value::from(&bytes[..]))
            .map_err(|error| Refusal::bad(format!("{name} is no base64: {error}"))),
    };
    Ok((
        value("oldValue", &body.old_value)?,
        value("newValue", &body.new_value)?,
    ))
}

fn not_allowed(sentence: &str) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

/// A key from its place in the path.
fn key_of(encoded: &str) -> Result<Arc<str>, Refusal> {
    let key: Cow<'_, str> = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Refusal::bad("the key is no UTF-8 once its %-escapes are resolved"))?;
    if key.is_empty() {
        return Err(Refusal::bad("the key is empty: name one, /v1/kv/{key}"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::bad(format!(
            "the key has {} bytes: at most {KEY_BYTES_MAX} are allowed",
            key.len()
        )));
    }
    Ok(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: Method, path: &str, query: Option<&str>) -> (u16, String) {
        let refusal = target(&method, path, query).unwrap_err();
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
            assert_eq!(target(&method, path, None).unwrap(), expected);
        }
        assert_eq!(
            target(&Method::GET, "/v1/kv/x/swap", Some("")).unwrap(),
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
