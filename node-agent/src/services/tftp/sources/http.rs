//! One file over HTTP or HTTPS as a source.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, header};
use reqwest::Url;
use tftp::path::FilePath;
use tftp::state::ContentHash;

use super::plan::Wanted;
use crate::https::{self, HttpsClient};

/// A file to download.
pub(super) struct Download {
    url: Url,
    path: FilePath,
    content: ContentHash,
    bytes_max: u64,
    client: HttpsClient,
}

impl Download {
    pub(super) fn new(
        url: &str,
        sha256: &str,
        path: &str,
        bytes_max: u64,
        ca_file: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let roots = match ca_file {
            Some(file) => https::roots(file)?,
            None => https::system_roots(),
        };
        Ok(Self {
            url: Url::parse(url).with_context(|| format!("url `{url}`"))?,
            path: FilePath::try_new(path).with_context(|| format!("path `{path}`"))?,
            content: sha256.to_ascii_lowercase().parse().context("sha256")?,
            bytes_max,
            client: https::client(roots)?,
        })
    }

    /// What the group is to have.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted::from([(self.path.clone(), Some(self.content))])
    }

    /// The bytes that the server sends; more than may come are an error. They are not checked otherwise.
    pub(super) async fn open(
        &self,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Bytes>> + Send + use<>> {
        let response = self
            .request()
            .await
            .with_context(|| format!("downloading {}", self.url))?;
        let (url, bytes_max) = (self.url.clone(), self.bytes_max);
        let state = (response.into_body(), 0_u64);
        Ok(unfold(Some(state), move |state| {
            let url = url.clone();
            async move {
                let (mut body, received) = state?;
                match next_piece(&mut body).await {
                    Ok(None) => None,
                    Ok(Some(piece)) => {
                        let received = received + piece.len() as u64;
                        if received > bytes_max {
                            return Some((
                                Err(anyhow!("{url} has more than bytesMax, {bytes_max} bytes")),
                                None,
                            ));
                        }
                        Some((Ok(piece), Some((body, received))))
                    }
                    Err(error) => Some((Err(error.context(format!("downloading {url}"))), None)),
                }
            }
        }))
    }

    async fn request(&self) -> anyhow::Result<Response<Incoming>> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let request = Request::get(url.as_str())
                .header(header::HOST, host(&url)?)
                .header(
                    header::USER_AGENT,
                    concat!("quorate-agent/", env!("CARGO_PKG_VERSION")),
                )
                .body(Full::new(Bytes::new()))
                .context("building the request")?;
            let response = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request))
                .await
                .map_err(|_| anyhow!("no answer within {ANSWER_TIMEOUT:?}"))??;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let location = response.headers().get(header::LOCATION);
                let location = location
                    .and_then(|value| value.to_str().ok())
                    .context("a redirection to nowhere")?;
                url = url
                    .join(location)
                    .with_context(|| format!("a redirection to `{location}`"))?;
                continue;
            }
            ensure!(status == StatusCode::OK, "the server answered {status}");
            let length = response.headers().get(header::CONTENT_LENGTH);
            let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            if let Some(length) = length.filter(|length| *length > self.bytes_max) {
                bail!(
                    "the file has {length} bytes, more than bytesMax, {}",
                    self.bytes_max
                );
            }
            return Ok(response);
        }
        bail!("more than {REDIRECTS_MAX} redirections")
    }
}

fn host(url: &Url) -> anyhow::Result<String> {
    let host = url.host_str().with_context(|| format!("`{url}` names no host"))?;
    Ok(url
        .port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

async fn next_piece(body: &mut Incoming) -> anyhow::Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(PIECE_TIMEOUT, body.frame())
            .await
            .map_err(|_| anyhow!("nothing came for {PIECE_TIMEOUT:?}"))?;
        match frame {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Servers of files send one or two.
const REDIRECTS_MAX: usize = 5;

/// How long a server may take to answer, and then to send the next piece.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::response::Redirect;
    use axum::routing::get;
    use futures::TryStreamExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    const HASH: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

    async fn download(path: &str, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let routes = Router::new()
            .route(
                "/file",
                get(async |headers: HeaderMap| {
                    assert_eq!(
                        headers[header::HOST].to_str().unwrap().split_once(':').unwrap().0,
                        "127.0.0.1"
                    );
                    "abc"
                }),
            )
            .route("/moved", get(async || Redirect::temporary("file")))
            .route("/loop", get(async || Redirect::temporary("/loop")));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await });
        let source = Download::new(&format!("http://{address}{path}"), HASH, "abc", bytes_max, None)?;
        let pieces: Vec<Bytes> = source.open().await?.try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn file_is_downloaded_through_redirections() {
        assert_eq!(download("/file", 3).await.unwrap(), b"abc");
        assert_eq!(download("/moved", 3).await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        for (path, bytes_max, part) in [
            ("/file", 2, "more than bytesMax, 2"),
            ("/nothing", 9, "404"),
            ("/loop", 9, "more than 5 redirections"),
        ] {
            let error = format!("{:#}", download(path, bytes_max).await.unwrap_err());
            assert!(error.contains(part), "{error}, expected {part}");
        }
    }
}
