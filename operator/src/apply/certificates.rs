//! The Secrets of the certificates between members: read together, written one at a time, never over somebody else's write.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::{Apply, create};
use crate::build::{self, Authority, MANAGER, PREVIOUS_KEY, PeerCertificates};
use crate::certificates;
use crate::certificates::rotation::{self, Next};
use crate::observe::is_owned;
use crate::validate::Validated;

/// What the Secrets hold, as it was read.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The authority; none without its Secret.
    pub authority: Option<Authority>,
    /// What members mount; none without its Secret.
    pub members: Option<PeerCertificates>,
    authority_version: Option<String>,
    members_version: Option<String>,
}

/// Reads both Secrets. What is missing in one is an empty text.
pub(crate) async fn read(client: &Client, service: &Validated) -> Result<Kept, Apply> {
    let authority = read_one(client, service, build::authority_secret_name(service)).await?;
    let members = read_one(client, service, build::tls_secret_name(service)).await?;
    let version = |secret: &Option<Secret>| secret.as_ref().and_then(ResourceExt::resource_version);
    let text = |secret: &Secret, key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.map_or_else(String::new, |ByteString(value)| {
            String::from_utf8_lossy(value).into_owned()
        })
    };
    Ok(Kept {
        authority_version: version(&authority),
        members_version: version(&members),
        authority: authority.map(|secret| Authority {
            certificate: text(&secret, "tls.crt"),
            key: text(&secret, "tls.key"),
            previous: text(&secret, PREVIOUS_KEY),
        }),
        members: members.map(|secret| PeerCertificates {
            authorities: text(&secret, "ca.crt"),
            certificate: text(&secret, "tls.crt"),
            key: text(&secret, "tls.key"),
        }),
    })
}

async fn read_one(client: &Client, service: &Validated, name: String) -> Result<Option<Secret>, Apply> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &service.namespace);
    let found = api.get_opt(&name).await.map_err(|source| Apply::Api {
        what: format!("reading the secret {name}"),
        source,
    })?;
    match found {
        Some(found) if !is_owned(&found, &service.owner.uid) => Err(Apply::NotOurs {
            kind: "Secret".to_owned(),
            name,
        }),
        found => Ok(found),
    }
}

/// Carries out one step, at a Unix time in seconds.
pub(crate) async fn carry_out(
    client: &Client,
    service: &Validated,
    kept: &Kept,
    next: &Next,
    now: i64,
) -> Result<(), Apply> {
    let authority = || {
        kept.authority.clone().unwrap_or_else(|| Authority {
            certificate: String::new(),
            key: String::new(),
            previous: String::new(),
        })
    };
    let (secret, version) = match next {
        Next::Nothing | Next::Wait(_) => return Ok(()),
        Next::Authority { previous, .. } => {
            let made = certificates::authority(&service.name, previous.clone(), now);
            let made = made.map_err(Apply::Certificates)?;
            (build::authority_secret(service, &made), &kept.authority_version)
        }
        Next::Forget => {
            let alone = Authority {
                previous: String::new(),
                ..authority()
            };
            (build::authority_secret(service, &alone), &kept.authority_version)
        }
        Next::Members(_) => {
            let made =
                certificates::members(&authority(), (&service.name, &build::server_name(service)), now);
            let made = made.map_err(Apply::Certificates)?;
            (build::peer_tls_secret(service, &made), &kept.members_version)
        }
        Next::Trust => {
            let Some(members) = &kept.members else {
                return Ok(());
            };
            let members = PeerCertificates {
                authorities: rotation::trusted(&authority(), now),
                ..members.clone()
            };
            (build::peer_tls_secret(service, &members), &kept.members_version)
        }
    };
    write(client, service, &secret, version.as_deref()).await
}

/// Makes a Secret, or writes it over the version that was read.
async fn write(
    client: &Client,
    service: &Validated,
    secret: &Secret,
    version: Option<&str>,
) -> Result<(), Apply> {
    let what = format!("writing the secret {}", secret.name_any());
    let Some(version) = version else {
        return create(client, service, secret, &what).await.map(drop);
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), &service.namespace);
    let patch = json!({"metadata": {"resourceVersion": version}, "data": secret.data});
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let written = api
        .patch(&secret.name_any(), &params, &Patch::Merge(&patch))
        .await;
    written.map(drop).map_err(|source| Apply::Api { what, source })
}
