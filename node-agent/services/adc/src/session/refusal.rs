//! How a session ends that the hub does not want: a status, and a QUI that says whether and when to come back.

use super::{Phase, Session};
use crate::message::{Line, Sid};
use crate::state::{Departure, Refusal};

/// Seconds after which a client may try a full hub again, as in uhub.
const FULL_RETRY_S: i64 = 600;
/// Seconds after which a client tries again when somebody with its CID is connected: by then a dead connection is
/// noticed.
const TAKEN_RETRY_S: i64 = 20;

impl Session {
    /// Ends the session with a status, and a QUI that says when to come back (-1: never).
    pub(super) fn refuse(&mut self, status: Line, text: &str, retry_s: Option<i64>) {
        let mut quit = Line::new(&format!("IQUI {}", self.sid)).named("MS", text);
        if let Some(retry) = retry_s {
            quit = quit.named("TL", retry);
        }
        self.send(status);
        self.send(quit);
        self.close(Departure::Dropped {
            reason: text.to_owned(),
        });
    }

    pub(super) fn refuse_code(&mut self, code: u16, text: &str, retry_s: Option<i64>) {
        self.refuse(Line::new(&format!("ISTA {code}")).arg(text), text, retry_s);
    }

    pub(super) fn timed_out(&mut self) {
        if self.sid == Sid::NOBODY {
            // A probe, or something that is no ADC client: nothing to say to it.
            self.close(Departure::Dropped {
                reason: "said nothing".to_owned(),
            });
        } else if matches!(self.phase, Phase::AwaitClaim) {
            // The group has no leader now. Soon it has.
            self.refuse_code(210, "The hub cannot let you in right now", Some(2));
        } else {
            self.refuse_code(220, "You took too long to log in", None);
        }
    }

    fn refuse_full(&mut self) {
        let text = "The hub is full";
        self.send(Line::new("ISTA 211").arg(text));
        let quit = Line::new(&format!("IQUI {}", self.sid))
            .named("MS", text)
            .named("TL", FULL_RETRY_S);
        self.send(match &self.settings.redirect_when_full {
            Some(addresses) => self.redirects.name(quit, addresses, false),
            None => quit,
        });
        self.close(Departure::Dropped {
            reason: text.to_owned(),
        });
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        if !matches!(self.phase, Phase::AwaitClaim) {
            return;
        }
        match refusal {
            Refusal::Full => self.refuse_full(),
            Refusal::NickTaken => self.refuse_code(222, "Somebody has this nick", None),
            Refusal::CidTaken => {
                self.refuse_code(224, "You are connected already", Some(TAKEN_RETRY_S));
            }
            // Neither is the client's fault: the next try goes well.
            Refusal::SidTaken | Refusal::PasswordNeeded => {
                self.refuse_code(220, "Please log in again", Some(1))
            }
            Refusal::RegisteredOnly => {
                self.refuse_code(226, "Only registered users may come in", Some(-1));
            }
            Refusal::Banned { reason, left_s } => {
                let banned = Banned::new(&reason, left_s);
                self.refuse(banned.status, &banned.text, Some(banned.retry_s));
            }
        }
    }
}

/// What the banned are told.
pub(super) struct Banned {
    pub(super) status: Line,
    text: String,
    /// When to come back, in seconds (-1: never).
    retry_s: i64,
}

impl Banned {
    /// For so many seconds more; for ever, without.
    pub(super) fn new(reason: &str, left_s: Option<u64>) -> Self {
        let text = format!("You are banned: {reason}");
        let (status, retry_s) = match left_s {
            None => (Line::new("ISTA 231").arg(&text), -1),
            Some(left) => {
                let retry_s = i64::try_from(left).unwrap_or(i64::MAX);
                (Line::new("ISTA 232").arg(&text).named("TL", retry_s), retry_s)
            }
        };
        Self {
            status,
            text,
            retry_s,
        }
    }
}
