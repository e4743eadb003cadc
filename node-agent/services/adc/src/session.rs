//! One client's conversation, from its first line to its end: a state machine. Pure.
//!
//! ```text
//! PROTOCOL --HSUP--> (a SID is asked for) --> IDENTIFY --BINF--> (the account is looked up)
//!     --> VERIFY --HPAS--> (the claim is ordered) --> NORMAL        ADC 1.0.3, "State management"
//!     '------ no account ------^
//! ```
//! In brackets the session waits for its driver, and takes no lines: see [`Session::is_waiting`]. A session that ends
//! says so with [`Output::Close`], last.

pub mod bot;
mod flood;
mod greeting;
mod hybrid;
mod login;
mod normal;
mod refusal;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;

use crate::message::{Features, Header, Line, Message, Redirects, Salt, Sid, password_answer};
use crate::state::{Class, Departure, Refusal};

pub use flood::{Bucket, Rate, Rates};
pub use hybrid::{Hybrid, Unproved};
pub use login::Login;

/// Bad lines that a client may send before it is let in.
const SETUP_ERRORS_MAX: u32 = 8;
/// What all sessions of a hub have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub's name.
    pub name: String,
    /// What the hub says of itself.
    pub description: String,
    /// Sent to each who comes in, line by line.
    pub motd: String,
    /// What `+rules` answers, line by line.
    pub rules: String,
    /// Users may register their own nick.
    pub self_registration: bool,
    /// Where a client is sent when the hub is full; several addresses, of which it may choose, are separated by commas.
    pub redirect_when_full: Option<String>,
    /// Users that the hub takes, as pingers are told.
    pub users_max: u32,
    /// What else pingers are told.
    pub about: About,
    /// Where clients with two addresses prove the second one; nobody may, without.
    pub hybrid: Option<Hybrid>,
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

/// What pingers are told of a hub (ADC-EXT, PING); what is empty is left out.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Where clients find it.
    pub address: String,
    /// Its website.
    pub website: String,
    /// Its network.
    pub network: String,
    /// Its owner.
    pub owner: String,
}

/// How large a hub is, for pingers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Census {
    /// Its users.
    pub users: u64,
    /// What they share.
    pub share_bytes: u64,
    /// How many files these are.
    pub files: u64,
    /// For how many seconds this member runs.
    pub uptime_s: u64,
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
    /// The answer to [`Output::NeedSid`] of a client that offered `PING`.
    SidForPinger(Sid, Census),
    /// The answer to [`Output::LookUp`]: the password, if the nick is registered, and a fresh challenge.
    Account(Option<(String, Salt)>),
    /// The answer to [`Output::Claim`].
    Admitted(Class),
    /// The answer to [`Output::Claim`].
    Refused(Refusal),
    /// The answer to [`Output::Prove`].
    Proved(Result<(), Unproved>),
    /// The user has addresses of both families: it proved the second one.
    Hybrid,
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
    /// The connection proves an address; answered by [`Input::Proved`].
    Prove {
        /// What the user was given to say.
        token: String,
        /// Where it takes datagrams at this address.
        udp_port: Option<u16>,
    },
    /// The user changes its `INF`: fields, escaped.
    Update(String),
    /// The user says something to all.
    Say {
        /// The text, escaped.
        text: String,
        /// Whether it describes what the user does.
        third_person: bool,
    },
    /// The user wants something of the hub: see [`bot`].
    Command(String),
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

/// Whether a client that announced these features is meant by a selection like `+TCP4-NAT0`.
#[must_use]
pub fn selects_among(selection: &str, supported: &[[u8; 4]]) -> bool {
    Features::new(selection).is_ok_and(|features| features.select_among(supported))
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
    AwaitProof,
    Closed,
}

/// One client's conversation.
pub struct Session {
    settings: Arc<Settings>,
    origin: Origin,
    phase: Phase,
    sid: Sid,
    errors: u32,
    /// Whether the client shows the commands that a hub offers (ADC-EXT, UCMD).
    has_menus: bool,
    /// Where the client can be sent (ADC-EXT, RDEX).
    redirects: Redirects,
    is_hybrid: bool,
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
            has_menus: false,
            redirects: Redirects::of(""),
            is_hybrid: false,
            out: Vec::new(),
        }
    }

    /// Whether the driver has to answer before the session takes another line.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(
            self.phase,
            Phase::AwaitSid { .. } | Phase::AwaitAccount(_) | Phase::AwaitClaim | Phase::AwaitProof
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

    /// A load balancer said where the client really connects from, before the client said anything.
    pub const fn set_address(&mut self, address: IpAddr) {
        self.origin.address = address;
    }

    /// Where it connects from.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.origin.address
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
            Input::Sid(sid) => self.identify(sid, None),
            Input::SidForPinger(sid, census) => self.identify(sid, Some(census)),
            Input::Account(account) => self.account(account),
            Input::Admitted(class) => self.admitted(class),
            Input::Refused(refusal) => self.refused(refusal),
            Input::Proved(result) => self.proved(result),
            Input::Hybrid => self.is_hybrid = true,
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

    fn close(&mut self, departure: Departure) {
        self.phase = Phase::Closed;
        self.out.push(Output::Close(departure));
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
            Phase::AwaitSid { .. }
            | Phase::AwaitAccount(_)
            | Phase::AwaitClaim
            | Phase::AwaitProof
            | Phase::Closed => {}
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
                self.redirects = Redirects::of(&login.inf);
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
        if self.has_menus && class >= Class::Operator {
            bot::menus().into_iter().for_each(|menu| self.send(menu));
        }
    }
}
