//! What the users of a swarm do to load a hub, and what it costs: lines to all, lines to one, and how late they come.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::Swarm;
use super::swarm::Phase;
use crate::clock::now;

/// How fine times are told apart: a tenth of a millisecond.
const GRAIN_MICROS: u64 = 100;

/// The longest time that is told apart from longer ones: 100 s.
const GRAINS: usize = 1_000_000;

/// How long what is on its way may take to arrive when a measurement ends.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);

/// Where a message's number and its time of sending stand: `BMSG AAAB m00000001_0000000000001234`, and after the second
/// SID of a `DMSG`.
const NUMBER_DIGITS: usize = 8;
const TIME_DIGITS: usize = 16;

/// How often each delay was seen.
#[derive(Debug, Clone)]
pub struct Delays {
    grains: Vec<u64>,
    count: u64,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            grains: vec![0; GRAINS],
            count: 0,
        }
    }
}

impl Delays {
    /// Adds one, in microseconds.
    pub fn add(&mut self, micros: u64) {
        let grain = usize::try_from(micros / GRAIN_MICROS)
            .unwrap_or(GRAINS)
            .min(GRAINS - 1);
        self.grains[grain] += 1;
        self.count += 1;
    }

    /// The delay below which `part` (0 to 1) of them lie, in milliseconds; 0 without any.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and ranks far below 2^52"
    )]
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let rank = (part * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (grain, count) in self.grains.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return (grain as f64 + 1.0) * GRAIN_MICROS as f64 / 1e3;
            }
        }
        0.0
    }

    /// Delays in milliseconds with the part of all that is at most as long: a cumulative distribution of a hundred points.
    #[must_use]
    pub fn distribution(&self) -> Vec<(f64, f64)> {
        (1..=100_u32)
            .map(|percent| f64::from(percent) / 100.0)
            .map(|part| (self.percentile_ms(part), part))
            .collect()
    }
}

/// How fast messages were delivered.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Deliveries (one message to one user) a second.
    pub per_second: f64,
    /// Half of the deliveries took at most this long, in milliseconds.
    pub p50_ms: f64,
    /// All but one in a hundred took at most this long, in milliseconds.
    pub p99_ms: f64,
    /// All of them.
    #[serde(skip)]
    pub delays: Delays,
}

impl Rate {
    fn new(deliveries: u64, took: Duration, delays: Delays) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
        let per_second = deliveries as f64 / took.as_secs_f64();
        Self {
            per_second,
            p50_ms: delays.percentile_ms(0.5),
            p99_ms: delays.percentile_ms(0.99),
            delays,
        }
    }
}

/// Lines to all: `window` of them are on their way at any time, each until the last of `readers` has it.
pub fn broadcast(
    swarm: &mut Swarm,
    readers: &[usize],
    window: usize,
    lasts: Duration,
) -> anyhow::Result<Rate> {
    broadcast_beside(swarm, readers, window, lasts, &mut Probes::new(0, 0))
}

/// The same, and for at least so long as probes come.
pub fn broadcast_beside(
    swarm: &mut Swarm,
    readers: &[usize],
    window: usize,
    lasts: Duration,
    probes: &mut Probes,
) -> anyhow::Result<Rate> {
    let is_reader = marks(swarm.len(), readers);
    let mut left: Vec<usize> = Vec::new();
    let (mut delays, mut deliveries, mut finished) = (Delays::default(), 0, 0);
    let started = now();
    loop {
        probes.turn()?;
        let goes_on = started.elapsed() < lasts || !probes.is_over();
        while goes_on && left.len() - finished < window {
            let from = readers[left.len() * 7919 % readers.len()];
            let line = format!("BMSG {} {}\n", swarm.sid(from), stamp(left.len(), swarm.clock()));
            left.push(readers.len());
            swarm.send(from, line.as_bytes());
        }
        if finished == left.len() {
            break;
        }
        swarm.turn(Duration::from_millis(20), &mut |user, line, clock| {
            let Some((number, sent)) = read_stamp(line, b"BMSG", 10) else {
                return;
            };
            if let Some(left) = left.get_mut(number)
                && is_reader[user]
            {
                delays.add(clock.saturating_sub(sent));
                deliveries += 1;
                *left = left.saturating_sub(1);
                finished += usize::from(*left == 0);
            }
        })?;
        ensure!(
            started.elapsed() < lasts + DRAIN_WITHIN,
            "{} messages never reached everybody",
            left.len() - finished
        );
    }
    Ok(Rate::new(deliveries, started.elapsed(), delays))
}

/// Connections that say nothing, as port scanners make them.
#[derive(Debug)]
pub struct Probes {
    to: SocketAddr,
    left: usize,
    open: VecDeque<Socket>,
}

/// Probes that are open at any time, and that come between two looks at the users' sockets.
const PROBES_OPEN: usize = 200;
const PROBES_AT_ONCE: usize = 20;

impl Probes {
    /// So many, one after the other.
    #[must_use]
    pub fn new(port: u16, count: usize) -> Self {
        Self {
            to: (Ipv4Addr::LOCALHOST, port).into(),
            left: count,
            open: VecDeque::new(),
        }
    }

    /// Whether all have come and gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left == 0 && self.open.is_empty()
    }

    /// The next ones come, and old ones go.
    pub fn turn(&mut self) -> anyhow::Result<()> {
        for _ in 0..PROBES_AT_ONCE {
            if self.left == 0 || self.open.len() >= PROBES_OPEN {
                self.open.pop_front();
            }
            if self.left > 0 {
                self.left -= 1;
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
                    .context("making a socket")?;
                socket.set_nonblocking(true).context("preparing a socket")?;
                match socket.connect(&self.to.into()) {
                    Err(error)
                        if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
                    {
                        return Err(error).context("probing");
                    }
                    _ => self.open.push_back(socket),
                }
            }
        }
        Ok(())
    }
}

/// Lines to one: `window` of them are on their way at any time.
pub fn relay(swarm: &mut Swarm, window: usize, lasts: Duration) -> anyhow::Result<Rate> {
    let count = swarm.len();
    let (mut delays, mut delivered, mut sent) = (Delays::default(), 0_u64, 0_usize);
    let started = now();
    loop {
        let goes_on = started.elapsed() < lasts;
        while goes_on && sent as u64 - delivered < window as u64 {
            let from = sent * 7919 % count;
            let to = (from + 1 + sent % (count - 1)) % count;
            let line = format!(
                "DMSG {} {} {}\n",
                swarm.sid(from),
                swarm.sid(to),
                stamp(sent, swarm.clock())
            );
            swarm.send(from, line.as_bytes());
            sent += 1;
        }
        if delivered == sent as u64 {
            break;
        }
        swarm.turn(Duration::from_millis(20), &mut |_, line, clock| {
            if let Some((_, sent)) = read_stamp(line, b"DMSG", 15) {
                delays.add(clock.saturating_sub(sent));
                delivered += 1;
            }
        })?;
        ensure!(
            started.elapsed() < lasts + DRAIN_WITHIN,
            "{} messages never arrived",
            sent as u64 - delivered
        );
    }
    Ok(Rate::new(delivered, started.elapsed(), delays))
}

/// What the users felt of a loss.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// Users whose connection ended.
    pub cut: usize,
    /// The longest time for which a user that stayed connected heard nothing of a chat that never paused.
    pub silence_of_others_ms: Option<f64>,
    /// Until all were in again.
    pub all_back_ms: f64,
    /// Until a line reached all of them.
    pub all_chat_ms: f64,
}

/// The pause between two lines of the chat during a loss: short against any outage that a person feels.
const CHAT_EVERY: Duration = Duration::from_millis(20);

/// Breaks the hub with `strike` while somebody talks all the time, and waits until all users are back and hear everybody.
pub fn survive(
    swarm: &mut Swarm,
    within: Duration,
    strike: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Loss> {
    let count = swarm.len();
    let mut chat = Chat::new(count);
    swarm.returning = true;
    // The chat is on before the loss.
    let quiet = now();
    while quiet.elapsed() < Duration::from_millis(500) {
        chat.turn(swarm)?;
    }
    let losses = swarm.losses;
    chat.begin(swarm);
    let started = now();
    strike()?;
    let mut back = None;
    loop {
        chat.turn(swarm)?;
        if back.is_none() && swarm.normal == count && chat.is_felt(swarm, losses) {
            back = Some(started.elapsed());
            chat.last_number_before_all_were_back = chat.number;
        }
        if let Some(back) = back
            && chat.reached_all(count)
        {
            swarm.returning = false;
            return Ok(Loss {
                cut: chat.cut.iter().filter(|cut| **cut).count(),
                silence_of_others_ms: chat.silence_ms(),
                all_back_ms: back.as_secs_f64() * 1e3,
                all_chat_ms: started.elapsed().as_secs_f64() * 1e3,
            });
        }
        ensure!(
            started.elapsed() < within,
            "{} of {count} users are back after {:.0} s",
            swarm.normal,
            within.as_secs_f64()
        );
    }
}

/// A chat that never pauses, and who heard of it when.
struct Chat {
    number: usize,
    last_line: Option<Instant>,
    heard_at: Vec<u64>,
    longest: Vec<u64>,
    cut: Vec<bool>,
    /// How many users each line since the return reached.
    reached: Vec<(usize, usize)>,
    last_number_before_all_were_back: usize,
    began: u64,
}

impl Chat {
    fn new(count: usize) -> Self {
        Self {
            number: 0,
            last_line: None,
            heard_at: vec![0; count],
            longest: vec![0; count],
            cut: vec![false; count],
            reached: Vec::new(),
            last_number_before_all_were_back: usize::MAX,
            began: 0,
        }
    }

    /// From now on, silence counts.
    fn begin(&mut self, swarm: &Swarm) {
        self.began = swarm.clock();
        self.heard_at.fill(self.began);
        self.longest.fill(0);
    }

    fn turn(&mut self, swarm: &mut Swarm) -> anyhow::Result<()> {
        if self.last_line.is_none_or(|at| at.elapsed() >= CHAT_EVERY) {
            self.last_line = Some(now());
            self.say(swarm);
        }
        let (heard_at, longest, reached) = (&mut self.heard_at, &mut self.longest, &mut self.reached);
        let after = self.last_number_before_all_were_back;
        swarm.turn(Duration::from_millis(5), &mut |user, line, clock| {
            let Some((number, _)) = read_stamp(line, b"BMSG", 10) else {
                return;
            };
            longest[user] = longest[user].max(clock.saturating_sub(heard_at[user]));
            heard_at[user] = clock;
            if number > after
                && let Some((_, count)) = reached.iter_mut().find(|(of, _)| *of == number)
            {
                *count += 1;
            }
        })?;
        if self.began > 0 {
            for user in 0..self.cut.len() {
                self.cut[user] |= swarm.phase(user) != Phase::Normal;
            }
        }
        Ok(())
    }

    /// Somebody who is in says something.
    fn say(&mut self, swarm: &mut Swarm) {
        let count = swarm.len();
        let start = self.number * 7919 % count;
        let from = (start..count)
            .chain(0..start)
            .find(|user| swarm.phase(*user) == Phase::Normal);
        let Some(from) = from else { return };
        self.number += 1;
        if self.number > self.last_number_before_all_were_back {
            self.reached.push((self.number, 0));
        }
        let line = format!("BMSG {} {}\n", swarm.sid(from), stamp(self.number, swarm.clock()));
        swarm.send(from, line.as_bytes());
    }

    /// Whether the loss has begun to be felt: somebody was cut, or half a second has passed without that.
    fn is_felt(&self, swarm: &Swarm, losses: u64) -> bool {
        swarm.losses > losses || swarm.clock() > self.began + 500_000
    }

    fn reached_all(&self, count: usize) -> bool {
        self.reached.iter().any(|(_, reached)| *reached == count)
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds far below 2^52")]
    fn silence_ms(&self) -> Option<f64> {
        let of_others = self.longest.iter().zip(&self.cut).filter(|(_, cut)| !**cut);
        of_others
            .map(|(longest, _)| *longest)
            .max()
            .map(|micros| micros as f64 / 1e3)
    }
}

fn marks(count: usize, marked: &[usize]) -> Vec<bool> {
    let mut marks = vec![false; count];
    for user in marked {
        marks[*user] = true;
    }
    marks
}

fn stamp(number: usize, clock: u64) -> String {
    format!("m{number:0NUMBER_DIGITS$}_{clock:0TIME_DIGITS$}")
}

/// The number and the time that a message carries at `at`.
fn read_stamp(line: &[u8], fourcc: &[u8], at: usize) -> Option<(usize, u64)> {
    if line.get(..4)? != fourcc {
        return None;
    }
    let text = line.get(at..at + 2 + NUMBER_DIGITS + TIME_DIGITS)?;
    let digits = |part: &[u8]| {
        part.iter().try_fold(0_u64, |value, byte| {
            byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0'))
        })
    };
    let number = digits(text.get(1..=NUMBER_DIGITS)?)?;
    Some((usize::try_from(number).ok()?, digits(&text[NUMBER_DIGITS + 2..])?))
}

/// Resident memory of processes together, in bytes.
pub fn resident(pids: &[u32]) -> anyhow::Result<u64> {
    pids.iter()
        .map(|pid| crate::process::resident_bytes(*pid).context("reading a hub's memory"))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_where_they_stand() {
        let line = format!("DMSG AAAB AAAC {} PMAAAB", stamp(42, 123_456));
        assert_eq!(read_stamp(line.as_bytes(), b"DMSG", 15), Some((42, 123_456)));
        assert_eq!(read_stamp(line.as_bytes(), b"BMSG", 10), None);
        assert_eq!(read_stamp(b"BMSG AAAB hello", b"BMSG", 10), None);
    }

    #[test]
    fn percentiles_are_those_of_the_grain() {
        let mut delays = Delays::default();
        for millis in 1..=100 {
            delays.add(millis * 1000 - 50);
        }
        assert!(
            (delays.percentile_ms(0.5) - 50.0).abs() < 0.11,
            "{}",
            delays.percentile_ms(0.5)
        );
        assert!((delays.percentile_ms(0.99) - 99.0).abs() < 0.11);
        assert!(Delays::default().percentile_ms(0.5).abs() < 0.01);
    }
}
