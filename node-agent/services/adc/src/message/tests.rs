use proptest::prelude::*;

use super::*;

/// A PID and its CID, as eiskaltdcpp computes it.
const PID: &str = "3CYKDCBHTVEPJSZPVWYRPXX6CZTIJAIYUCGDRXY";
const CID: &str = "HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI";

fn sid(text: &str) -> Sid {
    text.parse().unwrap()
}

#[test]
fn headers_are_read_as_the_specification_draws_them() {
    let parse = |line: &'static str| Message::parse(line.as_bytes());
    let message = parse("BMSG AAAB hello\\sall ME1").unwrap();
    assert_eq!(message.header, Header::Broadcast(sid("AAAB")));
    assert_eq!(&message.command, b"MSG");
    assert_eq!(message.params().collect::<Vec<_>>(), ["hello\\sall", "ME1"]);
    assert_eq!(message.named(1, "ME").as_deref(), Some("1"));
    // A positional parameter is not taken for a named one.
    assert_eq!(parse("BMSG AAAB MEow").unwrap().named(1, "ME"), None);
    let direct = parse("DCTM AAAB AAAC ADC/1.0 1412 tok").unwrap();
    assert_eq!(
        direct.header,
        Header::Direct {
            from: sid("AAAB"),
            to: sid("AAAC")
        }
    );
    assert_eq!(direct.params_raw(), "ADC/1.0 1412 tok");
    assert_eq!(parse("HSUP ADBASE ADTIGR").unwrap().header, Header::Hub);
    let Header::Feature { wanted, .. } = parse("FSCH AAAB +TCP4-NAT0 ANx").unwrap().header else {
        panic!("no feature cast");
    };
    assert!(wanted.select("SEGA,TCP4") && !wanted.select("TCP4,NAT0") && !wanted.select(""));
    assert_eq!(parse("HSUP").unwrap().params().count(), 0);
}

#[test]
fn malformed_lines_are_discarded_whole() {
    for (line, error) in [
        (&b""[..], ParseError::Command),
        (b"B", ParseError::Command),
        (b"bMSG AAAB x", ParseError::Command),
        (b"B0SG AAAB x", ParseError::Command),
        (b"BMSGX AAAB x", ParseError::Command),
        (b"ZMSG AAAB x", ParseError::Command),
        (b"GET / HTTP/1.1\r", ParseError::Command),
        (b"$Supports NoGetINFO", ParseError::Command),
        (b"BMSG", ParseError::Sid),
        (b"BMSG AAA1 x", ParseError::Sid),
        (b"BMSG aaab x", ParseError::Sid),
        (b"DMSG AAAB", ParseError::Sid),
        (b"FSCH AAAB ANx", ParseError::Features),
        (b"FSCH AAAB +TCP", ParseError::Features),
        (b"FSCH AAAB +tcp4 x", ParseError::Features),
        (b"BMSG AAAB a\\tb", ParseError::Escape),
        (b"BMSG AAAB a\\", ParseError::Escape),
        (b"BMSG AAAB \xff", ParseError::Utf8),
        // An overlong slash.
        (b"BMSG AAAB \xc0\xaf", ParseError::Utf8),
    ] {
        assert_eq!(
            Message::parse(line),
            Err(error),
            "{}",
            String::from_utf8_lossy(line)
        );
    }
}

#[test]
fn a_pid_proves_its_cid_and_never_shows() {
    let pid: Pid = PID.parse().unwrap();
    assert_eq!(pid.cid().to_string(), CID);
    assert_eq!(CID.parse(), Ok(pid.cid()));
    assert_eq!(format!("{pid:?}"), "Pid(secret)");
    for wrong in [
        "",
        "A",
        &CID.to_lowercase(),
        &CID[1..],
        &format!("{CID}A"),
        &CID.replace('H', "1"),
    ] {
        assert_eq!(wrong.parse::<Cid>(), Err(ParseIdError), "{wrong}");
    }
}

#[test]
fn passwords_are_answered_by_tiger_of_password_and_salt() {
    // From libgcrypt's TIGER1 of "secret" and 24 zero bytes.
    let salt = [0; SALT_BYTES];
    assert_eq!(
        password_answer("secret", &salt),
        "2HMOLBN3LG6PE4VUTQMEHMIKQ5TKIESY3MWKNEY"
    );
    assert_ne!(password_answer("secret", &salt), password_answer("secre", &salt));
    assert_ne!(
        password_answer("secret", &salt),
        password_answer("secret", &[1; SALT_BYTES])
    );
}

#[test]
fn nicks_are_compared_composed_and_folded() {
    for (one, other) in [
        ("Alice", "aLICE"),
        ("Ärger", "A\u{308}RGER"),
        ("straße", "STRASSE"),
        ("ΌΣΟΣ", "όσος"),
    ] {
        assert_eq!(fold_nick(one, false), fold_nick(other, false), "{one}");
    }
    assert_ne!(fold_nick("Alice", true), fold_nick("alice", true));
    assert_eq!(fold_nick("e\u{301}", true), fold_nick("é", true));
    for nick in ["", " x", "x ", "a\nb", "a\u{7f}b", &"x".repeat(65)] {
        assert!(check_nick(nick).is_err(), "{nick:?}");
    }
    for nick in ["a", "a b", "[op]Ünï", &"x".repeat(64)] {
        assert!(check_nick(nick).is_ok(), "{nick:?}");
    }
}

#[test]
fn sids_skip_nobody_and_roll_over() {
    assert_eq!(Sid::from_number(0).to_string(), "AAAB");
    assert_eq!(Sid::from_number(u64::from(Sid::COUNT) - 2).to_string(), "7777");
    assert_eq!(Sid::from_number(u64::from(Sid::COUNT) - 1).to_string(), "AAAB");
    assert_eq!(sid("AAAA"), Sid::NOBODY);
}

#[test]
fn a_line_that_is_too_long_is_reported_once_and_costs_nothing() {
    let mut reader = LineReader::new(8);
    reader.push(b"12345678\n123456789\nab");
    assert_eq!(reader.next_line(), Some(Ok(b"12345678".to_vec())));
    assert_eq!(reader.next_line(), Some(Err(LineError)));
    assert_eq!(reader.next_line(), None);
    let mut reported = 0;
    for _ in 0..1000 {
        reader.push(&[b'x'; 100]);
        while let Some(line) = reader.next_line() {
            assert_eq!(line, Err(LineError));
            reported += 1;
        }
    }
    assert_eq!(reported, 1);
    reader.push(b"tail\nnext\n\n");
    assert_eq!(reader.next_line(), Some(Ok(b"next".to_vec())));
    assert_eq!(reader.next_line(), Some(Ok(Vec::new())));
    assert_eq!(reader.next_line(), None);
}

#[test]
fn fields_are_told_apart() {
    assert_eq!(
        without_tags("IDx PDsecret NIme ?? PD2 x", |tag| tag == b"PD"),
        "IDx NIme"
    );
    assert_eq!(fields("").count(), 0);
    assert_eq!(
        feature_list("TCP4,,bad,UDP4,TOOLONG").collect::<Vec<_>>(),
        ["TCP4", "UDP4"]
    );
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        number in 0..2_000_000_u64,
        values in proptest::collection::vec(".{0,40}", 1..6),
    ) {
        let sid = Sid::from_number(number);
        let mut line = Line::new(&format!("BMSG {sid}"));
        for value in &values {
            line = line.arg(value);
        }
        let line = line.end();
        let message = Message::parse(line.trim_end_matches('\n').as_bytes()).unwrap();
        prop_assert_eq!(message.from(), Some(sid));
        let read: Vec<_> = message.params().map(|value| unescape(value).into_owned()).collect();
        // A line's last values cannot both be empty and be told from no values.
        if values != [""] {
            prop_assert_eq!(read, values);
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(message.raw().as_bytes(), &bytes[..]);
        }
    }

    #[test]
    fn adc_like_lines_never_panic(line in "[BDEFHICU]?[A-Z]{0,4} ?[A-Z2-7]{0,5} ?[+-]?[A-Z0-9]{0,5} ?(\\\\[sn\\\\x])?.{0,9}") {
        let _ = Message::parse(line.as_bytes());
    }

    #[test]
    fn a_stream_gives_the_same_lines_however_it_is_cut(
        lines in proptest::collection::vec("[a-z]{0,12}", 0..20),
        cuts in proptest::collection::vec(1..9_usize, 1..40),
    ) {
        let stream: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut bytes = stream.as_bytes();
        let mut reader = LineReader::new(8);
        let mut read = Vec::new();
        for cut in cuts.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (now, later) = bytes.split_at((*cut).min(bytes.len()));
            reader.push(now);
            bytes = later;
            while let Some(line) = reader.next_line() {
                read.push(line);
            }
        }
        let wanted: Vec<_> = lines
            .iter()
            .map(|line| if line.len() > 8 { Err(LineError) } else { Ok(line.clone().into_bytes()) })
            .collect();
        prop_assert_eq!(read, wanted);
    }
}
