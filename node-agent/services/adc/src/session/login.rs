//! The `INF` of a client that wants in: what is checked, what is stamped, what is left out.

use std::net::IpAddr;

use super::{Origin, Settings, hybrid};
use crate::message::{
    Cid, Header, Line, Message, NickError, Pid, Sid, Tag, check_nick, feature_list, fields, tag, unescape,
    without_tags,
};
use crate::state::INF_BYTES_MAX;

/// A client that said who it is, and proved its CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its SID.
    pub sid: Sid,
    /// Its client's id.
    pub cid: Cid,
    /// Its nick.
    pub nick: String,
    /// Its `INF`, escaped: without `PD` and `CT`, with the address that the hub sees.
    pub inf: String,
    /// Where it connects from.
    pub address: IpAddr,
    /// What it offered in `SUP`.
    pub offer: String,
    /// Whether it knows the password of its nick's account.
    pub knows_password: bool,
    /// It wants to prove an address of the other family: the features that come with that, as in `SU`.
    pub second: Option<String>,
}

/// Why an `INF` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginError {
    NotOwnSid,
    Missing(&'static str),
    Malformed(&'static str),
    Twice(&'static str),
    WrongPid,
    Nick(NickError),
    TooLong,
}

impl LoginError {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::NotOwnSid => "That is not your SID",
            Self::Missing(_) => "A field is missing in your INF",
            Self::Malformed(_) => "A field of your INF is malformed",
            Self::Twice(_) => "A field of your INF is there twice",
            Self::WrongPid => "Your PID does not belong to your CID",
            Self::Nick(_) => "Nobody can have this nick",
            Self::TooLong => "Your INF is too long",
        }
    }

    pub(super) fn status(self) -> Line {
        let status = |code: u16| Line::new(&format!("ISTA {code}")).arg(self.text());
        match self {
            Self::NotOwnSid | Self::TooLong => status(240),
            Self::Missing(field) => status(243).named("FM", field),
            Self::Malformed(field) | Self::Twice(field) => status(243).named("FB", field),
            Self::WrongPid => status(227),
            Self::Nick(_) => status(221),
        }
    }
}

pub(super) fn read(
    message: &Message<'_>,
    sid: Sid,
    origin: Origin,
    offer: &str,
) -> Result<Login, LoginError> {
    if message.header != Header::Broadcast(sid) {
        return Err(LoginError::NotOwnSid);
    }
    let params = message.params_raw();
    let pid: Pid = only(params, "PD")?
        .parse()
        .map_err(|_| LoginError::Malformed("PD"))?;
    let cid: Cid = only(params, "ID")?
        .parse()
        .map_err(|_| LoginError::Malformed("ID"))?;
    if pid.cid() != cid {
        return Err(LoginError::WrongPid);
    }
    let nick = unescape(only(params, "NI")?).into_owned();
    check_nick(&nick).map_err(LoginError::Nick)?;
    let mut inf = stamped(params, origin);
    let (family, address) = match origin.address {
        IpAddr::V4(address) => ("I4", address.to_string()),
        IpAddr::V6(address) => ("I6", address.to_string()),
    };
    inf.push_str(&format!(" {family}{address}"));
    if inf.len() > INF_BYTES_MAX {
        return Err(LoginError::TooLong);
    }
    Ok(Login {
        sid,
        cid,
        nick,
        inf,
        address: origin.address,
        offer: offer.to_owned(),
        knows_password: false,
        second: hybrid::second(params, origin, offer),
    })
}

/// The value of a field that has to be there once.
fn only<'a>(params: &'a str, name: &'static str) -> Result<&'a str, LoginError> {
    let mut found = fields(params).filter_map(|field| field.strip_prefix(name));
    let value = found
        .next()
        .filter(|value| !value.is_empty())
        .ok_or(LoginError::Missing(name))?;
    if found.next().is_some() {
        return Err(LoginError::Twice(name));
    }
    Ok(value)
}

/// The fields of a login that may be stored and shown. Of a field that is there twice the last one counts.
fn stamped(params: &str, origin: Origin) -> String {
    let clean = relayable(params, origin, false, |tag| tag == b"PD");
    let mut kept: Vec<&str> = Vec::new();
    for field in fields(&clean).filter(|field| field.len() > 2) {
        kept.retain(|old| tag(old) != tag(field));
        kept.push(field);
    }
    kept.join(" ")
}

/// The fields of an update that may be stored and shown. Identity, class and address are the hub's to say; clients on
/// changing networks do send them, and are not punished. `RP` is what a client says once (ADC-EXT, RDEX).
pub(super) fn update(params: &str, origin: Origin, is_hybrid: bool) -> String {
    relayable(params, origin, is_hybrid, |tag| {
        matches!(tag, b"ID" | b"PD" | b"NI" | b"RP")
    })
}

fn relayable(params: &str, origin: Origin, is_hybrid: bool, secret: impl Fn(&Tag) -> bool) -> String {
    // Unless it is proved, others would be sent to an address of the other family that may be anybody's.
    let (other_port, other_tcp, other_udp) = match origin.address {
        IpAddr::V4(_) => (b"U6", "TCP6", "UDP6"),
        IpAddr::V6(_) => (b"U4", "TCP4", "UDP4"),
    };
    let kept = without_tags(params, |tag| {
        secret(tag) || matches!(tag, b"CT" | b"I4" | b"I6") || (tag == other_port && !is_hybrid)
    });
    let known: Vec<String> = fields(&kept)
        .map(|field| match field.strip_prefix("SU") {
            None => field.to_owned(),
            Some(features) => {
                let features: Vec<&str> = feature_list(features)
                    .filter(|feature| is_hybrid || (*feature != other_tcp && *feature != other_udp))
                    .collect();
                format!("SU{}", features.join(","))
            }
        })
        .collect();
    known.join(" ")
}

impl Login {
    /// Whether the client keeps the hub's limits; if not, what to tell it.
    pub(super) fn within(&self, settings: &Settings) -> Result<(), String> {
        // Junk counts as nothing, and what is absurdly much as the most there can be.
        let number = |name: &str| {
            let value = fields(&self.inf).find_map(|field| field.strip_prefix(name));
            value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
        };
        if number("SS") < settings.share_bytes_min {
            return Err(format!(
                "Share at least {} bytes to come in",
                settings.share_bytes_min
            ));
        }
        if number("SL") < settings.slots_min.into() {
            return Err(format!("Open at least {} slots to come in", settings.slots_min));
        }
        let hubs = number("HN")
            .saturating_add(number("HR"))
            .saturating_add(number("HO"));
        if hubs > settings.hubs_max.into() {
            return Err(format!(
                "You may be in at most {} hubs to come in",
                settings.hubs_max
            ));
        }
        Ok(())
    }
}
