//! Promise: whatever strangers send to the ports of a group, its members stay up, their memory stays bounded, and
//! people go on downloading.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests, which may panic"
)]

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::clock::PATIENCE;
use e2e::data::{MIB, random_bytes};
use e2e::group::pid;
use e2e::scenario::serve;
use e2e::wire::{ack, request};
use e2e::{Client, Group, eventually};

/// What a member may use beyond what it used before: a thousand sessions, connections, and their buffers.
const GROWTH_KIB_MAX: u64 = 200 << 10;

fn pids(group: &Group) -> Vec<u32> {
    let all = || {
        let statuses = group.statuses().into_iter();
        statuses
            .map(|status| pid(&status.context("a member does not answer")?))
            .collect()
    };
    eventually("all members answer", PATIENCE, all).unwrap()
}

fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmRSS in /proc")?.parse()?)
}

/// Sends garbage, then makes sure that nobody minds.
fn nobody_minds(name: &str, attack: impl FnOnce(&Group)) {
    let group = Group::start().unwrap();
    let content = serve(&group, "image.bin", 1, 2 * MIB).unwrap();
    let before: Vec<_> = pids(&group)
        .into_iter()
        .map(|pid| (pid, resident_kib(pid).unwrap()))
        .collect();
    let leader = group.leader().unwrap();
    attack(&group);
    for client in Client::USUAL {
        let local = group.scratch().join("download");
        fs::remove_file(&local).ok();
        client
            .fetch(group.tftp_port(), "image.bin", &local, &content, PATIENCE)
            .unwrap();
    }
    for ((pid, before), now) in before.iter().zip(pids(&group)) {
        assert_eq!(*pid, now, "a member was restarted");
        let after = resident_kib(now).unwrap();
        eprintln!("{name}: process {pid} had {before} KiB and has {after} KiB");
        assert!(after < before + GROWTH_KIB_MAX, "{before} KiB became {after} KiB");
    }
    assert_eq!(
        group.leader().unwrap().term,
        leader.term,
        "garbage caused an election"
    );
    group.put("afterwards.bin", b"still works").unwrap();
}

/// What the leader has counted under this name.
fn counted(group: &Group, line: &str) -> anyhow::Result<u64> {
    let leader = group.leader()?;
    let port = leader.admin_address.rsplit(':').next().unwrap_or_default();
    let metrics = group.admin().get(port.parse()?, "/metrics", "text/plain")?;
    let name = line.split_once('{').map_or(line, |(name, _)| name);
    let label = line
        .split_once('{')
        .map_or("", |(_, label)| label.trim_end_matches('}'));
    let found = metrics
        .body
        .lines()
        .find(|line| line.starts_with(name) && line.contains(label));
    let found = found.with_context(|| format!("no metric {line}"))?;
    let value = found.rsplit(' ').next().unwrap_or_default();
    value.parse().with_context(|| found.to_owned())
}

fn socket_to(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket
}

#[test]
fn random_datagrams_and_acks_of_strangers_are_ignored() {
    nobody_minds("datagrams", |group| {
        let noise = random_bytes(7, MIB);
        for round in 0..300_usize {
            let socket = socket_to(group.tftp_port());
            for packet in 0..20 {
                let at = (round * 20 + packet) * 131 % (MIB - 2000);
                socket.send(&noise[at..at + packet * 100]).ok();
                socket.send(&ack((packet * 4001) as u16)).ok();
                // Every opcode, with noise behind it.
                let mut datagram = vec![0, (packet % 8) as u8];
                datagram.extend_from_slice(&noise[at..at + 512]);
                socket.send(&datagram).ok();
            }
        }
        eventually("garbage is counted", PATIENCE, || {
            ensure!(counted(group, "quorate_tftp_requests_total{result=\"malformed\"}")? > 0);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn odd_requests_are_answered_or_ignored() {
    nobody_minds("requests", |group| {
        let long = "x".repeat(1024);
        let many: Vec<_> = (0..200).map(|_| ("blksize", "1428")).collect();
        let huge = "9".repeat(400);
        let requests = [
            request(1, &long, "octet", &[]),
            request(1, "image.bin", &long, &[]),
            request(1, "image.bin", "octet", &many),
            request(
                1,
                "image.bin",
                "octet",
                &[("blksize", &huge), ("BLKSIZE", "0"), ("windowsize", "-1")],
            ),
            request(
                1,
                "image.bin",
                "octet",
                &[("tsize", ""), ("", ""), ("timeout", "256")],
            ),
            request(1, "../../../../etc/passwd", "octet", &[]),
            request(1, "", "octet", &[]),
            request(2, "upload.bin", "octet", &[]),
            b"\0\x01no end".to_vec(),
        ];
        for _ in 0..100 {
            let socket = socket_to(group.tftp_port());
            for request in &requests {
                socket.send(request).ok();
            }
        }
        // From the port of a service that would answer the answer; binding it needs root.
        let loops =
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 7)).context("binding port 7: run this test as root");
        let loops = loops.unwrap();
        loops.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let server = (Ipv4Addr::LOCALHOST, group.tftp_port());
        loops
            .send_to(&request(1, "image.bin", "octet", &[]), server)
            .unwrap();
        loops.send_to(b"\0\x01", server).unwrap();
        assert!(loops.recv(&mut [0; 600]).is_err(), "port 7 was answered");
        eventually("the request from port 7 is counted", PATIENCE, || {
            ensure!(counted(group, "quorate_tftp_requests_total{result=\"ignored\"}")? > 0);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn flood_of_requests_leaves_room_for_other_clients() {
    nobody_minds("flood", |group| {
        // Abandoned requests from many ports of other addresses than the people's: one address fills its own share. The system
        // gives no client such a port: a client listens on all addresses, and would take an answer to an abandoned request
        // for its own.
        let packet = request(1, "image.bin", "octet", &[]);
        for number in 0..4000_u16 {
            let address = Ipv4Addr::new(127, 0, 1, (number % 4) as u8 + 1);
            let Ok(socket) = UdpSocket::bind((address, 10_000 + number)) else {
                continue;
            };
            socket
                .send_to(&packet, (Ipv4Addr::LOCALHOST, group.tftp_port()))
                .ok();
        }
        eventually("the flood became sessions", PATIENCE, || {
            ensure!(counted(group, "quorate_tftp_requests_total{result=\"opened\"}")? > 500);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn strangers_on_the_peer_and_admin_ports_are_borne() {
    nobody_minds("connections", |group| {
        let noise = random_bytes(8, 256 << 10);
        let mut held = Vec::new();
        for member in 0..3 {
            let ports = [group.admin_port(member), group.peer_port(member)];
            for port in ports {
                for number in 0..100_usize {
                    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                    // Noise, a half request, a head without end, a preface with noise, nothing at all. They may hang up.
                    match number % 5 {
                        0 => drop(stream.write_all(&noise)),
                        1 => drop(stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: ")),
                        2 => {
                            stream.write_all(b"GET / HTTP/1.1\r\nX: ").ok();
                            stream.write_all(&vec![b'a'; 200 << 10]).ok();
                        }
                        3 => {
                            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").ok();
                            stream.write_all(&noise[number * 1000..][..9000]).ok();
                        }
                        _ => {}
                    }
                    held.push(stream);
                }
            }
        }
        // While all of them are still open.
        pids(group);
    });
}

#[test]
fn silent_connections_to_a_peer_port_do_not_use_up_descriptors() {
    nobody_minds("silence", |group| {
        let pid = pid(group.statuses()[0].as_ref().unwrap()).unwrap();
        let held: Vec<_> = (0..600)
            .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, group.peer_port(0))).unwrap())
            .collect();
        let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        eventually("the first are hung up on", PATIENCE, || {
            let open = descriptors();
            assert!(open < 400, "{open} descriptors are open");
            held[0].set_nonblocking(true)?;
            ensure!(
                is_ended(&held[0]),
                "{open} descriptors, and it is still connected"
            );
            Ok(())
        })
        .unwrap();
    });
}

/// Whether the other end has hung up; what it said before is read and forgotten.
fn is_ended(mut stream: &TcpStream) -> bool {
    let mut heard = [0; 4096];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}
