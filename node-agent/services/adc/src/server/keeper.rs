//! The key of passwords at rest, in backups: a hub that begins with one seals the passwords with its own key.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use replication::State as _;

use super::PasswordKey;
use crate::state::AdcState;
use crate::vault::Vault;

/// Knows this hub's key; none, when nobody is registered here.
pub struct Keeper(Option<PasswordKey>);

impl Keeper {
    /// With the key of the configuration.
    #[must_use]
    pub const fn new(key: Option<PasswordKey>) -> Self {
        Self(key)
    }
}

impl replication::Keeper for Keeper {
    fn secret(&self) -> Option<String> {
        self.0.as_ref().map(|key| HEXLOWER.encode(&key.0))
    }

    fn adopt(&self, bytes: bytes::Bytes, secret: Option<&str>) -> Result<bytes::Bytes, String> {
        let mut state = AdcState::restore(&bytes).map_err(|error| error.to_string())?;
        let accounts = state.accounts().len();
        if accounts == 0 {
            return Ok(bytes);
        }
        let Some(own) = &self.0 else {
            return Err(format!(
                "{accounts} users are registered in it, and this hub has no key for their passwords: name a \
                 passwordKeyFile in its configuration"
            ));
        };
        let old = match secret {
            None => own.0,
            Some(text) => HEXLOWER_PERMISSIVE
                .decode(text.as_bytes())
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or("the key of its passwords does not have 64 hexadecimal digits")?,
        };
        let (old, new) = (Vault::new(&old), Vault::new(&own.0));
        let resealed = state.reseal(|nick, sealed| {
            let password = old.open(nick, sealed)?;
            Ok::<_, crate::vault::SealBroken>(new.seal(nick, &password, rand::random()))
        });
        resealed.map_err(|_| match secret {
            None => {
                "the key of its passwords is not in it, and this hub has another one: give it the old hub's \
                 passwordKeyFile"
            }
            Some(_) => "its passwords do not open with the key in it",
        })?;
        Ok(state.snapshot().into())
    }
}

#[cfg(test)]
mod tests {
    use replication::{Keeper as _, LogTime};

    use super::*;
    use crate::state::{Class, Command, Limits, Order};

    const LIMITS: Limits = Limits {
        users_max: 10,
        reserved_places: 0,
        grace_ms: 0,
        history_lines_max: 0,
        registered_only: false,
        exact_nicks: false,
        accounts_max: 10,
        bans_max: 10,
    };

    fn keeper(key: Option<u8>) -> Keeper {
        Keeper::new(key.map(|byte| PasswordKey([byte; 32])))
    }

    /// A hub with that key, where `op` is registered; as it is in a backup.
    fn state(key: u8) -> bytes::Bytes {
        let mut state = AdcState::default();
        let order = Order::PutAccount {
            nick: "Op".to_owned(),
            class: Class::Operator,
            password: Vault::new(&[key; 32]).seal("op", "geheim", [7; 12]),
        };
        let at = LogTime { index: 1, unix_ms: 1 };
        let by = "test".to_owned();
        state.apply(
            at,
            Command::Order {
                by,
                order,
                limits: LIMITS,
            },
        );
        state.snapshot().into()
    }

    fn password(state: &bytes::Bytes, key: u8) -> Option<String> {
        let state = AdcState::restore(state).unwrap();
        let account = state.account("op").unwrap();
        Vault::new(&[key; 32]).open("op", &account.password).ok()
    }

    #[test]
    fn passwords_of_another_hub_are_sealed_with_the_own_key() {
        let secret = keeper(Some(1)).secret();
        let adopted = keeper(Some(2)).adopt(state(1), secret.as_deref()).unwrap();
        assert_eq!(password(&adopted, 2).as_deref(), Some("geheim"));
        assert_eq!(password(&adopted, 1), None);
        // The same key by other means: a backup of a hub that did not give its key away.
        let adopted = keeper(Some(1)).adopt(state(1), None).unwrap();
        assert_eq!(password(&adopted, 1).as_deref(), Some("geheim"));
    }

    #[test]
    fn passwords_that_cannot_be_read_are_refused_with_what_is_missing() {
        let key_of = |byte| keeper(Some(byte)).secret();
        for (own, secret, why) in [
            (Some(2), None, "give it the old hub's passwordKeyFile"),
            (Some(2), key_of(3), "do not open with the key in it"),
            (Some(2), Some("oops".to_owned()), "64 hexadecimal digits"),
            (None, key_of(1), "name a passwordKeyFile"),
        ] {
            let refused = keeper(own).adopt(state(1), secret.as_deref()).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        // Without users there is nothing to read.
        let empty: bytes::Bytes = AdcState::default().snapshot().into();
        assert_eq!(keeper(None).adopt(empty.clone(), None), Ok(empty));
    }
}
