//! Who a client says it is: PID and CID (ADC 1.0.3, "Client identification").

use data_encoding::BASE32_NOPAD;
use tiger::{Digest, Tiger};

/// A PID and the CID that it proves, both in base32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The secret that only the hub sees.
    pub pid: String,
    /// Its Tiger hash, known to all.
    pub cid: String,
}

impl Identity {
    /// The identity number `number` of the family `family`: the same in every run.
    #[must_use]
    pub fn of(family: &str, number: usize) -> Self {
        Self::from_pid(Tiger::digest(format!("{family} {number}")).into())
    }

    /// The identity that this secret proves.
    #[must_use]
    pub fn from_pid(pid: [u8; 24]) -> Self {
        Self {
            pid: BASE32_NOPAD.encode(&pid),
            cid: BASE32_NOPAD.encode(&Tiger::digest(pid)),
        }
    }
}

/// The answer to `GPA` (base32 of the Tiger hash of the password and the raw challenge); none when `challenge` is no base32.
#[must_use]
pub fn password_answer(password: &str, challenge: &str) -> Option<String> {
    let salt = BASE32_NOPAD.decode(challenge.as_bytes()).ok()?;
    let hash = Tiger::new().chain_update(password).chain_update(salt).finalize();
    Some(BASE32_NOPAD.encode(&hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_proves_the_cid_that_eiskaltdcpp_shows() {
        let pid = BASE32_NOPAD
            .decode(b"3CYKDCBHTVEPJSZPVWYRPXX6CZTIJAIYUCGDRXY")
            .unwrap();
        let identity = Identity::from_pid(pid.try_into().unwrap());
        assert_eq!(identity.cid, "HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI");
    }
}
