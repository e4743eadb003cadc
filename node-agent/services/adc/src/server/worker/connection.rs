//! One connection: its session, and what waits to be sent.

mod writing;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::socket::{News, Sockets};
use super::wire::Wire;
use super::{Admitted, Common};
use crate::message::{LineReader, ProxyHeader, Sid, feature_list, proxy_header, swap_shared_sids, swap_sids};
use crate::peer::Proof;
use crate::server::events::ToHub;
use crate::server::listener::{Accepted, Place};
use crate::session::{Input, Origin, Output, Reach, Session, selects_among};
use crate::state::{Event, LinkId};

/// How long a connection that is to be closed is read further: closing it with unread bytes would destroy the last words.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection must keep to.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Rules {
    pub(in crate::server) line_bytes_max: usize,
    pub(in crate::server) queue_bytes_max: usize,
    pub(in crate::server) slow_reader_max: Duration,
    pub(in crate::server) keep_alive: Duration,
}

/// Why a connection ends that was read from.
pub(super) enum ReadError {
    /// The other end is gone.
    End,
    /// What came is no protocol of this port.
    Refused(io::Error),
}

/// One connection.
pub(super) struct Connection {
    link: LinkId,
    stream: TcpStream,
    /// There is something to be read.
    is_readable: bool,
    /// The other end is closed: what is to be read has an end.
    ends: bool,
    /// What was read before is handled.
    may_read: bool,
    /// It is among those that its thread looks after before it waits.
    is_marked: bool,
    /// It is among those that lines for everybody wait for.
    is_in_round: bool,
    rules: Rules,
    started: Instant,
    session: Session,
    lines: LineReader,
    /// The SID that the client believes to have, and the one that it has for everybody else, where they differ.
    alias: Option<(Sid, Sid)>,
    features: Vec<[u8; 4]>,
    wire: Wire,
    /// What came of the header of a load balancer, as long as it is not complete.
    header: Option<Vec<u8>>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    sent_bytes: u64,
    /// After how many sent bytes the compressed ones end.
    packed_until: u64,
    /// What of it is encrypted already.
    records: VecDeque<Bytes>,
    /// The first piece of the queue was sent in part.
    is_split: bool,
    /// Since when nothing could be written.
    blocked: Option<Instant>,
    written: Instant,
    /// When a connection that is being closed is given up.
    closing: Option<Instant>,
    /// All of TLS is said.
    is_ended: bool,
    is_shut: bool,
    _place: Place,
}

impl Connection {
    pub(super) fn open(accepted: Accepted, common: &Common, sockets: &Sockets) -> io::Result<Self> {
        let (link, address) = (accepted.link, accepted.address);
        sockets.add(link, &accepted.stream)?;
        let now = Instant::now();
        Ok(Self {
            link,
            stream: accepted.stream,
            is_readable: false,
            ends: false,
            may_read: true,
            is_marked: false,
            is_in_round: false,
            rules: common.rules,
            started: now,
            session: Session::new(common.settings.clone(), Origin { address }),
            lines: LineReader::new(common.rules.line_bytes_max),
            alias: None,
            features: Vec::new(),
            wire: Wire::new(common.tls.clone()),
            header: common.is_proxy(address).then(Vec::new),
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent_bytes: 0,
            packed_until: 0,
            records: VecDeque::new(),
            is_split: false,
            blocked: None,
            written: now,
            closing: None,
            is_ended: false,
            is_shut: false,
            _place: accepted.place,
        })
    }

    pub(super) fn is_user(&self) -> bool {
        self.session.is_normal() && self.closing.is_none()
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The SID that the client believes to have.
    pub(super) fn sid(&self) -> Option<Sid> {
        self.session.sid()
    }

    pub(super) fn set_features(&mut self, list: &str) {
        let features = feature_list(list).filter_map(|feature| feature.as_bytes().try_into().ok());
        self.features = features.collect();
    }

    pub(super) fn is_selected(&self, selection: &str) -> bool {
        selects_among(selection, &self.features)
    }

    /// Takes bytes from the socket in.
    ///
    /// # Errors
    /// When they are no protocol of this port.
    fn take_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.closing.is_some() {
            return Ok(());
        }
        let Some(header) = &mut self.header else {
            return self.take_in_lines(bytes);
        };
        header.extend_from_slice(bytes);
        match proxy_header(header).map_err(io::Error::other)? {
            ProxyHeader::Incomplete => Ok(()),
            ProxyHeader::Complete { address, length } => {
                let rest = header.split_off(length);
                self.header = None;
                if let Some(address) = address {
                    self.session.set_address(address);
                }
                if rest.is_empty() {
                    Ok(())
                } else {
                    self.take_in_lines(&rest)
                }
            }
        }
    }

    fn take_in_lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut plain = Vec::new();
        self.wire.take_in(bytes, &mut plain)?;
        self.lines.push(&plain);
        Ok(())
    }

    /// Adds it, once, to those that its thread looks after before it waits.
    pub(super) fn mark(&mut self, dirty: &mut Vec<LinkId>) {
        if !std::mem::replace(&mut self.is_marked, true) {
            dirty.push(self.link);
        }
    }

    /// Adds it, once, to those that lines for everybody wait for, unless it is looked after before.
    pub(super) fn mark_for_round(&mut self, links: &mut Vec<LinkId>) {
        if !self.is_marked && !std::mem::replace(&mut self.is_in_round, true) {
            links.push(self.link);
        }
    }

    /// Takes note of what is new about its socket; whether something is to be written that could not be.
    pub(super) fn hear(&mut self, news: News) -> bool {
        self.is_readable |= news.is_readable;
        self.ends |= news.ends;
        news.is_writable && self.blocked.take().is_some()
    }

    /// Lets more be read, or not.
    pub(super) fn set_reading(&mut self, may_read: bool) {
        // What comes to a connection that is being closed is read and forgotten.
        self.may_read = may_read || self.closing.is_some();
    }

    /// Whether something is to be read now.
    pub(super) const fn wants_to_read(&self) -> bool {
        self.is_readable && self.may_read
    }

    /// Reads once, and handles what came but for its lines; whether something came.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) fn read(&mut self, sockets: &mut Sockets) -> Result<bool, ReadError> {
        let (bytes, was_all) = match sockets.read(&self.stream) {
            Ok(([], _)) => return Err(ReadError::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Ok(false);
            }
            Err(_) => return Err(ReadError::End),
        };
        // News come once, and the end of what has been told is not news.
        self.is_readable = !was_all || self.ends;
        self.take_in(bytes).map_err(ReadError::Refused)?;
        Ok(true)
    }

    /// Handles the lines that came; whether more may be read.
    pub(super) fn take_lines(&mut self, to_hub: &mut Vec<ToHub>) -> bool {
        while self.closing.is_none() {
            if self.session.is_waiting() {
                return false;
            }
            match self.lines.next_line() {
                Some(Ok(line)) => self.handle(Input::Line(&line), to_hub),
                Some(Err(_)) => self.handle(Input::LineTooLong, to_hub),
                None => return true,
            }
        }
        // What comes now is read and forgotten.
        true
    }

    /// Tells the session something, and does what it says.
    pub(super) fn handle(&mut self, input: Input<'_>, to_hub: &mut Vec<ToHub>) {
        let now = Instant::now().duration_since(self.started);
        for output in self.session.handle(now, input) {
            self.carry_out(output, to_hub);
        }
    }

    fn carry_out(&mut self, output: Output, to_hub: &mut Vec<ToHub>) {
        let link = self.link;
        match output {
            Output::Send(line) => self.sends(line.into()),
            Output::NeedSid { offer } => to_hub.push(ToHub::NeedSid {
                link,
                offer,
                address: self.session.address(),
            }),
            Output::LookUp { nick } => to_hub.push(ToHub::LookUp { link, nick }),
            Output::Claim(login) => to_hub.push(ToHub::Claim { link, login }),
            Output::Prove { token, udp_port } => {
                let address = self.session.address();
                let proof = Proof {
                    token,
                    address,
                    udp_port,
                };
                to_hub.push(ToHub::Prove { link, proof });
            }
            Output::Update(fields) => {
                let sid = self.real_sid();
                to_hub.push(ToHub::Event(Event::Update { sid, fields }));
            }
            Output::Say { text, third_person } => {
                let sid = self.real_sid();
                to_hub.push(ToHub::Event(Event::Say {
                    sid,
                    text,
                    third_person,
                }));
            }
            Output::Command(text) => to_hub.push(ToHub::Command { link, text }),
            Output::Relay { reach, line } => to_hub.push(self.relay(reach, line)),
            Output::Close(departure) => {
                self.close();
                to_hub.push(ToHub::Ended { link, departure });
            }
        }
    }

    /// The SID that it has for everybody else.
    fn real_sid(&self) -> Sid {
        match self.alias {
            Some((_, real)) => real,
            None => self.session.sid().unwrap_or(Sid::NOBODY),
        }
    }

    fn relay(&self, reach: Reach, line: String) -> ToHub {
        let link = self.link;
        let Some((given, real)) = self.alias else {
            return ToHub::Relay { link, reach, line };
        };
        let swapped = |sid| if sid == given { real } else { sid };
        let reach = match reach {
            Reach::One(sid) => Reach::One(swapped(sid)),
            Reach::Echo(sid) => Reach::Echo(swapped(sid)),
            reach => reach,
        };
        let line = String::from_utf8_lossy(&swap_sids(line.as_bytes(), given, real)).into_owned();
        ToHub::Relay { link, reach, line }
    }

    pub(super) fn admit(&mut self, admitted: Admitted, to_hub: &mut Vec<ToHub>) {
        let given = self.session.sid().unwrap_or(Sid::NOBODY);
        self.alias = (given != admitted.sid).then_some((given, admitted.sid));
        self.set_features(&admitted.features);
        match admitted.packed {
            // Over TLS, sizes would tell what is in it. Who has another SID for itself gets lines of its own.
            Some(packed) if !self.wire.is_tls() && self.alias.is_none() => {
                self.sends(Bytes::from_static(b"IZON\n"));
                for piece in packed.stream {
                    self.sends(piece);
                }
                self.packed_until = self.sent_bytes + self.queued_bytes as u64;
                for lines in packed.rest {
                    self.sends(lines);
                }
            }
            _ => {
                for lines in admitted.list {
                    self.hub_sends(lines);
                }
            }
        }
        self.hub_sends(admitted.own);
        self.handle(Input::Admitted(admitted.class), to_hub);
        if !admitted.welcome.is_empty() {
            self.hub_sends(admitted.welcome);
        }
    }

    /// Sends lines as everybody sees them.
    pub(super) fn hub_sends(&mut self, lines: Bytes) {
        let lines = match self.alias {
            Some((given, real)) => swap_shared_sids(lines, given, real),
            None => lines,
        };
        self.sends(lines);
    }

    /// Sends lines as they are.
    pub(super) fn sends(&mut self, lines: Bytes) {
        if self.closing.is_none() && !lines.is_empty() {
            self.queued_bytes += lines.len();
            self.queue.push_back(lines);
        }
    }

    /// Closes the connection once everything is sent. Nothing more is handled or queued.
    pub(super) fn close(&mut self) {
        if self.closing.is_none() {
            self.closing = Some(Instant::now() + LINGER);
            // Whatever comes is read and forgotten.
            self.lines = LineReader::new(0);
            self.may_read = true;
        }
    }

    /// Whether a connection that is being closed has lingered long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.closing.is_some_and(|until| until <= now)
    }

    /// Looks at the time; whether something is to be written.
    pub(super) fn tick(&mut self, now: Instant, to_hub: &mut Vec<ToHub>) -> bool {
        if self.closing.is_some() {
            return false;
        }
        let is_stuck = self
            .blocked
            .is_some_and(|since| now - since > self.rules.slow_reader_max);
        if is_stuck {
            self.give_up(to_hub);
            return true;
        }
        if let Some(deadline) = self.session.deadline() {
            if self.started + deadline <= now {
                self.handle(Input::Deadline, to_hub);
                return true;
            }
            return false;
        }
        if self.queue.is_empty() && now - self.written >= self.rules.keep_alive {
            self.sends(Bytes::from_static(b"\n"));
            return true;
        }
        false
    }
}
