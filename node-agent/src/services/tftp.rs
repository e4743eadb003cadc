//! The TFTP service in the agent's terms: its options, its files behind `/v1/files`, its part of the status.

mod sources;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::StreamExt;
use futures::future::BoxFuture;
use listenfd::ListenFd;
use operator_api::AgentConfig;
use operator_api::admin::FileInfo;
use operator_api::config::TftpConfig;
use prometheus::Registry;
use replication::{ProposeError, Replica, Shutdown};
use tftp::content::ContentStore;
use tftp::files::{FileLimits, Files, GetError, PutError, RemoveError};
use tftp::path::FilePath;
use tftp::state::{FileVersion, TftpState};
use tftp::transfer::Limits;
use tftp::{Metrics, MovingAddress, Options, Tftp, UploadRule, Uploads};

use super::{Started, serve, start_node};
use sources::{Sources, Untried};

use crate::admin::files::{ByteStream, FileError, FileStore};
use crate::kubernetes::Route;

/// Rows of the table of running transfers on the status page.
const TRANSFERS_SHOWN_MAX: usize = 200;

/// Starts the node and prepares the service.
pub(super) async fn start(
    config: &AgentConfig,
    tftp: &TftpConfig,
    data_dir: &Path,
    mut sockets: ListenFd,
    registry: &Registry,
    route: Option<Route>,
    until: Shutdown,
) -> anyhow::Result<Started> {
    let (node, replica) = start_node::<Tftp>(config).await?;
    let socket = sockets
        .take_udp_socket(0)
        .context("taking the client socket passed by the parent")?;
    let client_address = match &socket {
        Some(socket) => socket
            .local_addr()
            .context("reading the address of the passed socket")?,
        None => tftp.listen,
    };
    let store = ContentStore::open(data_dir.join("content"), tftp.cache_bytes_max)
        .await
        .context("opening the content store")?;
    let limits = FileLimits {
        files_max: tftp.files_max,
        content_bytes_max: tftp.content_bytes_max,
    };
    let files = Files::new(replica.clone(), store.clone(), limits);
    let metrics = Metrics::register(registry).context("registering metrics")?;
    let options = Options {
        listen: tftp.listen,
        socket,
        // In pods a Service is in front, and its address is that of no pod.
        address_moves: moving_address(config, route)?,
        files: files.clone(),
        store,
        sessions_max: tftp.sessions_max,
        sessions_per_client_max: tftp.sessions_per_client_max,
        limits: Limits {
            retransmissions_max: tftp.retransmissions_max,
            idle_max: Duration::from_secs(tftp.idle_seconds_max.into()),
        },
        block_size_max: tftp.block_size_max,
        window_size_max: tftp.window_size_max,
        uploads: uploads(tftp)?,
        metrics: metrics.clone(),
    };
    let (shown, lacking) = (replica.clone(), files.clone());
    let sources = Sources::new(&tftp.sources, &files, &replica, registry)?;
    let untried = sources.untried();
    let served = serve::<Tftp>(options, replica.clone(), until);
    Ok(Started {
        node,
        serving: Box::pin(async {
            tokio::select! {
                ended = served => ended,
                never = sources.run() => match never {},
            }
        }),
        client_address: client_address.to_string(),
        detail: Arc::new(move || tftp::server::transfers(&shown, &metrics, TRANSFERS_SHOWN_MAX)),
        lacks: Arc::new(move || lacks(&lacking, &untried)),
        files: Some(Arc::new(Adapter { files, replica })),
        hub: None,
    })
}

/// In a pod: where clients are led to.
fn moving_address(config: &AgentConfig, route: Option<Route>) -> anyhow::Result<Option<MovingAddress>> {
    let Some((kubernetes, route)) = config.kubernetes.as_ref().zip(route) else {
        return Ok(None);
    };
    let leads_to = kubernetes
        .addresses()
        .map_err(|reason| anyhow!("field kubernetes: {reason}"))?;
    let gets_back = Arc::new(move || route.leads_back());
    Ok(Some(MovingAddress { leads_to, gets_back }))
}

fn uploads(tftp: &TftpConfig) -> anyhow::Result<Uploads> {
    let rules = tftp.uploads.iter().map(|rule| {
        let networks = rule.from.iter().map(|network| {
            network
                .parse()
                .with_context(|| format!("tftp option uploads: `{network}` is no network"))
        });
        Ok(UploadRule {
            prefix: rule.prefix.clone(),
            overwrite: rule.overwrite,
            from: networks.collect::<anyhow::Result<_>>()?,
        })
    });
    Ok(Uploads {
        rules: rules.collect::<anyhow::Result<_>>()?,
        bytes_max: tftp.upload_bytes_max,
    })
}

/// What keeps a member from being ready: until it holds all content, it must not count as a copy, and until it has looked at
/// a new group's sources, the group does not serve what it is there for.
fn lacks(files: &Files, untried: &Untried) -> Option<String> {
    let missing = files.lacking();
    if missing > 0 {
        return Some(format!(
            "fetching the content of {missing} files from other members"
        ));
    }
    let source = untried.first_missed()?;
    Some(format!(
        "taking the files of the source {source} for the first time"
    ))
}

/// The files of the group, for the admin port.
struct Adapter {
    files: Files,
    replica: Replica<TftpState>,
}

fn info(path: &FilePath, version: &FileVersion, source: Option<&str>) -> FileInfo {
    FileInfo {
        path: path.as_str().to_owned(),
        size: version.size,
        sha256: version.content.to_string(),
        version: version.version,
        source: source.map(str::to_owned),
    }
}

fn checked(path: &str) -> Result<FilePath, FileError> {
    FilePath::try_new(path)
        .map_err(|error| FileError::InvalidPath(format!("`{path}` is no file name: {error}")))
}

fn not_ordered(error: ProposeError) -> FileError {
    match error {
        ProposeError::NotLeader { leader } => FileError::NotLeader { leader },
        ProposeError::OutcomeUnknown => FileError::OutcomeUnknown,
        ProposeError::StorageFull => FileError::Full(error.to_string()),
        ProposeError::Stopping => FileError::Stopping,
    }
}

/// An error with its causes, in one sentence.
fn whole(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

fn not_put(error: PutError) -> FileError {
    match error {
        PutError::Propose(error) => not_ordered(error),
        PutError::Receive(_)
        | PutError::SizeDiffers { .. }
        | PutError::HashDiffers { .. }
        | PutError::OfAnother
        | PutError::Exists => FileError::BodyBroken(whole(error)),
        PutError::TooLarge { .. } | PutError::TooManyFiles { .. } => FileError::Full(whole(error)),
        PutError::Store(tftp::content::ContentError::DiskFull { .. }) => FileError::Full(whole(error)),
        PutError::Store(_) | PutError::NoQuorum { .. } => FileError::Unavailable(whole(error)),
    }
}

impl FileStore for Adapter {
    fn list(&self) -> BoxFuture<'_, Result<Vec<FileInfo>, FileError>> {
        Box::pin(async {
            // Linearizable where it can be, so that what was just put is listed; any member's own view otherwise
            // would surprise, so a follower sends the request on.
            let listed = self.replica.read(|state| {
                let files = state.files();
                files
                    .map(|(path, version)| info(path, version, state.origin(path)))
                    .collect()
            });
            listed.await.map_err(|error| match error {
                replication::ReadError::NotLeader { leader } => FileError::NotLeader { leader },
                replication::ReadError::Stopping => FileError::Stopping,
            })
        })
    }

    fn put(
        &self,
        path: String,
        length: Option<u64>,
        body: ByteStream,
    ) -> BoxFuture<'_, Result<FileInfo, FileError>> {
        Box::pin(async move {
            let path = checked(&path)?;
            let version = self
                .files
                .put(path.clone(), body, length)
                .await
                .map_err(not_put)?;
            Ok(info(&path, &version, None))
        })
    }

    fn get(&self, path: String) -> BoxFuture<'_, Result<(FileInfo, ByteStream), FileError>> {
        Box::pin(async move {
            let path = checked(&path)?;
            let (version, bytes) = self.files.get(&path).await.map_err(|error| match error {
                GetError::NotFound(path) => FileError::NotFound(path.as_str().to_owned()),
                GetError::Fetch(_) => FileError::Unavailable(whole(error)),
            })?;
            let bytes: ByteStream = bytes.map(|piece| piece.map_err(io::Error::other)).boxed();
            let source = self.replica.local(|state| state.origin(&path).map(str::to_owned));
            Ok((info(&path, &version, source.as_deref()), bytes))
        })
    }

    fn remove(&self, path: String) -> BoxFuture<'_, Result<(), FileError>> {
        Box::pin(async move {
            self.files
                .remove(checked(&path)?)
                .await
                .map_err(|error| match error {
                    RemoveError::NotFound(path) => FileError::NotFound(path.as_str().to_owned()),
                    RemoveError::Propose(error) => not_ordered(error),
                })
        })
    }
}
