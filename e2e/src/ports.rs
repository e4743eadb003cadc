//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

use anyhow::{Context, bail};

/// Where runs of ports are looked for. Below Linux's ephemeral ports (32768 to 60999), so that no client's socket
/// takes a member's port while that member is down.
const RANGE: Range<u16> = 20_000..32_000;

/// How many places are tried before the machine is said to be full.
const ATTEMPTS: usize = 200;

/// A UDP port that was free a moment ago.
pub fn free_udp() -> anyhow::Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding any UDP port")?;
    Ok(socket.local_addr().context("reading the port")?.port())
}

/// The first of `count` consecutive ports that were all free a moment ago, for TCP and UDP.
pub fn free_run(count: u16) -> anyhow::Result<u16> {
    for _ in 0..ATTEMPTS {
        let first = rand::random_range(RANGE.start..RANGE.end - count);
        let free = |port| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        };
        if (first..first + count).all(free) {
            return Ok(first);
        }
    }
    bail!(
        "found no {count} free ports in a row between {} and {}",
        RANGE.start,
        RANGE.end
    )
}
