//! Lines for a client that believes to have another SID than everybody else knows it by.
//!
//! A client is given its SID before it says who it is. When it turns out to be somebody whose place is kept under another
//! SID, it keeps both: on its own connection the two are swapped, and nobody notices.

use bytes::Bytes;
use memchr::memmem;

use super::Sid;

/// The lines with `one` in the place of `other` and the reverse, wherever a hub's lines have SIDs: in their headers, in
/// `QUI`, and in the flags `PM` and `ID`.
#[must_use]
pub fn swap_sids(lines: &[u8], one: Sid, other: Sid) -> Vec<u8> {
    let (one, other) = (one.text(), other.text());
    let mut swapped = lines.to_vec();
    for line in swapped.split_mut(|byte| *byte == b'\n') {
        swap_in_line(line, &one, &other);
    }
    swapped
}

/// The same of lines that many are sent: the same memory, as long as neither SID is in them. Nearly none of the list of
/// users has one.
#[must_use]
pub fn swap_shared_sids(lines: Bytes, one: Sid, other: Sid) -> Bytes {
    let is_in = |sid: Sid| memmem::find(&lines, &sid.text()).is_some();
    if is_in(one) || is_in(other) {
        swap_sids(&lines, one, other).into()
    } else {
        lines
    }
}

fn swap_in_line(line: &mut [u8], one: &[u8; 4], other: &[u8; 4]) {
    let Some((head, rest)) = line.split_at_mut_checked(4) else {
        return;
    };
    let positional = match (head[0], &head[1..]) {
        (b'B' | b'F', _) | (b'I', b"QUI" | b"SID") => 1,
        (b'D' | b'E', _) => 2,
        _ => 0,
    };
    let text = (&head[1..] == b"MSG").then_some(positional);
    let has_flags = matches!(&head[1..], b"MSG" | b"QUI");
    for (index, param) in rest.split_mut(|byte| *byte == b' ').skip(1).enumerate() {
        if index < positional {
            swap(param, one, other);
        } else if !has_flags {
            return;
        } else if text == Some(index) {
        } else if let Some((b"PM" | b"ID", sid)) =
            param.split_at_mut_checked(2).map(|(tag, sid)| (&*tag, sid))
        {
            swap(sid, one, other);
        }
    }
}

fn swap(sid: &mut [u8], one: &[u8; 4], other: &[u8; 4]) {
    if sid == one {
        sid.copy_from_slice(other);
    } else if sid == other {
        sid.copy_from_slice(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sids_are_swapped_where_lines_have_them() {
        let (one, other) = ("AAAB".parse().unwrap(), "CCCC".parse().unwrap());
        for (line, swapped) in [
            ("BINF AAAB NIAAAB IDAAAB\n", "BINF CCCC NIAAAB IDAAAB\n"),
            ("DMSG CCCC AAAB AAAB PMCCCC\n", "DMSG AAAB CCCC AAAB PMAAAB\n"),
            ("EMSG AAAC AAAB x PMAAAC\n", "EMSG AAAC CCCC x PMAAAC\n"),
            (
                "FSCH AAAB +TCP4 ANCCCC\nIQUI CCCC IDAAAB MSAAAB",
                "FSCH CCCC +TCP4 ANCCCC\nIQUI AAAB IDCCCC MSAAAB",
            ),
            ("BMSG CCCC PMCCCC PMCCCC\n", "BMSG AAAB PMCCCC PMAAAB\n"),
            ("IMSG AAAB\n\nISTA 144 AAAB\n", "IMSG AAAB\n\nISTA 144 AAAB\n"),
            ("B", "B"),
        ] {
            let done = swap_sids(line.as_bytes(), one, other);
            assert_eq!(String::from_utf8(done.clone()).unwrap(), swapped);
            assert_eq!(swap_sids(&done, other, one), line.as_bytes());
            let shared = swap_shared_sids(Bytes::from_static(line.as_bytes()), one, other);
            assert_eq!(shared, done);
        }
    }

    #[test]
    fn lines_without_either_sid_are_not_copied() {
        let (one, other) = ("AAAB".parse().unwrap(), "CCCC".parse().unwrap());
        for (lines, is_same) in [
            ("BINF AAAC NIx\nBINF AAAD NIy\n", true),
            ("BINF AAAC NIx\nBINF CCCC NIy\n", false),
            ("BINF AAAB NIx\nBINF AAAD NIy\n", false),
        ] {
            let lines = Bytes::from_static(lines.as_bytes());
            let swapped = swap_shared_sids(lines.clone(), one, other);
            assert_eq!(swapped.as_ptr() == lines.as_ptr(), is_same, "{lines:?}");
        }
    }
}
