//! What connections want: SIDs, accounts, places, lines for others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::events::{ToHub, ToWorker};
use super::duties::unix_ms;
use super::{Client, Hub};
use crate::message::{Salt, Sid, fields, without_tags};
use crate::peer::Relayed;
use crate::session::{Census, Login, Reach};
use crate::state::{AdcState, Claim, Class, Departure, Event, LinkId, Refusal, User, folded};

/// How long a client waits whose place belongs to a front that may be gone.
const SUSPECT_MAX: Duration = Duration::from_secs(6);
/// How often its claim is ordered again meanwhile.
const AGAIN: Duration = Duration::from_millis(150);

impl Hub {
    pub(super) fn hear(&mut self, batch: Vec<ToHub>) {
        for one in batch {
            match one {
                ToHub::NeedSid { link, offer, address } => self.need_sid(link, &offer, address),
                ToHub::LookUp { link, nick } => self.look_up(link, &nick),
                ToHub::Claim { link, login } => self.claim(link, *login),
                ToHub::Event(event) => self.event(event),
                ToHub::Command { link, text } => self.command(link, &text),
                ToHub::Relay { link, reach, line } => self.relay(link, reach, line),
                ToHub::Prove { link, proof } => self.proves(link, proof),
                ToHub::Ended { link, departure } => self.ended(link, departure),
            }
        }
    }

    /// A user did something that everybody is told, unless it is muted: then it is told so, and nobody else anything.
    fn event(&mut self, event: Event) {
        let muted = match &event {
            Event::Say { sid, .. } => self.replica.local(|state| {
                let user = state.user(*sid)?;
                let until = state.mute(&user.folded_nick)?.until_unix_ms;
                Some((
                    *sid,
                    until.map(|until| until.saturating_sub(unix_ms()).div_ceil(1000)),
                ))
            }),
            _ => None,
        };
        match muted {
            None => self.conveyor.put(event),
            Some((sid, None)) => self.say_to(sid, "You are muted: nobody was told what you said"),
            Some((sid, Some(left_s))) => {
                let text = format!("You are muted for {left_s} seconds more: nobody was told what you said");
                self.say_to(sid, &text);
            }
        }
    }

    fn need_sid(&mut self, link: LinkId, offer: &str, address: IpAddr) {
        let guess = self
            .replica
            .local(|state| self.orphans.guess(state, address, offer));
        let is_pinger = offer.split(' ').any(|feature| feature == "PING");
        match guess.or_else(|| self.take_sid()) {
            Some(sid) => {
                let census = is_pinger.then(|| self.census());
                self.order(link, ToWorker::Sid { link, sid, census });
            }
            None => {
                self.waiting_for_sid.push_back(link);
                self.borrow();
            }
        }
    }

    fn census(&self) -> Census {
        let mut census = Census {
            users: self.roster.len() as u64,
            uptime_s: self.started.elapsed().as_secs(),
            ..Census::default()
        };
        for (_, entry) in self.roster.iter() {
            // Junk counts as nothing.
            let number = |name: &str| {
                let field = fields(&entry.inf).find_map(|field| field.strip_prefix(name));
                field.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
            };
            census.share_bytes = census.share_bytes.saturating_add(number("SS"));
            census.files = census.files.saturating_add(number("SF"));
        }
        census
    }

    /// SIDs were lent: serves those who wait for one.
    pub(super) fn serve_waiting(&mut self) {
        while let Some(link) = self.waiting_for_sid.pop_front() {
            match self.take_sid() {
                Some(sid) => {
                    let census = None;
                    self.order(link, ToWorker::Sid { link, sid, census });
                }
                None => {
                    self.waiting_for_sid.push_front(link);
                    return;
                }
            }
        }
    }

    fn look_up(&mut self, link: LinkId, nick: &str) {
        let key = folded(nick, &self.limits);
        let sealed = self
            .replica
            .local(|state| state.account(&key).map(|account| account.password.clone()));
        let account: Option<(String, Salt)> = sealed.map(|sealed| {
            let opened = self
                .vault
                .as_ref()
                .and_then(|vault| vault.open(&key, &sealed).ok());
            // A password that nobody can open is one that nobody knows.
            let password = opened.unwrap_or_else(|| {
                tracing::warn!("a password does not open: is passwordKeyFile the same on every member?");
                random_text()
            });
            (password, rand::random())
        });
        self.order(link, ToWorker::Account { link, account });
    }

    fn claim(&mut self, link: LinkId, login: Login) {
        if let (Some(features), true) = (login.second, self.settings.hybrid.is_some()) {
            self.seconds.announced(link, login.address, features);
        }
        let claim = Claim {
            link,
            sid: login.sid,
            cid: login.cid,
            nick: login.nick,
            inf: login.inf,
            address: login.address,
            offer: login.offer,
            knows_password: login.knows_password,
        };
        let client = Client::Claiming {
            claim: Box::new(claim),
            since: Instant::now(),
            again_at: None,
            is_gone: false,
        };
        self.clients.insert(link, client);
        self.order_claim(link);
    }

    /// Orders a claim under the SID that suits it now.
    fn order_claim(&mut self, link: LinkId) {
        let Some(Client::Claiming { claim, again_at, .. }) = self.clients.get_mut(&link) else {
            return;
        };
        *again_at = None;
        let mut claim = claim.clone();
        let (own, is_others) = self.replica.local(|state| {
            let own = state.user_by_cid(&claim.cid);
            let holder = state.user(claim.sid);
            (
                own.filter(|user| user.orphan_until().is_some())
                    .map(|user| user.sid),
                holder.is_some_and(|holder| holder.cid != claim.cid),
            )
        });
        match own {
            Some(sid) => claim.sid = sid,
            // It was guessed who this is, and it is somebody else.
            None if is_others => match self.take_sid() {
                Some(sid) => claim.sid = sid,
                None => return self.refuse(link, Refusal::SidTaken),
            },
            None => {}
        }
        self.conveyor.put(Event::Claim(claim));
    }

    fn refuse(&mut self, link: LinkId, refusal: Refusal) {
        self.clients.remove(&link);
        self.counters.refused(&refusal);
        self.order(link, ToWorker::Refused { link, refusal });
    }

    /// The directory refuses a claim.
    pub(super) fn refused(&mut self, link: LinkId, refusal: Refusal) {
        match self.clients.get(&link) {
            Some(Client::User { sid }) => {
                // It was claimed again, and its owner was quicker at another member.
                let sid = *sid;
                self.cut(link, sid);
            }
            Some(Client::Claiming { is_gone: true, .. }) => {
                self.clients.remove(&link);
            }
            Some(Client::Claiming { claim, since, .. }) => {
                let holder = self.replica.local(|state| {
                    let holder = state.user_by_cid(&claim.cid);
                    holder.and_then(|holder| holder.home.front())
                });
                let may_change = refusal == Refusal::CidTaken
                    && since.elapsed() < SUSPECT_MAX
                    && holder.is_none_or(|front| front != self.me && !self.duties.is_surely_there(front));
                if !may_change {
                    self.refuse(link, refusal);
                } else if let Some(Client::Claiming { again_at, .. }) = self.clients.get_mut(&link) {
                    *again_at = Some(Instant::now() + AGAIN);
                }
            }
            None => {}
        }
    }

    pub(super) fn claim_again(&mut self) {
        let now = Instant::now();
        let is_due =
            |client: &Client| matches!(client, Client::Claiming { again_at: Some(at), .. } if *at <= now);
        let due: Vec<LinkId> = self
            .clients
            .iter()
            .filter(|(_, client)| is_due(client))
            .map(|(link, _)| *link)
            .collect();
        for link in due {
            self.order_claim(link);
        }
    }

    fn ended(&mut self, link: LinkId, departure: Departure) {
        match self.clients.get_mut(&link) {
            Some(Client::User { sid }) => {
                let sid = *sid;
                self.clients.remove(&link);
                self.conveyor.put(Event::Leave { sid, departure });
            }
            Some(Client::Claiming {
                is_gone, again_at, ..
            }) => {
                *is_gone = true;
                if again_at.is_some() {
                    self.clients.remove(&link);
                }
            }
            None => {}
        }
    }

    /// Closes a user's connection whose place is another's by now.
    fn cut(&mut self, link: LinkId, sid: Sid) {
        self.clients.remove(&link);
        self.seal();
        let lines = super::super::words::last_words(sid, "", &Departure::Moved, None, 0).into();
        self.order(link, ToWorker::Close { link, lines });
    }

    fn relay(&mut self, link: LinkId, reach: Reach, line: String) {
        if !matches!(self.clients.get(&link), Some(Client::User { .. })) {
            return;
        }
        let relayed = match &reach {
            Reach::All | Reach::Selected(_) => {
                let relayed = Relayed { reach, line };
                self.relays.put_to_all(&relayed);
                self.deliver(relayed);
                return;
            }
            Reach::Echo(to) => {
                let lines = Bytes::from(line.clone());
                self.order(link, ToWorker::One { link, lines });
                Relayed {
                    reach: Reach::One(*to),
                    line,
                }
            }
            Reach::One(_) => Relayed { reach, line },
        };
        self.deliver(relayed);
    }

    /// Delivers a line to the users of this member that it is for, or hands it to the member whose user it is for.
    pub(super) fn deliver(&mut self, relayed: Relayed) {
        match relayed.reach {
            Reach::All => self.all(relayed.line.as_bytes()),
            Reach::Selected(features) => {
                self.seal();
                let line = Bytes::from(relayed.line);
                for worker in &mut self.workers {
                    worker.outbox.push(ToWorker::Selected {
                        features: features.clone(),
                        line: line.clone(),
                    });
                }
            }
            Reach::One(to) | Reach::Echo(to) => match self.link_of(to) {
                Some(link) => {
                    self.seal();
                    let lines = Bytes::from(relayed.line);
                    self.order(link, ToWorker::One { link, lines });
                }
                None => self.hand_over(to, relayed.line),
            },
        }
    }

    /// Hands a line to the member whose user it is for; a user that is away gets nothing.
    fn hand_over(&mut self, to: Sid, line: String) {
        let home = self.roster.get(to).and_then(|entry| entry.home);
        if let Some((front, _)) = home.filter(|(front, _)| *front != self.me) {
            let reach = Reach::One(to);
            self.relays.put(front, Relayed { reach, line });
        }
    }

    /// Delivers the lines of peers whose senders are known here.
    pub(super) fn deliver_held(&mut self) {
        let cursor = self.cursor;
        let (ready, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|incoming| incoming.seen <= cursor);
        self.held = held;
        for mut incoming in ready {
            let (lines, next) = self.relays.new_lines(&mut incoming);
            for line in lines {
                self.deliver_here(line);
            }
            // Fails when the peer has given up asking; it asks again.
            incoming.done.send(next).ok();
        }
    }

    /// Delivers a line that came from a peer: never on to another one.
    fn deliver_here(&mut self, relayed: Relayed) {
        match &relayed.reach {
            Reach::One(to) | Reach::Echo(to) if self.link_of(*to).is_none() => {}
            _ => self.deliver(relayed),
        }
    }

    /// The claims that take this member's users back after its front was given up.
    pub(super) fn claims_of_users(&mut self) -> Vec<Event> {
        let users: Vec<(LinkId, Sid)> = self
            .clients
            .iter()
            .filter_map(|(link, client)| match client {
                Client::User { sid } => Some((*link, *sid)),
                Client::Claiming { .. } => None,
            })
            .collect();
        let mut claims = Vec::new();
        for (link, sid) in users {
            match self.replica.local(|state| state.user(sid).map(claim_of)) {
                Some(claim) => claims.push(Event::Claim(Box::new(Claim { link, ..claim }))),
                None => self.cut(link, sid),
            }
        }
        claims
    }
}

fn claim_of(user: &User) -> Claim {
    Claim {
        link: 0,
        sid: user.sid,
        cid: user.cid,
        nick: user.nick.to_string(),
        // The class is the directory's to add.
        inf: without_tags(&user.inf, |tag| tag == b"CT"),
        address: user.address,
        offer: user.offer.clone(),
        knows_password: user.class > Class::Guest,
    }
}

fn random_text() -> String {
    let bytes: [u8; 24] = rand::random();
    data_encoding::BASE32_NOPAD.encode(&bytes)
}

/// Guesses who connects, so that it is given its own SID back before it says who it is.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    built: Option<Instant>,
    by_origin: BTreeMap<(IpAddr, String), Vec<Sid>>,
}

impl Orphans {
    /// How long the index is used. Fronts that are lost meanwhile are found a moment later.
    const AGE_MAX: Duration = Duration::from_millis(100);

    /// The SID of the only orphan with that address and those features; each is promised once.
    fn guess(&mut self, state: &AdcState, address: IpAddr, offer: &str) -> Option<Sid> {
        if state.orphans() == 0 {
            return None;
        }
        if self.built.is_none_or(|built| built.elapsed() > Self::AGE_MAX) {
            self.built = Some(Instant::now());
            self.by_origin.clear();
            for user in state.users().filter(|user| user.orphan_until().is_some()) {
                let origin = (user.address, user.offer.clone());
                self.by_origin.entry(origin).or_default().push(user.sid);
            }
        }
        let fitting = self.by_origin.get_mut(&(address, offer.to_owned()))?;
        match fitting[..] {
            [sid] => {
                fitting.clear();
                Some(sid)
            }
            _ => None,
        }
    }
}
