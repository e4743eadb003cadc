//! Files that decide who is let in: the tokens, and the certificate of the client ports. Read at the start, and again when
//! they change; a changed file that cannot be used leaves what was there.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use replication::ServeError;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::{Grant, Tokens};
use crate::request::Refusal;

/// How often the files are looked at. The kubelet takes up to a minute to bring a changed Secret.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of each file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessFiles {
    /// The tokens; without it everybody may do everything.
    pub tokens: Option<PathBuf>,
    /// The certificate chain and its private key, PEM; without them clients speak plain TCP.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Who is let in at the moment.
#[derive(Clone)]
pub(super) struct Access {
    tokens: Option<Followed<Tokens>>,
    tls: Option<Followed<Arc<ServerConfig>>>,
}

impl Access {
    /// Reads the files, and follows them.
    pub(super) async fn open(files: &AccessFiles, tasks: &TaskTracker) -> Result<Self, ServeError> {
        let tokens = match &files.tokens {
            None => None,
            Some(file) => {
                let read = |contents: &[Vec<u8>]| Tokens::parse(&contents[0]);
                Some(Followed::open("tokens", vec![file.clone()], read, tasks).await?)
            }
        };
        let tls = match &files.tls {
            None => None,
            Some((certificate, key)) => {
                let files = vec![certificate.clone(), key.clone()];
                Some(Followed::open("certificate", files, server_config, tasks).await?)
            }
        };
        Ok(Self { tokens, tls })
    }

    /// What the caller of a request may do.
    pub(super) fn grant(&self, headers: &HeaderMap) -> Result<Grant, Refusal> {
        match &self.tokens {
            None => Ok(Grant::EVERYTHING),
            Some(tokens) => tokens.now().value.grant(headers),
        }
    }

    /// How clients are met; none when they speak plain TCP.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(|tls| tls.now().value.clone())
    }

    /// Why a changed file is not used.
    pub(super) fn alarm(&self) -> Option<String> {
        let tokens = self.tokens.as_ref().and_then(|tokens| tokens.now().alarm.clone());
        tokens.or_else(|| self.tls.as_ref().and_then(|tls| tls.now().alarm.clone()))
    }

    /// For the status.
    pub(super) fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "tokens": self.tokens.as_ref().map(|tokens| tokens.now().value.count()),
            "tls": self.tls.is_some(),
            "alarm": self.alarm(),
        })
    }
}

/// What some files say, as it is now.
struct Followed<T>(watch::Receiver<Read<T>>);

impl<T> Clone for Followed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Read<T> {
    value: T,
    /// Why the files as they are now are not used.
    alarm: Option<String>,
}

impl<T: Send + Sync + 'static> Followed<T> {
    async fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        read: fn(&[Vec<u8>]) -> Result<T, String>,
        tasks: &TaskTracker,
    ) -> Result<Self, ServeError> {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        let names = names.join(" and ");
        let failed = |error: String| ServeError(format!("the {what} in {names}: {error}"));
        let mut known = contents(files.clone()).await.map_err(failed)?;
        let value = read(&known).map_err(failed)?;
        let (sender, receiver) = watch::channel(Read { value, alarm: None });
        let follow = async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let outcome = match contents(files.clone()).await {
                    Ok(now) if now == known => {
                        if sender.borrow().alarm.is_none() {
                            continue;
                        }
                        read(&now)
                    }
                    Ok(now) => {
                        let outcome = read(&now);
                        if outcome.is_ok() {
                            known = now;
                        }
                        outcome
                    }
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(value) => {
                        info!(files = names, "the {what} changed, and counts from now on");
                        sender.send_replace(Read { value, alarm: None });
                    }
                    Err(error) => {
                        let alarm =
                            format!("the {what} in {names} cannot be used, the former one counts: {error}");
                        sender.send_if_modified(|read| {
                            let is_new = read.alarm.as_ref() != Some(&alarm);
                            if is_new {
                                warn!(alarm, "a file that decides who is let in");
                                read.alarm = Some(alarm);
                            }
                            is_new
                        });
                    }
                }
            }
        };
        tasks.spawn(follow);
        Ok(Self(receiver))
    }

    fn now(&self) -> watch::Ref<'_, Read<T>> {
        self.0.borrow()
    }
}

/// The bytes of all files.
async fn contents(files: Vec<PathBuf>) -> Result<Vec<Vec<u8>>, String> {
    let read = move || {
        let read = |file: &PathBuf| {
            let length = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
            if length > FILE_BYTES_MAX {
                return Err(format!("{length} bytes are too many"));
            }
            std::fs::read(file).map_err(|error| error.to_string())
        };
        files.iter().map(read).collect()
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| error.to_string())?
}

/// TLS 1.2 and 1.3 with this certificate chain and key.
fn server_config(contents: &[Vec<u8>]) -> Result<Arc<ServerConfig>, String> {
    let chain: Vec<_> = CertificateDer::pem_reader_iter(Cursor::new(&contents[0]))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("the certificate file holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_reader(Cursor::new(&contents[1]))
        .map_err(|_| "the key file holds no private key in PEM".to_owned())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key do not go together: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
