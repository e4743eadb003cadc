//! What the client makes of each line. No I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::super::Identity;
use super::super::identity::password_answer;
use super::super::line::{Line, escape, unescape};
use super::AirOptions;

/// How many of the last lines are kept.
const LINES_KEPT: usize = 20_000;

/// How many of them a failure shows.
const LINES_SHOWN: usize = 30;

/// The time over which AirDC++ counts what one user sends.
const FLOOD_PERIOD: Duration = Duration::from_secs(60);

/// Searches of one user in that time after which it leaves the hub.
const SEARCHES_MAX: usize = 60;

/// Requests for connections of one user in that time after which it leaves the hub.
const CONNECTS_MAX: usize = 40;

/// A file that the client shares. Nobody can download it: the client only answers searches.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The root of its hash tree, in base32.
    pub root: String,
}

/// A user as the hub shows it: the fields of its INF, escaped as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Its SID.
    pub sid: String,
    /// Its fields by their names.
    pub fields: BTreeMap<String, String>,
}

impl User {
    /// The value of a field; empty when it is not set.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// Its nick.
    #[must_use]
    pub fn nick(&self) -> String {
        unescape(self.field("NI"))
    }
}

/// What the client has to do after a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Send this line.
    Send(String),
    /// Send this line to the UDP address.
    Datagram(String, String),
    /// Stay away: the hub asked it, or it had enough.
    Leave,
}

/// When it comes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Back {
    /// After its own delay.
    #[default]
    Later,
    /// After so many seconds, as the hub demands, once.
    After(u64),
    /// Never.
    Never,
}

/// What the client knows.
#[derive(Debug, Default)]
pub struct View {
    options: Option<AirOptions>,
    identity: Option<Identity>,
    /// Its SID in this session.
    pub sid: Option<String>,
    normal: bool,
    /// Everybody it sees, by SID.
    pub users: BTreeMap<String, User>,
    /// Whom it saw when its own INF came: those who were there before it.
    pub at_login: BTreeSet<String>,
    /// How often it has logged in.
    pub logins: usize,
    /// How often its connection ended.
    pub losses: usize,
    /// The SIDs it had, in order.
    pub sids: Vec<String>,
    /// What the hub did that AirDC++ does not forgive.
    pub violations: Vec<String>,
    /// Nicks that left since it is here, and that joined, in order: `-nick`, `+nick`.
    pub moves: Vec<String>,
    lines: VecDeque<String>,
    recent: BTreeMap<(String, &'static str), VecDeque<Instant>>,
    pub(super) back: Back,
    pub(super) udp_port: Option<u16>,
}

impl View {
    pub(super) fn new(options: &AirOptions, identity: Identity) -> Self {
        Self {
            options: Some(options.clone()),
            identity: Some(identity),
            ..Self::default()
        }
    }

    /// Whether it is logged in: it has seen its own INF.
    #[must_use]
    pub const fn is_normal(&self) -> bool {
        self.normal
    }

    /// The user of that nick.
    #[must_use]
    pub fn user(&self, nick: &str) -> Option<&User> {
        self.users.values().find(|user| user.nick() == nick)
    }

    /// The nicks of everybody.
    #[must_use]
    pub fn nicks(&self) -> BTreeSet<String> {
        self.users.values().map(User::nick).collect()
    }

    /// Whether a line that it received holds this text, escaped.
    #[must_use]
    pub fn heard(&self, escaped: &str) -> bool {
        self.count(escaped) > 0
    }

    /// How many lines that it received hold this text, escaped.
    #[must_use]
    pub fn count(&self, escaped: &str) -> usize {
        let received = self.lines.iter().filter(|line| line.starts_with("< "));
        received.filter(|line| line.contains(escaped)).count()
    }

    /// The last lines, sent (`>`) and received (`<`).
    #[must_use]
    pub fn last_lines(&self) -> Vec<&str> {
        let skipped = self.lines.len().saturating_sub(LINES_SHOWN);
        self.lines.iter().skip(skipped).map(String::as_str).collect()
    }

    pub(super) fn connected(&mut self) -> String {
        self.users.clear();
        self.normal = false;
        self.sid = None;
        self.back = Back::Later;
        // Compression and filters are offered by AirDC++, and not understood by this client: it does not offer them.
        "HSUP ADBAS0 ADBASE ADTIGR ADUCM0".to_owned()
    }

    pub(super) fn lost(&mut self) {
        self.note("! the connection ended".to_owned());
        self.losses += 1;
        self.normal = false;
        self.sid = None;
    }

    pub(super) fn sent(&mut self, line: &str) {
        self.note(format!("> {line}"));
    }

    pub(super) fn received(&mut self, line: &str, now: Instant) -> Vec<Reaction> {
        self.note(format!("< {line}"));
        let parsed = Line::new(line);
        let command = parsed.fourcc.get(1..).unwrap_or_default();
        match parsed.fourcc {
            "ISID" => return self.identify(parsed.param(0)),
            "IGPA" => return self.prove(parsed.param(0)),
            "IQUI" => self.quit(parsed),
            _ if command == "INF" => self.inf(parsed),
            "ISUP" | "ISTA" | "IMSG" | "ICMD" | "" => {}
            _ => return self.relayed(parsed, command, now),
        }
        Vec::new()
    }

    fn identify(&mut self, sid: &str) -> Vec<Reaction> {
        self.sid = Some(sid.to_owned());
        self.sids.push(sid.to_owned());
        let (Some(options), Some(identity)) = (&self.options, &self.identity) else {
            return Vec::new();
        };
        let nick = escape(&options.nick);
        let files = options.shares.len();
        let size: u64 = options.shares.iter().map(|file| file.size).sum();
        let (features, port) = match self.udp_port {
            Some(port) => ("SEGA,ADC0,ASCH,SUD1,TCP4,UDP4", format!(" U4{port}")),
            None => ("SEGA,ADC0,ASCH,SUD1,NAT0", String::new()),
        };
        vec![Reaction::Send(format!(
            "BINF {sid} ID{} PD{} NI{nick} SL5 FS5 SS{size} SF{files} HN1 HR0 HO0 APAirDC++w VE2.13.3 LCen US1310720 \
             DS1310720 SU{features} I40.0.0.0{port}",
            identity.cid, identity.pid
        ))]
    }

    fn prove(&self, challenge: &str) -> Vec<Reaction> {
        let password = self
            .options
            .as_ref()
            .and_then(|options| options.password.as_deref());
        match password_answer(password.unwrap_or_default(), challenge) {
            Some(answer) => vec![Reaction::Send(format!("HPAS {answer}"))],
            None => vec![Reaction::Leave],
        }
    }

    fn inf(&mut self, line: Line<'_>) {
        if line.fourcc == "IINF" {
            return;
        }
        let sid = line.param(0).to_owned();
        let is_new = !self.users.contains_key(&sid);
        let mut user = self.users.get(&sid).cloned().unwrap_or_default();
        user.sid.clone_from(&sid);
        for field in line.rest.split(' ').skip(1) {
            let Some((name, value)) = field.split_at_checked(2) else {
                continue;
            };
            if name == "PD" {
                self.violations.push(format!("a PID was shown: {}", line.rest));
            }
            if name == "ID" && user.fields.get("ID").is_some_and(|known| known != value) {
                self.violations
                    .push(format!("{sid} became another user without a QUI"));
            }
            if value.is_empty() {
                user.fields.remove(name);
            } else {
                user.fields.insert(name.to_owned(), value.to_owned());
            }
        }
        if is_new {
            let twin = self
                .users
                .values()
                .find(|other| other.field("ID") == user.field("ID"));
            if let Some(twin) = twin {
                self.violations
                    .push(format!("{sid} and {} have one CID", twin.sid));
            }
            if self.normal {
                self.moves.push(format!("+{}", user.nick()));
            }
        }
        self.users.insert(sid.clone(), user);
        if self.sid.as_ref() == Some(&sid) && !self.normal {
            self.normal = true;
            self.logins += 1;
            self.at_login = self.nicks();
        }
    }

    fn quit(&mut self, line: Line<'_>) {
        let sid = line.param(0);
        if self.sid.as_deref() == Some(sid) {
            self.back = match line.named(1, "TL") {
                Some("-1") => Back::Never,
                Some(seconds) => seconds.parse().map_or(Back::Later, Back::After),
                None => Back::Later,
            };
        } else if let Some(user) = self.users.remove(sid) {
            self.moves.push(format!("-{}", user.nick()));
        } else {
            self.violations.push(format!("{sid} left, and was never here"));
        }
    }

    /// A message of another user: what is for somebody else, or from nobody, is the hub's fault.
    fn relayed(&mut self, line: Line<'_>, command: &str, now: Instant) -> Vec<Reaction> {
        let from = line.param(0).to_owned();
        let own = self.sid.clone().unwrap_or_default();
        let is_direct = line.fourcc.starts_with(['D', 'E']);
        if is_direct && line.param(1) != own && from != own {
            self.violations
                .push(format!("{} {} is for another", line.fourcc, line.rest));
        }
        if !self.users.contains_key(&from) {
            self.violations
                .push(format!("{} {} is from nobody", line.fourcc, line.rest));
        }
        let limit = match command {
            "SCH" => Some(("SCH", SEARCHES_MAX)),
            "CTM" | "RCM" => Some(("CTM", CONNECTS_MAX)),
            _ => None,
        };
        if let Some((counted, max)) = limit
            && self.is_flood(&from, counted, max, now)
        {
            self.violations.push(format!(
                "{from} floods with {counted}: the client leaves for ten minutes"
            ));
            self.back = Back::Never;
            return vec![Reaction::Leave];
        }
        if command == "SCH" && from != own {
            return self.answer(line, &from, &own);
        }
        Vec::new()
    }

    fn is_flood(&mut self, from: &str, counted: &'static str, max: usize, now: Instant) -> bool {
        let times = self.recent.entry((from.to_owned(), counted)).or_default();
        while times
            .front()
            .is_some_and(|first| now.duration_since(*first) > FLOOD_PERIOD)
        {
            times.pop_front();
        }
        times.push_back(now);
        times.len() > max
    }

    /// Answers a search over UDP when the other can be reached, and through the hub otherwise.
    fn answer(&self, line: Line<'_>, from: &str, own: &str) -> Vec<Reaction> {
        let (Some(options), Some(asking)) = (&self.options, self.users.get(from)) else {
            return Vec::new();
        };
        let words: Vec<String> = line
            .rest
            .split(' ')
            .filter_map(|param| param.strip_prefix("AN"))
            .map(unescape)
            .collect();
        let token = line.named(1, "TO").unwrap_or_default();
        let matches = |file: &&Shared| !words.is_empty() && words.iter().all(|word| file.name.contains(word));
        let reply = |file: &Shared| {
            let what = format!(
                "FN/pubair/{} SI{} SL5 TO{token} TR{}",
                escape(&file.name),
                file.size,
                file.root
            );
            let is_active = asking.field("SU").contains("UDP4") && !asking.field("U4").is_empty();
            if !is_active {
                return Reaction::Send(format!("DRES {own} {from} {what}"));
            }
            let cid = self.identity.as_ref().map_or("", |identity| &identity.cid);
            let address = format!("{}:{}", asking.field("I4"), asking.field("U4"));
            Reaction::Datagram(format!("URES {cid} {what}"), address)
        };
        options.shares.iter().filter(matches).map(reply).collect()
    }

    pub(super) fn note(&mut self, line: String) {
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests;
