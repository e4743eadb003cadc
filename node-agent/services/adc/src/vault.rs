//! Passwords at rest. Pure.
//!
//! ADC proves a password by a hash of it with a challenge, so the hub needs the password itself: it cannot keep a
//! one-way hash. What the log and the snapshots hold is sealed with ChaCha20-Poly1305 under the group's key, which
//! lives in a file that every member is given (in pods: a Secret) and never in the log. A seal belongs to its nick: it
//! does not open under another.
//!
//! ```text
//! | nonce, 12 bytes | sealed password | tag, 16 bytes |
//! ```

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::state::SealedPassword;

/// Bytes of the group's key.
pub const KEY_BYTES: usize = 32;

/// A nonce; never the same twice under one key, so drawn at random.
pub type NonceBytes = [u8; NONCE_LEN];

/// Seals and opens passwords.
pub struct Vault(LessSafeKey);

/// A seal that does not open: made with another key, for another nick, or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password does not open with this group's key")]
pub struct SealBroken;

impl Vault {
    /// A vault with that key.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the length of the algorithm's keys");
        Self(LessSafeKey::new(key))
    }

    /// Seals a password for a nick, in the form in which nicks are compared.
    #[must_use]
    pub fn seal(&self, folded_nick: &str, password: &str, nonce: NonceBytes) -> SealedPassword {
        let mut sealed = password.as_bytes().to_vec();
        let aad = Aad::from(folded_nick.as_bytes());
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .expect("a password is far shorter than the longest message");
        SealedPassword([&nonce[..], &sealed].concat())
    }

    /// Opens what was sealed for that nick.
    ///
    /// # Errors
    /// When it does not open.
    pub fn open(&self, folded_nick: &str, sealed: &SealedPassword) -> Result<String, SealBroken> {
        let (nonce, sealed) = sealed.0.split_at_checked(NONCE_LEN).ok_or(SealBroken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealBroken)?;
        let mut opened = sealed.to_vec();
        let aad = Aad::from(folded_nick.as_bytes());
        let opened = self
            .0
            .open_in_place(nonce, aad, &mut opened)
            .map_err(|_| SealBroken)?;
        String::from_utf8(opened.to_vec()).map_err(|_| SealBroken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_opens_for_its_nick_and_key_only() {
        let vault = Vault::new(&[1; KEY_BYTES]);
        let sealed = vault.seal("op", "geheim", [9; NONCE_LEN]);
        assert!(!sealed.0.windows(6).any(|bytes| bytes == b"geheim"));
        assert_eq!(vault.open("op", &sealed).as_deref(), Ok("geheim"));
        assert_eq!(vault.open("other", &sealed), Err(SealBroken));
        assert_eq!(Vault::new(&[2; KEY_BYTES]).open("op", &sealed), Err(SealBroken));
        for length in 0..sealed.0.len() {
            let cut = SealedPassword(sealed.0[..length].to_vec());
            assert_eq!(vault.open("op", &cut), Err(SealBroken));
        }
    }
}
