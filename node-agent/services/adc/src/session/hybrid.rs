//! Clients with addresses of both families (HBRI, an extension of AirDC++ and uhub that is in no specification). A client
//! proves the second address by a further connection over it; until then nobody is told of it.
//!
//! ```text
//! HSUP ... ADHBRI     BINF ... I6::  ->     (it is let in as with one address)
//!                <- ITCP I6<hub> P6<port> TO<token>
//! on a further connection, over the other family, at any member:
//! HTCP I6:: U6<port> TO<token>  ->     <- ISTA 000, closed     BINF <sid> I6<address> U6<port> SU... to everybody
//!                              (banned) <- ISTA 231, closed     ISTA 231, IQUI <sid> ... TL-1 to the user, closed
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::refusal::Banned;
use super::{Origin, Output, Phase, Session};
use crate::message::{Line, Message, feature_list, fields};
use crate::state::Departure;

/// Where clients prove their second address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hybrid {
    /// The hub's address for those that came over IPv6.
    pub ipv4: Ipv4Addr,
    /// The hub's address for those that came over IPv4.
    pub ipv6: Ipv6Addr,
    /// Its port at both.
    pub port: u16,
}

impl Hybrid {
    /// Asks a client that came from `first` to prove its second address. Clients look for the token in the third place.
    #[must_use]
    pub fn request(&self, first: IpAddr, token: &str) -> String {
        let (family, address): (_, IpAddr) = match first {
            IpAddr::V4(_) => ('6', self.ipv6.into()),
            IpAddr::V6(_) => ('4', self.ipv4.into()),
        };
        Line::new("ITCP")
            .named(&format!("I{family}"), address)
            .named(&format!("P{family}"), self.port)
            .named("TO", token)
            .end()
    }
}

/// Why an address is not proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unproved {
    /// Nobody waits for this token, or not at this address, or nobody knows.
    Unknown,
    /// The address is banned, and with it the user.
    Banned {
        /// Why.
        reason: String,
        /// For how many seconds more; for ever, without.
        left_s: Option<u64>,
    },
}

/// The features of a second address that a client wants to prove, as in `SU`; none when it does not.
pub(super) fn second(params: &str, origin: Origin, offer: &str) -> Option<String> {
    let (address, tcp, udp) = match origin.address {
        IpAddr::V4(_) => ("I6", "TCP6", "UDP6"),
        IpAddr::V6(_) => ("I4", "TCP4", "UDP4"),
    };
    let value = |name: &str| fields(params).find_map(|field| field.strip_prefix(name));
    let knows_it = offer.split(' ').any(|feature| feature == "HBRI");
    if !knows_it || value(address).is_none_or(str::is_empty) {
        return None;
    }
    let features = feature_list(value("SU").unwrap_or_default());
    let of_it: Vec<&str> = features
        .filter(|feature| *feature == tcp || *feature == udp)
        .collect();
    Some(of_it.join(","))
}

impl Session {
    /// A connection that begins with `HTCP`: it proves an address, and does nothing else. The address is the one that
    /// the hub sees, whatever the client says.
    pub(super) fn proves(&mut self, message: &Message<'_>) {
        let port = match self.origin.address {
            IpAddr::V4(_) => "U4",
            IpAddr::V6(_) => "U6",
        };
        let token = message.named(0, "TO").unwrap_or_default().into_owned();
        let udp_port = message.named(0, port).and_then(|port| port.parse().ok());
        self.phase = Phase::AwaitProof;
        self.out.push(Output::Prove { token, udp_port });
    }

    pub(super) fn proved(&mut self, result: Result<(), Unproved>) {
        if !matches!(self.phase, Phase::AwaitProof) {
            return;
        }
        self.send(match result {
            Ok(()) => Line::new("ISTA 000").arg("Your address is proved"),
            Err(Unproved::Unknown) => {
                Line::new("ISTA 240").arg("Nobody waits for this token at this address")
            }
            Err(Unproved::Banned { reason, left_s }) => Banned::new(&reason, left_s).status,
        });
        self.close(Departure::Left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_asked_for_its_other_address() {
        let hybrid = Hybrid {
            ipv4: Ipv4Addr::new(192, 0, 2, 1),
            ipv6: "2001:db8::1".parse().unwrap(),
            port: 1511,
        };
        let from = |address: &str| hybrid.request(address.parse().unwrap(), "T");
        assert_eq!(from("192.0.2.7"), "ITCP I62001:db8::1 P61511 TOT\n");
        assert_eq!(from("2001:db8::7"), "ITCP I4192.0.2.1 P41511 TOT\n");
    }

    #[test]
    fn who_has_no_other_address_is_not_asked() {
        let v4 = Origin {
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        };
        let v6 = Origin {
            address: IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        for (params, origin, offer, expected) in [
            (
                "I40.0.0.0 I6:: SUTCP4,TCP6,UDP6,SEGA",
                v4,
                "BASE HBRI",
                Some("TCP6,UDP6"),
            ),
            ("I6::1", v4, "HBRI", Some("")),
            ("I4192.0.2.9 SUTCP4,TCP6", v6, "HBRI", Some("TCP4")),
            ("I6:: SUTCP6", v4, "BASE", None),
            ("I6 SUTCP6", v4, "HBRI", None),
            ("I40.0.0.0 SUTCP6", v4, "HBRI", None),
        ] {
            assert_eq!(second(params, origin, offer).as_deref(), expected, "{params}");
        }
    }
}
