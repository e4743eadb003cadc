//! `/v1/files`: the files of a service, streamed in and out. Which service has files is the business of
//! `services.rs`; here they are only a [`FileStore`].

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use operator_api::admin::FileInfo;
use replication::NodeId;

use super::{Admin, Authorized, Refusal, Shared, authorize};

/// The bytes of a file, in pieces. An error says that the rest will not come.
pub(crate) type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Files that a group holds.
pub(crate) trait FileStore: Send + Sync + 'static {
    /// All files, sorted by path.
    fn list(&self) -> BoxFuture<'_, Result<Vec<FileInfo>, FileError>>;
    /// Stores a file under a path, in place of the one that is there. `length` is what the sender announced. A body
    /// that ends with an error leaves everything as it was.
    fn put(
        &self,
        path: String,
        length: Option<u64>,
        body: ByteStream,
    ) -> BoxFuture<'_, Result<FileInfo, FileError>>;
    /// A file and its bytes.
    fn get(&self, path: String) -> BoxFuture<'_, Result<(FileInfo, ByteStream), FileError>>;
    /// Removes a file.
    fn remove(&self, path: String) -> BoxFuture<'_, Result<(), FileError>>;
}

/// Why a file request was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    /// Another member leads, or nobody.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// There is no such file.
    #[error("there is no file `{0}`")]
    NotFound(String),
    /// The path cannot name a file; why.
    #[error("{0}")]
    InvalidPath(String),
    /// The body broke off or had another length than announced; what was seen.
    #[error("{0}")]
    BodyBroken(String),
    /// A limit of the group or the disk is reached; which.
    #[error("{0}")]
    Full(String),
    /// Whether it happened is unknown; the request may be repeated.
    #[error("whether the change was stored is not known: repeat the request")]
    OutcomeUnknown,
    /// The member is stopping.
    #[error("this member is stopping; ask another one")]
    Stopping,
    /// The member's own disk or peers failed; how.
    #[error("{0}")]
    Unavailable(String),
}

/// The routes; without files they answer 404.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/files", get(list))
        .route("/v1/files/{*path}", get(read).put(put).delete(remove))
        // Files are larger than any limit for bodies that are kept in memory; the store has its own limits.
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn list(State(admin): Shared) -> Result<axum::Json<Vec<FileInfo>>, Refusal> {
    admin
        .files()?
        .list()
        .await
        .map(axum::Json)
        .map_err(|error| admin.file_refusal(error))
}

async fn read(State(admin): Shared, Path(path): Path<String>) -> Result<Response, Refusal> {
    let found = admin.files()?.get(path).await;
    found
        .map(|(info, bytes)| content(&info, bytes))
        .map_err(|error| admin.file_refusal(error))
}

async fn remove(
    State(admin): Shared,
    _: Authorized,
    Path(path): Path<String>,
) -> Result<StatusCode, Refusal> {
    let removed = admin.files()?.remove(path).await;
    removed
        .map(|()| StatusCode::NO_CONTENT)
        .map_err(|error| admin.file_refusal(error))
}

async fn put(
    State(admin): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<axum::Json<FileInfo>, Refusal> {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let body = Arc::new(Mutex::new(timed(body)));
    let lent = Arc::clone(&body);
    let lent = stream::poll_fn(move |context| lock(&lent).poll_next_unpin(context)).boxed();
    let stored = async {
        authorize(admin.token.as_deref(), &headers)?;
        admin
            .files()?
            .put(path, length, lent)
            .await
            .map_err(|error| admin.file_refusal(error))
    };
    let outcome = stored.await;
    if outcome.is_err() {
        // A sender that is still sending would see a broken connection instead of the answer (RFC 9112 §9.6).
        let rest = stream::poll_fn(move |context| lock(&body).poll_next_unpin(context));
        let drain = rest
            .take_while(|piece| std::future::ready(piece.is_ok()))
            .for_each(|_| std::future::ready(()));
        tokio::time::timeout(DRAIN_TIMEOUT, drain).await.ok();
    }
    outcome.map(axum::Json)
}

fn lock(body: &Mutex<ByteStream>) -> MutexGuard<'_, ByteStream> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of a request, with a limit on its silence.
pub(super) fn timed(body: Body) -> ByteStream {
    let pieces = body.into_data_stream().map_err(io::Error::other);
    let pieces = tokio_stream::StreamExt::timeout(pieces, BODY_SILENCE_MAX);
    let pieces = pieces.map(|piece| match piece {
        Ok(piece) => piece,
        Err(_) => {
            let silence = format!("the sender was silent for {} s", BODY_SILENCE_MAX.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, silence))
        }
    });
    pieces.boxed()
}

impl Admin {
    fn files(&self) -> Result<&dyn FileStore, Refusal> {
        self.files.as_deref().ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("the {} service has no files", self.service),
            )
        })
    }

    fn file_refusal(&self, error: FileError) -> Refusal {
        let status = match &error {
            FileError::NotLeader { leader } => return self.misdirected(*leader),
            FileError::NotFound(_) => StatusCode::NOT_FOUND,
            FileError::InvalidPath(_) | FileError::BodyBroken(_) => StatusCode::BAD_REQUEST,
            FileError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            FileError::OutcomeUnknown | FileError::Stopping | FileError::Unavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Refusal::new(status, error.to_string())
    }
}

fn content(info: &FileInfo, bytes: ByteStream) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, info.size.to_string()),
        (header::ETAG, format!("\"{}\"", info.sha256)),
        // Whatever a file holds, a browser must not run it in the name of this port.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (
            header::CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'".to_owned(),
        ),
    ];
    (headers, Body::from_stream(bytes)).into_response()
}

/// The longest pause of a sender before its file is given up.
const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long the rest of a refused body is read and thrown away.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
