//! What the directory's effects are in words: the lines that users are sent.

use bytes::{BufMut as _, BytesMut};

use crate::message::{Line, Redirects, Sid, escape};
use crate::state::{Departure, Said};

/// Seconds after which a user comes back whose place was another's meanwhile.
const AGAIN_S: u64 = 1;

/// Adds a line of chat (ADC 1.0.3, MSG; `TS` of the extensions: the hub's time).
pub(super) fn put_said(lines: &mut BytesMut, said: &Said) {
    lines.put_slice(b"BMSG ");
    lines.put_slice(&said.sid.text());
    lines.put_u8(b' ');
    lines.put_slice(said.text.as_bytes());
    if said.third_person {
        lines.put_slice(b" ME1");
    }
    lines.put_slice(format!(" TS{}\n", said.unix_ms / 1000).as_bytes());
}

/// A line of chat for somebody who was not there; its sender may be gone, so the hub says it.
pub(super) fn remembered(said: &Said) -> String {
    let seconds = said.unix_ms / 1000;
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    let nick = &said.nick;
    let who = if said.third_person {
        format!("* {nick}")
    } else {
        format!("<{nick}>")
    };
    Line::new("IMSG")
        .raw(&format!(
            "{}{}",
            escape(&format!("[{hour:02}:{minute:02} UTC] {who} ")),
            said.text
        ))
        .named("TS", seconds)
        .end()
}

/// What the hub says to one user or to all.
pub(super) fn notice(text: &str) -> String {
    let lines = text.lines().map(|line| Line::new("IMSG").arg(line).end());
    lines.collect()
}

/// The hub's `INF` with a topic.
pub(super) fn topic(topic: &str) -> String {
    Line::new("IINF").named("DE", topic).end()
}

/// What the others are told of a departure (ADC 1.0.3, QUI).
pub(super) fn gone(sid: Sid, departure: &Departure, by: Option<Sid>) -> String {
    let quit = Line::new(&format!("IQUI {sid}"));
    match departure {
        Departure::Kicked { reason, .. } => initiated(quit, by).named("MS", reason).end(),
        Departure::Redirected { .. } | Departure::RedirectedForGood { .. } => initiated(quit, by).end(),
        _ => quit.end(),
    }
}

fn initiated(quit: Line, by: Option<Sid>) -> Line {
    match by {
        Some(by) => quit.named("ID", by),
        None => quit,
    }
}

/// What the user itself is told, last; its `INF` says where its client can be sent.
pub(super) fn last_words(
    sid: Sid,
    inf: &str,
    departure: &Departure,
    by: Option<Sid>,
    unix_ms: u64,
) -> String {
    let quit = Line::new(&format!("IQUI {sid}"));
    match departure {
        Departure::Kicked {
            reason,
            until_unix_ms,
            banned,
            ..
        } => {
            let left_s = until_unix_ms.map(|until| until.saturating_sub(unix_ms).div_ceil(1000));
            let (code, retry) = match (banned, left_s) {
                (false, _) => (230, None),
                (true, None) => (231, Some("-1".to_owned())),
                (true, Some(left)) => (232, Some(left.to_string())),
            };
            let mut status = Line::new(&format!("ISTA {code}")).arg(reason);
            let mut quit = initiated(quit, by).named("MS", reason);
            if let Some(retry) = retry {
                if code == 232 {
                    status = status.named("TL", &retry);
                }
                quit = quit.named("TL", retry);
            }
            status.end() + &quit.end()
        }
        Departure::Redirected { address, reason, .. }
        | Departure::RedirectedForGood { address, reason, .. } => {
            let is_for_good = matches!(departure, Departure::RedirectedForGood { .. });
            Redirects::of(inf)
                .name(initiated(quit, by), address, is_for_good)
                .named("MS", reason)
                .end()
        }
        Departure::Left | Departure::Dropped { .. } => quit.end(),
        Departure::Lost | Departure::Moved | Departure::GaveWay => {
            quit.named("MS", "Please log in again").named("TL", AGAIN_S).end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_tells_who_why_and_for_how_long() {
        let kicked = |until_unix_ms, banned| Departure::Kicked {
            by: "op".to_owned(),
            reason: "be nice".to_owned(),
            until_unix_ms,
            banned,
        };
        let (sid, op) = (Sid::from_number(0), Sid::from_number(1));
        let words = |departure: &Departure| last_words(sid, "", departure, Some(op), 1000);
        assert_eq!(
            words(&kicked(None, false)),
            "ISTA 230 be\\snice\nIQUI AAAB IDAAAC MSbe\\snice\n"
        );
        assert_eq!(
            words(&kicked(None, true)),
            "ISTA 231 be\\snice\nIQUI AAAB IDAAAC MSbe\\snice TL-1\n"
        );
        assert_eq!(
            words(&kicked(Some(2500), true)),
            "ISTA 232 be\\snice TL2\nIQUI AAAB IDAAAC MSbe\\snice TL2\n"
        );
        assert_eq!(gone(sid, &kicked(None, false), None), "IQUI AAAB MSbe\\snice\n");
        assert_eq!(gone(sid, &Departure::Left, Some(op)), "IQUI AAAB\n");
    }

    #[test]
    fn a_redirect_names_hubs_that_the_client_knows() {
        let (by, reason) = ("op".to_owned(), "moved".to_owned());
        let address = "adcs://a,adc://b".to_owned();
        let once = Departure::Redirected {
            by: by.clone(),
            address: address.clone(),
            reason: reason.clone(),
        };
        let for_good = Departure::RedirectedForGood { by, address, reason };
        let sid = Sid::from_number(0);
        for (inf, departure, expected) in [
            ("NIx", &once, "IQUI AAAB RDadc://b MSmoved\n"),
            ("NIx", &for_good, "IQUI AAAB RDadc://b MSmoved\n"),
            ("RP3", &once, "IQUI AAAB RDadcs://a RXadc://b MSmoved\n"),
            ("RP3", &for_good, "IQUI AAAB RDadcs://a RXadc://b PT1 MSmoved\n"),
        ] {
            assert_eq!(last_words(sid, inf, departure, None, 0), expected);
        }
        assert_eq!(gone(sid, &for_good, None), "IQUI AAAB\n");
    }
}
