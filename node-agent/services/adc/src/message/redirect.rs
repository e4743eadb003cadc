//! Where a client can be sent (ADC-EXT, RDEX).

use super::{Line, feature_list, fields};

/// The protocols that this hub sends clients to, as `RP` says it: ADC, ADC over TLS, NMDC.
pub const PROTOCOLS: u8 = 7;

/// Each with its bit in `RP`.
const SCHEMES: [(&str, u8); 3] = [("adc://", 1), ("adcs://", 2), ("dchub://", 4)];
/// Between addresses, as between the addresses of `FO`.
const BETWEEN: char = ',';

/// What a client says of redirects in its `INF`. Not to change before its session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirects {
    /// The protocols that it follows, as in `RP`.
    protocols: u8,
    /// It has `RP`: it knows further addresses (`RX`) and those for good (`PT`).
    is_extended: bool,
}

impl Redirects {
    /// Reads an `INF`. Without `RP`, or with junk in it, a client follows ADC, and ADC over TLS if it announces that
    /// for transfers.
    #[must_use]
    pub fn of(inf: &str) -> Self {
        let value = |name: &str| fields(inf).find_map(|field| field.strip_prefix(name));
        if let Some(protocols) = value("RP").and_then(|mask| mask.parse::<u64>().ok()) {
            return Self {
                protocols: u8::try_from(protocols & u64::from(PROTOCOLS)).unwrap_or_default(),
                is_extended: true,
            };
        }
        let has_tls =
            feature_list(value("SU").unwrap_or_default()).any(|feature| matches!(feature, "ADCS" | "ADC0"));
        Self {
            protocols: if has_tls { 3 } else { 1 },
            is_extended: false,
        }
    }

    /// Those addresses of a comma list that the client follows, in order.
    fn followed(self, list: &str) -> impl Iterator<Item = &str> + use<'_> {
        addresses(list).filter(move |address| {
            protocol_of(address).is_some_and(|protocol| self.protocols & protocol != 0)
        })
    }

    /// Whether the client follows any address of a comma list.
    #[must_use]
    pub fn follows(self, list: &str) -> bool {
        self.followed(list).next().is_some()
    }

    /// A `QUI` that names those addresses of a comma list that the client follows: the first one for every client (`RD`),
    /// the others (`RX`), and that it is for good (`PT1`), for those that know it.
    #[must_use]
    pub fn name(self, quit: Line, list: &str, is_for_good: bool) -> Line {
        let mut followed = self.followed(list);
        let Some(first) = followed.next() else {
            return quit;
        };
        let others: Vec<&str> = followed.collect();
        let mut quit = quit.named("RD", first);
        if self.is_extended && !others.is_empty() {
            quit = quit.named("RX", others.join(","));
        }
        if self.is_extended && is_for_good {
            quit = quit.named("PT", 1);
        }
        quit
    }
}

/// Whether a comma list holds addresses, and nothing but addresses that this hub sends clients to.
#[must_use]
pub fn are_addresses(list: &str) -> bool {
    addresses(list).all(|address| {
        let is_plain = !address.contains(|letter: char| letter.is_whitespace() || letter.is_control());
        is_plain && protocol_of(address).is_some()
    })
}

fn addresses(list: &str) -> impl Iterator<Item = &str> + use<'_> {
    list.split(BETWEEN).map(str::trim)
}

/// The bit of an address's protocol; none of what is no address.
fn protocol_of(address: &str) -> Option<u8> {
    let is_it = |scheme: &str| {
        address
            .split_at_checked(scheme.len())
            .is_some_and(|(start, host)| start.eq_ignore_ascii_case(scheme) && !host.is_empty())
    };
    SCHEMES
        .iter()
        .find(|(scheme, _)| is_it(scheme))
        .map(|(_, protocol)| *protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "adcs://a.example:1,adc://b.example:2,dchub://c.example";

    fn quit(inf: &str, list: &str, is_for_good: bool) -> String {
        Redirects::of(inf)
            .name(Line::new("IQUI AAAB"), list, is_for_good)
            .end()
    }

    #[test]
    fn a_client_is_sent_where_it_can_follow() {
        for (inf, expected) in [
            ("NIx", "IQUI AAAB RDadc://b.example:2\n"),
            ("NIx SUTCP4,ADC0", "IQUI AAAB RDadcs://a.example:1\n"),
            ("NIx SUADCS", "IQUI AAAB RDadcs://a.example:1\n"),
            ("NIx RP1", "IQUI AAAB RDadc://b.example:2 PT1\n"),
            ("RP2 SUADC0", "IQUI AAAB RDadcs://a.example:1 PT1\n"),
            ("RP3", "IQUI AAAB RDadcs://a.example:1 RXadc://b.example:2 PT1\n"),
            (
                "RP7",
                "IQUI AAAB RDadcs://a.example:1 RXadc://b.example:2,dchub://c.example PT1\n",
            ),
            // Protocols that are not known yet, and none at all.
            ("RP12", "IQUI AAAB RDdchub://c.example PT1\n"),
            ("RP0", "IQUI AAAB\n"),
            ("RP8", "IQUI AAAB\n"),
            // Junk is as good as nothing.
            ("RPx", "IQUI AAAB RDadc://b.example:2\n"),
            ("RP-1", "IQUI AAAB RDadc://b.example:2\n"),
        ] {
            assert_eq!(quit(inf, THREE, true), expected, "{inf}");
        }
        assert_eq!(quit("RP1", "adc://x", false), "IQUI AAAB RDadc://x\n");
        assert!(Redirects::of("RP4").follows(THREE) && !Redirects::of("RP4").follows("adc://x"));
    }

    #[test]
    fn a_list_of_addresses_holds_nothing_else() {
        for list in [
            "adc://x",
            "ADCS://x:1",
            "adc://x, dchub://y",
            "adcs://x:1/?kp=SHA256/A",
        ] {
            assert!(are_addresses(list), "{list}");
        }
        for list in [
            "",
            "x",
            "adc://",
            "adc://x,",
            "adc://x,http://y",
            "adc://x y",
            "ädc://x",
        ] {
            assert!(!are_addresses(list), "{list}");
        }
    }
}
