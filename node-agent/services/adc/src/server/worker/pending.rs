//! Lines for everybody that nobody's queue holds yet. What comes while others are being written goes to each user as one
//! piece: a write of one piece is cheaper than one of several, and a piece costs a place in thousands of queues.

use bytes::Bytes;

/// Bytes of such lines beyond which they are given to the users at once.
const PENDING_BYTES_MAX: usize = 64 << 10;

/// Lines for everybody, in order.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pieces: Vec<Bytes>,
    bytes: usize,
    count: u64,
}

impl Pending {
    /// Adds so many lines; whether there are as many as may wait.
    pub(super) fn add(&mut self, lines: Bytes, count: u32) -> bool {
        self.bytes += lines.len();
        self.count += u64::from(count);
        self.pieces.push(lines);
        self.bytes >= PENDING_BYTES_MAX
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// All of them, and how many they are.
    pub(super) fn take(&mut self) -> Option<(Bytes, u64)> {
        let Self { pieces, count, .. } = std::mem::take(self);
        match &pieces[..] {
            [] => None,
            [one] => Some((one.clone(), count)),
            several => Some((several.concat().into(), count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_becomes_one_piece_in_its_order() {
        let mut pending = Pending::default();
        assert!(pending.take().is_none() && pending.is_empty());
        let one = Bytes::from_static(b"BMSG AAAB a\n");
        assert!(!pending.add(one.clone(), 1));
        let (lines, count) = pending.take().unwrap();
        assert_eq!((lines.as_ptr(), count), (one.as_ptr(), 1), "it is not copied");
        pending.add(one, 1);
        pending.add(Bytes::from_static(b"IQUI AAAB\nIQUI AAAC\n"), 2);
        let (lines, count) = pending.take().unwrap();
        assert_eq!(
            (&lines[..], count),
            (&b"BMSG AAAB a\nIQUI AAAB\nIQUI AAAC\n"[..], 3)
        );
        assert!(pending.is_empty());
        assert!(
            pending.add(vec![b'\n'; PENDING_BYTES_MAX].into(), 1),
            "no more may wait"
        );
    }
}
