//! What three kinds of clients do together on any hub: talk, whisper, search, and fetch files from each other.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, ensure};

use super::air::{Air, AirOptions, Shared};
use super::{Eiskalt, Ncdc};
use crate::clock::{PATIENCE, eventually};
use crate::data::{MIB, random_bytes};

/// How often files can be fetched: each time other ones, since a client does not fetch what it has.
const ROUNDS_MAX: usize = 4;

/// The root of a hash tree that no file has.
const NO_ROOT: &str = "LWPNACQDBZRYXW3VHJVCJ64QBZNGHOHHHZWCLNQ";

/// Where each client finds the hub, and how it is set up.
#[derive(Debug, Clone)]
pub struct Places {
    /// The address for ncdc.
    pub ncdc: String,
    /// The address for eiskaltdcpp-daemon.
    pub eiskalt: String,
    /// The address for our own client.
    pub air: String,
    /// Whether others reach ncdc: else it finds and fetches as a passive client.
    pub ncdc_is_active: bool,
}

impl Places {
    /// All at one address.
    #[must_use]
    pub fn all_at(url: &str) -> Self {
        Self {
            ncdc: url.to_owned(),
            eiskalt: url.to_owned(),
            air: url.to_owned(),
            ncdc_is_active: true,
        }
    }
}

/// Three clients on one hub.
#[derive(Debug)]
pub struct Meeting {
    places: Places,
    /// ncdc, called `ncdcuser`.
    pub ncdc: Ncdc,
    /// eiskaltdcpp-daemon, called `eisuser`.
    pub eiskalt: Eiskalt,
    /// Our own client, called `airuser`.
    pub air: Air,
    /// Local ports of eiskaltdcpp-daemon's connections to the hub, at the start.
    connections: Vec<u16>,
    words: usize,
    round: usize,
}

impl Meeting {
    /// Starts the clients and waits until each sees the others.
    pub fn start(places: Places) -> anyhow::Result<Self> {
        Self::start_from(places, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
    }

    /// The same with ncdc and eiskaltdcpp-daemon at these addresses of this machine.
    pub fn start_from(places: Places, ncdc: Ipv4Addr, eiskalt: Ipv4Addr) -> anyhow::Result<Self> {
        let mut ncdc = Ncdc::start_at("ncdcuser", places.ncdc_is_active, ncdc)?;
        let eiskalt = Eiskalt::start_at("eisuser", eiskalt)?;
        for round in 0..ROUNDS_MAX {
            write(&ncdc.shared(&zebra(round)), round, 3 * MIB)?;
            write(&eiskalt.shared(&giraffe(round)), ROUNDS_MAX + round, 5 * MIB)?;
        }
        ncdc.share(ROUNDS_MAX)?;
        eiskalt.share()?;
        ncdc.open(&places.ncdc)?;
        eiskalt.open(&places.eiskalt)?;
        let air = Air::start(AirOptions {
            shares: vec![Shared {
                name: "okapi.bin".to_owned(),
                size: 4_096,
                root: NO_ROOT.to_owned(),
            }],
            ..AirOptions::new("airuser", &places.air)
        })?;
        let mut meeting = Self {
            places,
            connections: Vec::new(),
            ncdc,
            eiskalt,
            air,
            words: 0,
            round: 0,
        };
        meeting.all_here()?;
        meeting.connections = meeting.eiskalt.connections_to(port(&meeting.places.eiskalt)?)?;
        ensure!(
            meeting.connections.len() == 1,
            "eiskaltdcpp-daemon has {:?}",
            meeting.connections
        );
        Ok(meeting)
    }

    /// Waits until each of the three sees the two others.
    pub fn all_here(&self) -> anyhow::Result<()> {
        self.air.logged_in(1)?;
        self.air.sees("ncdcuser")?;
        self.air.sees("eisuser")?;
        eventually("eiskaltdcpp-daemon sees the others", PATIENCE, || {
            let users = self.eiskalt.users(&self.places.eiskalt)?;
            ensure!(
                ["ncdcuser", "airuser"]
                    .iter()
                    .all(|nick| users.iter().any(|user| user == nick)),
                "it sees {users:?}"
            );
            Ok(())
        })
    }

    /// Waits until the hub shows what ncdc and eiskaltdcpp-daemon share: they have read their files.
    pub fn all_shared(&self) -> anyhow::Result<()> {
        for nick in ["ncdcuser", "eisuser"] {
            self.air.until(&format!("sees what {nick} shares"), |view| {
                let files: usize = view.user(nick)?.field("SF").parse().ok()?;
                (files >= ROUNDS_MAX).then_some(())
            })?;
        }
        Ok(())
    }

    /// Everything once.
    pub fn everything(&mut self) -> anyhow::Result<()> {
        self.talk()?;
        self.whisper()?;
        self.search()?;
        self.fetch_files()?;
        self.air.was_treated_well()
    }

    /// Each says something, and all others hear it, once.
    pub fn talk(&mut self) -> anyhow::Result<()> {
        let word = self.word();
        self.ncdc.say(&format!("ncdc says {word}"))?;
        self.air.hears(&format!("ncdc says {word}"))?;
        self.eiskalt_hears(&format!("ncdc says {word}"))?;
        self.eiskalt
            .say(&self.places.eiskalt, &format!("eiskalt says {word}"))?;
        self.air.hears(&format!("eiskalt says {word}"))?;
        self.ncdc.hears(&format!("eiskalt\\ssays\\s{word}"))?;
        self.air.say(&format!("air says {word}"))?;
        self.ncdc.hears(&format!("air\\ssays\\s{word}"))?;
        self.eiskalt_hears(&format!("air says {word}"))?;
        for who in ["ncdc", "eiskalt", "air"] {
            let times = self.air.view().count(&format!("{who}\\ssays\\s{word}"));
            ensure!(times == 1, "what {who} said came {times} times");
        }
        Ok(())
    }

    /// As [`Self::talk`], of the two stock clients only: those who were not on the lost member.
    pub fn talk_without_air(&mut self) -> anyhow::Result<()> {
        let word = self.word();
        self.ncdc.say(&format!("ncdc says {word}"))?;
        self.eiskalt_hears(&format!("ncdc says {word}"))?;
        self.eiskalt
            .say(&self.places.eiskalt, &format!("eiskalt says {word}"))?;
        self.ncdc.hears(&format!("eiskalt\\ssays\\s{word}"))
    }

    /// The SIDs of all, by nick, as our own client sees them.
    #[must_use]
    pub fn sids(&self) -> BTreeMap<String, String> {
        let view = self.air.view();
        view.users
            .values()
            .map(|user| (user.nick(), user.sid.clone()))
            .collect()
    }

    /// Fails when one of the stock clients has lost its connection to the hub since the start.
    pub fn stayed_connected(&self) -> anyhow::Result<()> {
        let greetings = self.ncdc.count("> HSUP ");
        ensure!(greetings == 1, "ncdc connected {greetings} times");
        let now = self.eiskalt.connections_to(port(&self.places.eiskalt)?)?;
        ensure!(
            now == self.connections,
            "eiskaltdcpp-daemon had {:?}, and has {now:?}",
            self.connections
        );
        Ok(())
    }

    /// Fails unless both stock clients have connected to the hub again since the start.
    pub fn connected_again(&self) -> anyhow::Result<()> {
        let greetings = self.ncdc.count("> HSUP ");
        ensure!(greetings > 1, "ncdc has its first connection");
        let now = self.eiskalt.connections_to(port(&self.places.eiskalt)?)?;
        ensure!(
            now.len() == 1 && now != self.connections,
            "eiskaltdcpp-daemon had {:?}, and has {now:?}",
            self.connections
        );
        Ok(())
    }

    /// Each says something to each other in private, and only that one hears it.
    pub fn whisper(&mut self) -> anyhow::Result<()> {
        let word = self.word();
        self.ncdc.tell("airuser", &format!("ncdc tells air {word}"))?;
        self.air.hears(&format!("ncdc tells air {word}"))?;
        self.ncdc.tell("eisuser", &format!("ncdc tells eiskalt {word}"))?;
        self.eiskalt_was_told(&format!("ncdc tells eiskalt {word}"))?;
        let at = &self.places.eiskalt;
        self.eiskalt
            .tell(at, "ncdcuser", &format!("eiskalt tells ncdc {word}"))?;
        self.ncdc.hears(&format!("eiskalt\\stells\\sncdc\\s{word}"))?;
        self.eiskalt
            .tell(at, "airuser", &format!("eiskalt tells air {word}"))?;
        self.air.hears(&format!("eiskalt tells air {word}"))?;
        self.air.tell("ncdcuser", &format!("air tells ncdc {word}"))?;
        self.ncdc.hears(&format!("air\\stells\\sncdc\\s{word}"))?;
        self.air.tell("eisuser", &format!("air tells eiskalt {word}"))?;
        self.eiskalt_was_told(&format!("air tells eiskalt {word}"))?;
        let overheard = self
            .ncdc
            .log()
            .contains(&format!("eiskalt\\stells\\sair\\s{word}"));
        ensure!(!overheard, "ncdc heard what was for another");
        Ok(())
    }

    /// Each finds what the others share; our own client asks and answers as a passive one.
    pub fn search(&mut self) -> anyhow::Result<()> {
        self.all_shared()?;
        self.ncdc.search("okapi", "okapi.bin")?;
        self.eiskalt.search(&self.places.eiskalt, "zebra", "zebra0.bin")?;
        self.eiskalt.search(&self.places.eiskalt, "okapi", "okapi.bin")?;
        self.air_finds("giraffe0", &giraffe(0))?;
        // Two passive clients could not connect to each other: neither asks the other.
        if self.places.ncdc_is_active {
            self.air_finds("zebra0", &zebra(0))?;
        }
        Ok(())
    }

    /// ncdc and eiskaltdcpp-daemon fetch each other's file list and a file of some MB, byte for byte.
    pub fn fetch_files(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.round < ROUNDS_MAX,
            "there are files for {ROUNDS_MAX} rounds only"
        );
        let round = self.round;
        self.round += 1;
        self.all_shared()?;
        let (zebra, giraffe) = (zebra(round), giraffe(round));
        let at = &self.places.eiskalt;
        self.eiskalt.download(at, "ncdcuser", &format!("pub\\{zebra}"))?;
        arrives(&self.ncdc.shared(&zebra), &self.eiskalt.got(&zebra))?;
        self.ncdc.browse("eisuser", "pubeis")?;
        self.ncdc.search(giraffe.trim_end_matches(".bin"), &giraffe)?;
        self.ncdc.download_hit()?;
        arrives(&self.eiskalt.shared(&giraffe), &self.ncdc.got(&giraffe))
    }

    fn air_finds(&self, word: &str, hit: &str) -> anyhow::Result<()> {
        let before = self.air.view().count(hit);
        eventually("our own client finds", PATIENCE, || {
            self.air.search(word)?;
            eventually("an answer comes", PATIENCE / 6, || {
                let view = self.air.view();
                ensure!(
                    view.count(hit) > before,
                    "the last lines are {:#?}",
                    view.last_lines()
                );
                Ok(())
            })
        })
    }

    fn eiskalt_hears(&self, text: &str) -> anyhow::Result<()> {
        let mut heard = Vec::new();
        eventually(&format!("eiskaltdcpp-daemon hears {text:?}"), PATIENCE, || {
            heard.extend(self.eiskalt.chat(&self.places.eiskalt)?);
            ensure!(
                heard.iter().any(|line| line.contains(text)),
                "it heard {heard:#?}"
            );
            Ok(())
        })
    }

    fn eiskalt_was_told(&self, text: &str) -> anyhow::Result<()> {
        // Private messages are only printed.
        eventually(&format!("eiskaltdcpp-daemon is told {text:?}"), PATIENCE, || {
            let log = self.eiskalt.log();
            ensure!(log.contains(text), "it printed {log}");
            Ok(())
        })
    }

    fn word(&mut self) -> String {
        self.words += 1;
        format!("word{}", self.words)
    }
}

/// The port in a hub's address.
fn port(url: &str) -> anyhow::Result<u16> {
    let address = url.split('?').next().unwrap_or_default().trim_end_matches('/');
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    port.with_context(|| format!("{url} has no port"))
}

fn zebra(round: usize) -> String {
    format!("zebra{round}.bin")
}

fn giraffe(round: usize) -> String {
    format!("giraffe{round}.bin")
}

fn write(path: &Path, seed: usize, size: usize) -> anyhow::Result<()> {
    let seed = u64::try_from(seed).context("a seed")?;
    fs::write(path, random_bytes(seed, size)).with_context(|| format!("writing {}", path.display()))
}

/// Waits until a download is there as a whole.
fn arrives(original: &Path, copy: &Path) -> anyhow::Result<()> {
    let wanted = fs::read(original).with_context(|| format!("reading {}", original.display()))?;
    // A source that did not answer is asked again after a minute.
    eventually(&format!("{} arrives", copy.display()), PATIENCE * 2, || {
        let got = fs::read(copy).with_context(|| format!("reading {}", copy.display()))?;
        ensure!(
            got.len() == wanted.len(),
            "{} of {} bytes",
            got.len(),
            wanted.len()
        );
        ensure!(got == wanted, "its bytes are others");
        Ok(())
    })
}
