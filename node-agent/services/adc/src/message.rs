//! ADC lines: bytes to values and back. Pure.
//!
//! Follows ADC 1.0.3, "Line protocol" and "Message types". Any bytes give a value or an error, never a panic.
//!
//! ```text
//! | type A | command AAA | header: SIDs, features | ' ' param ... | '\n' |
//!   B my_sid      D, E my_sid target_sid      F my_sid then (+|-)FEAT, repeated      H, I nothing
//! ```

mod alias;
mod fields;
mod identity;
mod lines;
mod proxy;
mod redirect;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Write as _;

pub use alias::{swap_shared_sids, swap_sids};
pub(crate) use fields::tag;
pub use fields::{Tag, feature_list, fields, without_tags};
pub use identity::{
    Cid, NickError, ParseIdError, Pid, SALT_BYTES, Salt, Sid, SidBlock, check_nick, fold_nick,
    password_answer,
};
pub use lines::{LineError, LineReader};
pub use proxy::{ProxyHeader, proxy_header};
pub use redirect::{PROTOCOLS, Redirects, are_addresses};

/// A line without its `\n`, checked as a whole: UTF-8, header, escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    raw: &'a str,
    /// Who it is for.
    pub header: Header<'a>,
    /// The three letters after the type.
    pub command: [u8; 3],
    params: &'a str,
}

/// The type of a message, with what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    /// `B`: to everybody.
    Broadcast(Sid),
    /// `D`: to one user.
    Direct {
        /// The sender.
        from: Sid,
        /// Whom it is for.
        to: Sid,
    },
    /// `E`: to one user, and back to the sender.
    Echo {
        /// The sender.
        from: Sid,
        /// Whom it is for.
        to: Sid,
    },
    /// `F`: to those with all `+` features and no `-` feature.
    Feature {
        /// The sender.
        from: Sid,
        /// The selection.
        wanted: Features<'a>,
    },
    /// `H`: to the hub.
    Hub,
    /// `I`: from the hub.
    Info,
    /// `C` or `U`: between clients, never through a hub.
    Clients,
}

/// The selection of a feature cast: `+TCP4-NAT0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features<'a>(&'a str);

impl<'a> Features<'a> {
    /// Reads a selection.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(list: &'a str) -> Result<Self, ParseError> {
        let is_choice = |choice: &[u8]| {
            matches!(choice[0], b'+' | b'-')
                && choice[1..]
                    .iter()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        };
        let bytes = list.as_bytes();
        let valid =
            !bytes.is_empty() && bytes.len().is_multiple_of(5) && bytes.chunks_exact(5).all(is_choice);
        valid.then_some(Self(list)).ok_or(ParseError::Features)
    }

    /// The selection as it was written.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.0
    }
    /// Whether a client that announced `supported` (the value of its `SU`, a comma list) is meant.
    #[must_use]
    pub fn select(&self, supported: &str) -> bool {
        self.0.as_bytes().chunks_exact(5).all(|choice| {
            let has = supported
                .split(',')
                .any(|feature| feature.as_bytes() == &choice[1..]);
            has == (choice[0] == b'+')
        })
    }
}

impl Features<'_> {
    /// Whether a client with these features is meant.
    #[must_use]
    pub fn select_among(&self, supported: &[[u8; 4]]) -> bool {
        self.0.as_bytes().chunks_exact(5).all(|choice| {
            let has = supported.iter().any(|feature| feature == &choice[1..]);
            has == (choice[0] == b'+')
        })
    }
}

/// A line that is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not UTF-8 (RFC 3629).
    #[error("not UTF-8")]
    Utf8,
    /// Does not begin with a type and a command.
    #[error("no type and command")]
    Command,
    /// A SID of the header is missing or is none.
    #[error("no SID where the header has one")]
    Sid,
    /// A feature cast without a selection.
    #[error("no features where the header has them")]
    Features,
    /// A backslash with anything but `s`, `n` or `\` after it.
    #[error("unknown escape")]
    Escape,
}

impl<'a> Message<'a> {
    /// Reads one line without its `\n`.
    ///
    /// # Errors
    /// When the whole line has to be discarded.
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        let raw = std::str::from_utf8(line).map_err(|_| ParseError::Utf8)?;
        let (head, params) = raw.split_once(' ').unwrap_or((raw, ""));
        let &[kind, a, b, c] = head.as_bytes() else {
            return Err(ParseError::Command);
        };
        let command = [a, b, c];
        let later = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        if !(a.is_ascii_uppercase() && later(b) && later(c)) {
            return Err(ParseError::Command);
        }
        check_escapes(params)?;
        let mut rest = params;
        let header = match kind {
            b'B' => Header::Broadcast(take_sid(&mut rest)?),
            b'D' => Header::Direct {
                from: take_sid(&mut rest)?,
                to: take_sid(&mut rest)?,
            },
            b'E' => Header::Echo {
                from: take_sid(&mut rest)?,
                to: take_sid(&mut rest)?,
            },
            b'F' => Header::Feature {
                from: take_sid(&mut rest)?,
                wanted: Features::new(take_param(&mut rest))?,
            },
            b'H' => Header::Hub,
            b'I' => Header::Info,
            b'C' | b'U' => Header::Clients,
            _ => return Err(ParseError::Command),
        };
        Ok(Self {
            raw,
            header,
            command,
            params: rest,
        })
    }

    /// The line as it was.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The first four letters.
    #[must_use]
    pub fn fourcc(&self) -> &'a str {
        &self.raw[..4]
    }

    /// The sender that the header names.
    #[must_use]
    pub fn from(&self) -> Option<Sid> {
        match self.header {
            Header::Broadcast(from)
            | Header::Direct { from, .. }
            | Header::Echo { from, .. }
            | Header::Feature { from, .. } => Some(from),
            Header::Hub | Header::Info | Header::Clients => None,
        }
    }

    /// Everything after the header, escaped as it came, without the space before it.
    #[must_use]
    pub fn params_raw(&self) -> &'a str {
        self.params
    }

    /// The parameters after the header, escaped as they came.
    pub fn params(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        fields(self.params)
    }

    /// The value of a named parameter among those after `positional` positional ones, unescaped.
    #[must_use]
    pub fn named(&self, positional: usize, name: &str) -> Option<Cow<'a, str>> {
        let value = self
            .params()
            .skip(positional)
            .find_map(|param| param.strip_prefix(name))?;
        Some(unescape(value))
    }
}

fn take_param<'a>(rest: &mut &'a str) -> &'a str {
    let (param, after) = rest.split_once(' ').unwrap_or((rest, ""));
    *rest = after;
    param
}

fn take_sid(rest: &mut &str) -> Result<Sid, ParseError> {
    take_param(rest).parse().map_err(|_| ParseError::Sid)
}

fn check_escapes(text: &str) -> Result<(), ParseError> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' && !matches!(bytes.next(), Some(b's' | b'n' | b'\\')) {
            return Err(ParseError::Escape);
        }
    }
    Ok(())
}

/// A value as it is meant: `\s`, `\n` and `\\` resolved. The escapes have been checked; a lone backslash stays.
#[must_use]
pub fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('s') => plain.push(' '),
                Some('n') => plain.push('\n'),
                other => plain.push(other.unwrap_or('\\')),
            },
            char => plain.push(char),
        }
    }
    Cow::Owned(plain)
}

/// A value as it is written in a line.
#[must_use]
pub fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains([' ', '\n', '\\']) {
        return Cow::Borrowed(value);
    }
    let mut escaped = String::with_capacity(value.len() + 8);
    for char in value.chars() {
        match char {
            ' ' => escaped.push_str("\\s"),
            '\n' => escaped.push_str("\\n"),
            '\\' => escaped.push_str("\\\\"),
            char => escaped.push(char),
        }
    }
    Cow::Owned(escaped)
}

/// Builds one line.
#[derive(Debug, Clone)]
pub struct Line(String);

impl Line {
    /// Begins with type, command and header, as they are written: `"ISUP"`, `"BMSG AAAB"`.
    #[must_use]
    pub fn new(head: &str) -> Self {
        Self(head.to_owned())
    }

    /// Adds a positional parameter, escaping it.
    #[must_use]
    pub fn arg(mut self, value: &str) -> Self {
        self.0.push(' ');
        self.0.push_str(&escape(value));
        self
    }

    /// Adds a named parameter, escaping its value.
    #[must_use]
    pub fn named(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.0.push(' ');
        self.0.push_str(name);
        self.0.push_str(&escape(&value.to_string()));
        self
    }

    /// Adds parameters that are escaped already; nothing when there are none.
    #[must_use]
    pub fn raw(mut self, params: &str) -> Self {
        if !params.is_empty() {
            write!(self.0, " {params}").expect("a string takes any text");
        }
        self
    }

    /// The line with its `\n`.
    #[must_use]
    pub fn end(mut self) -> String {
        self.0.push('\n');
        self.0
    }
}
