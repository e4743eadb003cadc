//! The one UDP socket that all transfers share: batched receives, segmented sends, replies from the address that the
//! client sent to.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of one receive buffer where clients send requests (at most 1,024 bytes) and ACKs; the rest is room for several
/// that the kernel hands over as one.
const SMALL_BYTES: usize = 4096;
/// The same where they send files: the most that the kernel hands over at once.
const LARGE_BYTES: usize = 65_535;
/// Bytes the kernel may queue for the socket: some thousand clients that ask at once, and the gap between two leaders.
const KERNEL_QUEUE_BYTES: usize = 4 << 20;
/// The largest UDP payload (RFC 768 over IPv4), so the most that one segmented send can carry.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Opens the listening socket.
///
/// # Errors
/// When the address cannot be bound: it is taken, or not one of this machine.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 clients too.
        socket.set_only_v6(false)?;
    }
    // Best effort: the kernel caps it at net.core.rmem_max.
    let _ = socket.set_recv_buffer_size(KERNEL_QUEUE_BYTES);
    let _ = socket.set_send_buffer_size(KERNEL_QUEUE_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A datagram that came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    /// Who sent it.
    pub(crate) peer: SocketAddr,
    /// Where it was sent to; the unspecified address where that says nothing.
    pub(crate) local: SocketAddr,
    /// Its payload.
    pub(crate) bytes: &'a [u8],
}

/// The socket while this member leads.
pub(crate) struct ServerSocket {
    /// Waited for to become readable only: on loopback each packet sent makes the socket writable anew, and that would
    /// wake the loop once more for each block.
    socket: AsyncFd<std::net::UdpSocket>,
    state: UdpSocketState,
    bound: SocketAddr,
    segments_max: usize,
    drained: bool,
    /// See [`ServerSocket::new`].
    sources: Vec<IpAddr>,
}

/// Buffers for one batch of datagrams.
pub(crate) struct Batch {
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; BATCH_SIZE],
    filled: usize,
    /// Whether the address that clients send to is this member's own; see `Options::address_moves`.
    address_moves: bool,
}

impl Batch {
    /// With room for blocks of files, if `takes_files`.
    pub(crate) fn new(address_moves: bool, takes_files: bool) -> Self {
        let bytes = if takes_files { LARGE_BYTES } else { SMALL_BYTES };
        Self {
            buffers: vec![vec![0; bytes]; BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
            address_moves,
        }
    }

    /// The datagrams of the last receive. One that was cut off because it was too long for its buffer is still seen,
    /// and is no valid packet.
    pub(crate) fn datagrams(&self, bound: SocketAddr) -> impl Iterator<Item = Datagram<'_>> {
        let received = self.metas.iter().zip(&self.buffers).take(self.filled);
        received.flat_map(move |(meta, buffer)| {
            let to = meta.dst_ip.unwrap_or(bound.ip());
            let to = if self.address_moves && !is_to_many(to) {
                unspecified(bound).ip()
            } else {
                to
            };
            let local = SocketAddr::new(to, bound.port());
            let bytes = &buffer[..meta.len.min(buffer.len())];
            let peer = meta.addr;
            bytes
                .chunks(meta.stride.max(1))
                .map(move |bytes| Datagram { peer, local, bytes })
        })
    }
}

/// Whether packets to this address reach many hosts.
pub(crate) fn is_to_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

/// Where a client sent to, if the address that it used says nothing: any address, and the port of `bound`.
pub(crate) fn unspecified(bound: SocketAddr) -> SocketAddr {
    let address: IpAddr = match bound {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, bound.port())
}

impl ServerSocket {
    /// `sources` are the addresses, one of a family at most, that packets leave from when the client's own went to an address
    /// that is not known; the kernel chooses where there is none.
    pub(crate) fn new(socket: std::net::UdpSocket, sources: Vec<IpAddr>) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // quinn-udp forbids fragments, as QUIC wants it. A TFTP client that asks for a block beyond the path's MTU
        // expects IP to fragment it (RFC 2348 warns of it and allows it).
        let address = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        if address.is_ipv4() {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        } else {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that may be closed by others; std's socket owns its own"
        )]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Self {
            segments_max: state.max_gso_segments(),
            bound: address,
            state,
            socket,
            drained: false,
            sources,
        })
    }

    /// The address it is bound to, perhaps the unspecified one.
    pub(crate) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        if self.drained {
            // Cleared before the queue is drained, so that whatever comes after wakes us again.
            self.socket.readable().await?.clear_ready();
            self.drained = false;
        }
        Ok(())
    }

    /// Whether the last receive took everything that was there.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained
    }

    /// Receives what is there, perhaps nothing, without waiting.
    pub(crate) fn try_receive(&mut self, batch: &mut Batch) -> io::Result<()> {
        batch.filled = 0;
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = {
            let mut buffers = batch.buffers.iter_mut();
            std::array::from_fn(|_| {
                IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| buffer.as_mut_slice()))
            })
        };
        let socket = self.socket.get_ref();
        match self.state.recv(socket.into(), &mut slices, &mut batch.metas) {
            Ok(filled) => {
                batch.filled = filled;
                // Where there is room left, the kernel had no more: it need not be asked once more for each block.
                self.drained = filled < BATCH_SIZE;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.drained = true;
                Ok(())
            }
            // An ICMP error of an earlier send (a client that is gone): about one peer, not about the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.drained = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// How many packets of `bytes` each fit in one send.
    pub(crate) fn segments_max(&self, bytes: usize) -> usize {
        self.segments_max.min(DATAGRAM_BYTES_MAX / bytes.max(1)).max(1)
    }

    fn source(&self, peer: SocketAddr) -> Option<IpAddr> {
        let is_v4 = peer.ip().to_canonical().is_ipv4();
        self.sources
            .iter()
            .copied()
            .find(|source| source.is_ipv4() == is_v4)
    }

    /// Sends packets of `segment` bytes each (the last may be shorter), without waiting: what does not fit into the
    /// kernel's queue is lost, as on any network, and sent again by the transfer's timer.
    pub(crate) fn send(&self, peer: SocketAddr, local: SocketAddr, contents: &[u8], segment: usize) {
        let src_ip = Some(local.ip())
            .filter(|ip| !ip.is_unspecified())
            .or_else(|| self.source(peer));
        let transmit = Transmit {
            destination: peer,
            ecn: None,
            contents,
            segment_size: Some(segment),
            src_ip,
        };
        if let Err(error) = self.state.try_send(self.socket.get_ref().into(), &transmit) {
            tracing::debug!(%peer, %error, "packet not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn receive(socket: &mut ServerSocket, batch: &mut Batch) {
        loop {
            socket.readable().await.unwrap();
            socket.try_receive(batch).unwrap();
            if batch.filled > 0 {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_datagram_names_both_ends_and_a_reply_leaves_from_the_same_address() {
        let mut any = ServerSocket::new(bind("0.0.0.0:0".parse().unwrap()).unwrap(), Vec::new()).unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let server: SocketAddr = ([127, 0, 0, 2], any.bound().port()).into();
        client.send_to(b"hello", server).unwrap();
        let mut batch = Batch::new(false, false);
        receive(&mut any, &mut batch).await;
        let datagram = batch.datagrams(any.bound()).next().unwrap();
        assert_eq!(
            (datagram.peer, datagram.local),
            (client.local_addr().unwrap(), server)
        );
        assert_eq!(datagram.bytes, b"hello");
        any.send(datagram.peer, datagram.local, b"abcdefgh-i", 4);
        let mut buffer = [0; 16];
        let mut got = Vec::new();
        for _ in 0..3 {
            let (bytes, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(from, server);
            got.push(buffer[..bytes].to_vec());
        }
        assert_eq!(got, [b"abcd".to_vec(), b"efgh".to_vec(), b"-i".to_vec()]);
    }

    #[tokio::test]
    async fn where_the_address_moves_packets_leave_from_the_members_own() {
        let own: Vec<IpAddr> = vec!["::1".parse().unwrap(), "127.0.0.3".parse().unwrap()];
        // The kernel would answer from the client's own address, which is the nearest.
        for (listen, client, expected) in [
            ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.3"),
            ("[::]:0", "[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1:0", "127.0.0.3"),
        ] {
            let mut socket = ServerSocket::new(bind(listen.parse().unwrap()).unwrap(), own.clone()).unwrap();
            let client = std::net::UdpSocket::bind(client).unwrap();
            client
                .send_to(b"hello", (expected, socket.bound().port()))
                .unwrap();
            let mut batch = Batch::new(true, false);
            receive(&mut socket, &mut batch).await;
            let datagram = batch.datagrams(socket.bound()).next().unwrap();
            socket.send(datagram.peer, datagram.local, b"back", 4);
            let (_, from) = client.recv_from(&mut [0; 4]).unwrap();
            assert_eq!(from.ip().to_string(), expected, "{listen}");
        }
    }

    #[tokio::test]
    async fn where_the_address_moves_a_datagram_is_the_same_on_every_member() {
        for (listen, unspecified) in [("127.0.0.1:0", "0.0.0.0"), ("[::]:0", "::"), ("[::1]:0", "::")] {
            let mut socket = ServerSocket::new(bind(listen.parse().unwrap()).unwrap(), Vec::new()).unwrap();
            let client = std::net::UdpSocket::bind(("localhost", 0)).unwrap();
            let to = if listen.starts_with("[::1]") {
                "::1"
            } else {
                "127.0.0.1"
            };
            let client = if to == "::1" {
                std::net::UdpSocket::bind("[::1]:0").unwrap()
            } else {
                client
            };
            client.send_to(b"hello", (to, socket.bound().port())).unwrap();
            let mut batch = Batch::new(true, false);
            receive(&mut socket, &mut batch).await;
            let datagram = batch.datagrams(socket.bound()).next().unwrap();
            let expected = SocketAddr::new(unspecified.parse().unwrap(), socket.bound().port());
            assert_eq!(datagram.local, expected, "{listen}");
            socket.send(datagram.peer, datagram.local, b"back", 4);
            let mut buffer = [0; 16];
            let (bytes, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..bytes], from.port()),
                (&b"back"[..], socket.bound().port())
            );
        }
    }
}
