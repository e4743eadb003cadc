//! NORMAL: what a user may send, and where it goes (ADC 1.0.3, "Message types").

use std::time::Duration;

use super::flood::Verdict;
use super::{Output, Reach, Session, login};
use crate::message::{Header, Line, Message, Sid, unescape};
use crate::state::{Class, Departure};

/// Commands that only the hub sends, or that only the hub receives: never relayed.
const HUBS_OWN: [&[u8; 3]; 6] = [b"SUP", b"SID", b"GPA", b"PAS", b"QUI", b"CMD"];
/// Commands that make the receiver connect somewhere or answer somebody: to one user, never to many.
const TO_ONE: [&[u8; 3]; 7] = [b"CTM", b"RCM", b"NAT", b"RNT", b"RES", b"GET", b"SND"];

impl Session {
    pub(super) fn normal(&mut self, now: Duration, class: Class, message: &Message<'_>) {
        if message.from().is_some_and(|from| from != self.sid) {
            // In somebody else's name. A client does not do this by mistake, but a line of the old session may come
            // late: dropped, as uhub does.
            return;
        }
        if let Header::Hub = message.header {
            self.for_hub(message);
            return;
        }
        if HUBS_OWN.contains(&&message.command) {
            return;
        }
        if !self.passes(now, class, message) {
            return;
        }
        match message.header {
            Header::Broadcast(_) => self.for_all(message),
            Header::Feature { wanted, .. } => {
                let is_cast =
                    !TO_ONE.contains(&&message.command) && !matches!(&message.command, b"INF" | b"MSG");
                if is_cast && (&message.command != b"SCH" || self.is_search_long_enough(message)) {
                    self.relay(Reach::Selected(wanted.as_str().to_owned()), message);
                }
            }
            Header::Direct { to, .. } => self.for_one(to, false, message),
            Header::Echo { to, .. } => self.for_one(to, true, message),
            // Only the hub sends I; C and U never pass a hub.
            Header::Hub | Header::Info | Header::Clients => {}
        }
    }

    fn relay(&mut self, reach: Reach, message: &Message<'_>) {
        let line = format!("{}\n", message.raw());
        self.out.push(Output::Relay { reach, line });
    }

    /// Flood control; operators are not limited.
    fn passes(&mut self, now: Duration, class: Class, message: &Message<'_>) -> bool {
        if class >= Class::Operator {
            return true;
        }
        let to_all = matches!(message.header, Header::Broadcast(_));
        let (bucket, what) = match (&message.command, to_all) {
            (b"MSG", true) => (&mut self.buckets.chat, "talk"),
            (b"MSG", false) => (&mut self.buckets.private, "talk"),
            (b"SCH", _) => (&mut self.buckets.search, "search"),
            (b"INF", _) => (&mut self.buckets.info, "update"),
            _ => (&mut self.buckets.other, "send"),
        };
        match bucket.take(now) {
            Verdict::Pass => true,
            Verdict::First => {
                let text = format!("You {what} too much: some of it is dropped");
                self.send(Line::new("ISTA 110").arg(&text));
                false
            }
            Verdict::Again => false,
        }
    }

    fn for_hub(&mut self, message: &Message<'_>) {
        match &message.command {
            b"SUP" => {
                let gives_up = |name| message.params().any(|param| param == name);
                if gives_up("RMBASE") || gives_up("RMTIGR") {
                    let text = "This hub needs BASE and TIGR";
                    let status = Line::new("ISTA 245").arg(text).named("FC", "BASE");
                    self.refuse(status, text, None);
                }
            }
            b"QUI" => self.close(Departure::Left),
            b"ZON" => {
                // What follows is no lines.
                let text = "This hub compresses what it sends, and takes nothing compressed";
                self.refuse(Line::new("ISTA 244").arg(text).named("FC", "HZON"), text, None);
            }
            b"GET" | b"SND" => {
                let text = "This hub keeps no filters of hashes, and no files";
                self.send(Line::new("ISTA 145").arg(text).named("FC", message.fourcc()));
            }
            b"PAS" => {
                let status = Line::new("ISTA 144").arg("Nobody asked for a password");
                self.send(status.named("FC", "HPAS"));
            }
            // A status needs no answer; what is unknown is not ours.
            _ => {}
        }
    }

    fn for_all(&mut self, message: &Message<'_>) {
        match &message.command {
            b"INF" => {
                let fields = login::update(message.params_raw(), self.origin, self.is_hybrid);
                if !fields.is_empty() {
                    self.out.push(Output::Update(fields));
                }
            }
            b"MSG" => {
                let text = message.params().next().unwrap_or_default();
                if super::bot::is_command(text) {
                    self.out.push(Output::Command(unescape(text).into_owned()));
                } else if !text.is_empty() {
                    self.out.push(Output::Say {
                        text: text.to_owned(),
                        third_person: message.named(1, "ME").as_deref() == Some("1"),
                    });
                }
            }
            b"SCH" => {
                if self.is_search_long_enough(message) {
                    self.relay(Reach::All, message);
                }
            }
            command if TO_ONE.contains(&command) => {}
            _ => self.relay(Reach::All, message),
        }
    }

    fn for_one(&mut self, to: Sid, echo: bool, message: &Message<'_>) {
        match &message.command {
            b"INF" => return,
            // Replies go to whom PM names: it can only be the sender.
            b"MSG"
                if message
                    .named(1, "PM")
                    .is_some_and(|reply| reply != self.sid.to_string()) =>
            {
                return;
            }
            // Results are sent once.
            b"RES" if echo => return,
            _ => {}
        }
        let reach = if echo { Reach::Echo(to) } else { Reach::One(to) };
        self.relay(reach, message);
    }

    /// Searches for next to nothing cost everybody and find everything.
    fn is_search_long_enough(&mut self, message: &Message<'_>) -> bool {
        let is_hash = message.params().any(|param| param.starts_with("TR"));
        let chars: usize = message
            .params()
            .filter_map(|param| param.strip_prefix("AN"))
            .map(|word| unescape(word).chars().count())
            .sum();
        let least = self.settings.search_chars_min;
        if is_hash || chars >= usize::try_from(least).unwrap_or(usize::MAX) {
            return true;
        }
        let text = format!("Search for at least {least} characters");
        self.send(Line::new("ISTA 110").arg(&text));
        false
    }
}
