//! The certificate of `adcs://`, and its fingerprint.

use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The protocol's name in TLS (ADC's ALPN note).
const ALPN: &[u8] = b"adc";

/// A certificate with its key, ready to be used.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(super) config: Arc<ServerConfig>,
    /// `SHA256/...`, as clients write it in `?kp=` (ADC-EXT, KEYP).
    pub fingerprint: String,
}

impl Tls {
    /// Reads PEM files.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together; in words.
    pub fn read(cert_file: &Path, key_file: &Path) -> Result<Self, String> {
        let problem = |file: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let certificates = CertificateDer::pem_file_iter(cert_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| problem(cert_file, &error))?;
        let first = certificates
            .first()
            .ok_or_else(|| problem(cert_file, &"there is no certificate in it"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, first);
        let fingerprint = format!("SHA256/{}", BASE32_NOPAD.encode(digest.as_ref()));
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| problem(key_file, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| problem(cert_file, &error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            fingerprint,
        })
    }
}
