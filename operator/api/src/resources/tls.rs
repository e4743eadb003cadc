//! Encryption between members.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::group::LocalName;

/// Mutual TLS between members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mode == 'Secret') == has(self.secretRef)")
        .message("`tls.secretRef` must be set with mode 'Secret', and may not be set otherwise")
)]
pub struct TlsSpec {
    /// Where the certificates come from.
    #[serde(default)]
    pub mode: TlsMode,
    /// A Secret with `ca.crt`, `tls.crt` and `tls.key`, which all members share; cert-manager writes such Secrets.
    /// The certificate must carry the DNS name `<name>-members.<namespace>.svc`. Members follow its changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalName>,
}

/// TLS for clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// A Secret with `tls.crt` and `tls.key`, which all members share; cert-manager writes such Secrets. Members of a
    /// key-value store follow its changes; those of a hub are replaced one by one.
    pub secret_ref: LocalName,
}

/// Where the certificates come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Members talk plain TCP.
    #[default]
    Disabled,
    /// The operator issues and renews them.
    SelfIssued,
    /// From a Secret that others keep.
    Secret,
}
