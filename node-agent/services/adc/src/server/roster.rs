//! Who is here, as this member has told its users: routes, and the list that newcomers are sent.
//!
//! The list is kept in segments of ready bytes that all newcomers share; a change spoils one segment.

mod packed;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use replication::NodeId;

use packed::Packed;

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
    ready: Option<Ready>,
}

/// The lines of a segment.
#[derive(Debug)]
struct Ready {
    lines: Bytes,
    /// Where the line of each user ends.
    ends: Vec<usize>,
    /// The same, compressed, once somebody asked for it.
    packed: Option<Packed>,
}

/// A list of users, most of it compressed.
#[derive(Debug)]
pub(super) struct PackedList {
    /// A zlib stream.
    pub(super) stream: Vec<Bytes>,
    /// The lines that are not in it.
    pub(super) rest: Vec<Bytes>,
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
                self.segments[entry.segment].ready = None;
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
        place.ready = None;
        if place.sids.len() >= SEGMENT_USERS {
            self.open.retain(|open| *open != segment);
        }
        self.users.insert(sid, Entry { inf, home, segment });
    }

    /// Merges changes into a user's `INF`.
    pub(super) fn update(&mut self, sid: Sid, changes: &str) {
        if let Some(entry) = self.users.get_mut(&sid) {
            entry.inf = merged_inf(&entry.inf, changes).into();
            self.segments[entry.segment].ready = None;
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
        place.ready = None;
        Some(entry)
    }

    /// The lines of all users but one, which is here itself. Whoever asks gets the same memory, as long as nothing changes.
    pub(super) fn list_without(&mut self, own: Sid) -> Vec<Bytes> {
        let users = &self.users;
        let own_segment = users.get(&own).map(|entry| entry.segment);
        let mut list = Vec::with_capacity(self.segments.len() + 1);
        for (number, segment) in self.segments.iter_mut().enumerate() {
            let ready = segment
                .ready
                .get_or_insert_with(|| Ready::of(&segment.sids, users));
            let own = (own_segment == Some(number)).then_some(own);
            let at = own.and_then(|own| segment.sids.iter().position(|sid| *sid == own));
            match at {
                None => list.push(ready.lines.clone()),
                Some(at) => list.extend(ready.without(at)),
            }
        }
        list.retain(|lines| !lines.is_empty());
        list
    }

    /// The same, compressed, if that is worth while. The segment of `own` is not: it is another one for each.
    pub(super) fn packed_list_without(&mut self, own: Sid) -> Option<PackedList> {
        let users = &self.users;
        let own_segment = users.get(&own).map(|entry| entry.segment);
        let mut pieces = Vec::with_capacity(self.segments.len());
        for (number, segment) in self.segments.iter_mut().enumerate() {
            if own_segment != Some(number) && !segment.sids.is_empty() {
                let ready = segment
                    .ready
                    .get_or_insert_with(|| Ready::of(&segment.sids, users));
                let packed = ready.packed.get_or_insert_with(|| Packed::new(&ready.lines));
                pieces.push(packed.clone());
            }
        }
        if pieces.iter().map(Packed::length).sum::<usize>() < PACKED_BYTES_MIN {
            return None;
        }
        let rest = own_segment.and_then(|segment| self.segments[segment].ready.as_ref());
        let sids = own_segment.map_or(&[][..], |segment| &self.segments[segment].sids);
        let rest = match (rest, sids.iter().position(|sid| *sid == own)) {
            (Some(ready), Some(at)) => ready.without(at).to_vec(),
            // Nobody asks for a list who is not on it, and had no list before.
            _ => return None,
        };
        Some(PackedList {
            stream: packed::stream(pieces.iter()),
            rest,
        })
    }
}

/// Lists below so many bytes are not worth being compressed.
const PACKED_BYTES_MIN: usize = 4096;

impl Ready {
    fn of(sids: &[Sid], users: &BTreeMap<Sid, Entry>) -> Self {
        let infs = || sids.iter().filter_map(|sid| Some((*sid, users.get(sid)?)));
        // All of it at once, so that the memory is no larger than the lines.
        let size = infs().map(|(_, entry)| entry.inf.len() + INF_LINE_BYTES).sum();
        let mut lines = BytesMut::with_capacity(size);
        let ends = infs()
            .map(|(sid, entry)| {
                put_inf(&mut lines, sid, &entry.inf);
                lines.len()
            })
            .collect();
        Self {
            lines: lines.freeze(),
            ends,
            packed: None,
        }
    }

    /// All lines but the one at that place.
    fn without(&self, at: usize) -> [Bytes; 2] {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        [self.lines.slice(..begin), self.lines.slice(self.ends[at]..)]
    }
}

/// Bytes of an `INF` line besides its fields.
const INF_LINE_BYTES: usize = "BINF AAAA \n".len();

/// Writes an `INF` line.
pub(super) fn put_inf(lines: &mut BytesMut, sid: Sid, fields: &str) {
    let sid = sid.text();
    lines.reserve(fields.len() + INF_LINE_BYTES);
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
    use std::io::Read as _;

    use super::*;

    fn text(roster: &mut Roster) -> String {
        text_without(roster, Sid::NOBODY)
    }

    fn text_without(roster: &mut Roster, own: Sid) -> String {
        let list = roster.list_without(own).concat();
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
        assert_eq!(roster.list_without(Sid::NOBODY).len(), 3);
        let one_fewer = |text: &str, own: u64| {
            let own = format!("BINF {} ", sid(own));
            let others: Vec<_> = text.lines().filter(|line| !line.starts_with(&own)).collect();
            others.join("\n")
        };
        let all = text(&mut roster);
        for own in [0, 1, 255, 256, 300, 598, 599] {
            assert_eq!(
                text_without(&mut roster, sid(own)),
                one_fewer(&all, own),
                "without {own}"
            );
        }
        let mut packed = roster.packed_list_without(sid(1)).unwrap();
        let mut list = Vec::new();
        flate2::read::ZlibDecoder::new(&packed.stream.concat()[..])
            .read_to_end(&mut list)
            .unwrap();
        assert!(list.ends_with(b"IZOF\n"));
        list.truncate(list.len() - b"IZOF\n".len());
        packed.rest.insert(0, list.into());
        let both = packed.rest.concat();
        let mut lines: Vec<_> = std::str::from_utf8(&both).unwrap().lines().collect();
        lines.sort_unstable();
        assert_eq!(lines.join("\n"), one_fewer(&all, 1));
        let shared = roster.list_without(sid(0));
        assert_eq!(shared[1].as_ptr(), roster.list_without(sid(1))[2].as_ptr());
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
        // Few users are sent as they are.
        assert!(roster.packed_list_without(sid(1)).is_none());
        assert_eq!(features("NIx SUTCP4,SEGA"), Some("TCP4,SEGA"));
    }
}
