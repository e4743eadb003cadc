//! The options of the ADC hub.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The options of the ADC hub. Numbers are checked by [`AdcConfig::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdcConfig {
    /// The TCP address for clients, plain and TLS. A socket passed by the parent (`LISTEN_FDS`) takes its place.
    pub listen: SocketAddr,
    /// A further TCP address that only this member serves, whoever leads; none with `Leader`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_listen: Option<SocketAddr>,
    /// Which members take users in.
    #[serde(default)]
    pub frontends: AdcFrontends,
    /// The hub's name.
    #[serde(default = "AdcConfig::default_name")]
    pub name: String,
    /// What the hub says of itself while it has no topic.
    #[serde(default)]
    pub description: String,
    /// Sent to each who comes in, line by line.
    #[serde(default)]
    pub motd: String,
    /// What `+rules` answers, line by line.
    #[serde(default)]
    pub rules: String,
    /// Users at once.
    #[serde(default = "AdcConfig::default_users_max")]
    pub users_max: u32,
    /// Further places for registered users and operators.
    #[serde(default = "AdcConfig::default_reserved_places")]
    pub reserved_places: u32,
    /// Where a client is sent when the hub is full: `adc://host:port`, or several, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_when_full: Option<String>,
    /// Only registered users may come in.
    #[serde(default)]
    pub registered_only: bool,
    /// Users may register their own nick (`+regme PASSWORD`).
    #[serde(default)]
    pub self_registration: bool,
    /// Nicks that differ in case are different.
    #[serde(default)]
    pub exact_nicks: bool,
    /// Seconds that a client may take to be let in.
    #[serde(default = "AdcConfig::default_setup_seconds_max")]
    pub setup_seconds_max: u32,
    /// Seconds for which the place of a user is kept whose member was lost.
    #[serde(default = "AdcConfig::default_grace_seconds")]
    pub grace_seconds: u32,
    /// Connections of this member; further ones are told to come back later.
    #[serde(default = "AdcConfig::default_connections_max")]
    pub connections_max: u32,
    /// Connections of one address to this member; any number with 0.
    #[serde(default = "AdcConfig::default_connections_per_address_max")]
    pub connections_per_address_max: u32,
    /// The longest line that a client may send, in bytes.
    #[serde(default = "AdcConfig::default_line_bytes_max")]
    pub line_bytes_max: u32,
    /// Bytes that may wait for one user, or 4 KiB for each user of the hub if that is more; who reads too slowly for
    /// that is dropped.
    #[serde(default = "AdcConfig::default_send_queue_bytes_max")]
    pub send_queue_bytes_max: u32,
    /// Seconds after which a user that reads nothing at all is dropped.
    #[serde(default = "AdcConfig::default_slow_reader_seconds_max")]
    pub slow_reader_seconds_max: u32,
    /// Seconds of silence after which an empty line is sent: less than load balancers keep an idle connection.
    #[serde(default = "AdcConfig::default_keep_alive_seconds")]
    pub keep_alive_seconds: u32,
    /// How much a user may send; operators are not limited.
    #[serde(default)]
    pub flood_limits: AdcFloodLimits,
    /// Lines of chat that the hub remembers.
    #[serde(default = "AdcConfig::default_history_lines_max")]
    pub history_lines_max: u16,
    /// Remembered lines that are sent to each who comes in.
    #[serde(default = "AdcConfig::default_history_lines_on_join")]
    pub history_lines_on_join: u16,
    /// Bytes that a user must share.
    #[serde(default)]
    pub share_bytes_min: u64,
    /// Upload slots that a user must offer.
    #[serde(default)]
    pub slots_min: u32,
    /// Hubs that a user may be in.
    #[serde(default = "AdcConfig::default_hubs_max")]
    pub hubs_max: u32,
    /// Characters that a search must have, unless it is for a hash.
    #[serde(default = "AdcConfig::default_search_chars_min")]
    pub search_chars_min: u32,
    /// Registered users that the group may hold.
    #[serde(default = "AdcConfig::default_accounts_max")]
    pub accounts_max: u32,
    /// Bans that the group may hold.
    #[serde(default = "AdcConfig::default_bans_max")]
    pub bans_max: u32,
    /// A file with the 32 bytes, in hexadecimal digits, with which passwords are encrypted in logs and snapshots; the
    /// same on every member. Without it nobody can be registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_key_file: Option<PathBuf>,
    /// A JSON file of registered users, `[{"nick": ..., "password": ..., "class": "operator"}]`, which the leader brings
    /// into the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users_file: Option<PathBuf>,
    /// The certificate of `adcs://`; plain connections only, without. The same on every member: clients pin it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<AdcTls>,
    /// Where clients find the hub, as pingers are told: `adc://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_address: Option<String>,
    /// Who owns the hub, as pingers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The hub's website, as pingers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// The network that the hub belongs to, as pingers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Networks (`10.0.0.0/8`) of load balancers that begin each connection with a PROXY header, version 1 or 2: it says
    /// where the client really connects from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_networks: Vec<String>,
    /// Where clients with addresses of both families prove the second one; nobody may, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<AdcHybrid>,
    /// Threads that serve connections; as many as there are processors (8 at most), with 0.
    #[serde(default)]
    pub threads: u16,
}

/// Which members take users in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdcFrontends {
    /// The leader alone. Users that it has stay with it when another leads.
    Leader,
    /// Each member.
    #[default]
    EveryMember,
}

/// How much a user may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdcFloodLimits {
    /// Lines to all.
    #[serde(default = "AdcFloodLimits::default_chat")]
    pub chat: AdcRate,
    /// Lines to one.
    #[serde(default = "AdcFloodLimits::default_private")]
    pub private: AdcRate,
    /// Searches. A passive client sends each of them twice, to different audiences.
    #[serde(default = "AdcFloodLimits::default_search")]
    pub search: AdcRate,
    /// Changes of what a user says of itself.
    #[serde(default = "AdcFloodLimits::default_info")]
    pub info: AdcRate,
    /// Everything else: results, requests to connect.
    #[serde(default = "AdcFloodLimits::default_other")]
    pub other: AdcRate,
}

/// So many at once, and one more after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdcRate {
    /// How many at once.
    pub burst: u32,
    /// Milliseconds until one more is allowed; any number is, with 0.
    pub interval_milliseconds: u32,
}

/// The hub's addresses of both families, as clients reach them. Any member takes what comes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdcHybrid {
    /// For clients that came over IPv6.
    pub ipv4: Ipv4Addr,
    /// For clients that came over IPv4.
    pub ipv6: Ipv6Addr,
    /// The port at both; that of `listen`, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Files for TLS with clients, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdcTls {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl AdcFloodLimits {
    // AirDC++ leaves a hub in which one user makes more than 60 searches a minute, so these stay well below; the bursts
    // never hit what a client does by itself.
    const fn default_chat() -> AdcRate {
        AdcRate::new(10, 500)
    }
    const fn default_private() -> AdcRate {
        AdcRate::new(20, 250)
    }
    const fn default_search() -> AdcRate {
        AdcRate::new(6, 2_500)
    }
    const fn default_info() -> AdcRate {
        AdcRate::new(20, 1_000)
    }
    const fn default_other() -> AdcRate {
        AdcRate::new(100, 50)
    }
}

impl Default for AdcFloodLimits {
    fn default() -> Self {
        Self {
            chat: Self::default_chat(),
            private: Self::default_private(),
            search: Self::default_search(),
            info: Self::default_info(),
            other: Self::default_other(),
        }
    }
}

impl AdcRate {
    const fn new(burst: u32, interval_milliseconds: u32) -> Self {
        Self {
            burst,
            interval_milliseconds,
        }
    }
}

impl AdcConfig {
    /// The range of `lineBytesMax`.
    const LINE_BYTES: std::ops::RangeInclusive<u32> = 1024..=1 << 20;
    /// The most that `usersMax` and `reservedPlaces` may be together: there are 2^20 SIDs, and most are to be unused, so
    /// that none is used again soon.
    const PLACES_MAX: u32 = 100_000;

    pub(crate) fn default_name() -> String {
        "Quorate hub".to_owned()
    }
    pub(crate) const fn default_users_max() -> u32 {
        20_000
    }
    pub(crate) const fn default_reserved_places() -> u32 {
        50
    }
    pub(crate) const fn default_setup_seconds_max() -> u32 {
        // A client with a large share has taken more than 15 s for its first INF.
        30
    }
    pub(crate) const fn default_grace_seconds() -> u32 {
        // AirDC++ comes back 120 to 180 s after it lost its hub.
        200
    }
    pub(crate) const fn default_connections_max() -> u32 {
        25_000
    }
    pub(crate) const fn default_connections_per_address_max() -> u32 {
        // A household or an office behind one address.
        32
    }
    pub(crate) const fn default_line_bytes_max() -> u32 {
        // As ADCH++.
        16 << 10
    }
    pub(crate) const fn default_send_queue_bytes_max() -> u32 {
        4 << 20
    }
    pub(crate) const fn default_slow_reader_seconds_max() -> u32 {
        60
    }
    pub(crate) const fn default_keep_alive_seconds() -> u32 {
        // The shortest usual limit of load balancers is 60 s.
        45
    }
    pub(crate) const fn default_history_lines_max() -> u16 {
        200
    }
    pub(crate) const fn default_history_lines_on_join() -> u16 {
        5
    }
    pub(crate) const fn default_hubs_max() -> u32 {
        1_000
    }
    pub(crate) const fn default_search_chars_min() -> u32 {
        3
    }
    pub(crate) const fn default_accounts_max() -> u32 {
        100_000
    }
    pub(crate) const fn default_bans_max() -> u32 {
        10_000
    }

    /// The defaults, listening on `listen`, and on `member_listen` if there is one.
    #[must_use]
    pub fn at(listen: SocketAddr, member_listen: Option<SocketAddr>) -> Self {
        Self {
            listen,
            member_listen,
            frontends: AdcFrontends::default(),
            name: Self::default_name(),
            description: String::new(),
            motd: String::new(),
            rules: String::new(),
            users_max: Self::default_users_max(),
            reserved_places: Self::default_reserved_places(),
            redirect_when_full: None,
            registered_only: false,
            self_registration: false,
            exact_nicks: false,
            setup_seconds_max: Self::default_setup_seconds_max(),
            grace_seconds: Self::default_grace_seconds(),
            connections_max: Self::default_connections_max(),
            connections_per_address_max: Self::default_connections_per_address_max(),
            line_bytes_max: Self::default_line_bytes_max(),
            send_queue_bytes_max: Self::default_send_queue_bytes_max(),
            slow_reader_seconds_max: Self::default_slow_reader_seconds_max(),
            keep_alive_seconds: Self::default_keep_alive_seconds(),
            flood_limits: AdcFloodLimits::default(),
            history_lines_max: Self::default_history_lines_max(),
            history_lines_on_join: Self::default_history_lines_on_join(),
            share_bytes_min: 0,
            slots_min: 0,
            hubs_max: Self::default_hubs_max(),
            search_chars_min: Self::default_search_chars_min(),
            accounts_max: Self::default_accounts_max(),
            bans_max: Self::default_bans_max(),
            password_key_file: None,
            users_file: None,
            tls: None,
            public_address: None,
            owner: None,
            website: None,
            network: None,
            proxy_networks: Vec::new(),
            hybrid: None,
            threads: 0,
        }
    }

    /// Checks the numbers and names; the error names the field and the allowed range.
    pub fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("usersMax", self.users_max),
            ("setupSecondsMax", self.setup_seconds_max),
            ("connectionsMax", self.connections_max),
            ("sendQueueBytesMax", self.send_queue_bytes_max),
            ("slowReaderSecondsMax", self.slow_reader_seconds_max),
            ("keepAliveSeconds", self.keep_alive_seconds),
            ("hubsMax", self.hubs_max),
        ];
        if let Some((field, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("adc option {field} is 0: it must be at least 1"));
        }
        let places = self.users_max.saturating_add(self.reserved_places);
        if places > Self::PLACES_MAX {
            return Err(format!(
                "adc options usersMax and reservedPlaces are {places} together: they must be at most {}",
                Self::PLACES_MAX
            ));
        }
        if !Self::LINE_BYTES.contains(&self.line_bytes_max) {
            return Err(format!(
                "adc option lineBytesMax is {}: it must be from {} to {}",
                self.line_bytes_max,
                Self::LINE_BYTES.start(),
                Self::LINE_BYTES.end()
            ));
        }
        if self.history_lines_max > 1000 {
            return Err(format!(
                "adc option historyLinesMax is {}: it must be at most 1000",
                self.history_lines_max
            ));
        }
        // A longer grace would not fit the log's number of milliseconds, and is none.
        if self.grace_seconds > 86_400 {
            return Err(format!(
                "adc option graceSeconds is {}: it must be at most 86400",
                self.grace_seconds
            ));
        }
        if self.name.is_empty() || self.name.len() > 64 {
            return Err("adc option name must have 1 to 64 bytes".to_owned());
        }
        if self.frontends == AdcFrontends::Leader && self.member_listen.is_some() {
            return Err("adc option memberListen makes no sense with frontends Leader".to_owned());
        }
        self.flood_limits.validate()
    }
}

impl AdcFloodLimits {
    fn validate(&self) -> Result<(), String> {
        let rates = [
            ("chat", self.chat),
            ("private", self.private),
            // A passive client's double search, and one more.
            ("search", self.search),
            ("info", self.info),
            ("other", self.other),
        ];
        for (name, rate) in rates {
            let least = if name == "search" { 3 } else { 1 };
            if rate.burst < least {
                return Err(format!(
                    "adc option floodLimits.{name}.burst is {}: it must be at least {least}",
                    rate.burst
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ServiceConfig;
    use super::*;

    #[test]
    fn minimal_adc_service_reads_with_defaults() {
        let service: ServiceConfig =
            serde_json::from_str(r#"{"kind":"adc","listen":"127.0.0.1:1511"}"#).unwrap();
        let config = AdcConfig::at("127.0.0.1:1511".parse().unwrap(), None);
        config.validate().unwrap();
        assert_eq!(service, ServiceConfig::Adc(Box::new(config)));
    }

    #[test]
    fn options_out_of_range_are_named() {
        let refused = |change: fn(&mut AdcConfig), field: &str| {
            let mut config = AdcConfig::at("127.0.0.1:1511".parse().unwrap(), None);
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.contains(field), "{error}");
        };
        refused(|config| config.users_max = 0, "usersMax");
        refused(|config| config.users_max = 99_999, "reservedPlaces");
        refused(|config| config.line_bytes_max = 80, "lineBytesMax");
        refused(|config| config.name = String::new(), "name");
        refused(|config| config.history_lines_max = 1001, "historyLinesMax");
        refused(|config| config.flood_limits.search.burst = 2, "search.burst");
        refused(
            |config| {
                config.frontends = AdcFrontends::Leader;
                config.member_listen = Some(config.listen);
            },
            "memberListen",
        );
    }
}
