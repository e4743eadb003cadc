use proptest::prelude::*;

use super::*;

fn option(name: &str, value: &str) -> RequestOption {
    RequestOption {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn read(path: &str, mode: Mode, options: Vec<RequestOption>) -> Packet<'static> {
    Packet::Request(Request {
        kind: RequestKind::Read,
        path: path.to_owned(),
        mode,
        options,
    })
}

/// The packets drawn in the RFCs, byte by byte; each reads and writes as drawn.
#[test]
fn packets_are_those_of_the_rfcs() {
    let table: Vec<(&[u8], Packet<'_>)> = vec![
        // RFC 1350 §5
        (b"\0\x01foobar\0octet\0", read("foobar", Mode::Octet, vec![])),
        (
            b"\0\x03\0\x01payload",
            Packet::Data {
                block: 1,
                payload: b"payload",
            },
        ),
        (
            b"\0\x03\xff\xff",
            Packet::Data {
                block: 65_535,
                payload: b"",
            },
        ),
        (b"\0\x04\x01\x02", Packet::Ack(258)),
        (
            b"\0\x05\0\x01not found\0",
            Packet::Error {
                code: 1,
                message: "not found".to_owned(),
            },
        ),
        (
            b"\0\x02up\0netascii\0",
            Packet::Request(Request {
                kind: RequestKind::Write,
                path: "up".to_owned(),
                mode: Mode::Netascii,
                options: vec![],
            }),
        ),
        // RFC 2347, Examples
        (
            b"\0\x01foofile\0octet\0blksize\x001432\0",
            read("foofile", Mode::Octet, vec![option("blksize", "1432")]),
        ),
        (
            b"\0\x06blksize\x001432\0",
            Packet::Oack(vec![option("blksize", "1432")]),
        ),
        // RFC 2348, Example; RFC 2349; RFC 7440 §3
        (
            b"\0\x01foobar\0octet\0blksize\x001428\0tsize\x000\0timeout\x001\0windowsize\x0016\0",
            read(
                "foobar",
                Mode::Octet,
                vec![
                    option("blksize", "1428"),
                    option("tsize", "0"),
                    option("timeout", "1"),
                    option("windowsize", "16"),
                ],
            ),
        ),
    ];
    for (bytes, packet) in table {
        assert_eq!(Packet::decode(bytes).as_ref(), Ok(&packet));
        assert_eq!(packet.encode(), bytes);
    }
    assert_eq!(data_header(0x1234), [0, 3, 0x12, 0x34]);
    assert_eq!(encode_ack(7), [0, 4, 0, 7]);
}

#[test]
fn modes_are_compared_without_case() {
    for (word, mode) in [
        ("OCTET", Mode::Octet),
        ("NetASCII", Mode::Netascii),
        ("mAiL", Mode::Mail),
        ("binary", Mode::Unknown("binary".to_owned())),
    ] {
        let bytes = [b"\0\x01f\0", word.as_bytes(), b"\0"].concat();
        assert_eq!(Packet::decode(&bytes), Ok(read("f", mode, vec![])));
    }
}

#[test]
fn sloppy_but_clear_packets_are_read() {
    let padded = b"\0\x01f\0octet\0tsize\x000\0\0\0\0";
    assert_eq!(
        Packet::decode(padded),
        Ok(read("f", Mode::Octet, vec![option("tsize", "0")]))
    );
    assert_eq!(Packet::decode(b"\0\x04\0\x09\0\0"), Ok(Packet::Ack(9)));
    let no_nul = Packet::Error {
        code: 8,
        message: "User aborted".to_owned(),
    };
    assert_eq!(Packet::decode(b"\0\x05\0\x08User aborted"), Ok(no_nul));
    assert_eq!(
        Packet::decode(b"\0\x05\0\0"),
        Ok(Packet::Error {
            code: 0,
            message: String::new()
        })
    );
}

#[test]
fn unreadable_packets_name_their_answer() {
    let long = [b"\0\x01".as_slice(), &[b'a'; 1100], b"\0octet\0"].concat();
    let table: Vec<(&[u8], Option<ErrorCode>)> = vec![
        (b"", None),
        (b"\0", None),
        (b"\0\x03\0", None),
        (b"\0\x04\0", None),
        (b"\0\x05", None),
        (b"\0\x09what", None),
        (b"\0\0", None),
        (b"\0\x06blksize", None),
        (b"\0\x06blksize\x008\0blksize\x009\0", None),
        (b"\0\x01", Some(ErrorCode::IllegalOperation)),
        (b"\0\x01file", Some(ErrorCode::IllegalOperation)),
        (b"\0\x01file\0octet", Some(ErrorCode::IllegalOperation)),
        (b"\0\x01file\0octet\0blksize\0", Some(ErrorCode::IllegalOperation)),
        (
            b"\0\x01file\0octet\0blksize\x00512",
            Some(ErrorCode::IllegalOperation),
        ),
        (b"\0\x01file\0oct\xff\0", Some(ErrorCode::IllegalOperation)),
        (b"\0\x01fi\xffle\0octet\0", Some(ErrorCode::FileNotFound)),
        (
            b"\0\x01f\0octet\0blksize\x008\0BLKSIZE\x009\0",
            Some(ErrorCode::OptionsRefused),
        ),
        (&long, Some(ErrorCode::IllegalOperation)),
    ];
    for (bytes, answer) in table {
        let error = Packet::decode(bytes).expect_err("unreadable");
        assert_eq!(error.error_code(), answer, "{bytes:?}: {error}");
    }
}

#[test]
fn long_messages_are_cut_between_characters() {
    let message = "é".repeat(80);
    let bytes = encode_error(ErrorCode::NotDefined, &message);
    assert_eq!(bytes.len(), 4 + 100 + 1);
    assert_eq!(
        Packet::decode(&bytes),
        Ok(Packet::Error {
            code: 0,
            message: "é".repeat(50)
        })
    );
    assert_eq!(
        encode_error(ErrorCode::OptionsRefused, "a\0b"),
        b"\0\x05\0\x08a\0"
    );
}

const LIMITS: Limits = Limits {
    block_size_max: 1468,
    window_size_max: 64,
    file_len: 9_000_000_000,
};

fn pairs(pairs: &[(&str, &str)]) -> Vec<RequestOption> {
    pairs.iter().map(|(name, value)| option(name, value)).collect()
}

/// What is asked, what the OACK grants (nothing: no OACK), block size, window size, timeout.
#[test]
fn options_are_granted_capped_or_left_out() {
    type Row<'a> = (
        &'a [(&'a str, &'a str)],
        &'a [(&'a str, &'a str)],
        u16,
        u16,
        Option<u8>,
    );
    let huge = "99999999999999999999999";
    let table: [Row<'_>; 18] = [
        (&[], &[], 512, 1, None),
        (&[("blksize", "8")], &[("blksize", "8")], 8, 1, None),
        (&[("blksize", "1468")], &[("blksize", "1468")], 1468, 1, None),
        // RFC 2348: the reply may be smaller.
        (&[("blksize", "65464")], &[("blksize", "1468")], 1468, 1, None),
        (&[("blksize", huge)], &[("blksize", "1468")], 1468, 1, None),
        (&[("blksize", "7")], &[], 512, 1, None),
        (&[("blksize", "x")], &[], 512, 1, None),
        (&[("blksize", "+16")], &[], 512, 1, None),
        // RFC 7440 §3
        (&[("windowsize", "16")], &[("windowsize", "16")], 512, 16, None),
        (&[("windowsize", "65535")], &[("windowsize", "64")], 512, 64, None),
        (&[("windowsize", "0")], &[], 512, 1, None),
        // RFC 2349: the reply must equal the request.
        (&[("timeout", "255")], &[("timeout", "255")], 512, 1, Some(255)),
        (&[("timeout", "06")], &[("timeout", "06")], 512, 1, Some(6)),
        (&[("timeout", "0")], &[], 512, 1, None),
        (&[("timeout", "256")], &[], 512, 1, None),
        (&[("tsize", "0")], &[("tsize", "9000000000")], 512, 1, None),
        (&[("tsize", "?")], &[], 512, 1, None),
        // RFC 2347: unknown options are left out of the OACK; names keep the client's spelling.
        (
            &[("utimeout", "9"), ("BlkSize", "512"), ("", "1")],
            &[("BlkSize", "512")],
            512,
            1,
            None,
        ),
    ];
    for (asked, granted, block_size, window_size, timeout) in table {
        let oack = (!granted.is_empty()).then(|| encode_oack(&pairs(granted)));
        let expected = Negotiated {
            block_size,
            window_size,
            timeout,
            oack,
        };
        assert_eq!(negotiate(&pairs(asked), &LIMITS), expected, "{asked:?}");
    }
    let both = pairs(&[("tsize", "0"), ("blksize", "99")]);
    let oack = b"\0\x06tsize\x009000000000\0blksize\x0099\0".to_vec();
    assert_eq!(negotiate(&both, &LIMITS).oack, Some(oack));
}

#[test]
fn size_of_an_empty_file_is_not_announced() {
    let limits = Limits {
        file_len: 0,
        ..LIMITS
    };
    let only_size = [option("tsize", "0")];
    assert_eq!(negotiate(&only_size, &limits).oack, None);
    let both = [option("tsize", "0"), option("blksize", "512")];
    assert_eq!(
        negotiate(&both, &limits).oack,
        Some(b"\0\x06blksize\x00512\0".to_vec())
    );
}

fn word() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn options() -> impl Strategy<Value = Vec<RequestOption>> {
    let name = "[a-z]{1,8}";
    prop::collection::btree_map(name, word(), 0..6).prop_map(|options| {
        options
            .into_iter()
            .map(|(name, value)| RequestOption { name, value })
            .collect()
    })
}

fn request() -> impl Strategy<Value = Packet<'static>> {
    (any::<bool>(), word(), word(), options()).prop_map(|(read, path, mode, options)| {
        let kind = if read {
            RequestKind::Read
        } else {
            RequestKind::Write
        };
        Packet::Request(Request {
            kind,
            path,
            mode: Mode::from_word(mode),
            options,
        })
    })
}

fn survives(packet: &Packet<'_>) -> bool {
    Packet::decode(&packet.encode()).as_ref() == Ok(packet)
}

proptest! {
    #[test]
    fn requests_and_oacks_survive_the_wire(request in request(), options in options()) {
        prop_assume!(request.encode().len() <= REQUEST_BYTES_MAX);
        prop_assert!(survives(&request));
        prop_assert!(survives(&Packet::Oack(options)));
    }

    #[test]
    fn data_acks_and_errors_survive_the_wire(
        block: u16, payload in prop::collection::vec(any::<u8>(), 0..600), message in "[^\0]{0,25}",
    ) {
        let packets = [
            Packet::Data { block, payload: &payload },
            Packet::Ack(block),
            Packet::Error { code: block, message },
        ];
        prop_assert!(packets.iter().all(survives));
    }

}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..700), opcode in 0u8..9) {
        let _ = Packet::decode(&bytes);
        if let [high, low, ..] = bytes.as_mut_slice() {
            (*high, *low) = (0, opcode);
        }
        match Packet::decode(&bytes) {
            // A message may be cut when it is written.
            Ok(Packet::Error { .. }) => {}
            // What was read can be written and read again, whatever the padding was.
            Ok(packet) => prop_assert!(survives(&packet)),
            Err(error) => { let _ = error.error_code(); }
        }
    }

    #[test]
    fn grants_never_exceed_what_was_asked(
        size in 0u32..70_000, window in 0u32..70_000, block_size_max: u16, window_size_max: u16, file_len: u64,
    ) {
        let options = [option("blksize", &size.to_string()), option("windowsize", &window.to_string())];
        let granted = negotiate(&options, &Limits { block_size_max, window_size_max, file_len });
        prop_assert!((8..=65_464).contains(&granted.block_size) && granted.window_size >= 1);
        prop_assert!(size < 8 || u32::from(granted.block_size) <= size);
        prop_assert!(window == 0 || u32::from(granted.window_size) <= window);
    }
}
