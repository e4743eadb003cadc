//! The netascii transfer mode (RFC 1350 §1, RFC 764): text as a network virtual terminal writes it.
//!
//! Pure. A line feed becomes `CR LF` and a carriage return `CR NUL`; every other byte stays. The encoding of a byte
//! does not depend on its neighbours, so a file may be encoded in chunks of any size and nothing is carried from one
//! to the next. A file that already ends its lines with `CR LF` is sent as `CR NUL CR LF`: that is what the RFC says,
//! and what lets the receiver restore the same bytes.

const CR: u8 = b'\r';
const LF: u8 = b'\n';
const NUL: u8 = 0;

/// Appends the netascii form of `chunk` to `encoded`.
pub fn encode(chunk: &[u8], encoded: &mut Vec<u8>) {
    encoded.reserve(chunk.len());
    let mut rest = chunk;
    while let Some(at) = rest.iter().position(|&byte| byte == CR || byte == LF) {
        encoded.extend_from_slice(&rest[..at]);
        encoded.extend_from_slice(if rest[at] == LF { &[CR, LF] } else { &[CR, NUL] });
        rest = &rest[at + 1..];
    }
    encoded.extend_from_slice(rest);
}

/// How many bytes [`encode`] appends for `chunk`: the sum over all chunks is the size that `tsize` announces.
pub fn encoded_len(chunk: &[u8]) -> u64 {
    let doubled = chunk.iter().filter(|&&byte| byte == CR || byte == LF).count();
    (chunk.len() + doubled) as u64
}

/// The receiving side. It remembers a CR that ended the previous chunk.
#[derive(Debug, Default)]
pub struct Decoder {
    after_cr: bool,
}

impl Decoder {
    /// Appends the text of `chunk` to `decoded`. A CR before anything but LF and NUL, which no netascii has, stays as it
    /// is: the sender did not convert, and nothing of its file is lost.
    pub fn decode(&mut self, chunk: &[u8], decoded: &mut Vec<u8>) {
        decoded.reserve(chunk.len());
        for &byte in chunk {
            match (std::mem::take(&mut self.after_cr), byte) {
                (false, CR) => self.after_cr = true,
                (false, byte) => decoded.push(byte),
                (true, LF) => decoded.push(LF),
                (true, NUL) => decoded.push(CR),
                (true, CR) => {
                    decoded.push(CR);
                    self.after_cr = true;
                }
                (true, byte) => decoded.extend_from_slice(&[CR, byte]),
            }
        }
    }

    /// Appends what the end of the text makes certain: a CR that nothing followed.
    pub fn finish(self, decoded: &mut Vec<u8>) {
        if self.after_cr {
            decoded.push(CR);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_netascii_stays_as_it_is() {
        let mut decoder = Decoder::default();
        let mut decoded = Vec::new();
        for chunk in [&b"a\rb\r"[..], b"\r\nc\r"] {
            decoder.decode(chunk, &mut decoded);
        }
        decoder.finish(&mut decoded);
        assert_eq!(decoded, b"a\rb\r\nc\r");
    }

    #[test]
    fn line_ends_follow_rfc_764() {
        let table: [(&[u8], &[u8]); 6] = [
            (b"", b""),
            (b"plain", b"plain"),
            (b"one\ntwo\n", b"one\r\ntwo\r\n"),
            (b"bare\rreturn", b"bare\r\0return"),
            (b"dos\r\n", b"dos\r\0\r\n"),
            (b"\n\n\r\r", b"\r\n\r\n\r\0\r\0"),
        ];
        for (file, wire) in table {
            let mut encoded = Vec::new();
            encode(file, &mut encoded);
            assert_eq!(encoded, wire, "{file:?}");
            assert_eq!(encoded_len(file), wire.len() as u64, "{file:?}");
        }
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(CR), Just(LF), Just(NUL), any::<u8>()], 0..400)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_bytes_and_decodes_to_the_file(
            file in text(),
            out_chunk in 1usize..40,
            in_chunk in 1usize..40,
        ) {
            let mut whole = Vec::new();
            encode(&file, &mut whole);
            let mut encoded = Vec::new();
            let mut announced = 0;
            for chunk in file.chunks(out_chunk) {
                encode(chunk, &mut encoded);
                announced += encoded_len(chunk);
            }
            prop_assert_eq!(&encoded, &whole);
            prop_assert_eq!(announced, whole.len() as u64);
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            for chunk in encoded.chunks(in_chunk) {
                decoder.decode(chunk, &mut decoded);
            }
            prop_assert_eq!(decoded, file);
        }
    }
}
