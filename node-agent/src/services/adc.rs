//! The ADC hub in the agent's terms: its options and its part of the status.

mod desk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adc::message::are_addresses;
use adc::server::{Desk, Keeper, PasswordKey, Shown, Tls};
use adc::session::bot::ban_target;
use adc::session::{About, Hybrid, Rate, Rates, Settings};
use adc::state::{BanTarget, Limits};
use adc::{Adc, Metrics, Options};
use anyhow::{Context, anyhow, ensure};
use listenfd::ListenFd;
use operator_api::AgentConfig;
use operator_api::config::{AdcConfig, AdcFloodLimits, AdcFrontends, AdcRate};
use prometheus::Registry;
use replication::Shutdown;

use super::{Started, serve, start_node};

/// Starts the node and prepares the service.
pub(super) async fn start(
    config: &AgentConfig,
    adc: &AdcConfig,
    mut sockets: ListenFd,
    registry: &Registry,
    until: Shutdown,
) -> anyhow::Result<Started> {
    let password_key = adc
        .password_key_file
        .as_deref()
        .map(read_key)
        .transpose()
        .context("adc option passwordKeyFile")?;
    ensure!(
        adc.redirect_when_full.as_deref().is_none_or(are_addresses),
        "adc option redirectWhenFull: addresses begin with adc://, adcs:// or dchub://, and are separated by commas"
    );
    let tls = adc
        .tls
        .as_ref()
        .map(|tls| Tls::read(&tls.cert_file, &tls.key_file))
        .transpose()
        .map_err(|reason| anyhow!("adc option tls: {reason}"))?;
    let fingerprint = tls.as_ref().map(|tls| tls.fingerprint.clone());
    let (node, replica) = start_node::<Adc>(config).await?;
    replica.keep_with(Arc::new(Keeper::new(password_key.clone())));
    let socket = sockets
        .take_tcp_listener(0)
        .context("taking the client socket passed by the parent")?;
    let client_address = match &socket {
        Some(socket) => socket
            .local_addr()
            .context("reading the address of the passed socket")?,
        None => adc.listen,
    };
    let desk = Desk::new(replica.clone(), limits(adc), password_key.as_ref());
    let users = desk::follow_users_file(desk.clone(), adc.users_file.clone());
    let metrics = Metrics::register(registry).context("registering metrics")?;
    let size = |number: u32| usize::try_from(number).context("an adc option");
    let options = Options {
        listen: client_address,
        socket,
        member_listen: adc.member_listen,
        leader_only: adc.frontends == AdcFrontends::Leader,
        limits: limits(adc),
        settings: settings(adc),
        connections_max: adc.connections_max,
        connections_per_address_max: adc.connections_per_address_max,
        line_bytes_max: size(adc.line_bytes_max)?,
        send_queue_bytes_max: size(adc.send_queue_bytes_max)?,
        slow_reader_max: Duration::from_secs(adc.slow_reader_seconds_max.into()),
        keep_alive: Duration::from_secs(adc.keep_alive_seconds.into()),
        history_lines_on_join: adc.history_lines_on_join.into(),
        password_key,
        proxies: proxies(&adc.proxy_networks)?,
        tls,
        threads: adc.threads.into(),
        metrics: metrics.clone(),
    };
    let served = serve::<Adc>(options, replica.clone(), until);
    let (state, member_address, shown) = (replica, adc.member_listen, Shown::new(metrics));
    Ok(Started {
        node,
        serving: Box::pin(async {
            tokio::select! {
                ended = served => ended,
                never = users => match never {},
            }
        }),
        client_address: client_address.to_string(),
        detail: Arc::new(move || adc::server::detail(&state, member_address, fingerprint.as_deref(), &shown)),
        lacks: Arc::new(|| None),
        files: None,
        hub: Some(Arc::new(desk::Adapter(desk))),
    })
}

fn proxies(networks: &[String]) -> anyhow::Result<Vec<BanTarget>> {
    let network = |text: &String| match ban_target(text) {
        network @ BanTarget::Network { .. } => Ok(network),
        _ => Err(anyhow!(
            "adc option proxyNetworks: `{text}` is no network such as 10.0.0.0/8"
        )),
    };
    networks.iter().map(network).collect()
}

fn read_key(file: &Path) -> anyhow::Result<PasswordKey> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let bytes = hex::decode(text.trim()).ok();
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    key.map(PasswordKey)
        .ok_or_else(|| anyhow!("{} does not hold 64 hexadecimal digits", file.display()))
}

fn limits(adc: &AdcConfig) -> Limits {
    Limits {
        users_max: adc.users_max,
        reserved_places: adc.reserved_places,
        grace_ms: adc.grace_seconds.saturating_mul(1000),
        history_lines_max: adc.history_lines_max,
        registered_only: adc.registered_only,
        exact_nicks: adc.exact_nicks,
        accounts_max: adc.accounts_max,
        bans_max: adc.bans_max,
    }
}

fn settings(adc: &AdcConfig) -> Settings {
    Settings {
        name: adc.name.clone(),
        description: adc.description.clone(),
        motd: adc.motd.clone(),
        rules: adc.rules.clone(),
        self_registration: adc.self_registration,
        redirect_when_full: adc.redirect_when_full.clone(),
        users_max: adc.users_max,
        about: About {
            address: adc.public_address.clone().unwrap_or_default(),
            website: adc.website.clone().unwrap_or_default(),
            network: adc.network.clone().unwrap_or_default(),
            owner: adc.owner.clone().unwrap_or_default(),
        },
        hybrid: adc.hybrid.map(|hybrid| Hybrid {
            ipv4: hybrid.ipv4,
            ipv6: hybrid.ipv6,
            port: hybrid.port.unwrap_or_else(|| adc.listen.port()),
        }),
        setup_max: Duration::from_secs(adc.setup_seconds_max.into()),
        share_bytes_min: adc.share_bytes_min,
        slots_min: adc.slots_min,
        hubs_max: adc.hubs_max,
        search_chars_min: adc.search_chars_min,
        rates: rates(&adc.flood_limits),
    }
}

fn rates(limits: &AdcFloodLimits) -> Rates {
    let rate = |rate: AdcRate| Rate {
        burst: rate.burst,
        every: Duration::from_millis(rate.interval_milliseconds.into()),
    };
    Rates {
        chat: rate(limits.chat),
        private: rate(limits.private),
        search: rate(limits.search),
        info: rate(limits.info),
        other: rate(limits.other),
    }
}
