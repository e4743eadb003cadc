//! Where peers called from a moment ago. A name leads to a member's former address for a while after the member came
//! back at another one (5 to 30 s in Kubernetes); the member itself says at once where it is, by calling.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::transport::Uri;

use crate::NodeId;

/// Names have been corrected by then, and addresses may have gone to somebody else.
const RECENT: Duration = Duration::from_secs(30);
/// Leaves time to ask for the name within the time that a connection may take.
const RECENT_CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// More than a group and its former members have; further ones are found by their names alone.
const PEERS_MAX: usize = 64;

/// One address a peer.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts(Mutex<BTreeMap<NodeId, (IpAddr, Instant)>>);

impl Whereabouts {
    /// A peer called from there.
    pub(crate) fn heard(&self, peer: NodeId, from: IpAddr) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < PEERS_MAX || all.contains_key(&peer) {
            all.insert(peer, (from.to_canonical(), Instant::now()));
        }
    }

    /// Where a peer called from last, if that was a moment ago.
    fn recent(&self, peer: NodeId, now: Instant) -> Option<IpAddr> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, at) = all.get(&peer)?;
        (now.duration_since(*at) < RECENT).then_some(*address)
    }

    /// Forgets members that left.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|peer, _| keep(*peer));
    }

    /// Connects to a peer: where it called from a moment ago, else to what its name says.
    ///
    /// # Errors
    /// Those of the name's lookup and of the connection to it.
    pub(crate) async fn connect(&self, peer: NodeId, to: &Uri) -> io::Result<TcpStream> {
        // An IPv6 address is in brackets there.
        let host = to
            .host()
            .unwrap_or_default()
            .trim_matches(|c| c == '[' || c == ']');
        let port = to.port_u16().unwrap_or_default();
        let is_name = host.parse::<IpAddr>().is_err();
        let recent = self.recent(peer, Instant::now()).filter(|_| is_name);
        let mut stream = None;
        if let Some(address) = recent {
            let connecting = timeout(RECENT_CONNECT_TIMEOUT, TcpStream::connect((address, port)));
            stream = connecting.await.ok().and_then(Result::ok);
        }
        let stream = match stream {
            Some(stream) => stream,
            None => TcpStream::connect((host, port)).await?,
        };
        // Only latency suffers without it.
        stream.set_nodelay(true).ok();
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PEER: NodeId = 7;

    async fn connects(whereabouts: &Whereabouts, listener: &TcpListener) -> Option<IpAddr> {
        let port = listener.local_addr().unwrap().port();
        let to = format!("http://localhost:{port}").parse().unwrap();
        let stream = whereabouts.connect(PEER, &to).await.ok()?;
        Some(stream.peer_addr().unwrap().ip())
    }

    #[tokio::test]
    async fn a_peer_is_found_where_it_called_from_although_its_name_leads_elsewhere() {
        let moved = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let whereabouts = Whereabouts::default();
        assert_eq!(connects(&whereabouts, &moved).await, None);
        let address = moved.local_addr().unwrap().ip();
        whereabouts.heard(PEER + 1, address);
        assert_eq!(connects(&whereabouts, &moved).await, None);
        whereabouts.heard(PEER, address);
        assert_eq!(connects(&whereabouts, &moved).await, Some(address));
        whereabouts.retain(|peer| peer != PEER);
        assert_eq!(connects(&whereabouts, &moved).await, None);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_from_there_is_found_by_its_name() {
        let named = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let whereabouts = Whereabouts::default();
        whereabouts.heard(PEER, "127.0.0.3".parse().unwrap());
        let address = named.local_addr().unwrap().ip();
        assert_eq!(connects(&whereabouts, &named).await, Some(address));
        // Long after the call, the address counts no more.
        whereabouts.heard(PEER, address);
        let now = Instant::now();
        assert_eq!(whereabouts.recent(PEER, now), Some(address));
        assert_eq!(whereabouts.recent(PEER, now + RECENT), None);
    }
}
