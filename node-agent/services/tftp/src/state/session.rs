//! What is recorded of a running transfer. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ContentHash;
use crate::path::FilePath;

/// A session's id: the index of the log entry that opened it, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// The two ends of a transfer (RFC 1350 §4: a pair of TIDs, and here the addresses too). At most one session has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey {
    #[serde(with = "address")]
    peer: SocketAddr,
    #[serde(with = "address")]
    local: SocketAddr,
}

/// How the file's bytes are sent (RFC 1350 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TransferMode {
    /// As they are.
    Octet,
    /// As network text: LF becomes CR LF, CR becomes CR NUL.
    Netascii,
}

/// What opening a session fixes. With it DATA n is a pure function of n, on every member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// The two ends.
    pub key: SessionKey,
    /// The name that was asked for, for people; the bytes are those of `content`.
    pub path: FilePath,
    /// The file's version, kept as long as the session lives.
    pub content: ContentHash,
    /// Octet or netascii.
    pub mode: TransferMode,
    /// Bytes that the client will receive: under netascii the converted length.
    pub size: u64,
    /// Bytes of each DATA but the last.
    pub block_size: u16,
    /// DATA packets per ACK.
    pub window_size: u16,
    /// Milliseconds before the first retransmission.
    pub timeout_ms: u32,
    /// The whole OACK packet (RFC 2347), so that any leader sends the very same bytes; empty: none was sent, the first
    /// answer is DATA 1.
    pub oack: Vec<u8>,
}

/// A running transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub opened_unix_ms: u64,
    /// The last block that the client is known to have, counted without rolling over. `None`: it has acknowledged
    /// nothing; `Some(0)`: the OACK.
    pub acked: Option<u64>,
    /// What was fixed when it was opened.
    pub fixed: NewSession,
}

impl SessionKey {
    /// The session between a client and the address it sent to. An IPv6 flow label says nothing about identity and is
    /// dropped; the scope of a link-local address is kept.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            peer: without_flow(peer),
            local: without_flow(local),
        }
    }

    /// Not after any session of this client address.
    pub(crate) fn first_of(client: IpAddr) -> Self {
        let least = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            peer: SocketAddr::new(client, 0),
            local: least,
        }
    }

    /// The client.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The server address that the client sent to, and to which alone it listens.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address by which sessions are counted per client.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.peer.ip()
    }
}

fn without_flow(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
    }
}

/// Addresses as (ip, port, scope): serde's own compact form drops the scope of a link-local address.
mod address {
    use super::*;

    pub(super) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        (address.ip(), address.port(), scope).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let (ip, port, scope) = <(IpAddr, u16, u32)>::deserialize(deserializer)?;
        Ok(match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
        })
    }
}
