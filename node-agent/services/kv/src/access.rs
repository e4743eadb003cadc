//! Who may do what: the tokens of the tokens file, and what a request needs. Pure.
//!
//! A token grants a level on the names that begin with a prefix: names of keys, and of journals, addresses of the bus and
//! servers of logs alike. Without a tokens file everybody may do everything.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::request::{Refusal, Target};
use crate::state::{Operation, Owner, Transaction};

/// The scheme of the header that carries a token (RFC 6750 §2.1).
pub const SCHEME: &str = "Bearer";

/// What a token may do, each level including those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Read and watch.
    Read,
    /// Change.
    Write,
    /// See what is nobody's own: the outbox. Only with the empty prefix does it say more than `write`.
    Admin,
}

impl Level {
    const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "administrate",
        }
    }
}

/// The tokens file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    tokens: Vec<Entry>,
}

/// One grant. A token that has several stands in several entries.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// What it is called in answers and logs.
    name: String,
    /// The secret.
    token: String,
    /// What it may do.
    access: Level,
    /// With which names; empty for all.
    #[serde(default)]
    prefix: Arc<str>,
    /// Whose numbered requests are those that carry it: the name's.
    #[serde(skip)]
    owner: Owner,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret.
        write!(f, "{} {:?} {:?}", self.name, self.access, self.prefix)
    }
}

/// All tokens that count.
#[derive(Debug, Clone)]
pub struct Tokens {
    entries: Vec<Entry>,
}

impl Tokens {
    /// Reads the tokens file. The error says what is wrong, and never what a token is.
    ///
    /// # Errors
    /// When it is no such file, or a token in it could be guessed or sent by nobody.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde_json's own message would quote a value of the wrong type, and that may be a secret.
        let mut file: File = serde_json::from_slice(bytes).map_err(|error| {
            format!(
                "line {}, column {}: expected {{\"tokens\":[{{\"name\":…,\"token\":…,\"access\":\"read|write|admin\",\
                 \"prefix\":…}}]}} and nothing else",
                error.line(),
                error.column()
            )
        })?;
        if file.tokens.len() > TOKENS_MAX {
            return Err(format!(
                "there are {} tokens: at most {TOKENS_MAX} are allowed",
                file.tokens.len()
            ));
        }
        for (number, entry) in file.tokens.iter_mut().enumerate() {
            let number = number + 1;
            if entry.name.is_empty() {
                return Err(format!("token {number} has no name"));
            }
            let is_sendable = entry.token.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_sendable || !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&entry.token.len()) {
                return Err(format!(
                    "token {number} (`{}`) must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters",
                    entry.name.escape_debug()
                ));
            }
            entry.owner = Owner::of(&entry.name);
        }
        Ok(Self { entries: file.tokens })
    }

    /// How many grants there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// What the token in a request's header grants. All tokens are compared, each in constant time.
    ///
    /// # Errors
    /// When there is none, or none of ours.
    pub fn grant(&self, headers: &HeaderMap) -> Result<Grant, Refusal> {
        let carried = headers
            .get(AUTHORIZATION)
            .and_then(carried)
            .ok_or_else(|| unauthorized("this store asks for a token: send `Authorization: Bearer TOKEN`"))?;
        // All are compared, so that the time this takes tells nothing about them.
        let same = |entry: &&Entry| bool::from(entry.token.as_bytes().ct_eq(carried));
        let granting: Vec<_> = self.entries.iter().filter(same).collect();
        let Some(first) = granting.first() else {
            return Err(unauthorized("this store knows no such token"));
        };
        Ok(Grant(Some(Granted {
            name: first.name.clone(),
            owner: first.owner,
            rules: granting
                .iter()
                .map(|entry| (entry.access, entry.prefix.clone()))
                .collect(),
        })))
    }
}

/// What a caller may do.
#[derive(Debug, Clone)]
pub struct Grant(Option<Granted>);

#[derive(Debug, Clone)]
struct Granted {
    name: String,
    owner: Owner,
    rules: Vec<(Level, Arc<str>)>,
}

impl Grant {
    /// Everything: there are no tokens.
    pub const EVERYTHING: Self = Self(None);

    /// Whose sessions the caller may use, and whose requests it may ask about.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.0.as_ref().map_or(Owner::NOBODY, |granted| granted.owner)
    }

    /// Whether names that begin with `prefix` (or are it) may be used at this level.
    #[must_use]
    pub fn allows(&self, level: Level, prefix: &str) -> bool {
        self.0.as_ref().is_none_or(|granted| {
            let mut rules = granted.rules.iter();
            rules.any(|(has, begins)| *has >= level && prefix.starts_with(&**begins))
        })
    }

    /// Refuses what the caller may not do.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self, level: Level, prefix: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(granted) if !self.allows(level, prefix) => {
                let (name, verb) = (granted.name.escape_debug(), level.verb());
                let what = if prefix.is_empty() {
                    "all of the store".to_owned()
                } else {
                    format!("`{}`", prefix.escape_debug())
                };
                Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    format!("the token `{name}` may not {verb} {what}"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a transaction with a key that the caller may not use so.
    ///
    /// # Errors
    /// When there is one.
    pub fn check_transaction(&self, transaction: &Transaction) -> Result<(), Refusal> {
        for comparison in &transaction.compare {
            self.check(Level::Read, &comparison.key)?;
        }
        for operation in transaction.then.iter().chain(&transaction.otherwise) {
            match operation {
                Operation::Set { key, .. } | Operation::Delete { key } => self.check(Level::Write, key)?,
                Operation::Get { key } => self.check(Level::Read, key)?,
            }
        }
        Ok(())
    }

    /// Refuses a request whose head already tells that the caller may not make it.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_target(&self, target: &Target) -> Result<(), Refusal> {
        match need(target) {
            Need::On(level, name) => self.check(level, name),
            Need::Somewhere(level) => match &self.0 {
                Some(granted) if granted.rules.iter().all(|(has, _)| *has < level) => self.check(level, ""),
                _ => Ok(()),
            },
        }
    }
}

/// What a request needs, as far as its head tells.
enum Need<'a> {
    /// A level on a name, or on all names that begin so.
    On(Level, &'a str),
    /// A level on any name: what is asked for concerns no name, or the body names it.
    Somewhere(Level),
}

fn need(target: &Target) -> Need<'_> {
    match target {
        Target::Get(key) => Need::On(Level::Read, key),
        Target::Set(key) | Target::Delete(key) | Target::Swap(key) => Need::On(Level::Write, key),
        // What they concern is checked where it is known: the prefix, the body, the lease's keys.
        Target::Range | Target::Transact | Target::Lease(_) => Need::Somewhere(Level::Read),
        Target::OpenSession
        | Target::Outcome
        | Target::Cancel
        | Target::GrantLease
        | Target::KeepAlive(_)
        | Target::Revoke(_) => Need::Somewhere(Level::Write),
        Target::Watch(name) | Target::ReadJournal(name) | Target::Subscribe(name) => {
            Need::On(Level::Read, name)
        }
        Target::Extract(name)
        | Target::Append(name)
        | Target::RemoveJournal(name)
        | Target::Publish(name)
        | Target::Send(name) => Need::On(Level::Write, name),
        // The token says that the caller was sent the message.
        Target::Reply => Need::Somewhere(Level::Read),
        Target::Outbox => Need::On(Level::Admin, ""),
    }
}

fn carried(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = header.as_bytes().split_at_checked(SCHEME.len())?;
    // RFC 9110 §11.1: the scheme's name is case-insensitive.
    if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
        return None;
    }
    rest.strip_prefix(b" ")
}

fn unauthorized(sentence: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, sentence)
}

/// Each request compares all of them.
const TOKENS_MAX: usize = 1000;

/// 96 bits in base64: nobody guesses it.
const TOKEN_BYTES_MIN: usize = 16;
/// Well below what a header may hold.
const TOKEN_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"tokens":[
        {"name":"app","token":"app-0123456789abcdef","access":"write","prefix":"app/"},
        {"name":"app","token":"app-0123456789abcdef","access":"read"},
        {"name":"ops","token":"ops-0123456789abcdef","access":"admin"},
        {"name":"part","token":"part-0123456789abcde","access":"admin","prefix":"p/"}]}"#;

    fn grant(header: &str) -> Result<Grant, Refusal> {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        }
        Tokens::parse(FILE.as_bytes()).unwrap().grant(&headers)
    }

    #[test]
    fn a_token_grants_what_its_entries_say_and_nothing_more() {
        let app = grant("Bearer app-0123456789abcdef").unwrap();
        for (level, name, allowed) in [
            (Level::Write, "app/x", true),
            (Level::Write, "app", false),
            (Level::Write, "apps", false),
            (Level::Read, "other", true),
            (Level::Read, "", true),
            (Level::Write, "", false),
            (Level::Admin, "app/x", false),
        ] {
            assert_eq!(app.allows(level, name), allowed, "{level:?} {name}");
        }
        let ops = grant("bearer ops-0123456789abcdef").unwrap();
        assert!(ops.allows(Level::Admin, "") && ops.allows(Level::Write, "x"));
        let error = app.check(Level::Write, "x\n").unwrap_err();
        assert_eq!(error.status, StatusCode::FORBIDDEN);
        assert_eq!(error.sentence, r"the token `app` may not write `x\n`");
    }

    #[test]
    fn requests_are_a_names_whatever_its_token_is() {
        let owner = |name: &str, token: &str| {
            let file = format!(r#"{{"tokens":[{{"name":"{name}","token":"{token}","access":"read"}}]}}"#);
            let mut headers = HeaderMap::new();
            let header = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            headers.insert(AUTHORIZATION, header);
            Tokens::parse(file.as_bytes())
                .unwrap()
                .grant(&headers)
                .unwrap()
                .owner()
        };
        let app = owner("app", "app-0123456789abcdef");
        assert_eq!(owner("app", "renewed-0123456789abcdef"), app);
        assert_ne!(owner("ops", "app-0123456789abcdef"), app);
        assert_ne!(app, Owner::NOBODY);
        assert_eq!(Grant::EVERYTHING.owner(), Owner::NOBODY);
    }

    #[test]
    fn without_a_known_token_nothing_is_granted() {
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Basic app-0123456789abcdef",
            "Bearer  app-0123456789abcdef",
            "Bearer app-0123456789abcdef0",
            "Bearer app-0123456789abcde",
            "app-0123456789abcdef",
        ] {
            assert_eq!(
                grant(header).unwrap_err().status,
                StatusCode::UNAUTHORIZED,
                "{header}"
            );
        }
        assert!(Grant::EVERYTHING.allows(Level::Admin, ""));
    }

    #[test]
    fn what_each_request_needs() {
        let (app, part) = (
            grant("Bearer app-0123456789abcdef").unwrap(),
            grant("Bearer part-0123456789abcde").unwrap(),
        );
        for (target, may_app, may_part) in [
            (Target::Get("app/k".into()), true, false),
            (Target::Get("p/k".into()), true, true),
            (Target::Set("app/k".into()), true, false),
            (Target::Delete("p/k".into()), false, true),
            (Target::Swap("p".into()), false, false),
            (Target::OpenSession, true, true),
            (Target::Outcome, true, true),
            (Target::Outbox, false, false),
        ] {
            assert_eq!(app.check_target(&target).is_ok(), may_app, "app {target:?}");
            assert_eq!(part.check_target(&target).is_ok(), may_part, "part {target:?}");
        }
    }

    #[test]
    fn bad_files_are_refused_without_a_word_of_their_secrets() {
        for (file, words) in [
            ("", "line 1, column 0"),
            (
                r#"{"tokens":[{"name":"a","token":123456789012345678,"access":"read"}]}"#,
                "expected",
            ),
            (
                r#"{"tokens":[{"name":"a","token":"secret-0123456789","access":"all"}]}"#,
                "expected",
            ),
            (
                r#"{"tokens":[{"name":"a","token":"secret-0123456789","access":"read","key":"x"}]}"#,
                "expected",
            ),
            (
                r#"{"tokens":[{"name":"","token":"secret-0123456789","access":"read"}]}"#,
                "token 1 has no name",
            ),
            (
                r#"{"tokens":[{"name":"a","token":"secret short","access":"read"}]}"#,
                "16 to 1024 visible",
            ),
            (
                r#"{"tokens":[{"name":"a","token":"secret with blanks in it","access":"read"}]}"#,
                "visible ASCII",
            ),
        ] {
            let error = Tokens::parse(file.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{file}: {error}");
            assert!(!error.contains("secret") && !error.contains("1234567"), "{error}");
        }
        let shown = format!("{:?}", Tokens::parse(FILE.as_bytes()).unwrap());
        assert!(!shown.contains("0123456789"), "{shown}");
        assert_eq!(Tokens::parse(br#"{"tokens":[]}"#).unwrap().count(), 0);
    }
}
