//! `GET /v1/backup`: the group's whole state as this member holds it, in one file.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;

use super::{Admin, Authorized, Refusal, Shared};

/// The route. It changes nothing, but tells everything, so it needs the token.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new().route("/v1/backup", get(backup))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// The log index up to which it must reach; the leader's commit index makes it hold all that was acknowledged.
    #[serde(default)]
    at_least: u64,
}

async fn backup(
    State(admin): Shared,
    _: Authorized,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(Parameters { at_least }) =
        parameters.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !admin.service.state_is_everything() {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!(
                "a {} group has no backup: its files are kept outside the replicated state; read them with \
                 `quorate-agent files get`, or keep the sources that they came from",
                admin.service
            ),
        ));
    }
    let bytes = admin.control.backup(admin.service, at_least).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(pieces(bytes))).into_response())
}

/// In pieces, so that a slow reader holds up a piece and not the whole.
fn pieces(bytes: Bytes) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    stream::unfold(bytes, async |mut rest: Bytes| {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Some((Ok(piece), rest))
    })
}

/// What is handed to a connection at once.
const PIECE_BYTES: usize = 256 << 10;
