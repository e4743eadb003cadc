//! Logs as lines: what is sent of a caller's copy, and what of it is answered.

use sha2::{Digest, Sha256};

use super::Refusal;
use crate::state::Value;
use hyper::StatusCode;

/// Lines of one copy.
pub const LINES_MAX: usize = 131_072;

/// What of a copy is looked at: all of it, or only up to its last line end if `whole` lines are wanted.
#[must_use]
pub fn considered(copy: &[u8], whole: bool) -> &[u8] {
    let end = match copy.iter().rposition(|byte| *byte == b'\n') {
        _ if !whole => copy.len(),
        Some(last) => last + 1,
        None => 0,
    };
    &copy[..end]
}

/// The digests of the lines, 8 bytes each: of a line without its end, so that one without an end has the same digest once
/// its end is there.
///
/// # Errors
/// When there are too many lines.
pub fn digests(copy: &[u8]) -> Result<Value, Refusal> {
    let mut digests = Vec::new();
    for line in copy.split_inclusive(|byte| *byte == b'\n') {
        if digests.len() == 8 * LINES_MAX {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "the log has more than {LINES_MAX} lines: send its end only, from some lines before the last \
                     extraction"
                ),
            ));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        digests.extend_from_slice(&Sha256::digest(line)[..8]);
    }
    Ok(Value::from(&digests[..]))
}

/// A copy without its first `lines` lines.
#[must_use]
pub fn suffix(copy: &[u8], lines: u64) -> &[u8] {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let bytes: usize = copy
        .split_inclusive(|byte| *byte == b'\n')
        .take(lines)
        .map(<[u8]>::len)
        .sum();
    &copy[bytes..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_lines() {
        assert_eq!(digests(b"").unwrap().as_ref(), b"");
        assert_eq!(digests(b"a").unwrap(), digests(b"a\n").unwrap());
        assert_eq!(digests(b"a\n\nb").unwrap().as_ref().len(), 24);
        // SHA-256 of "abc" (FIPS 180-4, example), cut.
        let abc = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert_eq!(digests(b"abc\n").unwrap().as_ref(), abc);
        assert_eq!(
            digests(&[b'\n'; LINES_MAX]).unwrap().as_ref().len(),
            8 * LINES_MAX
        );
        assert!(digests(&[b'\n'; LINES_MAX + 1]).is_err());
    }

    #[test]
    fn suffix_is_cut_at_lines() {
        assert_eq!(suffix(b"a\nb\nc", 0), b"a\nb\nc");
        assert_eq!(suffix(b"a\nb\nc", 2), b"c");
        assert_eq!(suffix(b"a\nb\nc", 3), b"");
        assert_eq!(suffix(b"a\nb\nc", 9), b"");
        assert_eq!(considered(b"a\nb", true), b"a\n");
        assert_eq!(considered(b"a\nb", false), b"a\nb");
        assert_eq!(considered(b"b", true), b"");
    }
}
