//! Promise: clients upload what the rules allow; what was acknowledged is stored by a majority, and nothing by halves.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure};
use e2e::data::{MIB, random_bytes};
use e2e::raw::RawClient;
use e2e::wire::{self, Packet};
use e2e::{Client, Group, GroupOptions};

const WITHIN: Duration = Duration::from_secs(60);

fn group() -> anyhow::Result<Group> {
    Group::start_with(GroupOptions {
        tftp_uploads: Some("backup/"),
        ..GroupOptions::default()
    })
}

/// Uploads a file and compares what is stored. On a starved machine leadership moves by itself; then the client is told to
/// send the file again.
fn upload(group: &Group, client: Client, local: &Path, remote: &str, content: &[u8]) -> anyhow::Result<()> {
    std::fs::write(local, content)?;
    loop {
        let before = group.leader()?;
        let output = client.upload(group.tftp_port(), local, remote, WITHIN)?;
        let stored = group.get(remote);
        if stored.as_ref().is_ok_and(|stored| stored == content) {
            return Ok(());
        }
        let after = group.leader()?;
        ensure!(
            before.term != after.term,
            "{} uploading {} bytes: {:?}\n{output}",
            client.name(),
            content.len(),
            stored.map(|stored| stored.len())
        );
    }
}

#[test]
fn stock_clients_upload_and_replace_files() {
    let group = group().unwrap();
    let large = [
        Client::Curl { block_size: 8192 },
        Client::AtftpOptions {
            block_size: 65_464,
            window: 64,
        },
    ];
    for (number, client) in Client::USUAL.into_iter().chain(large).enumerate() {
        let local = group.scratch().join(format!("upload-{number}"));
        let remote = format!("backup/{number}.bin");
        // One with a short last block, one of whole blocks, one that is empty.
        for len in [3 * MIB + 77, 512 * 512, 0] {
            let content = random_bytes(len as u64, len);
            upload(&group, client, &local, &remote, &content).unwrap();
        }
    }
}

#[test]
fn text_is_converted_on_its_way() {
    let group = group().unwrap();
    let local = group.scratch().join("notes");
    let text = b"one\ntwo\rthree\r\n\n";
    upload(&group, Client::TftpHpaNetascii, &local, "backup/notes", text).unwrap();
}

/// The code of the ERROR that answers a write request.
fn refusal(group: &Group, name: &str, options: &[(&str, &str)]) -> anyhow::Result<u16> {
    let mut client = RawClient::connect(group.tftp_port())?;
    let answer = client.ask(&wire::request(2, name, "octet", options))?;
    match wire::decode(answer)? {
        Packet::Error { code, .. } => Ok(code),
        other => bail!("{name} was answered {other:?}"),
    }
}

#[test]
fn what_no_rule_allows_is_refused() {
    let group = group().unwrap();
    for name in ["boot.img", "backups", "../backup/x", "/etc/passwd", ""] {
        assert_eq!(refusal(&group, name, &[]).unwrap(), 2, "{name:?}");
    }
    // Larger than any file may be: RFC 1350 code 3, before a byte is sent.
    assert_eq!(
        refusal(&group, "backup/huge", &[("tsize", "99999999999999")]).unwrap(),
        3
    );
    assert!(group.ls().unwrap().is_empty());
    // One group at a time.
    drop(group);
    let without = Group::start().unwrap();
    assert_eq!(refusal(&without, "backup/a", &[]).unwrap(), 2);
}

#[test]
fn upload_whose_leader_dies_is_told_so_and_not_stored() {
    let group = group().unwrap();
    let mut client = RawClient::connect(group.tftp_port()).unwrap();
    let data = |block: u16, len: usize| {
        let mut datagram = vec![0, 3];
        datagram.extend(block.to_be_bytes());
        datagram.resize(4 + len, b'x');
        datagram
    };
    let acknowledged = |answer: &[u8], block: u16| {
        assert!(matches!(wire::decode(answer).unwrap(), Packet::Ack { block: number } if number == block));
    };
    acknowledged(
        client
            .ask(&wire::request(2, "backup/half", "octet", &[]))
            .unwrap(),
        0,
    );
    acknowledged(client.ask(&data(1, 512)).unwrap(), 1);
    group.kill_leader().unwrap();
    let answer = client.ask(&data(2, 5)).unwrap();
    assert!(matches!(
        wire::decode(answer).unwrap(),
        Packet::Error { code: 5, .. }
    ));
    assert!(group.ls().unwrap().is_empty());
    // It is sent again, as the answer says.
    let mut again = RawClient::connect(group.tftp_port()).unwrap();
    acknowledged(
        again.ask(&wire::request(2, "backup/half", "octet", &[])).unwrap(),
        0,
    );
    acknowledged(again.ask(&data(1, 512)).unwrap(), 1);
    acknowledged(again.ask(&data(2, 5)).unwrap(), 2);
    // Acknowledged is stored, whoever dies next.
    group.kill_leader().unwrap();
    assert_eq!(group.get("backup/half").unwrap(), vec![b'x'; 517]);
}
