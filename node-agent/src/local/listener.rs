//! The group's ports, claimed before anything starts.
//!
//! `local` binds the client socket of each service once and hands it to every member (`LISTEN_FDS`), but only the leader
//! reads from it, or accepts connections on it. Between two leaders it stays open: no ICMP port-unreachable and no
//! refused connection reaches a client, and what clients send meanwhile waits for the next leader.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::anyhow;
use socket2::{Domain, Protocol, Socket, Type};

use super::layout::MemberPlace;

/// A client socket of a service.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// What members inherit.
    pub socket: OwnedFd,
}

impl ClientSocket {
    fn new(socket: Socket) -> Result<Self, Error> {
        let address = socket.local_addr()?.as_socket();
        Ok(Self {
            address: address.ok_or_else(|| Error::other("not an address of the Internet protocols"))?,
            socket: socket.into(),
        })
    }
}

/// Binds the client socket of a UDP service.
pub(crate) fn bind_udp(address: SocketAddr, option: &str) -> anyhow::Result<ClientSocket> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The system may grant less; then a fail-over under load costs more retransmissions.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).ok();
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        ClientSocket::new(socket)
    };
    bind().map_err(|error: Error| explain(&error, "UDP", address, option))
}

/// Binds the client socket of a TCP service. Connections that nobody accepts yet wait in its queue.
pub(crate) fn bind_tcp(address: SocketAddr, option: &str) -> anyhow::Result<ClientSocket> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of the last start that are not forgotten yet must not keep the port.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        ClientSocket::new(socket)
    };
    bind().map_err(|error: Error| explain(&error, "TCP", address, option))
}

/// Makes sure that the members can bind their ports.
pub(crate) fn check_free(members: &[MemberPlace]) -> anyhow::Result<()> {
    for member in members {
        let own = member
            .own_client
            .map(|address| (address, "the service's own port option"));
        let ports = [(member.admin, "--admin-port"), (member.peer, "--peer-port")];
        for (address, option) in ports.into_iter().chain(own) {
            TcpListener::bind(address).map_err(|error| explain(&error, "TCP", address, option))?;
        }
    }
    Ok(())
}

/// What went wrong, in words that say what to do.
fn explain(error: &Error, protocol: &str, address: SocketAddr, option: &str) -> anyhow::Error {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "{protocol} port {port} on {ip} is taken by another program (`ss -{}lpn 'sport = :{port}'` shows which): \
             stop it, or choose another port with {option}",
            if protocol == "UDP" { 'u' } else { 't' }
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "{protocol} port {port} needs more rights than this user has: choose a port from 1024 on with {option}"
        ),
        ErrorKind::AddrNotAvailable => {
            anyhow!("this machine has no address {ip}: choose one that it has with {option}")
        }
        _ => anyhow!(
            "{protocol} port {port} on {ip} cannot be used ({error}): choose another one with {option}"
        ),
    }
}

/// Two thousand windows of clients that wait for the next leader; what Linux grants at most by default is less.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Connections that wait for the next leader; Linux grants at most `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_port_is_explained() {
        let first = bind_udp("127.0.0.1:0".parse().unwrap(), "--tftp-port").unwrap();
        let address = first.address;
        let error = bind_udp(address, "--tftp-port").unwrap_err().to_string();
        let port = address.port();
        assert!(
            error.starts_with(&format!(
                "UDP port {port} on 127.0.0.1 is taken by another program"
            )),
            "{error}"
        );
        assert!(error.ends_with("with --tftp-port"), "{error}");
    }

    #[test]
    fn connection_waits_while_nobody_accepts() {
        let bound = bind_tcp("127.0.0.1:0".parse().unwrap(), "--kv-port").unwrap();
        let _client = std::net::TcpStream::connect(bound.address).unwrap();
        let error = bind_tcp(bound.address, "--kv-port").unwrap_err().to_string();
        assert!(
            error.starts_with("TCP port") && error.ends_with("with --kv-port"),
            "{error}"
        );
        let later = TcpListener::from(bound.socket);
        later.set_nonblocking(false).unwrap();
        later.accept().unwrap();
    }

    #[test]
    fn taken_admin_port_is_explained() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let member = MemberPlace {
            name: "tftp-0".to_owned(),
            admin: taken.local_addr().unwrap(),
            peer: "127.0.0.1:0".parse().unwrap(),
            own_client: None,
            dir: "unused".into(),
        };
        let error = check_free(&[member]).unwrap_err().to_string();
        assert!(error.contains("another port with --admin-port"), "{error}");
    }

    #[test]
    fn foreign_address_is_explained() {
        let error = bind_udp("192.0.2.1:6969".parse().unwrap(), "--tftp-listen").unwrap_err();
        assert!(error.to_string().contains("no address 192.0.2.1"), "{error}");
    }
}
