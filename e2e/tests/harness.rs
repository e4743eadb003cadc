//! The harness itself: stock clients, the link between, what it measures, and that it notices what is wrong. The server
//! is a toy, so that these tests fail only when the harness does.
#![expect(
    clippy::unwrap_used,
    reason = "a step of a test that fails is the test's failure"
)]

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::clock::PATIENCE;
use e2e::data::random_bytes;
use e2e::raw::RawClient;
use e2e::wire::{Packet, decode, unwrap_block};
use e2e::{Client, Link, Proxy};

const NAME: &str = "toy.bin";

/// A lockstep server that grants no options (RFC 2347: it may), repeats nothing by itself, and can be paused.
struct Toy {
    port: u16,
    paused: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Toy {
    fn start(content: Vec<u8>) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (paused, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (pausing, stopping) = (Arc::clone(&paused), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut acked) = (vec![0; 2048], 0);
            while !stopping.load(Ordering::Relaxed) {
                let Ok((len, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if pausing.load(Ordering::Relaxed) {
                    continue;
                }
                match decode(&buffer[..len]).unwrap() {
                    Packet::Request { .. } => acked = 0,
                    Packet::Ack { block } => acked = unwrap_block(block, acked),
                    _ => continue,
                }
                let from = usize::try_from(acked).unwrap() * 512;
                if from <= content.len() {
                    let block = &content[from..content.len().min(from + 512)];
                    let number = u16::try_from((acked + 1) & 0xffff).unwrap().to_be_bytes();
                    let data = [&[0, 3], &number[..], block].concat();
                    socket.send_to(&data, client).unwrap();
                }
            }
        });
        Self {
            port,
            paused,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn every_client_downloads_directly_and_through_the_proxy() {
    let content = random_bytes(1, 100_000);
    let toy = Toy::start(content.clone());
    let dir = tempfile::tempdir().unwrap();
    for client in Client::USUAL {
        let local = dir.path().join("direct");
        client.fetch(toy.port, NAME, &local, &content, PATIENCE).unwrap();
        let proxy = Proxy::start(toy.port, Link::default()).unwrap();
        let local = dir.path().join("proxied");
        client
            .fetch(proxy.port(), NAME, &local, &content, PATIENCE)
            .unwrap();
        let seen = proxy.conversation().unwrap();
        assert_eq!(seen.blocks, 100_000 / 512 + 1, "{}", client.name());
        assert_eq!(
            (seen.client_time_outs, seen.server_repeats),
            (0, 0),
            "{}: {seen:?}",
            client.name()
        );
    }
}

#[test]
fn wrong_byte_is_noticed() {
    let content = random_bytes(2, 10_000);
    let mut wrong = content.clone();
    wrong[5_000] ^= 1;
    let toy = Toy::start(wrong);
    let dir = tempfile::tempdir().unwrap();
    for client in Client::USUAL {
        let error = client
            .fetch(toy.port, NAME, &dir.path().join("file"), &content, PATIENCE)
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("byte 5000 differs"),
            "{}: {error:#}",
            client.name()
        );
    }
}

#[test]
fn silence_and_time_outs_are_measured() {
    let content = random_bytes(3, 1_000_000);
    let toy = Toy::start(content.clone());
    let proxy = Proxy::start(toy.port, Link::default()).unwrap();
    let half_way = proxy.at_block(1_000);
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("file");
    // busybox repeats itself after a fraction of a second.
    let mut download = Client::Busybox { block_size: 512 }
        .start(proxy.port(), NAME, &local)
        .unwrap();
    let since = half_way.recv_timeout(PATIENCE).unwrap();
    toy.paused.store(true, Ordering::Relaxed);
    e2e::eventually("the client repeats itself", PATIENCE, || {
        anyhow::ensure!(
            proxy.conversation()?.client_time_outs >= 2,
            "{:?}",
            proxy.conversation()?
        );
        Ok(())
    })
    .unwrap();
    toy.paused.store(false, Ordering::Relaxed);
    download.ends_identical(&content, PATIENCE).unwrap();
    let seen = proxy.conversation().unwrap();
    assert!(
        seen.longest_silence_since(since) >= Duration::from_millis(50),
        "{seen}"
    );
}

#[test]
fn lossy_link_loses_the_same_packets_for_the_same_seed() {
    let content = random_bytes(4, 3_000);
    let toy = Toy::start(content.clone());
    let link = Link {
        loss: 0.2,
        seed: 11,
        ..Link::default()
    };
    let time_outs = || {
        let proxy = Proxy::start(toy.port, link).unwrap();
        let mut client = RawClient::connect(proxy.port()).unwrap();
        let download = client.download(NAME, &[]).unwrap().file().unwrap();
        assert_eq!(download.bytes, content);
        proxy.conversation().unwrap().client_time_outs
    };
    let first = time_outs();
    assert!(first > 0, "nothing was lost");
    assert_eq!(first, time_outs());
}

#[test]
fn nobody_listening_shows_as_a_refused_connection() {
    let port = e2e::ports::free_udp().unwrap();
    let mut client = RawClient::connect(port).unwrap();
    let error = client.download(NAME, &[]).unwrap_err();
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}
