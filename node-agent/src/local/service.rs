//! The services under `local`: the only place here that tells them apart.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use operator_api::config::{
    AdcConfig, AdcFrontends, KvConfig, ServiceConfig, ServiceKind, TftpConfig, UploadRule,
};

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
    /// The hub's options, but for its addresses and files.
    pub adc: Option<Box<AdcConfig>>,
    /// The key of the hub's passwords.
    pub password_key_file: PathBuf,
    /// How the names of files begin that clients may upload.
    pub uploads: Vec<String>,
}

impl Service {
    /// The options of one member.
    pub(crate) fn config(&self, place: &MemberPlace) -> ServiceConfig {
        let own = place.own_client.unwrap_or(self.client);
        match self.kind {
            ServiceKind::Tftp => ServiceConfig::Tftp(TftpConfig {
                uploads: self.uploads.iter().map(|prefix| upload_rule(prefix)).collect(),
                ..TftpConfig::at(self.client)
            }),
            ServiceKind::Kv => ServiceConfig::Kv(KvConfig::at(self.client, own)),
            ServiceKind::Adc => ServiceConfig::Adc(Box::new(self.adc_config(own))),
        }
    }

    fn adc_config(&self, own: SocketAddr) -> AdcConfig {
        let chosen = self.adc.as_deref().cloned();
        let mut config = chosen.unwrap_or_else(|| AdcConfig {
            // Everybody is on this machine.
            connections_per_address_max: 0,
            ..AdcConfig::at(self.client, None)
        });
        config.listen = self.client;
        config.member_listen = (config.frontends == AdcFrontends::EveryMember).then_some(own);
        let key_file = config.password_key_file;
        config.password_key_file = key_file.or_else(|| Some(self.password_key_file.clone()));
        config
    }

    /// A command line that shows that it works.
    pub(crate) fn try_it(&self) -> String {
        match self.kind {
            ServiceKind::Tftp => format!("curl tftp://{}/NAME", self.client),
            ServiceKind::Kv => format!("curl http://{}/v1/kv/NAME", self.client),
            ServiceKind::Adc => format!("connect to adc://{}", self.client),
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
        ServiceKind::Adc => listener::bind_tcp(loopback(args.adc_port), "--adc-port"),
    }
}

/// What is to be imported into a service at the start.
pub(crate) fn root(kind: ServiceKind, args: &Args) -> Option<PathBuf> {
    match kind {
        ServiceKind::Tftp => args.tftp_root.clone(),
        ServiceKind::Kv | ServiceKind::Adc => None,
    }
}

/// The options of the hub that `--adc-options` names.
pub(crate) fn adc_options(kind: ServiceKind, args: &Args) -> anyhow::Result<Option<Box<AdcConfig>>> {
    let Some(file) = args.adc_options.as_deref().filter(|_| kind == ServiceKind::Adc) else {
        return Ok(None);
    };
    let read = || {
        let mut options: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let fields = options.as_object_mut().context("it must hold an object")?;
        // Where the hub listens is chosen otherwise.
        fields.insert("listen".to_owned(), loopback(args.adc_port).to_string().into());
        fields
            .entry("connectionsPerAddressMax")
            .or_insert_with(|| 0.into());
        let config: AdcConfig = serde_json::from_value(options)?;
        config.validate().map_err(|reason| anyhow!(reason))?;
        Ok(Box::new(config))
    };
    let options: anyhow::Result<_> = read();
    options
        .map(Some)
        .with_context(|| format!("--adc-options {}", file.display()))
}

fn upload_rule(prefix: &str) -> UploadRule {
    UploadRule {
        prefix: prefix.to_owned(),
        overwrite: true,
        from: Vec::new(),
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
