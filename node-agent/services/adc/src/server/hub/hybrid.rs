//! Second addresses that users of this member prove (HBRI: see [`crate::session::Hybrid`]). The further connection may come
//! to any member, which asks the one that the user is at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use replication::NodeId;
use subtle::ConstantTimeEq as _;
use tiger::{Digest as _, Tiger};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::super::events::ToWorker;
use super::super::link::Link;
use super::super::roster;
use super::duties::unix_ms;
use super::{Client, Hub};
use crate::message::Sid;
use crate::peer::Proof;
use crate::session::Unproved;
use crate::state::{Event, LinkId};

/// How long a user may take. AirDC++ gives up after 20 s.
const PROOF_MAX: Duration = Duration::from_secs(60);
/// Questions to other members that are under way; what comes beyond is not proved.
const ASKED_MAX: usize = 64;

/// How long a token of a user that is not known here may wait: this member may not have heard yet of one that has just been
/// let in elsewhere.
const EARLY_MAX: Duration = Duration::from_secs(1);
/// Such tokens that wait; what comes beyond is not proved.
const EARLY_COUNT_MAX: usize = 64;

/// What came of a connection that proves an address at this member.
pub(super) type Proved = (LinkId, Result<(), Unproved>);

/// Users that may prove a second address.
pub(super) struct Seconds {
    link: Arc<Link>,
    /// Known to nobody else, for this run.
    secret: [u8; 32],
    waiting: BTreeMap<LinkId, Waiting>,
    asked: usize,
    early: Vec<Early>,
    proved: mpsc::Sender<Proved>,
    tasks: TaskTracker,
}

/// A connection with the token of a user that is not known here.
#[derive(Debug)]
struct Early {
    link: LinkId,
    proof: Proof,
    until: Instant,
}

#[derive(Debug)]
struct Waiting {
    /// Where the user came from first.
    first: IpAddr,
    /// The features that come with its second address, as in `SU`.
    features: String,
    since: Instant,
}

impl Seconds {
    pub(super) fn new(link: Arc<Link>, tasks: TaskTracker) -> (Self, mpsc::Receiver<Proved>) {
        let (proved, results) = mpsc::channel(ASKED_MAX);
        let seconds = Self {
            link,
            secret: rand::random(),
            waiting: BTreeMap::new(),
            asked: 0,
            early: Vec::new(),
            proved,
            tasks,
        };
        (seconds, results)
    }

    /// What a user has to say on its further connection: its SID, and what only this member can know of it.
    fn token(&self, sid: Sid, link: LinkId) -> String {
        // All parts have a fixed length.
        let mac = Tiger::new()
            .chain_update(self.secret)
            .chain_update(sid.text())
            .chain_update(link.to_be_bytes())
            .chain_update(self.secret)
            .finalize();
        format!("{sid}{}", BASE32_NOPAD.encode(&mac))
    }

    /// A client of this member has a second address, which it may prove once it is let in.
    pub(super) fn announced(&mut self, link: LinkId, first: IpAddr, features: String) {
        let waiting = Waiting {
            first,
            features,
            since: Instant::now(),
        };
        self.waiting.insert(link, waiting);
    }

    /// What a user that is let in is asked for: where it came from first, and its token.
    pub(super) fn request(&self, sid: Sid, link: LinkId) -> Option<(IpAddr, String)> {
        let waiting = self.waiting.get(&link)?;
        Some((waiting.first, self.token(sid, link)))
    }

    /// Forgets those who took too long, and those who are gone.
    pub(super) fn tidy(&mut self, is_here: impl Fn(LinkId) -> bool) {
        self.waiting
            .retain(|link, waiting| waiting.since.elapsed() < PROOF_MAX && is_here(*link));
    }
}

/// The user that a token names.
fn named(token: &str) -> Option<Sid> {
    token.get(..4)?.parse().ok()
}

impl Hub {
    /// A connection of this member proves an address.
    pub(super) fn proves(&mut self, link: LinkId, proof: Proof) {
        let until = Instant::now() + EARLY_MAX;
        self.proves_until(Early { link, proof, until });
    }

    /// Looks again at the tokens that came before their users were known.
    pub(super) fn prove_early(&mut self) {
        for early in std::mem::take(&mut self.seconds.early) {
            self.proves_until(early);
        }
    }

    fn proves_until(&mut self, early: Early) {
        let sid = named(&early.proof.token);
        let home = sid.and_then(|sid| self.roster.get(sid)?.home);
        let may_wait = early.until > Instant::now() && self.seconds.early.len() < EARLY_COUNT_MAX;
        let Early { link, proof, .. } = early;
        match home {
            Some((front, _)) if front == self.me => {
                let result = self.prove(&proof);
                self.order(link, ToWorker::Proved { link, result });
            }
            Some((front, _)) if self.seconds.asked < ASKED_MAX => self.ask_for_proof(front, link, proof),
            None if sid.is_some() && may_wait => self.seconds.early.push(Early { proof, ..early }),
            _ => {
                let result = Err(Unproved::Unknown);
                self.order(link, ToWorker::Proved { link, result });
            }
        }
    }

    fn ask_for_proof(&mut self, front: NodeId, link: LinkId, proof: Proof) {
        self.seconds.asked += 1;
        let (way, proved) = (self.seconds.link.clone(), self.seconds.proved.clone());
        self.seconds.tasks.spawn(async move {
            let result = way.prove(front, proof).await;
            // Fails when the service has ended.
            proved.send((link, result)).await.ok();
        });
    }

    /// Another member said what it takes an address for.
    pub(super) fn proved(&mut self, (link, result): Proved) {
        self.seconds.asked -= 1;
        self.order(link, ToWorker::Proved { link, result });
    }

    /// Tells everybody of the second address of a user of this member, if it is proved; when it is banned, the directory
    /// puts the user out. Once.
    pub(super) fn prove(&mut self, proof: &Proof) -> Result<(), Unproved> {
        let Some((sid, link)) = named(&proof.token).and_then(|sid| Some((sid, self.link_of(sid)?))) else {
            return Err(Unproved::Unknown);
        };
        let token = self.seconds.token(sid, link);
        if !bool::from(token.as_bytes().ct_eq(proof.token.as_bytes())) {
            return Err(Unproved::Unknown);
        }
        let is_other = |waiting: &Waiting| waiting.first.is_ipv4() != proof.address.is_ipv4();
        if !self.seconds.waiting.get(&link).is_some_and(is_other) {
            return Err(Unproved::Unknown);
        }
        let features = self.seconds.waiting.remove(&link).map(|waiting| waiting.features);
        let inf = self.roster.get(sid).map(|entry| entry.inf.clone());
        let inf = inf.unwrap_or_default();
        let fields = second_fields(proof, &features.unwrap_or_default(), &inf);
        self.conveyor.put(Event::Update { sid, fields });
        let now = unix_ms();
        let banned = self.replica.local(|state| {
            let ban = state.ban_of_second(now, sid, proof.address)?;
            Some((ban.reason.clone(), ban.left_s(now)))
        });
        if let Some((reason, left_s)) = banned {
            return Err(Unproved::Banned { reason, left_s });
        }
        self.seal();
        self.order(link, ToWorker::Hybrid { link });
        Ok(())
    }

    pub(super) fn tidy_seconds(&mut self) {
        let clients: &BTreeMap<LinkId, Client> = &self.clients;
        self.seconds.tidy(|link| clients.contains_key(&link));
    }
}

/// The fields of a proved address, beside what `INF` holds already.
fn second_fields(proof: &Proof, features: &str, inf: &str) -> String {
    let family = if proof.address.is_ipv4() { '4' } else { '6' };
    let mut fields = format!("I{family}{}", proof.address);
    if let Some(port) = proof.udp_port {
        fields.push_str(&format!(" U{family}{port}"));
    }
    if !features.is_empty() {
        let known = roster::features(inf).filter(|known| !known.is_empty());
        let known = known.map_or(String::new(), |known| format!("{known},"));
        fields.push_str(&format!(" SU{known}{features}"));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proved_address_comes_with_its_features() {
        let proof = |address: &str, udp_port| Proof {
            token: String::new(),
            address: address.parse().unwrap(),
            udp_port,
        };
        for (proof, features, inf, expected) in [
            (
                proof("2001:db8::7", Some(1412)),
                "TCP6,UDP6",
                "NIx SUTCP4,SEGA I4192.0.2.7",
                "I62001:db8::7 U61412 SUTCP4,SEGA,TCP6,UDP6",
            ),
            (proof("192.0.2.7", None), "TCP4", "NIx", "I4192.0.2.7 SUTCP4"),
            (proof("192.0.2.7", None), "", "SUTCP6", "I4192.0.2.7"),
        ] {
            assert_eq!(second_fields(&proof, features, inf), expected);
        }
        assert_eq!(named("AAABxyz"), Some(Sid::from_number(0)));
        assert_eq!(named("AAA"), None);
        assert_eq!(named("ÄÄAA"), None);
    }
}
