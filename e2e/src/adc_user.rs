//! One user of an ADC hub, line by line: for tests of what the hub itself does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use data_encoding::BASE32_NOPAD;
use socket2::{Domain, Protocol, Socket, Type};
use tiger::{Digest, Tiger};

use crate::clock::{self, PATIENCE};

/// Who a user is; the same one has the same CID wherever it connects.
#[derive(Debug, Clone)]
pub struct AdcIdentity {
    /// Its nick.
    pub nick: String,
    /// Its secret, in base32.
    pub pid: String,
    /// What proves it, in base32.
    pub cid: String,
    /// The address of this machine that it connects from.
    pub address: Ipv4Addr,
    /// Its password, if it is registered.
    pub password: Option<String>,
}

impl AdcIdentity {
    /// A user of that name; its secret is the name, hashed. It connects from 127.0.0.1.
    #[must_use]
    pub fn new(nick: &str) -> Self {
        let pid = Tiger::digest(nick);
        Self {
            nick: nick.to_owned(),
            cid: BASE32_NOPAD.encode(&Tiger::digest(pid)),
            pid: BASE32_NOPAD.encode(&pid),
            address: Ipv4Addr::LOCALHOST,
            password: None,
        }
    }

    /// The same user at the address 127.0.0.`host`.
    #[must_use]
    pub fn at(mut self, host: u8) -> Self {
        self.address = Ipv4Addr::new(127, 0, 0, host);
        self
    }

    /// The same user with a password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }
}

/// A connection to a hub, and what it said so far.
#[derive(Debug)]
pub struct AdcUser {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    /// What of a line came before a time-out.
    begun: String,
    /// Its SID, once it has one.
    pub sid: String,
    /// The fields of the users that the hub told of, by SID.
    pub users: BTreeMap<String, String>,
    /// Every line that came, but for empty ones.
    pub seen: Vec<String>,
}

impl AdcUser {
    /// Connects to a hub of this machine, and says nothing.
    pub fn connect(port: u16, address: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket
            .bind(&SocketAddr::from((address, 0)).into())
            .with_context(|| format!("binding {address}"))?;
        socket
            .connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
            .with_context(|| format!("connecting to port {port}"))?;
        Self::on(TcpStream::from(socket))
    }

    fn on(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            lines: BufReader::new(stream.try_clone()?),
            stream,
            begun: String::new(),
            sid: String::new(),
            users: BTreeMap::new(),
            seen: Vec::new(),
        })
    }

    /// Connects to a hub of this machine and logs in; an error when the hub refuses.
    pub fn log_in(port: u16, who: &AdcIdentity) -> anyhow::Result<Self> {
        Self::connect(port, who.address)?
            .enter(who)
            .with_context(|| format!("logging {} in at port {port}", who.nick))
    }

    /// The same with a hub elsewhere, from whatever address of this machine leads there.
    pub fn log_in_at(hub: SocketAddr, who: &AdcIdentity) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect_timeout(&hub, PATIENCE).with_context(|| format!("connecting to {hub}"))?;
        Self::on(stream)?
            .enter(who)
            .with_context(|| format!("logging {} in at {hub}", who.nick))
    }

    fn enter(mut self, who: &AdcIdentity) -> anyhow::Result<Self> {
        self.greet()?;
        self.identify(who)?;
        self.wait_until_in()?;
        Ok(self)
    }

    /// Says `HSUP`, and waits for the SID.
    pub fn greet(&mut self) -> anyhow::Result<()> {
        self.send("HSUP ADBASE ADTIGR")?;
        self.expect("its SID", |line| line.starts_with("ISID "))?;
        Ok(())
    }

    /// Sends its `INF`, and the password if it has one.
    pub fn identify(&mut self, who: &AdcIdentity) -> anyhow::Result<()> {
        let (sid, nick) = (self.sid.clone(), who.nick.replace(' ', "\\s"));
        self.send(&format!(
            "BINF {sid} ID{} PD{} NI{nick} SS1000 SF1 SL2 SUTCP4,UDP4 I40.0.0.0 U41412",
            who.cid, who.pid
        ))?;
        if let Some(password) = &who.password {
            let line = self.expect("the hub asks for the password", |line| line.starts_with("IGPA "))?;
            let salt = BASE32_NOPAD.decode(&line.as_bytes()[5..])?;
            let answer = Tiger::new().chain_update(password).chain_update(salt).finalize();
            self.send(&format!("HPAS {}", BASE32_NOPAD.encode(&answer)))?;
        }
        Ok(())
    }

    /// Waits for its own `INF`, which comes last.
    pub fn wait_until_in(&mut self) -> anyhow::Result<()> {
        let own = format!("BINF {} ", self.sid);
        let line = self.expect("its own INF", |line| line.starts_with(&own) || is_end(line))?;
        ensure!(
            line.starts_with(&own),
            "the hub says {line:?}, after {:?}",
            self.tail()
        );
        Ok(())
    }

    /// Sends one line.
    pub fn send(&mut self, line: &str) -> anyhow::Result<()> {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("sending {line}"))
    }

    /// Says something to all.
    pub fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let (sid, text) = (self.sid.clone(), text.replace(' ', "\\s"));
        self.send(&format!("BMSG {sid} {text}"))
    }

    /// Waits for a line.
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        self.expect_within(PATIENCE, what, wanted)
    }

    /// Waits for a line, not longer than `patience` for each one that comes before it.
    pub fn expect_within(
        &mut self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        loop {
            match self.next_line(patience)? {
                Some(line) if wanted(&line) => return Ok(line),
                Some(_) => {}
                None => bail!("waited for {what}; the last lines were {:?}", self.tail()),
            }
        }
    }

    /// The next line that is not empty; none when none comes in time. An end of the connection is an error.
    pub fn next_line(&mut self, patience: Duration) -> anyhow::Result<Option<String>> {
        let begun = clock::now();
        loop {
            // Empty lines keep the connection alive, but not this.
            let left = patience.saturating_sub(begun.elapsed());
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.lines.read_line(&mut self.begun) {
                Ok(0) => bail!("the hub closed the connection, after {:?}", self.tail()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("reading from the hub"),
            }
            let line = std::mem::take(&mut self.begun);
            let line = line.trim_end_matches('\n');
            if !line.is_empty() {
                self.note(line);
                return Ok(Some(line.to_owned()));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Everything that comes until nothing has come for `quiet`, or the connection ends.
    pub fn lines_until_quiet(&mut self, quiet: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(Some(line)) = self.next_line(quiet) {
            lines.push(line);
        }
        lines
    }

    /// The SID of the user with that nick, as this one was told.
    #[must_use]
    pub fn sid_of(&self, nick: &str) -> Option<&str> {
        let field = format!("NI{nick}");
        let has = |fields: &str| fields.split(' ').any(|one| one == field);
        let found = self.users.iter().find(|(_, fields)| has(fields));
        found.map(|(sid, _)| sid.as_str())
    }

    fn note(&mut self, line: &str) {
        self.seen.push(line.to_owned());
        if let Some(sid) = line.strip_prefix("ISID ") {
            self.sid = sid.to_owned();
        } else if let Some((sid, fields)) = line.strip_prefix("BINF ").and_then(|rest| rest.split_once(' ')) {
            let known = self.users.entry(sid.to_owned()).or_default();
            // A delta names no nick.
            if known.is_empty() || fields.contains(" NI") {
                fields.clone_into(known);
            }
        } else if let Some(quit) = line.strip_prefix("IQUI ") {
            self.users.remove(quit.split(' ').next().unwrap_or_default());
        }
    }

    fn tail(&self) -> &[String] {
        &self.seen[self.seen.len().saturating_sub(6)..]
    }
}

/// Whether the hub refuses or says good-bye.
fn is_end(line: &str) -> bool {
    line.starts_with("ISTA 2")
}
