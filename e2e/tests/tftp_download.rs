//! Promise: every stock client downloads every file, and options are granted as their RFCs say.

use e2e::clock::PATIENCE;
use e2e::data::{MIB, ensure_same_bytes, random_bytes};
use e2e::raw::{RawClient, RawDownload};
use e2e::wire::{Packet, decode, request};
use e2e::{Client, Group, GroupOptions, eventually};

fn download(group: &Group, name: &str, options: &[(&str, &str)]) -> anyhow::Result<RawDownload> {
    RawClient::connect(group.tftp_port())?
        .download(name, options)?
        .file()
}

#[test]
fn every_client_downloads_files_of_every_awkward_size() {
    let group = Group::start().unwrap();
    let clients = Client::USUAL.into_iter().chain([
        Client::Curl { block_size: 1468 },
        Client::Curl { block_size: 8192 },
        Client::Curl { block_size: 65_464 },
        Client::AtftpOptions {
            block_size: 8192,
            window: 32,
        },
        Client::Busybox { block_size: 1468 },
    ]);
    let sizes = [0, 1, 511, 512, 513, 1024, 8192, 11 * MIB];
    let files: Vec<_> = sizes
        .iter()
        .map(|size| (format!("size/{size}.bin"), random_bytes(1, *size)))
        .collect();
    for (name, content) in &files {
        group.put(name, content).unwrap();
    }
    for client in clients {
        for (name, content) in &files {
            client
                .fetch(
                    group.tftp_port(),
                    name,
                    &group.scratch().join("file"),
                    content,
                    PATIENCE,
                )
                .unwrap();
        }
    }
}

#[test]
fn directory_given_at_the_start_is_served() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("sub")).unwrap();
    std::fs::write(root.path().join("sub/hello.txt"), "hello\n").unwrap();
    let options = GroupOptions {
        tftp_root: Some(root.path().to_owned()),
        ..GroupOptions::default()
    };
    let group = Group::start_with(options).unwrap();
    eventually("the directory is imported", PATIENCE, || {
        ensure_same_bytes(&download(&group, "sub/hello.txt", &[])?.bytes, b"hello\n")
    })
    .unwrap();
    // A leading slash is how many devices ask.
    assert_eq!(download(&group, "/sub/hello.txt", &[]).unwrap().bytes, b"hello\n");
}

#[test]
fn netascii_translates_line_ends() {
    let group = Group::start().unwrap();
    let text = b"one\ntwo\rthree\r\nfour\n\n\r".as_slice();
    group.put("text.txt", text).unwrap();
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    let answer = client
        .download_as("text.txt", "NetASCII", &[], |_| Ok(()))
        .unwrap();
    // RFC 764, as RFC 1350 section 1 demands: LF becomes CR LF, CR becomes CR NUL.
    let expected = b"one\r\ntwo\r\0three\r\0\r\nfour\r\n\r\n\r\0";
    assert_eq!(answer.file().unwrap().bytes, expected);
    let local = group.scratch().join("text.txt");
    Client::TftpHpaNetascii
        .fetch(group.tftp_port(), "text.txt", &local, text, PATIENCE)
        .unwrap();
}

#[test]
fn netascii_line_ends_across_every_block_edge() {
    let group = Group::start().unwrap();
    let text: Vec<u8> = (0..3000_u32)
        .map(|n| [b'\n', b'x', b'\r'][(n * n % 7 % 3) as usize])
        .collect();
    group.put("edges.txt", &text).unwrap();
    let expected: Vec<u8> = text
        .iter()
        .flat_map(|byte| match byte {
            b'\n' => b"\r\n".to_vec(),
            b'\r' => b"\r\0".to_vec(),
            other => vec![*other],
        })
        .collect();
    for size in ["8", "9", "512"] {
        let mut client = RawClient::connect(group.tftp_port()).unwrap();
        let answer = client
            .download_as("edges.txt", "netascii", &[("blksize", size)], |_| Ok(()))
            .unwrap();
        ensure_same_bytes(&answer.file().unwrap().bytes, &expected).unwrap();
    }
}

#[test]
fn options_are_granted_as_their_rfcs_say() {
    let group = Group::start().unwrap();
    let content = random_bytes(2, 100_000);
    group.put("image.bin", &content).unwrap();
    // What is asked, and what must be granted; nothing granted means no OACK at all (RFC 2347).
    type Options = &'static [(&'static str, &'static str)];
    let table: &[(Options, Options)] = &[
        (&[], &[]),
        (&[("blksize", "8")], &[("blksize", "8")]),
        (&[("BLKSIZE", "1428")], &[("blksize", "1428")]),
        (&[("blksize", "65464")], &[("blksize", "65464")]),
        (&[("tsize", "0")], &[("tsize", "100000")]),
        (&[("timeout", "3")], &[("timeout", "3")]),
        (&[("timeout", "255")], &[("timeout", "255")]),
        (&[("windowsize", "4")], &[("windowsize", "4")]),
        (&[("unheard-of", "1")], &[]),
        (&[("unheard-of", "1"), ("tsize", "0")], &[("tsize", "100000")]),
        (
            &[
                ("windowsize", "16"),
                ("tsize", "0"),
                ("blksize", "1000"),
                ("timeout", "1"),
            ],
            &[
                ("windowsize", "16"),
                ("tsize", "100000"),
                ("blksize", "1000"),
                ("timeout", "1"),
            ],
        ),
    ];
    for (asked, expected) in table {
        let found = download(&group, "image.bin", asked).unwrap();
        ensure_same_bytes(&found.bytes, &content).unwrap();
        let mut granted = found.granted.unwrap_or_default();
        granted.sort();
        let mut expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        expected.sort();
        assert_eq!(granted, expected, "asked for {asked:?}");
    }
}

#[test]
fn values_beyond_the_limits_are_lowered_or_left_out() {
    let group = Group::start().unwrap();
    let content = random_bytes(3, 70_000);
    group.put("image.bin", &content).unwrap();
    for (name, value, limit) in [
        ("windowsize", "65535", 65_535), // RFC 7440 section 3: the answer may be lower
        ("windowsize", "0", 0),
        ("blksize", "65465", 65_464), // RFC 2348: the answer may be lower
        ("blksize", "7", 0),
        ("timeout", "0", 0), // RFC 2349: 1 to 255, and the answer must be equal
        ("timeout", "256", 0),
        ("blksize", "many", 0),
    ] {
        let found = download(&group, "image.bin", &[(name, value)]);
        let found = match found {
            Ok(found) => found,
            // RFC 2347: code 8 is a legal answer to a value that makes no sense.
            Err(error) if limit == 0 && format!("{error:#}").contains("code 8") => continue,
            Err(error) => panic!("{name} = {value}: {error:#}"),
        };
        ensure_same_bytes(&found.bytes, &content).unwrap();
        for (granted, number) in found.granted.unwrap_or_default() {
            assert_eq!(granted, name, "asked for {name} only");
            assert!(
                number.parse::<u32>().unwrap() <= limit,
                "{name} = {value} was granted as {number}"
            );
        }
    }
}

#[test]
fn missing_file_is_not_found() {
    let group = Group::start().unwrap();
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    let (code, _) = client
        .download("no/such/file", &[("tsize", "0")])
        .unwrap()
        .refusal()
        .unwrap();
    assert_eq!(code, 1);
    let local = group.scratch().join("file");
    for client in Client::USUAL {
        // tftp-hpa ends well all the same, and leaves an empty file.
        let mut download = client.start(group.tftp_port(), "no/such/file", &local).unwrap();
        download.process().wait(PATIENCE).unwrap();
        assert_eq!(download.arrived(), 0, "{}", client.name());
    }
}

#[test]
fn unknown_mode_and_write_request_are_refused_with_an_error_packet() {
    let group = Group::start().unwrap();
    group.put("image.bin", b"content").unwrap();
    for asked in [
        request(2, "image.bin", "octet", &[]),
        request(2, "new.bin", "octet", &[("tsize", "5"), ("blksize", "1428")]),
        request(1, "image.bin", "mail", &[]),
        request(1, "image.bin", "unheard-of", &[]),
    ] {
        let mut client = RawClient::connect(group.tftp_port()).unwrap();
        let answer = decode(client.ask(&asked).unwrap()).unwrap();
        let Packet::Error { code, message } = answer else {
            panic!("{answer:?}")
        };
        // RFC 1350 section 5: 0 explains itself in words, 2 is "Access violation", 4 "Illegal TFTP operation".
        assert!(
            matches!(code, 0 | 2 | 4) && !message.is_empty(),
            "code {code}, {message:?}"
        );
    }
    let names: Vec<String> = group.ls().unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(names, ["image.bin"]);
    assert_eq!(group.get("image.bin").unwrap(), b"content");
}

#[test]
fn error_is_never_answered() {
    let group = Group::start().unwrap();
    group.put("image.bin", &random_bytes(4, 5000)).unwrap();
    // CVE-2024-2169: two servers that answer ERROR with ERROR never end. Neither is a stray ACK answered twice.
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    client.send(b"\0\x05\0\0no\0").unwrap();
    client.send(b"\0\x05").unwrap();
    // The server handles packets of one client in order: what comes first is the answer to this request.
    let answer = decode(client.ask(&request(1, "image.bin", "octet", &[])).unwrap()).unwrap();
    assert!(matches!(answer, Packet::Data { block: 1, .. }), "{answer:?}");
}

#[test]
fn lossy_link_ends_with_an_identical_file() {
    let group = Group::start().unwrap();
    let content = random_bytes(5, 300_000);
    group.put("image.bin", &content).unwrap();
    let link = e2e::Link {
        loss: 0.02,
        duplicate: 0.02,
        reorder: 0.02,
        seed: 1,
        ..e2e::Link::default()
    };
    for client in [
        Client::AtftpOptions {
            block_size: 1428,
            window: 8,
        },
        Client::Busybox { block_size: 512 },
    ] {
        let proxy = e2e::Proxy::start(group.tftp_port(), link).unwrap();
        let local = group.scratch().join("file");
        client
            .fetch(proxy.port(), "image.bin", &local, &content, 4 * PATIENCE)
            .unwrap();
    }
}
