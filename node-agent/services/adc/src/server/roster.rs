//! Who is here, as this member has told its users: routes, and the list that newcomers are sent.
//!
//! The list is kept in segments of ready bytes that all newcomers share; a change spoils one segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use replication::NodeId;

use crate::message::{Sid, fields};
use crate::state::{Home, LinkId, User, merged_inf};

/// Users of one segment: rebuilding one copies some 40 KiB, and the list of 5,000 users has 20 of them.
const SEGMENT_USERS: usize = 256;

/// One user.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its `INF`.
    pub(super) inf: Arc<str>,
    /// Its front and its connection there; none when it is away.
    pub(super) home: Option<(NodeId, LinkId)>,
    segment: usize,
}

#[derive(Debug, Default)]
struct Segment {
    sids: Vec<Sid>,
    /// Their lines; none when they changed.
    lines: Option<Bytes>,
}

/// Who is here.
#[derive(Debug, Default)]
pub(super) struct Roster {
    users: BTreeMap<Sid, Entry>,
    segments: Vec<Segment>,
    /// Segments with room.
    open: Vec<usize>,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn get(&self, sid: Sid) -> Option<&Entry> {
        self.users.get(&sid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Sid, &Entry)> {
        self.users.iter().map(|(sid, entry)| (*sid, entry))
    }

    /// Adds a user, or says anew where it is and what its `INF` is.
    pub(super) fn put(&mut self, sid: Sid, inf: Arc<str>, home: Option<(NodeId, LinkId)>) {
        if let Some(entry) = self.users.get_mut(&sid) {
            entry.home = home;
            if entry.inf != inf {
                entry.inf = inf;
                self.segments[entry.segment].lines = None;
            }
            return;
        }
        let segment = match self.open.last() {
            Some(segment) => *segment,
            None => {
                self.segments.push(Segment::default());
                self.open.push(self.segments.len() - 1);
                self.segments.len() - 1
            }
        };
        let place = &mut self.segments[segment];
        place.sids.push(sid);
        place.lines = None;
        if place.sids.len() >= SEGMENT_USERS {
            self.open.retain(|open| *open != segment);
        }
        self.users.insert(sid, Entry { inf, home, segment });
    }

    /// Merges changes into a user's `INF`.
    pub(super) fn update(&mut self, sid: Sid, changes: &str) {
        if let Some(entry) = self.users.get_mut(&sid) {
            entry.inf = merged_inf(&entry.inf, changes).into();
            self.segments[entry.segment].lines = None;
        }
    }

    /// Says where a user's connection is now.
    pub(super) fn moved(&mut self, sid: Sid, home: Option<(NodeId, LinkId)>) {
        if let Some(entry) = self.users.get_mut(&sid) {
            entry.home = home;
        }
    }

    pub(super) fn remove(&mut self, sid: Sid) -> Option<Entry> {
        let entry = self.users.remove(&sid)?;
        let place = &mut self.segments[entry.segment];
        if place.sids.len() == SEGMENT_USERS {
            self.open.push(entry.segment);
        }
        place.sids.retain(|one| *one != sid);
        place.lines = None;
        Some(entry)
    }

    /// The lines of all users.
    pub(super) fn list(&mut self) -> Vec<Bytes> {
        let users = &self.users;
        let lines = |segment: &mut Segment| {
            let ready = segment.lines.get_or_insert_with(|| {
                let mut lines = BytesMut::new();
                for sid in &segment.sids {
                    if let Some(entry) = users.get(sid) {
                        put_inf(&mut lines, *sid, &entry.inf);
                    }
                }
                lines.freeze()
            });
            (!ready.is_empty()).then(|| ready.clone())
        };
        self.segments.iter_mut().filter_map(lines).collect()
    }
}

/// Writes an `INF` line.
pub(super) fn put_inf(lines: &mut BytesMut, sid: Sid, fields: &str) {
    let sid = sid.text();
    lines.reserve(fields.len() + 11);
    lines.put_slice(b"BINF ");
    lines.put_slice(&sid);
    lines.put_u8(b' ');
    lines.put_slice(fields.as_bytes());
    lines.put_u8(b'\n');
}

/// The features that a user announced: the value of `SU` in its `INF`, or in changes of it.
pub(super) fn features(inf: &str) -> Option<&str> {
    fields(inf).find_map(|field| field.strip_prefix("SU"))
}

/// Where a user of the directory is.
pub(super) fn home(user: &User) -> Option<(NodeId, LinkId)> {
    match user.home {
        Home::Front { front, link } => Some((front, link)),
        Home::Orphan { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(roster: &mut Roster) -> String {
        let list = roster.list().concat();
        let mut lines: Vec<_> = std::str::from_utf8(&list).unwrap().lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    #[test]
    fn list_is_always_what_was_put() {
        let mut roster = Roster::default();
        let sid = Sid::from_number;
        for number in 0..600 {
            roster.put(sid(number), format!("NIn{number}").into(), None);
        }
        assert_eq!(roster.list().len(), 3);
        for number in 2..600 {
            roster.remove(sid(number)).unwrap();
        }
        assert_eq!(text(&mut roster), "BINF AAAB NIn0\nBINF AAAC NIn1");
        roster.update(sid(1), "DEx SL3");
        roster.update(sid(1), "DE");
        assert_eq!(text(&mut roster), "BINF AAAB NIn0\nBINF AAAC NIn1 SL3");
        roster.put(sid(0), "NIm0".into(), Some((1, 2)));
        roster.put(sid(9), "NIn9".into(), None);
        assert_eq!(
            text(&mut roster),
            "BINF AAAB NIm0\nBINF AAAC NIn1 SL3\nBINF AAAK NIn9"
        );
        assert!(roster.segments.len() <= 3);
        assert_eq!(features("NIx SUTCP4,SEGA"), Some("TCP4,SEGA"));
    }
}
