//! Mutual TLS between members, from PEM files. They are followed: certificates are renewed and authorities succeed each other
//! while a group runs. New connections count by what the files say now; those that are open go on.

use std::io::{self, Cursor};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
#[cfg(not(simulation))]
use tokio::net::TcpStream;
use tokio::sync::watch;
#[cfg(not(simulation))]
use tokio_rustls::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{info, warn};

use crate::runtime::blocking;
use crate::{PeerTls, StartError};

/// How often the files are looked at. A kubelet takes up to a minute to bring a changed Secret.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of each file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A member's certificate and the authorities that it trusts, as its files say now.
#[derive(Clone)]
pub(crate) struct Certificates(watch::Receiver<Read>);

/// What was made of the files.
#[derive(Clone)]
struct Read {
    usable: Arc<Usable>,
    /// Why the files as they are now are not used.
    alarm: Option<String>,
}

#[cfg_attr(
    simulation,
    expect(dead_code, reason = "a simulated network has no certificates")
)]
struct Usable {
    name: ServerName<'static>,
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    digest: String,
}

impl Certificates {
    /// Reads the files, and answers what follows them: to be polled for ever.
    pub(crate) async fn open(
        files: &PeerTls,
    ) -> Result<(Self, impl Future<Output = ()> + use<>), StartError> {
        let names = [&files.ca_file, &files.cert_file, &files.key_file];
        let names = names.map(|file| file.display().to_string()).join(", ");
        let failed = |error: String| StartError(format!("peer TLS, in {names}: {error}"));
        let name = ServerName::try_from(files.server_name.clone())
            .map_err(|_| failed(format!("`{}` is no DNS name", files.server_name)))?;
        let known = contents(files.clone()).await.map_err(failed)?;
        let usable = Arc::new(usable(&known, &name).map_err(failed)?);
        let (sender, receiver) = watch::channel(Read { usable, alarm: None });
        let follow = follow(sender, name, files.clone(), names, known);
        Ok((Self(receiver), follow))
    }

    /// Says hello to a peer that was called.
    #[cfg(not(simulation))]
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let usable = self.0.borrow().usable.clone();
        let hello = usable.connector.connect(usable.name.clone(), stream);
        hello.await.map(TlsStream::from)
    }

    /// Says hello to a peer that called.
    #[cfg(not(simulation))]
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let usable = self.0.borrow().usable.clone();
        usable.acceptor.accept(stream).await.map(TlsStream::from)
    }

    /// Tells apart what new connections show and trust: SHA-256 in hexadecimal, see [`digest`].
    pub(crate) fn digest(&self) -> String {
        self.0.borrow().usable.digest.clone()
    }

    /// Why the files as they are now are not used.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.0.borrow().alarm.clone()
    }
}

/// Takes over what the files say, whenever they can be used.
async fn follow(
    sender: watch::Sender<Read>,
    name: ServerName<'static>,
    files: PeerTls,
    names: String,
    mut known: [Vec<u8>; 3],
) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = contents(files.clone()).await;
        if now.as_ref().is_ok_and(|now| *now == known) {
            sender.send_if_modified(|read| read.alarm.take().is_some());
            continue;
        }
        let outcome = now.and_then(|now| Ok((usable(&now, &name)?, now)));
        match outcome {
            Ok((usable, now)) => {
                info!(files = names, "the certificates between members changed");
                known = now;
                let usable = Arc::new(usable);
                sender.send_replace(Read { usable, alarm: None });
            }
            Err(error) => {
                let alarm = format!(
                    "the certificates between members, in {names}, cannot be used, the former ones count: {error}"
                );
                sender.send_if_modified(|read| {
                    let is_new = read.alarm.as_ref() != Some(&alarm);
                    if is_new {
                        warn!(alarm, "this member needs help");
                        read.alarm = Some(alarm);
                    }
                    is_new
                });
            }
        }
    }
}

/// Authorities, certificate chain, key.
async fn contents(files: PeerTls) -> Result<[Vec<u8>; 3], String> {
    blocking(move || {
        let read = |file: &PathBuf| {
            let failed = |error: io::Error| format!("cannot read {}: {error}", file.display());
            let length = std::fs::metadata(file).map_err(failed)?.len();
            if length > FILE_BYTES_MAX {
                return Err(format!(
                    "{} has {length} bytes, which are too many",
                    file.display()
                ));
            }
            std::fs::read(file).map_err(failed)
        };
        Ok([
            read(&files.ca_file)?,
            read(&files.cert_file)?,
            read(&files.key_file)?,
        ])
    })
    .await
    .map_err(|error| error.to_string())?
}

fn usable([authorities, chain, key]: &[Vec<u8>; 3], name: &ServerName<'static>) -> Result<Usable, String> {
    let digest = digest(authorities, chain);
    let mut trusted = RootCertStore::empty();
    for authority in certificates(authorities, "authorities")? {
        trusted
            .add(authority)
            .map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    let trusted = Arc::new(trusted);
    let chain = certificates(chain, "certificate")?;
    let key = PrivateKeyDer::from_pem_reader(Cursor::new(key))
        .map_err(|_| "the file of the key holds no private key in PEM".to_owned())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let of_servers = WebPkiServerVerifier::builder_with_provider(trusted.clone(), provider.clone())
        .build()
        .map_err(|error| text(&error))?;
    let of_clients = WebPkiClientVerifier::builder_with_provider(trusted, provider.clone())
        .build()
        .map_err(|error| text(&error))?;
    let mismatch = |error| format!("certificate and key do not go together: {error}");
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_webpki_verifier(of_servers)
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .map_err(mismatch)?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_client_cert_verifier(of_clients)
        .with_single_cert(chain, key)
        .map_err(mismatch)?;
    // Every connection shows a certificate: what was trusted once is not trusted for ever.
    client.resumption = Resumption::disabled();
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    client.alpn_protocols = vec![b"h2".to_vec()];
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Usable {
        name: name.clone(),
        connector: TlsConnector::from(Arc::new(client)),
        acceptor: TlsAcceptor::from(Arc::new(server)),
        digest,
    })
}

/// At least one certificate in PEM.
fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_reader_iter(Cursor::new(pem))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the file of the {what} is no PEM: {error}"))?;
    if all.is_empty() {
        return Err(format!("the file of the {what} holds no certificate"));
    }
    Ok(all)
}

/// SHA-256 over both files, each behind its length (64 bits, little-endian).
fn digest(authorities: &[u8], chain: &[u8]) -> String {
    let mut hash = Sha256::new();
    for file in [authorities, chain] {
        hash.update((file.len() as u64).to_le_bytes());
        hash.update(file);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operator waits for what it computes itself (`operator/src/certificates/rotation.rs`).
    #[test]
    fn the_digest_is_what_the_operator_expects() {
        assert_eq!(
            digest(b"authorities", b"chain"),
            "fec079631574ff0b1e487ff4ac73c47c608ceddf89869e8273f09ad96008c6f5"
        );
    }
}
