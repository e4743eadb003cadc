//! The query parameters of single operations; those of all are in [`super::Terms`].

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{Refusal, Target, Token, boolean, number};
use crate::KEY_BYTES_MAX;
use crate::state::Lifetime;

/// Parameters that only some operations take; each has a value only where it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct More {
    /// `wholeLines=true`: a last line without an end is left for later.
    pub whole_lines: bool,
    /// `prefix`: how the keys begin.
    pub prefix: Option<Arc<str>>,
    /// `after`: the keys behind this one.
    pub after: Option<Arc<str>>,
    /// `limit`: how many, at most.
    pub limit: Option<usize>,
    /// `from`: this revision, or this entry, and later ones.
    pub from: Option<u64>,
    /// `exact=true`: the one key of this name.
    pub exact: bool,
    /// `token`: where a reply is waited for.
    pub token: Option<Token>,
    /// `ttlSeconds`
    pub ttl: Option<Duration>,
    /// `lease`
    pub lease: Option<u64>,
}

/// Which parameters there are, and who takes them.
pub(super) const PARAMETERS: &str = "consistent, blocking, timeoutMs, session, seq, first and floor; wholeLines for logs; \
                                     prefix, after and limit for ranges; from and exact for watching; from and limit for journals; token for replies; ttlSeconds and lease for values that end by \
                                     themselves";

/// Ten years: who wants more, wants no lifetime.
const TTL_SECONDS_MAX: u64 = 315_360_000;
/// Rows of one answer.
const LIMIT_MAX: u64 = 1000;

impl More {
    /// Takes a parameter, if it is one of these.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool, Refusal> {
        match name {
            "wholeLines" => self.whole_lines = boolean(name, value)?,
            "prefix" => self.prefix = Some(text(name, value)?),
            "after" => self.after = Some(text(name, value)?),
            "limit" => {
                let limit = number(name, value, 1..=LIMIT_MAX)?;
                self.limit = usize::try_from(limit).ok();
            }
            "from" => self.from = Some(number(name, value, 0..=u64::MAX)?),
            "token" => {
                let token = value.parse().map_err(|()| {
                    Refusal::bad("`token` is not one that came with a message: `MEMBER.NUMBER.SECRET`")
                })?;
                self.token = Some(token);
            }
            "exact" => self.exact = boolean(name, value)?,
            "ttlSeconds" => {
                self.ttl = Some(Duration::from_secs(number(name, value, 1..=TTL_SECONDS_MAX)?));
            }
            "lease" => self.lease = Some(number(name, value, 1..=u64::MAX)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses what the target does not take, and what makes no sense together.
    pub(super) fn check(&self, target: &Target, local: bool) -> Result<(), Refusal> {
        let is_range = matches!(target, Target::Range);
        let is_watch = matches!(target, Target::Watch(_));
        let is_journal = matches!(target, Target::ReadJournal(_));
        let is_set = matches!(target, Target::Set(_) | Target::Swap(_));
        for (name, is_given, is_taken) in [
            (
                "wholeLines",
                self.whole_lines,
                matches!(target, Target::Extract(_)),
            ),
            ("prefix", self.prefix.is_some(), is_range),
            ("after", self.after.is_some(), is_range),
            ("limit", self.limit.is_some(), is_range || is_journal),
            ("from", self.from.is_some(), is_watch || is_journal),
            ("exact", self.exact, is_watch),
            ("token", self.token.is_some(), matches!(target, Target::Reply)),
            (
                "ttlSeconds",
                self.ttl.is_some(),
                is_set || matches!(target, Target::GrantLease),
            ),
            ("lease", self.lease.is_some(), is_set),
        ] {
            if is_given && !is_taken {
                return Err(Refusal::bad(format!("this takes no `{name}`: leave it out")));
            }
        }
        if self.ttl.is_some() && self.lease.is_some() {
            return Err(Refusal::bad(
                "`ttlSeconds` and `lease` both say when a value ends: leave one of them out",
            ));
        }
        if local && self.lifetime() != Lifetime::Forever {
            return Err(Refusal::bad(
                "a value that ends by itself needs a quorum: leave `consistent=false` out",
            ));
        }
        if matches!(target, Target::GrantLease) && self.ttl.is_none() {
            return Err(Refusal::bad("say how long the lease lasts: `ttlSeconds`"));
        }
        Ok(())
    }

    /// How long a value stays.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        match (self.ttl, self.lease) {
            (Some(ttl), _) => Lifetime::Millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            (None, Some(lease)) => Lifetime::Lease(lease),
            (None, None) => Lifetime::Forever,
        }
    }
}

fn text(name: &str, value: &str) -> Result<Arc<str>, Refusal> {
    let text = percent_decode_str(value)
        .decode_utf8()
        .map_err(|_| Refusal::bad(format!("`{name}` is no UTF-8 once its %-escapes are resolved")))?;
    if text.len() > KEY_BYTES_MAX {
        return Err(Refusal::bad(format!(
            "`{name}` has {} bytes: at most {KEY_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    Ok(text.into())
}
