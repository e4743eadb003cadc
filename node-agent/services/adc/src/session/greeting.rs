//! PROTOCOL: what client and hub tell each other first (ADC 1.0.3, SUP, SID; ADC-EXT, PING, RDEX).

use super::{Census, Output, Phase, Session, Settings};
use crate::message::{Header, Line, Message, PROTOCOLS, Sid};

/// Bytes of the features of one `SUP`.
const OFFER_BYTES_MAX: usize = 256;
impl Session {
    /// PROTOCOL.
    pub(super) fn greeted(&mut self, message: &Message<'_>) {
        if self.settings.hybrid.is_some() && message.header == Header::Hub && &message.command == b"TCP" {
            self.proves(message);
            return;
        }
        if message.header != Header::Hub || &message.command != b"SUP" {
            self.refuse_code(244, "A session begins with HSUP", None);
            return;
        }
        let offer: Vec<&str> = message
            .params()
            .filter_map(|param| param.strip_prefix("AD"))
            .collect();
        let has = |names: &[&str]| offer.iter().any(|feature| names.contains(feature));
        if !has(&["BASE", "BAS0"]) {
            let text = "This hub needs BASE";
            let status = Line::new("ISTA 245").arg(text).named("FC", "BASE");
            self.refuse(status, text, Some(-1));
        } else if !has(&["TIGR"]) {
            self.refuse_code(
                247,
                "This hub needs TIGR: there is no other hash in common",
                Some(-1),
            );
        } else {
            let mut offer = offer.join(" ");
            if offer.len() > OFFER_BYTES_MAX {
                offer.clear();
            }
            self.phase = Phase::AwaitSid { offer: offer.clone() };
            self.out.push(Output::NeedSid { offer });
        }
    }

    pub(super) fn identify(&mut self, sid: Sid, census: Option<Census>) {
        let Phase::AwaitSid { offer } = &mut self.phase else {
            return;
        };
        let offer = std::mem::take(offer);
        self.has_menus = offer.split(' ').any(|feature| matches!(feature, "UCM0" | "UCMD"));
        self.sid = sid;
        self.phase = Phase::Identify { offer };
        // Not ZLIF: who says so has to take compressed lines. Clients that say so get some.
        let hybrid = self.settings.hybrid.map_or("", |_| "ADHBRI");
        self.send(Line::new("ISUP ADBASE ADTIGR ADUCM0 ADUCMD ADPING").raw(hybrid));
        self.send(Line::new("ISID").arg(&sid.to_string()));
        let settings = self.settings.clone();
        let info = Line::new("IINF CT32")
            .named("NI", &settings.name)
            .named("DE", &settings.description)
            .named("AP", "Quorate")
            .named("VE", env!("CARGO_PKG_VERSION"))
            .named("RP", PROTOCOLS);
        self.send(match census {
            Some(census) => for_pinger(info, &settings, census),
            None => info,
        });
    }
}

/// The hub's `INF` with what pingers ask for.
fn for_pinger(info: Line, settings: &Settings, census: Census) -> Line {
    let about = &settings.about;
    let texts = [
        ("HH", &about.address),
        ("WS", &about.website),
        ("NE", &about.network),
        ("OW", &about.owner),
    ];
    let numbers = [
        ("UC", census.users),
        ("SS", census.share_bytes),
        ("SF", census.files),
        ("UP", census.uptime_s),
        ("MS", settings.share_bytes_min),
        ("ML", settings.slots_min.into()),
        ("XU", settings.hubs_max.into()),
        ("MC", settings.users_max.into()),
    ];
    let told = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let info = told.fold(info, |info, (name, text)| info.named(name, text));
    numbers
        .into_iter()
        .fold(info, |info, (name, number)| info.named(name, number))
}
