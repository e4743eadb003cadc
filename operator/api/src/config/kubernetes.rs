//! What a member in a pod knows of its place, so that the address of its service follows the leader.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What `$(NAME)` in a configuration may name: an environment variable of the agent, and the field of the pod
/// (downward API) that it holds. One configuration serves all pods of a StatefulSet.
pub const VARIABLES: [(&str, &str); 6] = [
    ("POD_NAME", "metadata.name"),
    ("POD_NAMESPACE", "metadata.namespace"),
    ("POD_UID", "metadata.uid"),
    ("POD_IP", "status.podIP"),
    ("POD_IPS", "status.podIPs"),
    ("NODE_NAME", "spec.nodeName"),
];

/// A member's pod, and where the leader among the members publishes its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The namespace of the pod and of the slices.
    pub namespace: String,
    /// The EndpointSlices of the leader's Service, one for each of the Service's IP families. They exist already; the
    /// leader writes its address of the slice's own `addressType` into each.
    pub leader_slices: Vec<String>,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's addresses, at most one of each family, separated by commas.
    pub pod_ips: String,
    /// The node that the pod runs on.
    pub node_name: String,
    /// Where the API server is, `https://host:port`; without it, as Kubernetes tells every pod
    /// (`KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
    /// The directory that holds the pod's `token` (read anew as it rotates) and the API server's `ca.crt`.
    #[serde(default = "default_service_account_dir")]
    pub service_account_dir: PathBuf,
}

impl KubernetesConfig {
    /// The pod's addresses.
    ///
    /// # Errors
    /// When one is no IP address, or there are none.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, String> {
        let parsed = self.pod_ips.split(',').map(|address| {
            address
                .trim()
                .parse()
                .map_err(|_| format!("podIps is `{}`: `{address}` is no IP address", self.pod_ips))
        });
        parsed.collect()
    }

    /// Checks what the types cannot say; the error names the field and what is expected there.
    pub fn validate(&self) -> Result<(), String> {
        let names = [
            ("namespace", &self.namespace),
            ("podName", &self.pod_name),
            ("podUid", &self.pod_uid),
            ("nodeName", &self.node_name),
        ];
        let slices = self.leader_slices.iter().map(|name| ("leaderSlices", name));
        if let Some((field, name)) = names.into_iter().chain(slices).find(|(_, name)| !is_name(name)) {
            return Err(format!(
                "{field} is `{}`: it must be 1 to {NAME_BYTES_MAX} lowercase letters, digits, `-` or `.`",
                name.escape_debug()
            ));
        }
        if !(1..=LEADER_SLICES_MAX).contains(&self.leader_slices.len()) {
            return Err(format!(
                "leaderSlices has {} names: it must have one for each IP family of the Service",
                self.leader_slices.len()
            ));
        }
        if let Some(url) = &self.api_server
            && url.strip_prefix("https://").is_none_or(str::is_empty)
        {
            return Err(format!("apiServer is `{url}`: it must be https://host:port"));
        }
        self.addresses().map(|_| ())
    }
}

/// A DNS subdomain (RFC 1123), as names of Kubernetes objects are. UIDs have the same letters.
fn is_name(name: &str) -> bool {
    let is_inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let is_outer = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let bytes = name.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().copied().all(is_inner)
        && is_outer(bytes.first())
        && is_outer(bytes.last())
}

fn default_service_account_dir() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount".into()
}

/// IPv4 and IPv6.
const LEADER_SLICES_MAX: usize = 2;

/// The length limit of a DNS subdomain.
const NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> KubernetesConfig {
        serde_json::from_str(
            r#"{"namespace":"default","leaderSlices":["boot-leader-ipv4"],"podName":"boot-0",
                "podUid":"7d5c1f6e-0000-4000-8000-000000000000","podIps":"10.88.0.5, fd00::5","nodeName":"n1"}"#,
        )
        .unwrap()
    }

    #[test]
    fn minimal_part_reads_with_defaults() {
        let config = config();
        config.validate().unwrap();
        assert_eq!(config.service_account_dir, default_service_account_dir());
        assert_eq!(
            config.addresses().unwrap(),
            ["10.88.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]
        );
    }

    #[test]
    fn wrong_fields_are_named() {
        type Change = fn(&mut KubernetesConfig);
        let wrong: [(Change, &str); 8] = [
            (|config| config.namespace.clear(), "namespace is ``"),
            (
                |config| config.pod_name = "$(POD_NAME)".to_owned(),
                "podName is `$(POD_NAME)`",
            ),
            (|config| config.node_name = "a/b".to_owned(), "nodeName is `a/b`"),
            (|config| config.pod_ips.clear(), "podIps is ``"),
            (|config| config.pod_ips.push_str(",x"), "`x` is no IP address"),
            (|config| config.leader_slices.clear(), "leaderSlices has 0 names"),
            (
                |config| config.leader_slices.push("-a".to_owned()),
                "leaderSlices is `-a`",
            ),
            (
                |config| config.api_server = Some("http://10.96.0.1".to_owned()),
                "apiServer is `http://10.96.0.1`",
            ),
        ];
        for (change, part) in wrong {
            let mut config = config();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.contains(part), "{error}, expected {part}");
        }
    }
}
