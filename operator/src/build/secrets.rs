//! The secrets of a group: the token of requests that change something, which is made once, and the certificates between
//! peers, which are renewed.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::metadata;
use super::names::{authority_secret_name, members_service_name, tls_secret_name, token_secret_name};
use crate::validate::Validated;

/// The key, which is the mounted file's name.
pub(crate) const TOKEN_KEY: &str = "token";

/// The key of the key with which passwords are encrypted. Whoever loses it loses the passwords.
pub(crate) const PASSWORD_KEY: &str = "password-key";

/// The secret of the token, and of the key for passwords where the service keeps some.
pub(crate) fn token_secret(service: &Validated, token: &str, password_key: Option<&str>) -> Secret {
    let mut secret = secret(service, token_secret_name(service), [(TOKEN_KEY, token)]);
    if let Some(key) = password_key {
        let data = secret.data.get_or_insert_default();
        data.insert(PASSWORD_KEY.to_owned(), ByteString(key.as_bytes().to_vec()));
    }
    secret
}

/// The authority of a group's certificates, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Certificates of those before it, which are still trusted.
    pub previous: String,
}

/// The key of [`Authority::previous`].
pub(crate) const PREVIOUS_KEY: &str = "previous.crt";

/// The secret of the authority.
pub(crate) fn authority_secret(service: &Validated, authority: &Authority) -> Secret {
    let mut secret = secret(
        service,
        authority_secret_name(service),
        [
            ("tls.crt", authority.certificate.as_str()),
            ("tls.key", &authority.key),
            (PREVIOUS_KEY, &authority.previous),
        ],
    );
    secret.type_ = Some("kubernetes.io/tls".to_owned());
    secret
}

/// Certificates between peers, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerCertificates {
    /// The certificates of the authorities that members trust.
    pub authorities: String,
    /// The members' certificate.
    pub certificate: String,
    /// The members' key.
    pub key: String,
}

/// The secret of the certificates, with the keys that `kubernetes.io/tls` and cert-manager use.
pub(crate) fn peer_tls_secret(service: &Validated, certificates: &PeerCertificates) -> Secret {
    let mut secret = secret(
        service,
        tls_secret_name(service),
        [
            ("ca.crt", certificates.authorities.as_str()),
            ("tls.crt", &certificates.certificate),
            ("tls.key", &certificates.key),
        ],
    );
    secret.type_ = Some("kubernetes.io/tls".to_owned());
    secret
}

/// The name that every peer's certificate carries.
pub(crate) fn server_name(service: &Validated) -> String {
    format!("{}.{}.svc", members_service_name(service), service.namespace)
}

fn secret<const N: usize>(service: &Validated, name: String, entries: [(&str, &str); N]) -> Secret {
    Secret {
        metadata: metadata(service, name),
        data: Some(BTreeMap::from(entries.map(|(key, value)| {
            (key.to_owned(), ByteString(value.as_bytes().to_vec()))
        }))),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}
