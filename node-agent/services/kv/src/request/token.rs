//! What names a sender's wait for a reply.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// `MEMBER.NUMBER.SECRET`: whoever knows it may reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The member at which the sender waits.
    pub member: u64,
    /// Its number there.
    pub number: u64,
    /// What nobody can guess.
    pub secret: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:016x}", self.member, self.number, self.secret)
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = |radix| {
            let part = parts.next().ok_or(())?;
            u64::from_str_radix(part, radix).map_err(|_| ())
        };
        let token = Self {
            member: next(10)?,
            number: next(10)?,
            secret: next(16)?,
        };
        match parts.next() {
            None => Ok(token),
            Some(_) => Err(()),
        }
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        let token = Token {
            member: 3,
            number: 12,
            secret: 0xff,
        };
        assert_eq!(token.to_string(), "3.12.00000000000000ff");
        assert_eq!(token.to_string().parse(), Ok(token));
        for bad in ["", "1.2", "1.2.3.4", "1.2.x", "a.2.3"] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }
}
