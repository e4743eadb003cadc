//! The list of users, compressed (ADC-EXT, ZLIF): pieces that are compressed once and put together for each newcomer.
//!
//! A piece of raw deflate (RFC 1951) that ends at a byte and refers to nothing before itself may follow any other. What is
//! left of a zlib stream (RFC 1950) is two bytes before them, and an end with the checksum of all of it.

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress, Status};

/// What a zlib stream begins with: deflate, a window of 32 KiB, no dictionary.
const HEAD: &[u8] = &[0x78, 0x9c];
/// The last line: compression ends. There are clients that stop there, and others that stop at the stream's end.
const LAST_LINE: &[u8] = b"IZOF\n";
/// What is before it: the head of the last block, stored as it is, of five bytes.
const LAST_HEAD: &[u8] = &[1, 5, 0, 0xfa, 0xff];
/// The modulus of Adler-32.
const ADLER_BASE: u64 = 65_521;

/// Lines that are compressed.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    deflated: Bytes,
    length: usize,
    checksum: Checksum,
}

/// Adler-32 (RFC 1950, 8.2), of which two can be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checksum {
    a: u64,
    b: u64,
}

impl Checksum {
    const EMPTY: Self = Self { a: 1, b: 0 };

    fn of(bytes: &[u8]) -> Self {
        // So many sums cannot overflow.
        const AT_ONCE: usize = 1 << 20;
        let mut sum = Self::EMPTY;
        for part in bytes.chunks(AT_ONCE) {
            for byte in part {
                sum.a += u64::from(*byte);
                sum.b += sum.a;
            }
            sum.a %= ADLER_BASE;
            sum.b %= ADLER_BASE;
        }
        sum
    }

    /// The checksum of what this one is of, and then `length` bytes with that checksum.
    const fn then(self, next: Self, length: usize) -> Self {
        // Each byte of the second part counts what the first part's `a` is above one.
        let above = self.a + ADLER_BASE - 1;
        Self {
            a: (above + next.a) % ADLER_BASE,
            b: (self.b + next.b + above % ADLER_BASE * (length as u64 % ADLER_BASE)) % ADLER_BASE,
        }
    }

    fn bytes(self) -> [u8; 4] {
        // Both are below 2^16.
        u32::try_from(self.b << 16 | self.a)
            .unwrap_or_default()
            .to_be_bytes()
    }
}

impl Packed {
    /// Compresses lines.
    pub(super) fn new(lines: &[u8]) -> Self {
        // Not the best, but many times quicker than what sends it.
        let mut compress = Compress::new(Compression::fast(), false);
        let mut deflated = Vec::with_capacity(lines.len() / 2 + 64);
        loop {
            let taken = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            let rest = lines.get(taken..).unwrap_or_default();
            let status = compress.compress_vec(rest, &mut deflated, FlushCompress::Sync);
            // Some room is left: all of it is written, and the end of a block.
            if !matches!(status, Ok(Status::Ok | Status::BufError)) || deflated.len() < deflated.capacity() {
                break;
            }
            deflated.reserve(lines.len() / 4 + 64);
        }
        Self {
            deflated: deflated.into_boxed_slice().into_vec().into(),
            length: lines.len(),
            checksum: Checksum::of(lines),
        }
    }

    /// Bytes of the lines.
    pub(super) const fn length(&self) -> usize {
        self.length
    }
}

/// The zlib stream of these pieces.
pub(super) fn stream<'a>(pieces: impl Iterator<Item = &'a Packed>) -> Vec<Bytes> {
    let mut stream = vec![Bytes::from_static(HEAD)];
    let mut checksum = Checksum::EMPTY;
    for piece in pieces {
        checksum = checksum.then(piece.checksum, piece.length);
        stream.push(piece.deflated.clone());
    }
    checksum = checksum.then(Checksum::of(LAST_LINE), LAST_LINE.len());
    let mut end = BytesMut::from(LAST_HEAD);
    end.put_slice(LAST_LINE);
    end.put_slice(&checksum.bytes());
    stream.push(end.freeze());
    stream
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};
    use proptest::prelude::*;

    use super::*;

    /// What any zlib makes of a stream that other bytes follow, and how many bytes it took.
    fn unpacked(stream: &[u8]) -> (Vec<u8>, usize) {
        let mut inflate = Decompress::new(true);
        let mut plain = Vec::with_capacity(1 << 20);
        let status = inflate
            .decompress_vec(stream, &mut plain, FlushDecompress::Finish)
            .unwrap();
        assert_eq!(status, Status::StreamEnd);
        (plain, usize::try_from(inflate.total_in()).unwrap())
    }

    #[test]
    fn lists_become_a_good_deal_smaller() {
        let lines: String = (0..256)
            .map(|user| {
                format!("BINF AAA{user:04} IDAAAAAAAAAAAAAAAAAAAA NIuser{user} SL5 FS5 SS12345 SUTCP4,UDP4\n")
            })
            .collect();
        let packed = Packed::new(lines.as_bytes());
        assert!(
            packed.deflated.len() * 4 < lines.len(),
            "{}",
            packed.deflated.len()
        );
        let plain = [lines.as_bytes(), LAST_LINE].concat();
        assert!(unpacked(&stream([&packed].into_iter()).concat()).0 == plain);
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_are_one_stream(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let packed: Vec<Packed> = pieces.iter().map(|piece| Packed::new(piece)).collect();
            let whole = stream(packed.iter()).concat();
            let sent = [whole.clone(), rest].concat();
            let plain = [&pieces.concat()[..], LAST_LINE].concat();
            prop_assert_eq!(unpacked(&sent), (plain, whole.len()));
        }
    }
}
