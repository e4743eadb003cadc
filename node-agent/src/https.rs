//! The HTTPS client for servers outside the group (rustls with ring).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A client that keeps its connections.
pub(crate) type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts these authorities. Requests share one connection where the server speaks HTTP/2,
/// and a connection that died is noticed within [`PING_EVERY`] and [`PING_TIMEOUT`], also when nothing is sent.
pub(crate) fn client(roots: RootCertStore) -> anyhow::Result<HttpsClient> {
    let provider = rustls::crypto::ring::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(connector))
}

/// The authorities of a PEM file.
pub(crate) fn roots(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(file).with_context(|| format!("reading {}", file.display()))?;
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("in {}", file.display()))?;
        roots
            .add(certificate)
            .with_context(|| format!("a certificate of {}", file.display()))?;
    }
    ensure!(!roots.is_empty(), "{} holds no certificate", file.display());
    Ok(roots)
}

/// The authorities that the system trusts; none where it has no such list, and then no HTTPS server is trusted.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // What cannot be read there is the system's affair: other certificates do as well.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an HTTP/2 connection is probed, and how long the answer may take.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
