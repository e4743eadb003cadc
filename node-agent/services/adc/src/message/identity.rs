//! Who a client is: SID, CID, PID, nick, and the proof of a password.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use tiger::{Digest, Tiger};
use unicase::UniCase;
use unicode_normalization::UnicodeNormalization;

/// Bytes of a Tiger hash, and so of CIDs and PIDs.
const HASH_BYTES: usize = 24;

/// Bytes of the challenge of `GPA`: the least that ADC allows.
pub const SALT_BYTES: usize = 24;

/// Bytes of the longest nick, as in uhub.
const NICK_BYTES_MAX: usize = 64;

/// A challenge of `GPA`.
pub type Salt = [u8; SALT_BYTES];

/// Text that is no SID, CID or PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id in base32")]
pub struct ParseIdError;

/// A session's id: 20 bits, four characters of base32. 0 is nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sid(u32);

impl Sid {
    /// How many there are.
    pub const COUNT: u32 = 1 << 20;
    /// Nobody: what a session is called before it has one.
    pub const NOBODY: Self = Self(0);

    /// The SID with that number; numbers roll over, and 0 is skipped.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        // Fits: the remainder is below COUNT.
        #[expect(clippy::cast_possible_truncation, reason = "below 2^20")]
        Self((number % (Self::COUNT as u64 - 1)) as u32 + 1)
    }

    /// Its four characters.
    #[must_use]
    pub fn text(self) -> [u8; 4] {
        [15, 10, 5, 0].map(|shift| ALPHABET[(self.0 >> shift) as usize & 31])
    }

    /// Its 20 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// The alphabet of RFC 4648 base32.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for shift in [15, 10, 5, 0] {
            let digit = ALPHABET[(self.0 >> shift) as usize & 31];
            write!(f, "{}", char::from(digit))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != 4 {
            return Err(ParseIdError);
        }
        text.bytes().try_fold(Self(0), |sid, byte| {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'2'..=b'7' => byte - b'2' + 26,
                _ => return Err(ParseIdError),
            };
            Ok(Self(sid.0 << 5 | u32::from(digit)))
        })
    }
}

/// SIDs with consecutive numbers, lent to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidBlock {
    /// The number of the first; see [`Sid::from_number`].
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// A client's public id: the Tiger hash of its PID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cid(pub [u8; HASH_BYTES]);

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        hash_from(text).map(Self)
    }
}

/// A client's secret: who knows it owns the CID. Never shown, logged, stored or sent on.
#[derive(Clone, PartialEq, Eq)]
pub struct Pid([u8; HASH_BYTES]);

impl Pid {
    /// The PID of those bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The CID it proves.
    #[must_use]
    pub fn cid(&self) -> Cid {
        Cid(Tiger::digest(self.0).into())
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pid(secret)")
    }
}

impl FromStr for Pid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        hash_from(text).map(Self)
    }
}

fn hash_from(text: &str) -> Result<[u8; HASH_BYTES], ParseIdError> {
    let bytes = BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| ParseIdError)?;
    bytes.try_into().map_err(|_| ParseIdError)
}

/// What a client that knows the password answers to `GPA`: base32 of the Tiger hash of password and salt.
#[must_use]
pub fn password_answer(password: &str, salt: &Salt) -> String {
    let hash = Tiger::new().chain_update(password).chain_update(salt).finalize();
    BASE32_NOPAD.encode(&hash)
}

/// A nick that nobody may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NickError {
    /// It is empty or longer than 64 bytes.
    #[error("a nick has 1 to 64 bytes")]
    Length,
    /// It begins or ends with a space, or holds a control character.
    #[error("a nick neither begins nor ends with a space and holds no control characters")]
    Characters,
}

/// Checks a nick, unescaped.
///
/// # Errors
/// When nobody may have it.
pub fn check_nick(nick: &str) -> Result<(), NickError> {
    if nick.is_empty() || nick.len() > NICK_BYTES_MAX {
        return Err(NickError::Length);
    }
    if nick.trim() != nick || nick.chars().any(char::is_control) {
        return Err(NickError::Characters);
    }
    Ok(())
}

/// The form in which nicks are compared: NFC, and case-folded unless `exact`.
#[must_use]
pub fn fold_nick(nick: &str, exact: bool) -> String {
    let composed: String = nick.nfc().collect();
    if exact {
        return composed;
    }
    // Folding may take a composition apart.
    UniCase::unicode(composed).to_folded_case().nfc().collect()
}
