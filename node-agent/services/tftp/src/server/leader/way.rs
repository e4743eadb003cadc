//! How packets leave: from the leader's own socket, or by the member that their client's came through.

use std::collections::BTreeMap;

use replication::Lease;

use super::ports::Ports;
use crate::server::relay::{WayBack, encode_answer};
use crate::server::socket::ServerSocket;
use crate::state::SessionKey;

/// Clients that are answered by way of other members; those beyond it are not answered, and ask again.
const DETOURS_MAX: usize = 4096;

/// The ways to the clients.
pub(super) struct Way {
    pub(super) socket: ServerSocket,
    lease: Lease,
    detours: BTreeMap<SessionKey, WayBack>,
    pub(super) ports: Ports,
    /// Whether what is sent now answers nothing that just came. The nodes may lead the client elsewhere meanwhile, and a
    /// packet would reach it from an address that it does not know; so only the direct way is taken then, and where there
    /// is none, the client has to speak first.
    pub(super) is_unasked: bool,
}

impl Way {
    pub(super) fn new(socket: ServerSocket, lease: Lease) -> Self {
        Self {
            socket,
            lease,
            detours: BTreeMap::new(),
            ports: Ports::default(),
            is_unasked: false,
        }
    }

    /// Answers a client by `back` from now on; whether there is room for it.
    pub(super) fn by(&mut self, key: SessionKey, back: &WayBack) -> bool {
        if self.detours.len() >= DETOURS_MAX && !self.detours.contains_key(&key) {
            self.detours.retain(|_, back| !back.is_closed());
            if self.detours.len() >= DETOURS_MAX {
                return false;
            }
        }
        self.detours.insert(key, back.clone());
        true
    }

    /// The client was heard here, or is gone.
    pub(super) fn straight(&mut self, key: SessionKey) {
        self.detours.remove(&key);
    }

    pub(super) fn is_straight(&self, key: SessionKey) -> bool {
        !self.detours.contains_key(&key)
    }

    pub(super) fn is_lease_valid(&self) -> bool {
        self.lease.is_valid()
    }

    /// Sends packets of `segment` bytes each (the last may be shorter). Asks the lease once more: the last moment to notice
    /// that this process was paused and is deposed.
    pub(super) fn send(&self, key: SessionKey, contents: &[u8], segment: usize) {
        if !self.lease.is_valid() {
            return;
        }
        match self.detours.get(&key) {
            None => {
                let to = self.ports.of(key);
                self.socket.send(to.peer(), to.local(), contents, segment);
            }
            Some(_) if self.is_unasked => {}
            Some(back) => {
                for packet in contents.chunks(segment.max(1)) {
                    // No room: lost, as on any network.
                    back.try_send(encode_answer(key.peer(), packet)).ok();
                }
            }
        }
    }
}
