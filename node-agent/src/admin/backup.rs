//! `/v1/backup`: the group's whole state as this member holds it, in one file; and the way in for such a file, to a member
//! that is to found a group with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::{StreamExt, stream};
use replication::Backup;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::files::{ByteStream, timed};
use super::{Admin, Authorized, Refusal, Shared};

/// The routes. Reading changes nothing, but tells everything, so it needs the token, too.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/backup", get(backup).put(receive))
        // Bounded below, by what a state may have.
        .layer(axum::extract::DefaultBodyLimit::disable())
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

/// Takes the backup that this member is to found its group with: checked, and on disk when it is answered. The last one counts.
async fn receive(State(admin): Shared, _: Authorized, body: Body) -> Result<StatusCode, Refusal> {
    let mut body = timed(body);
    let outcome = admin.keep_sent_backup(&mut body).await;
    if outcome.is_err() {
        // A sender that is still sending would see a broken connection instead of the answer (RFC 9112 §9.6).
        let drain = async { while let Some(Ok(_)) = body.next().await {} };
        tokio::time::timeout(DRAIN_TIMEOUT, drain).await.ok();
    }
    outcome.map(|()| StatusCode::NO_CONTENT)
}

impl Admin {
    async fn keep_sent_backup(&self, body: &mut ByteStream) -> Result<(), Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(StatusCode::CONFLICT, reason));
        let Some(file) = &self.sent_backup else {
            return refuse("this member takes no backup: its configuration has no acceptsBackup");
        };
        if self.control.status().node_id.is_some() {
            return refuse("this member is in a group already: a backup is for a new one");
        }
        let aside = file.with_added_extension("partial");
        let kept = match write(&aside, body).await {
            Ok(()) => self.check_and_move(&aside, file).await,
            Err(refusal) => Err(refusal),
        };
        if kept.is_err() {
            tokio::fs::remove_file(&aside).await.ok();
        }
        kept
    }

    async fn check_and_move(&self, aside: &Path, file: &Path) -> Result<(), Refusal> {
        let (aside, file, service) = (aside.to_owned(), file.to_owned(), self.service.name());
        let checked = tokio::task::spawn_blocking(move || {
            let invalid = |error: replication::BackupError| {
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            };
            Backup::read(&aside)
                .and_then(|backup| backup.check_service(service))
                .map_err(invalid)?;
            std::fs::rename(&aside, &file).map_err(|error| unwritten(&file, &error))
        });
        checked
            .await
            .unwrap_or_else(|error| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
    }

    /// Refuses to found an empty group where a backup is to come.
    pub(super) fn expect_sent_backup(&self) -> Result<(), Refusal> {
        let lacks = self.sent_backup.as_ref().is_some_and(|file| !file.exists());
        if lacks && self.control.status().node_id.is_none() {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "no backup was sent yet: `kubectl quorate restore NAME FILE` sends it",
            ));
        }
        Ok(())
    }

    /// The group has it now.
    pub(super) fn forget_sent_backup(&self) {
        if let Some(file) = &self.sent_backup {
            std::fs::remove_file(file).ok();
        }
    }
}

async fn write(aside: &Path, body: &mut ByteStream) -> Result<(), Refusal> {
    let mut options = tokio::fs::OpenOptions::new();
    // It holds everybody's secrets.
    options.write(true).create(true).truncate(true).mode(0o600);
    let failed = |error: std::io::Error| unwritten(aside, &error);
    let mut out = options.open(aside).await.map_err(failed)?;
    let mut bytes = 0;
    while let Some(piece) = body.next().await {
        let piece = piece
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
        bytes += piece.len();
        if bytes > SENT_BYTES_MAX {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a backup has at most {SENT_BYTES_MAX} bytes"),
            ));
        }
        out.write_all(&piece).await.map_err(failed)?;
    }
    out.sync_all().await.map_err(failed)
}

fn unwritten(file: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(
        StatusCode::INSUFFICIENT_STORAGE,
        format!("{} cannot be written: {error}", file.display()),
    )
}

/// More than any state has.
const SENT_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// How long a sender whose backup is refused may go on sending, to see the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What is handed to a connection at once.
const PIECE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use operator_api::ServiceKind;
    use replication::BackupHeader;
    use tower::ServiceExt;
    use uuid::Uuid;

    use super::super::fake::{Setup, TOKEN};
    use super::super::router;
    use super::*;

    fn backup(service: &str) -> Bytes {
        let header = BackupHeader {
            format: BackupHeader::FORMAT,
            service: service.to_owned(),
            group_id: Uuid::from_u128(7),
            member: "kv-0".to_owned(),
            index: 9,
            unix_ms: 5,
            secret: None,
        };
        let state = Bytes::from_static(b"state");
        Backup { header, state }.encode()
    }

    /// A member without a group, or with one, and where it keeps what it is sent.
    fn member(is_new: bool, file: Option<&Path>) -> Router {
        let mut setup = Setup::new(true, "127.0.0.1:9411", "127.0.0.1:9412");
        if is_new {
            (setup.status.node_id, setup.status.ready) = (None, false);
        }
        let (mut admin, ..) = setup.admin();
        admin.service = ServiceKind::Kv;
        admin.sent_backup = file.map(Path::to_owned);
        router(admin)
    }

    async fn ask(member: &Router, method: &str, path: &str, body: Bytes) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json");
        let request = request.body(Body::from(body)).unwrap();
        let response = member.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn found(member: &Router) -> (StatusCode, String) {
        let body = format!(r#"{{"groupId":"{}"}}"#, Uuid::from_u128(8));
        ask(member, "POST", "/v1/membership/initialize", body.into()).await
    }

    #[tokio::test]
    async fn group_is_founded_after_its_backup_was_sent_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sent.backup");
        let new = member(true, Some(&file));
        let (status, said) = found(&new).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(said.contains("no backup was sent yet"), "{said}");
        let sent = ask(&new, "PUT", "/v1/backup", backup("kv")).await;
        assert_eq!(sent, (StatusCode::NO_CONTENT, String::new()));
        assert_eq!(std::fs::read(&file).unwrap(), backup("kv"));
        assert_eq!(found(&new).await.0, StatusCode::OK);
        assert!(!file.exists(), "the group has it");
    }

    #[tokio::test]
    async fn what_is_no_backup_for_this_member_is_refused_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sent.backup");
        let (new, old) = (member(true, Some(&file)), member(false, Some(&file)));
        let mut damaged = backup("kv").to_vec();
        damaged[30] ^= 1;
        for (member, body, why) in [
            (&new, damaged.into(), "the backup is damaged"),
            (&new, backup("adc"), "one of a adc group"),
            (&old, backup("kv"), "in a group already"),
            (&member(true, None), backup("kv"), "has no acceptsBackup"),
        ] {
            let (status, said) = ask(member, "PUT", "/v1/backup", body).await;
            assert!(status.is_client_error() && said.contains(why), "{status} {said}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{why}");
        }
        // A group that exists needs none.
        assert_eq!(found(&old).await.0, StatusCode::OK);
    }
}
