//! `AdcHub`: a replicated chat hub.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group::{GroupSpec, LocalName};
use super::quantity::{Quantity, bytes_schema};
use super::restore::RestoreFrom;
use super::status::GroupStatus;
use super::tls::ClientTls;
use crate::config::{AdcConfig, AdcFloodLimits, AdcFrontends, AdcRate};

/// What a chat hub should be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "AdcHub",
    plural = "adchubs",
    shortname = "adc",
    category = "quorate",
    namespaced,
    status = "GroupStatus",
    derive = "PartialEq",
    doc = "A hub for clients of the ADC protocol that survives its machines: users keep their places and their names.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader.name"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.membersReady"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Route", type_ = "string", json_path = ".status.route", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("the name may have at most 40 characters: names of pods and Services begin with it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must begin with a letter and have only lowercase letters, digits and '-': it names Services")
)]
#[x_kube(
    validation = Rule::new("!self.service.hostNetwork || self.scheduling.spread == 'Required'")
        .message("`scheduling.spread` must be 'Required' with `service.hostNetwork`: members on one node would want the same ports"),
    validation = Rule::new("!has(self.restoreFrom) || (has(oldSelf.restoreFrom) && self.restoreFrom == oldSelf.restoreFrom)")
        .message("`restoreFrom` may be taken out, but not be added or changed: it is for a new group")
)]
pub struct AdcHubSpec {
    /// What all kinds share.
    #[serde(flatten)]
    pub group: GroupSpec,
    /// What the hub is and says.
    #[serde(default)]
    pub hub: AdcHubOptions,
    /// Who may come in, and what a user needs.
    #[serde(default)]
    pub admission: AdcAdmission,
    /// Registered users that the hub takes from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_users: Option<AdcRegisteredUsers>,
    /// TLS for `adcs://`, on the same port; clients connect in plain only without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
    /// Which members take users in: the Service leads to all members with `EveryMember`, to the leader with `Leader`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("`frontends` may not be changed: the Service's endpoints have another owner then"))]
    pub frontends: Frontends,
    /// Bounds of what clients may do and of what members keep.
    #[serde(default)]
    pub limits: AdcLimits,
    /// A backup that the hub begins with: its registered users, bans, topic and history. Without it the hub begins empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
}

/// What the hub is and says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdcHubOptions {
    /// The hub's name.
    #[serde(default = "AdcConfig::default_name")]
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// What the hub says of itself while it has no topic.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub description: String,
    /// Sent to each who comes in, line by line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub motd: String,
    /// What `+rules` answers, line by line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub rules: String,
    /// Where clients find the hub, as pingers are told: `adc://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.startsWith('adc://') || self.startsWith('adcs://')")
        .message("`hub.publicAddress` must begin with 'adc://' or 'adcs://'"))]
    pub public_address: Option<String>,
    /// Who owns the hub, as pingers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub owner: Option<String>,
    /// The hub's website, as pingers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub website: Option<String>,
    /// The network that the hub belongs to, as pingers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub network: Option<String>,
    /// Where clients with addresses of both families prove the second one; nobody may, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<AdcHybridAddresses>,
    /// Lines of chat that the hub remembers.
    #[serde(default = "history_lines_max")]
    #[schemars(range(min = 0, max = 1000))]
    pub history_lines_max: i32,
    /// Remembered lines that are sent to each who comes in.
    #[serde(default = "history_lines_on_join")]
    #[schemars(range(min = 0, max = 1000))]
    pub history_lines_on_join: i32,
}

/// The hub's addresses of both families, as clients reach them. Any member takes what comes there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("isIP(self.ipv4) && ip(self.ipv4).family() == 4 && isIP(self.ipv6) && ip(self.ipv6).family() == 6")
    .message("`hub.hybrid` must hold an IPv4 and an IPv6 address"))]
pub struct AdcHybridAddresses {
    /// For clients that came over IPv6.
    #[schemars(length(min = 7, max = 15))]
    pub ipv4: String,
    /// For clients that came over IPv4.
    #[schemars(length(min = 2, max = 45))]
    pub ipv6: String,
    /// The port at both; that of the Service, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
}

/// Who may come in, and what a user needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.usersMax + self.reservedPlaces <= 100000")
    .message("`admission.usersMax` and `admission.reservedPlaces` may be at most 100000 together"))]
pub struct AdcAdmission {
    /// Users at once.
    #[serde(default = "users_max")]
    #[schemars(range(min = 1, max = 100_000))]
    pub users_max: i32,
    /// Further places for registered users and operators.
    #[serde(default = "reserved_places")]
    #[schemars(range(min = 0, max = 100_000))]
    pub reserved_places: i32,
    /// Where a client is sent when the hub is full: `adc://host:port`, or several, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^adcs?://[^, ]+(,adcs?://[^, ]+)*$')")
        .message("`admission.redirectWhenFull` must be addresses that begin with 'adc://' or 'adcs://', separated by commas"))]
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
    #[serde(default = "setup_seconds_max")]
    #[schemars(range(min = 1, max = 3600))]
    pub setup_seconds_max: i32,
    /// Seconds for which the place of a user is kept whose member was lost.
    #[serde(default = "grace_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub grace_seconds: i32,
    /// Bytes that a user must share.
    #[serde(default = "no_bytes")]
    #[schemars(schema_with = "bytes_schema")]
    pub share_bytes_min: Quantity,
    /// Upload slots that a user must offer.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub slots_min: i32,
    /// Hubs that a user may be in.
    #[serde(default = "hubs_max")]
    #[schemars(range(min = 1, max = 100_000))]
    pub hubs_max: i32,
    /// Characters that a search must have, unless it is for a hash.
    #[serde(default = "search_chars_min")]
    #[schemars(range(min = 0, max = 100))]
    pub search_chars_min: i32,
}

/// Registered users that the hub takes from a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdcRegisteredUsers {
    /// A Secret with the key `users.json`: `[{"nick": ..., "password": ..., "class": "operator"}]`.
    pub secret_ref: LocalName,
}

/// Which members take users in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Frontends {
    /// The leader alone. Users have to connect anew when another leads.
    Leader,
    /// Each member: a change of leader disconnects nobody, and the loss of a member its own users only.
    #[default]
    EveryMember,
}

impl From<Frontends> for AdcFrontends {
    fn from(frontends: Frontends) -> Self {
        match frontends {
            Frontends::Leader => Self::Leader,
            Frontends::EveryMember => Self::EveryMember,
        }
    }
}

/// Bounds of a hub. Each has the name of the agent's own option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdcLimits {
    /// Connections of each member; further ones are told to come back later.
    #[serde(default = "connections_max")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: i32,
    /// Connections of one address to each member; any number with 0. Behind a load balancer that hides addresses, say 0.
    #[serde(default = "connections_per_address_max")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub connections_per_address_max: i32,
    /// The longest line that a client may send, 1Ki to 1Mi.
    #[serde(default = "line_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('1Ki')) >= 0 && \
            quantity(string(self)).compareTo(quantity('1Mi')) <= 0")
        .message("`limits.lineBytesMax` must be from 1Ki to 1Mi"))]
    pub line_bytes_max: Quantity,
    /// Bytes that may wait for one user, at most 1Gi; who reads too slowly for that is dropped.
    #[serde(default = "send_queue_bytes_max")]
    #[schemars(schema_with = "bytes_schema")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('1')) >= 0 && \
            quantity(string(self)).compareTo(quantity('1Gi')) <= 0")
        .message("`limits.sendQueueBytesMax` must be from 1 to 1Gi"))]
    pub send_queue_bytes_max: Quantity,
    /// Seconds after which a user that reads nothing at all is dropped.
    #[serde(default = "slow_reader_seconds_max")]
    #[schemars(range(min = 1, max = 86400))]
    pub slow_reader_seconds_max: i32,
    /// Seconds of silence after which an empty line is sent: less than load balancers keep an idle connection.
    #[serde(default = "keep_alive_seconds")]
    #[schemars(range(min = 1, max = 86400))]
    pub keep_alive_seconds: i32,
    /// How much a user may send; operators are not limited.
    #[serde(default)]
    pub flood_limits: FloodLimits,
    /// Registered users that the hub may have.
    #[serde(default = "accounts_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub accounts_max: i32,
    /// Bans that the hub may have.
    #[serde(default = "bans_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub bans_max: i32,
    /// Networks (`10.0.0.0/8`) of load balancers that say in a PROXY header where a client really connects from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(range, isCIDR(range))")
            .message("each of `limits.proxyNetworks` must be an address range like '10.0.0.0/8'")
    )]
    pub proxy_networks: Vec<String>,
    /// Threads that serve connections; as many as there are processors (8 at most), with 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub threads: i32,
}

/// How much a user may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FloodLimits {
    /// Lines to all.
    #[serde(default = "chat")]
    pub chat: Rate,
    /// Lines to one.
    #[serde(default = "private")]
    pub private: Rate,
    /// Searches. A passive client sends each of them twice, to different audiences.
    #[serde(default = "search")]
    #[x_kube(validation = Rule::new("self.burst >= 3")
        .message("`limits.floodLimits.search.burst` must be at least 3: a passive client searches twice"))]
    pub search: Rate,
    /// Changes of what a user says of itself.
    #[serde(default = "info")]
    pub info: Rate,
    /// Everything else: results, requests to connect.
    #[serde(default = "other")]
    pub other: Rate,
}

/// So many at once, and one more after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// How many at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: i32,
    /// Milliseconds until one more is allowed; any number is, with 0.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub interval_milliseconds: i32,
}

impl From<AdcRate> for Rate {
    fn from(rate: AdcRate) -> Self {
        Self {
            burst: rate.burst.cast_signed(),
            interval_milliseconds: rate.interval_milliseconds.cast_signed(),
        }
    }
}

impl From<Rate> for AdcRate {
    /// The schema refuses negative numbers.
    fn from(rate: Rate) -> Self {
        Self {
            burst: rate.burst.unsigned_abs(),
            interval_milliseconds: rate.interval_milliseconds.unsigned_abs(),
        }
    }
}

impl From<&FloodLimits> for AdcFloodLimits {
    fn from(limits: &FloodLimits) -> Self {
        Self {
            chat: limits.chat.into(),
            private: limits.private.into(),
            search: limits.search.into(),
            info: limits.info.into(),
            other: limits.other.into(),
        }
    }
}

/// What an empty object stands for.
macro_rules! default_is_empty_object {
    ($($name:ty),+) => {
        $(impl Default for $name {
            fn default() -> Self {
                serde_json::from_value(serde_json::json!({})).expect("every field has a default")
            }
        })+
    };
}

default_is_empty_object!(AdcHubOptions, AdcAdmission, AdcLimits, FloodLimits);

fn chat() -> Rate {
    AdcFloodLimits::default().chat.into()
}
fn private() -> Rate {
    AdcFloodLimits::default().private.into()
}
fn search() -> Rate {
    AdcFloodLimits::default().search.into()
}
fn info() -> Rate {
    AdcFloodLimits::default().info.into()
}
fn other() -> Rate {
    AdcFloodLimits::default().other.into()
}
fn no_bytes() -> Quantity {
    Quantity("0".to_owned())
}
fn line_bytes_max() -> Quantity {
    Quantity("16Ki".to_owned())
}
fn send_queue_bytes_max() -> Quantity {
    Quantity("4Mi".to_owned())
}
const fn history_lines_max() -> i32 {
    AdcConfig::default_history_lines_max() as i32
}
const fn history_lines_on_join() -> i32 {
    AdcConfig::default_history_lines_on_join() as i32
}
const fn users_max() -> i32 {
    AdcConfig::default_users_max().cast_signed()
}
const fn reserved_places() -> i32 {
    AdcConfig::default_reserved_places().cast_signed()
}
const fn setup_seconds_max() -> i32 {
    AdcConfig::default_setup_seconds_max().cast_signed()
}
const fn grace_seconds() -> i32 {
    AdcConfig::default_grace_seconds().cast_signed()
}
const fn hubs_max() -> i32 {
    AdcConfig::default_hubs_max().cast_signed()
}
const fn search_chars_min() -> i32 {
    AdcConfig::default_search_chars_min().cast_signed()
}
const fn connections_max() -> i32 {
    AdcConfig::default_connections_max().cast_signed()
}
const fn connections_per_address_max() -> i32 {
    AdcConfig::default_connections_per_address_max().cast_signed()
}
const fn slow_reader_seconds_max() -> i32 {
    AdcConfig::default_slow_reader_seconds_max().cast_signed()
}
const fn keep_alive_seconds() -> i32 {
    AdcConfig::default_keep_alive_seconds().cast_signed()
}
const fn accounts_max() -> i32 {
    AdcConfig::default_accounts_max().cast_signed()
}
const fn bans_max() -> i32 {
    AdcConfig::default_bans_max().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_resource_are_those_of_the_agent() {
        let agent = AdcConfig::at("0.0.0.0:1511".parse().unwrap(), None);
        let spec: AdcHubSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(
            spec.limits.line_bytes_max.bytes(),
            Some(agent.line_bytes_max.into())
        );
        assert_eq!(
            spec.limits.send_queue_bytes_max.bytes(),
            Some(agent.send_queue_bytes_max.into())
        );
        assert_eq!(
            AdcFloodLimits::from(&spec.limits.flood_limits),
            agent.flood_limits
        );
        let mut options = serde_json::to_value(agent).unwrap();
        // Those that are left out while they are not set.
        for option in [
            "publicAddress",
            "owner",
            "website",
            "network",
            "redirectWhenFull",
            "proxyNetworks",
            "hybrid",
        ] {
            options[option] = serde_json::Value::Null;
        }
        let sections = [
            serde_json::to_value(&spec.hub).unwrap(),
            serde_json::to_value(&spec.admission).unwrap(),
            serde_json::to_value(&spec.limits).unwrap(),
        ];
        for name in sections
            .iter()
            .flat_map(|section| section.as_object().unwrap().keys())
        {
            assert!(options.get(name).is_some(), "the agent has no option {name}");
        }
    }
}
