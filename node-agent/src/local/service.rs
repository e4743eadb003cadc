//! The services under `local`: the only place here that tells them apart.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use operator_api::config::{KvConfig, ServiceConfig, ServiceKind, TftpConfig};

use super::Args;
use super::layout::MemberPlace;
use super::listener::{self, ClientSocket};

/// A service with what was chosen for it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Which one.
    pub kind: ServiceKind,
    /// Where the leader serves clients.
    pub client: SocketAddr,
    /// A directory whose files are imported at the start.
    pub root: Option<PathBuf>,
}

impl Service {
    /// The options of one member.
    pub(crate) fn config(&self, place: &MemberPlace) -> ServiceConfig {
        let own = place.own_client.unwrap_or(self.client);
        match self.kind {
            ServiceKind::Tftp => ServiceConfig::Tftp(TftpConfig::at(self.client)),
            ServiceKind::Kv => ServiceConfig::Kv(KvConfig::at(self.client, own)),
        }
    }

    /// A command line that shows that it works.
    pub(crate) fn try_it(&self) -> String {
        match self.kind {
            ServiceKind::Tftp => format!("curl tftp://{}/NAME", self.client),
            ServiceKind::Kv => format!("curl http://{}/v1/kv/NAME", self.client),
        }
    }
}

/// Binds the client socket of a service where the arguments say.
pub(crate) fn bind(kind: ServiceKind, args: &Args) -> anyhow::Result<ClientSocket> {
    match kind {
        ServiceKind::Tftp => {
            let option = if args.tftp_listen.is_some() {
                "--tftp-listen"
            } else {
                "--tftp-port"
            };
            let address = args.tftp_listen.unwrap_or_else(|| loopback(args.tftp_port));
            listener::bind_udp(address, option)
        }
        ServiceKind::Kv => listener::bind_tcp(loopback(args.kv_port), "--kv-port"),
    }
}

/// What is to be imported into a service at the start.
pub(crate) fn root(kind: ServiceKind, args: &Args) -> Option<PathBuf> {
    match kind {
        ServiceKind::Tftp => args.tftp_root.clone(),
        ServiceKind::Kv => None,
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
