//! How much of each server's log was handed out already: every record goes to one caller.
//!
//! A caller sends its whole copy of a server's log as one digest for each line. The mark of the server finds the copy's
//! place: a copy from the beginning by the hash of everything before the mark, one that lost its beginning by the last
//! lines before the mark. An older copy, also one of a log that was rotated away since, holds nothing new.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Outcome, Value};

/// Servers whose logs are extracted; a log of a further one is refused.
const SERVERS_MAX: usize = 4096;
/// Logs of one server that are remembered: the present one, and those that were rotated away last.
const GENERATIONS_MAX: usize = 4;
/// First lines of a log that tell it from others.
const HEAD_LINES_MAX: usize = 32;
/// Last lines before the mark, by which a copy that lost its beginning is placed.
const TAIL_LINES_MAX: usize = 256;
/// Fewer equal lines do not show that a whole copy is older than the last lines.
const EVIDENCE_LINES: usize = 8;

/// The marks of all servers.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Logs(BTreeMap<Arc<str>, Mark>);

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Ever handed out.
    lines: u64,
    /// The newest last.
    generations: Vec<Generation>,
}

/// A log from its beginning, or from the first line of it that was seen.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Generation {
    /// Lines before the mark.
    position: u64,
    /// The hash of them all, in their order.
    chain: u64,
    /// The first of them.
    head: Vec<u64>,
    /// The last of them.
    tail: Vec<u64>,
}

impl Logs {
    /// Hands out what is new in a copy, of which `digests` are the lines' (8 bytes each, little-endian).
    pub(super) fn extract(&mut self, server: &Arc<str>, digests: &Value) -> Outcome {
        let (numbers, _) = digests.as_ref().as_chunks::<8>();
        let lines: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        if !self.0.contains_key(server) && self.0.len() >= SERVERS_MAX {
            return Outcome::Full;
        }
        if lines.is_empty() {
            let total = self.0.get(server).map_or(0, |mark| mark.lines);
            return extracted(0, false, total);
        }
        self.0.entry(server.clone()).or_default().extract(&lines)
    }

    /// How many servers' logs are extracted.
    pub(super) fn servers(&self) -> usize {
        self.0.len()
    }
}

fn extracted(start: usize, gap: bool, total: u64) -> Outcome {
    Outcome::Extracted {
        start: start as u64,
        gap,
        total,
    }
}

impl Mark {
    fn extract(&mut self, lines: &[u64]) -> Outcome {
        let newest_first = || self.generations.iter().enumerate().rev();
        let placed = newest_first()
            .find_map(|(at, log)| Some((at, log.continued_by(lines)?)))
            .or_else(|| newest_first().find_map(|(at, log)| Some((at, log.overlapped_by(lines)?))));
        let (start, gap) = match placed {
            Some((at, start)) => {
                if let Some(log) = self.generations.get_mut(at) {
                    log.take(&lines[start..]);
                }
                (start, false)
            }
            None => {
                let gap = !self.generations.is_empty();
                let mut log = Generation::default();
                log.take(lines);
                if self.generations.len() == GENERATIONS_MAX {
                    self.generations.remove(0);
                }
                self.generations.push(log);
                (0, gap)
            }
        };
        self.lines += (lines.len() - start) as u64;
        extracted(start, gap, self.lines)
    }
}

impl Generation {
    /// Where the new lines of a copy from the beginning start; none when it is no such copy.
    fn continued_by(&self, lines: &[u64]) -> Option<usize> {
        let common = self.head.len().min(lines.len());
        if self.head[..common] != lines[..common] {
            return None;
        }
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        if let Some(before) = lines.get(..position) {
            return (chain(0, before) == self.chain).then_some(position);
        }
        // An older copy; where it reaches into the last lines it must agree with them.
        let first = position - self.tail.len();
        let seen = lines.get(first..).unwrap_or_default();
        (seen == &self.tail[..seen.len()]).then_some(lines.len())
    }

    /// Where the new lines of a copy that lost its beginning start; none when it has too little in common with the last
    /// lines before the mark.
    fn overlapped_by(&self, lines: &[u64]) -> Option<usize> {
        let tail = &self.tail[..];
        // With `skipped` lines of the copy before the tail, or of the tail before the copy.
        let later = (0..tail.len()).map(|skipped| (&tail[skipped..], lines, 0));
        let earlier = (1..lines.len()).map(|skipped| (tail, &lines[skipped..], skipped));
        let mut best: Option<(usize, usize)> = None;
        for (tail, lines_there, skipped) in later.chain(earlier) {
            let common = tail.len().min(lines_there.len());
            let evidence = if common < tail.len() {
                EVIDENCE_LINES.min(lines.len()).min(tail.len())
            } else {
                1
            };
            let (length, start) = best.unwrap_or_default();
            let is_better = (common, skipped + common) > (length, start);
            if common >= evidence && is_better && tail[..common] == lines_there[..common] {
                best = Some((common, skipped + common));
            }
        }
        best.map(|(_, start)| start)
    }

    /// Moves the mark behind further lines.
    fn take(&mut self, lines: &[u64]) {
        self.position += lines.len() as u64;
        self.chain = chain(self.chain, lines);
        let room = HEAD_LINES_MAX - self.head.len();
        self.head.extend(lines.iter().take(room));
        let last = lines.len().saturating_sub(TAIL_LINES_MAX);
        self.tail.extend(&lines[last..]);
        let surplus = self.tail.len().saturating_sub(TAIL_LINES_MAX);
        self.tail.drain(..surplus);
    }
}

/// Goes on with the hash of a sequence of digests, which are hashes themselves: only their order is mixed in.
fn chain(from: u64, lines: &[u64]) -> u64 {
    lines.iter().fold(from, |hash, line| {
        let mixed = (hash ^ line).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line for each character.
    fn extract(logs: &mut Logs, copy: &str) -> (String, bool) {
        let digests: Vec<u8> = copy
            .chars()
            .flat_map(|line| (line as u64).to_le_bytes())
            .collect();
        match logs.extract(&"server".into(), &Value::from(&digests[..])) {
            Outcome::Extracted { start, gap, .. } => {
                (copy.chars().skip(usize::try_from(start).unwrap()).collect(), gap)
            }
            other => panic!("{other:?}"),
        }
    }

    fn new(text: &str) -> (String, bool) {
        (text.to_owned(), false)
    }

    fn after_a_gap(text: &str) -> (String, bool) {
        (text.to_owned(), true)
    }

    #[test]
    fn growing_log_is_handed_out_once() {
        let mut logs = Logs::default();
        assert_eq!(extract(&mut logs, ""), new(""));
        assert_eq!(extract(&mut logs, "abc"), new("abc"));
        assert_eq!(extract(&mut logs, "abc"), new(""));
        assert_eq!(extract(&mut logs, "abcde"), new("de"));
        // A caller whose copy is older.
        assert_eq!(extract(&mut logs, "abcd"), new(""));
        assert_eq!(extract(&mut logs, "a"), new(""));
        assert_eq!(extract(&mut logs, "abcdef"), new("f"));
    }

    #[test]
    fn repeated_lines_are_counted() {
        let mut logs = Logs::default();
        let lines = "a".repeat(1000);
        assert_eq!(extract(&mut logs, &lines[..100]), new(&lines[..100]));
        assert_eq!(extract(&mut logs, &lines[..103]), new("aaa"));
        assert_eq!(extract(&mut logs, &lines[..50]), new(""));
        assert_eq!(extract(&mut logs, &lines), new(&lines[..897]));
    }

    /// A log of different lines.
    fn letters(from: u32, to: u32) -> String {
        (from..to)
            .filter_map(|letter| char::from_u32(0x4e00 + letter))
            .collect()
    }

    #[test]
    fn log_that_loses_its_beginning_goes_on_where_it_was() {
        let mut logs = Logs::default();
        assert_eq!(extract(&mut logs, &letters(0, 500)), new(&letters(0, 500)));
        assert_eq!(
            extract(&mut logs, &letters(300, 510)),
            new(&letters(500, 510)),
            "in the last lines"
        );
        assert_eq!(
            extract(&mut logs, &letters(100, 520)),
            new(&letters(510, 520)),
            "from before them"
        );
        assert_eq!(
            extract(&mut logs, &letters(519, 530)),
            new(&letters(520, 530)),
            "one line is left"
        );
        assert_eq!(
            extract(&mut logs, &letters(0, 540)),
            new(&letters(530, 540)),
            "whole"
        );
        // Older copies.
        assert_eq!(extract(&mut logs, &letters(400, 500)), new(""));
        assert_eq!(extract(&mut logs, &letters(200, 420)), new(""));
        // From the beginning, and from before the last lines.
        assert_eq!(extract(&mut logs, &letters(0, 100)), new(""));
        assert_eq!(
            extract(&mut logs, &letters(541, 550)),
            after_a_gap(&letters(541, 550)),
            "a line is missing"
        );
    }

    #[test]
    fn rotated_log_is_reported_and_the_old_one_is_not_handed_out_again() {
        let mut logs = Logs::default();
        assert_eq!(extract(&mut logs, &letters(0, 40)), new(&letters(0, 40)));
        assert_eq!(extract(&mut logs, "xy"), after_a_gap("xy"));
        assert_eq!(extract(&mut logs, "xyz"), new("z"));
        // Callers that read before the rotation: one with nothing new, one with the end that nobody had seen.
        assert_eq!(extract(&mut logs, &letters(0, 40)), new(""));
        assert_eq!(extract(&mut logs, &letters(0, 45)), new(&letters(40, 45)));
        assert_eq!(extract(&mut logs, &letters(0, 45)), new(""));
        assert_eq!(extract(&mut logs, "xyzw"), new("w"));
        // Far too many rotations later it is forgotten.
        for name in ["b", "c", "d", "e"] {
            assert_eq!(extract(&mut logs, name), after_a_gap(name));
        }
        assert_eq!(extract(&mut logs, "xyzw"), after_a_gap("xyzw"));
    }

    #[test]
    fn log_whose_past_was_changed_is_a_gap() {
        let mut logs = Logs::default();
        assert_eq!(extract(&mut logs, "abcd"), new("abcd"));
        assert_eq!(extract(&mut logs, "abXde"), after_a_gap("abXde"));
    }

    #[test]
    fn servers_are_bounded() {
        let mut logs = Logs::default();
        let line = Value::from(&1_u64.to_le_bytes()[..]);
        for number in 0..SERVERS_MAX {
            logs.extract(&format!("{number}").into(), &line);
        }
        assert_eq!(logs.extract(&"one more".into(), &line), Outcome::Full);
        assert_eq!(logs.extract(&"0".into(), &line), extracted(1, false, 1));
        assert_eq!(logs.servers(), SERVERS_MAX);
    }
}
