//! The chat hub.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use operator_api::ServiceKind;
use operator_api::config::{AdcConfig, AdcHybrid, AdcTls, ServiceConfig};
use operator_api::resources::{AdcHub, Frontends, GroupSpec, GroupStatus, RestoreFrom};

use super::{
    CERTIFICATE, CERTIFICATE_KEY, CLIENT_TLS_DIR, ClientPort, Group, Mount, bytes, client_tls_mount, number,
    restore, secret_mount,
};
use crate::build::PASSWORD_KEY;
use crate::validate::{Invalid, TOKEN_DIR};

impl Group for AdcHub {
    const SERVICE: ServiceKind = ServiceKind::Adc;

    fn group(&self) -> &GroupSpec {
        &self.spec.group
    }

    fn status(&self) -> Option<&GroupStatus> {
        self.status.as_ref()
    }

    fn service_config(&self, listen: IpAddr) -> Result<ServiceConfig, Invalid> {
        let spec = &self.spec;
        let (hub, limits) = (&spec.hub, &spec.limits);
        let bounded = |field, amount| {
            let value = bytes(field, amount)?;
            u32::try_from(value).map_err(|_| Invalid::NotBytes {
                field,
                value: amount.0.clone(),
            })
        };
        let mut config = AdcConfig {
            frontends: spec.frontends.into(),
            name: hub.name.clone(),
            description: hub.description.clone(),
            motd: hub.motd.clone(),
            rules: hub.rules.clone(),
            public_address: hub.public_address.clone(),
            owner: hub.owner.clone(),
            website: hub.website.clone(),
            network: hub.network.clone(),
            history_lines_max: number("hub.historyLinesMax", hub.history_lines_max)?,
            history_lines_on_join: number("hub.historyLinesOnJoin", hub.history_lines_on_join)?,
            connections_max: number("limits.connectionsMax", limits.connections_max)?,
            connections_per_address_max: number(
                "limits.connectionsPerAddressMax",
                limits.connections_per_address_max,
            )?,
            line_bytes_max: bounded("limits.lineBytesMax", &limits.line_bytes_max)?,
            send_queue_bytes_max: bounded("limits.sendQueueBytesMax", &limits.send_queue_bytes_max)?,
            slow_reader_seconds_max: number("limits.slowReaderSecondsMax", limits.slow_reader_seconds_max)?,
            keep_alive_seconds: number("limits.keepAliveSeconds", limits.keep_alive_seconds)?,
            flood_limits: (&limits.flood_limits).into(),
            accounts_max: number("limits.accountsMax", limits.accounts_max)?,
            bans_max: number("limits.bansMax", limits.bans_max)?,
            proxy_networks: limits.proxy_networks.clone(),
            threads: number("limits.threads", limits.threads)?,
            password_key_file: Some(Path::new(TOKEN_DIR).join(PASSWORD_KEY)),
            users_file: spec
                .registered_users
                .as_ref()
                .map(|_| Path::new(USERS_DIR).join(USERS_KEY)),
            tls: spec.client_tls.as_ref().map(|_| AdcTls {
                cert_file: Path::new(CLIENT_TLS_DIR).join(CERTIFICATE),
                key_file: Path::new(CLIENT_TLS_DIR).join(CERTIFICATE_KEY),
            }),
            ..AdcConfig::at(SocketAddr::new(listen, Self::SERVICE.client_port()), None)
        };
        admission(self, &mut config)?;
        config.hybrid = hybrid(self)?;
        config.validate().map_err(Invalid::Service)?;
        Ok(ServiceConfig::Adc(Box::new(config)))
    }

    fn ports(&self) -> Result<Vec<ClientPort>, Invalid> {
        let port = Self::SERVICE.client_port();
        Ok(vec![ClientPort {
            name: "adc",
            protocol: "TCP",
            service_port: self
                .spec
                .group
                .service
                .port
                .map_or(Ok(port), |port| number("service.port", port))?,
            pod_port: port,
            member_port: None,
        }])
    }

    fn mounts(&self) -> Vec<Mount> {
        let users = self.spec.registered_users.as_ref();
        let users = users.map(|users| secret_mount("users", &users.secret_ref, USERS_DIR, &[USERS_KEY]));
        users
            .into_iter()
            .chain(client_tls_mount(self.spec.client_tls.as_ref()))
            .chain(self.restore_from().and_then(restore::mount))
            .collect()
    }

    fn restore_from(&self) -> Option<&RestoreFrom> {
        self.spec.restore_from.as_ref()
    }

    fn certificates_read_once(&self) -> Option<&str> {
        let tls = self.spec.client_tls.as_ref();
        tls.map(|tls| tls.secret_ref.name.as_str())
    }

    fn serves_everywhere(&self) -> bool {
        self.spec.frontends == Frontends::EveryMember
    }

    fn keeps_passwords(&self) -> bool {
        true
    }
}

fn hybrid(resource: &AdcHub) -> Result<Option<AdcHybrid>, Invalid> {
    let Some(hybrid) = &resource.spec.hub.hybrid else {
        return Ok(None);
    };
    let wrong = || Invalid::Service("hub.hybrid must hold an IPv4 and an IPv6 address".to_owned());
    let port = match (hybrid.port, resource.spec.group.service.port) {
        (Some(port), _) => number("hub.hybrid.port", port)?,
        (None, Some(port)) => number("service.port", port)?,
        (None, None) => AdcHub::SERVICE.client_port(),
    };
    Ok(Some(AdcHybrid {
        ipv4: hybrid.ipv4.parse().map_err(|_| wrong())?,
        ipv6: hybrid.ipv6.parse().map_err(|_| wrong())?,
        port: Some(port),
    }))
}

fn admission(resource: &AdcHub, config: &mut AdcConfig) -> Result<(), Invalid> {
    let admission = &resource.spec.admission;
    config.users_max = number("admission.usersMax", admission.users_max)?;
    config.reserved_places = number("admission.reservedPlaces", admission.reserved_places)?;
    config
        .redirect_when_full
        .clone_from(&admission.redirect_when_full);
    config.registered_only = admission.registered_only;
    config.self_registration = admission.self_registration;
    config.exact_nicks = admission.exact_nicks;
    config.setup_seconds_max = number("admission.setupSecondsMax", admission.setup_seconds_max)?;
    config.grace_seconds = number("admission.graceSeconds", admission.grace_seconds)?;
    config.share_bytes_min = bytes("admission.shareBytesMin", &admission.share_bytes_min)?;
    config.slots_min = number("admission.slotsMin", admission.slots_min)?;
    config.hubs_max = number("admission.hubsMax", admission.hubs_max)?;
    config.search_chars_min = number("admission.searchCharsMin", admission.search_chars_min)?;
    Ok(())
}

/// Where the registered users are mounted.
const USERS_DIR: &str = "/etc/quorate/users";

/// The key of their Secret.
const USERS_KEY: &str = "users.json";
