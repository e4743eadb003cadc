//! Mutual TLS between members, from PEM files.

use std::path::PathBuf;

use tonic::transport::{Certificate, ClientTlsConfig, Identity as TlsIdentity, ServerTlsConfig};

use crate::{PeerTls, StartError};

/// What this member asks of peers that call it: a certificate of the authority.
pub(crate) fn server(tls: &PeerTls) -> Result<ServerTlsConfig, StartError> {
    let (identity, authority) = read_tls(tls)?;
    Ok(ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(authority))
}

/// What this member shows to the peers that it calls, and asks of them.
pub(crate) fn client(tls: &PeerTls) -> Result<ClientTlsConfig, StartError> {
    let (identity, authority) = read_tls(tls)?;
    Ok(ClientTlsConfig::new()
        .identity(identity)
        .ca_certificate(authority)
        .domain_name(tls.server_name.clone()))
}

fn read_tls(tls: &PeerTls) -> Result<(TlsIdentity, Certificate), StartError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| StartError(format!("cannot read {}: {error}", path.display())))
    };
    let identity = TlsIdentity::from_pem(read(&tls.cert_file)?, read(&tls.key_file)?);
    Ok((identity, Certificate::from_pem(read(&tls.ca_file)?)))
}
