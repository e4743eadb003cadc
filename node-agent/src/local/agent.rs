//! The member processes of a local group: which program, with which configuration.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context;
use operator_api::config::{AgentConfig, Durability, Endpoint, LogFormat, Timing};

use super::layout::MemberPlace;
use super::service::Service;
use super::supervisor::Program;

/// What every member runs.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The program's file: this one.
    pub program: PathBuf,
    /// The members' election timers.
    pub timing: Timing,
    /// When a write counts as stored.
    pub durability: Durability,
    /// Which lines the members log.
    pub log_level: String,
    /// The service and its options.
    pub service: Service,
    /// A backup that the group begins with.
    pub restore_from: Option<PathBuf>,
    /// The clients' socket.
    pub socket: OwnedFd,
}

impl Agent {
    /// The configuration of one member.
    pub(crate) fn config(&self, place: &MemberPlace, token_file: PathBuf) -> AgentConfig {
        let at = |address: SocketAddr| Endpoint {
            listen: address,
            advertise: address.to_string(),
        };
        AgentConfig {
            name: place.name.clone(),
            data_dir: place.data_dir(),
            peer: at(place.peer),
            admin: at(place.admin),
            timing: self.timing,
            durability: self.durability,
            peer_tls: None,
            token_file: Some(token_file),
            log_format: LogFormat::Json,
            log_level: self.log_level.clone(),
            drain_seconds: DRAIN_SECONDS,
            client_address: None,
            kubernetes: None,
            exit_with_stdin: true,
            restore_from: self.restore_from.clone(),
            accepts_backup: false,
            service: self.service.config(place),
        }
    }

    /// How one member is run.
    pub(crate) fn program(&self, place: &MemberPlace, token_file: PathBuf) -> anyhow::Result<Program> {
        let (config, written) = (self.config(place, token_file), place.clone());
        Ok(Program {
            name: place.name.clone(),
            file: self.program.clone(),
            arguments: vec!["run".into(), "--config".into(), place.config_file().into()],
            log: place.log_file(),
            socket: self.socket.try_clone().context("copying the client socket")?,
            prepare: Box::new(move || written.write_config(&config)),
        })
    }
}

/// Who presses ctrl-C does not want to wait for the transfers of strangers; in pods it is 5 s.
const DRAIN_SECONDS: u32 = 1;
