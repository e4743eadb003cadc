//! One client's conversation, from its first line to its end: a state machine. Pure.
//!
//! ```text
//! PROTOCOL --HSUP--> (a SID is asked for) --> IDENTIFY --BINF--> (the account is looked up)
//!     --> VERIFY --HPAS--> (the claim is ordered) --> NORMAL        ADC 1.0.3, "State management"
//!     '------ no account ------^
//! ```
//! In brackets the session waits for its driver, and takes no lines: see [`Session::is_waiting`]. A session that ends
//! says so with [`Output::Close`], last.

mod flood;
mod login;
mod normal;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;

use crate::message::{Features, Header, Line, Message, Salt, Sid, password_answer};
use crate::state::{Class, Departure, Refusal};

pub use flood::{Bucket, Rate, Rates};
pub use login::Login;

/// Bad lines that a client may send before it is let in.
const SETUP_ERRORS_MAX: u32 = 8;
/// Bytes of the features of one `SUP`.
const OFFER_BYTES_MAX: usize = 256;
/// Seconds after which a client may try a full hub again, as in uhub.
const FULL_RETRY_S: i64 = 600;
/// Seconds after which a client tries again when somebody with its CID is connected: by then a dead connection is
/// noticed.
const TAKEN_RETRY_S: i64 = 20;

/// What all sessions of a hub have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub's name.
    pub name: String,
    /// What the hub says of itself.
    pub description: String,
    /// Sent to each who comes in, line by line.
    pub motd: String,
    /// How long a client may take to be let in.
    pub setup_max: Duration,
    /// Bytes that a user must share; operators need not.
    pub share_bytes_min: u64,
    /// Upload slots that a user must offer.
    pub slots_min: u32,
    /// Hubs that a user may be in.
    pub hubs_max: u32,
    /// Characters that a search must have, unless it is for a hash.
    pub search_chars_min: u32,
    /// How much a user may send.
    pub rates: Rates,
}

/// Where a client connects from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Its address; IPv4 addresses that came in IPv6 are IPv4.
    pub address: IpAddr,
}

/// What the driver tells the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// A line without its `\n`.
    Line(&'a [u8]),
    /// A line that was too long was dropped.
    LineTooLong,
    /// The answer to [`Output::NeedSid`].
    Sid(Sid),
    /// The answer to [`Output::LookUp`]: the password, if the nick is registered, and a fresh challenge.
    Account(Option<(String, Salt)>),
    /// The answer to [`Output::Claim`].
    Admitted(Class),
    /// The answer to [`Output::Claim`].
    Refused(Refusal),
    /// Time passed: [`Session::deadline`].
    Deadline,
}

/// What the session asks of its driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to the client.
    Send(String),
    /// Give it a SID; answered by [`Input::Sid`].
    NeedSid {
        /// What the client offered.
        offer: String,
    },
    /// Look the account of a nick up; answered by [`Input::Account`].
    LookUp {
        /// The nick.
        nick: String,
    },
    /// Order the claim; answered by [`Input::Admitted`] or [`Input::Refused`].
    Claim(Box<Login>),
    /// The user changes its `INF`: fields, escaped.
    Update(String),
    /// The user says something to all.
    Say {
        /// The text, escaped.
        text: String,
        /// Whether it describes what the user does.
        third_person: bool,
    },
    /// A line for other users, with its `\n`.
    Relay {
        /// For whom.
        reach: Reach,
        /// The line.
        line: String,
    },
    /// Close the connection once everything is sent. Nothing follows.
    Close(Departure),
}

/// Whom a relayed line is for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Reach {
    /// Everybody, the sender included.
    All,
    /// Everybody with these features, the sender included: a selection like `+TCP4-NAT0`.
    Selected(String),
    /// One user.
    One(Sid),
    /// One user, and the sender.
    Echo(Sid),
}

/// Whether a client that announced `supported` is meant by a selection like `+TCP4-NAT0`.
#[must_use]
pub fn selects(selection: &str, supported: &str) -> bool {
    Features::new(selection).is_ok_and(|features| features.select(supported))
}

enum Phase {
    Protocol,
    AwaitSid {
        offer: String,
    },
    Identify {
        offer: String,
    },
    AwaitAccount(Box<Login>),
    Verify {
        login: Box<Login>,
        password: String,
        salt: Salt,
    },
    AwaitClaim,
    Normal {
        class: Class,
    },
    Closed,
}

/// One client's conversation.
pub struct Session {
    settings: Arc<Settings>,
    origin: Origin,
    phase: Phase,
    sid: Sid,
    errors: u32,
    buckets: flood::Buckets,
    out: Vec<Output>,
}

impl Session {
    /// A client that has connected and said nothing.
    #[must_use]
    pub fn new(settings: Arc<Settings>, origin: Origin) -> Self {
        Self {
            buckets: flood::Buckets::new(&settings.rates),
            settings,
            origin,
            phase: Phase::Protocol,
            sid: Sid::NOBODY,
            errors: 0,
            out: Vec::new(),
        }
    }

    /// Whether the driver has to answer before the session takes another line.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(
            self.phase,
            Phase::AwaitSid { .. } | Phase::AwaitAccount(_) | Phase::AwaitClaim
        )
    }

    /// Whether the client is let in.
    #[must_use]
    pub const fn is_normal(&self) -> bool {
        matches!(self.phase, Phase::Normal { .. })
    }

    /// Whether the session is over.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Its SID, once it has one.
    #[must_use]
    pub fn sid(&self) -> Option<Sid> {
        (self.sid != Sid::NOBODY).then_some(self.sid)
    }

    /// When [`Input::Deadline`] is due, since the connection was made.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        (!self.is_normal() && !self.is_closed()).then_some(self.settings.setup_max)
    }

    /// Takes one input, at a time since the connection was made, and says what to do, in order.
    pub fn handle(&mut self, now: Duration, input: Input<'_>) -> Vec<Output> {
        if self.is_closed() {
            return Vec::new();
        }
        match input {
            // Keep-alive.
            Input::Line([]) => {}
            Input::Line(line) => self.line(now, line),
            Input::LineTooLong => {
                self.send(Line::new("ISTA 140").arg("That line was too long, and was dropped"))
            }
            Input::Sid(sid) => self.identify(sid),
            Input::Account(account) => self.account(account),
            Input::Admitted(class) => self.admitted(class),
            Input::Refused(refusal) => self.refused(refusal),
            Input::Deadline => {
                if self.deadline().is_some_and(|deadline| deadline <= now) {
                    self.timed_out();
                }
            }
        }
        std::mem::take(&mut self.out)
    }

    fn send(&mut self, line: Line) {
        self.out.push(Output::Send(line.end()));
    }

    /// Ends the session with a status, and a QUI that says when to come back (-1: never).
    fn refuse(&mut self, status: Line, text: &str, retry_s: Option<i64>) {
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

    fn refuse_code(&mut self, code: u16, text: &str, retry_s: Option<i64>) {
        self.refuse(Line::new(&format!("ISTA {code}")).arg(text), text, retry_s);
    }

    fn close(&mut self, departure: Departure) {
        self.phase = Phase::Closed;
        self.out.push(Output::Close(departure));
    }

    fn timed_out(&mut self) {
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

    fn line(&mut self, now: Duration, line: &[u8]) {
        let is_setup = !self.is_normal();
        let Ok(message) = Message::parse(line) else {
            if matches!(self.phase, Phase::Protocol) {
                // HTTP, NMDC, TLS without a listener for it, garbage.
                self.close(Departure::Dropped {
                    reason: "not ADC".to_owned(),
                });
            } else if is_setup {
                self.setup_error(Line::new("ISTA 140").arg("That line is no ADC message"));
            }
            return;
        };
        match &self.phase {
            Phase::Protocol => self.greeted(&message),
            Phase::Identify { .. } => self.identified(&message),
            Phase::Verify { .. } => self.verified(&message),
            Phase::Normal { class } => {
                let class = *class;
                self.normal(now, class, &message);
            }
            Phase::AwaitSid { .. } | Phase::AwaitAccount(_) | Phase::AwaitClaim | Phase::Closed => {}
        }
    }

    fn setup_error(&mut self, status: Line) {
        self.errors += 1;
        if self.errors > SETUP_ERRORS_MAX {
            self.refuse_code(240, "Too many errors", None);
        } else {
            self.send(status);
        }
    }

    fn wrong_state(&mut self, message: &Message<'_>) {
        let status = Line::new("ISTA 144")
            .arg("This command is not for now")
            .named("FC", message.fourcc());
        self.setup_error(status);
    }

    /// PROTOCOL.
    fn greeted(&mut self, message: &Message<'_>) {
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

    fn identify(&mut self, sid: Sid) {
        let Phase::AwaitSid { offer } = &mut self.phase else {
            return;
        };
        let offer = std::mem::take(offer);
        self.sid = sid;
        self.phase = Phase::Identify { offer };
        self.send(Line::new("ISUP ADBASE ADTIGR"));
        self.send(Line::new("ISID").arg(&sid.to_string()));
        let settings = self.settings.clone();
        let info = Line::new("IINF CT32")
            .named("NI", &settings.name)
            .named("DE", &settings.description)
            .named("AP", "Quorate")
            .named("VE", env!("CARGO_PKG_VERSION"));
        self.send(info);
    }

    /// IDENTIFY.
    fn identified(&mut self, message: &Message<'_>) {
        if &message.command != b"INF" {
            self.wrong_state(message);
            return;
        }
        let Phase::Identify { offer } = &self.phase else {
            return;
        };
        match login::read(message, self.sid, self.origin, offer) {
            Ok(login) => {
                self.out.push(Output::LookUp {
                    nick: login.nick.clone(),
                });
                self.phase = Phase::AwaitAccount(Box::new(login));
            }
            Err(error) => {
                let text = error.text();
                self.refuse(error.status(), text, None);
            }
        }
    }

    fn account(&mut self, account: Option<(String, Salt)>) {
        let Phase::AwaitAccount(login) = std::mem::replace(&mut self.phase, Phase::Closed) else {
            return;
        };
        if let Some((password, salt)) = account {
            self.send(Line::new("IGPA").arg(&BASE32_NOPAD.encode(&salt)));
            self.phase = Phase::Verify {
                login,
                password,
                salt,
            };
            return;
        }
        if let Err(text) = login.within(&self.settings) {
            self.refuse_code(220, &text, None);
            return;
        }
        self.claim(login);
    }

    fn claim(&mut self, login: Box<Login>) {
        self.phase = Phase::AwaitClaim;
        self.out.push(Output::Claim(login));
    }

    /// VERIFY.
    fn verified(&mut self, message: &Message<'_>) {
        if message.header != Header::Hub || &message.command != b"PAS" {
            self.wrong_state(message);
            return;
        }
        let Phase::Verify {
            login,
            password,
            salt,
        } = std::mem::replace(&mut self.phase, Phase::Closed)
        else {
            return;
        };
        let expected = password_answer(&password, &salt);
        let answer = message.params().next().unwrap_or_default();
        if bool::from(answer.as_bytes().ct_eq(expected.as_bytes())) {
            self.claim(Box::new(Login {
                knows_password: true,
                ..*login
            }));
        } else {
            self.refuse_code(223, "Wrong password", None);
        }
    }

    fn admitted(&mut self, class: Class) {
        if !matches!(self.phase, Phase::AwaitClaim) {
            return;
        }
        self.phase = Phase::Normal { class };
        let settings = self.settings.clone();
        for line in settings.motd.lines() {
            self.send(Line::new("IMSG").arg(line));
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        if !matches!(self.phase, Phase::AwaitClaim) {
            return;
        }
        match refusal {
            Refusal::Full => self.refuse_code(211, "The hub is full", Some(FULL_RETRY_S)),
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
                let (code, retry) = match left_s {
                    None => (231, -1),
                    Some(left) => (232, i64::try_from(left).unwrap_or(i64::MAX)),
                };
                let text = format!("You are banned: {reason}");
                let status = Line::new(&format!("ISTA {code}")).arg(&text);
                let status = if code == 232 {
                    status.named("TL", retry)
                } else {
                    status
                };
                self.refuse(status, &text, Some(retry));
            }
        }
    }
}
