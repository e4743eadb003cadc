//! From a read request to a replicated session: looks the file up, makes sure that its content is here, agrees on the
//! options, and lets a quorum record it. Nothing is sent before.

use std::sync::Arc;

use replication::ProposeError;
use tracing::warn;

use crate::packet::{self, ErrorCode, Mode, Request};
use crate::path::FilePath;
use crate::server::Context;
use crate::server::socket::is_to_many;
use crate::state::{Command, NewSession, Outcome, SessionId, SessionKey, TransferMode};

/// Ports whose services answer whatever comes: a forged request from them would start an endless exchange
/// (CVE-2024-2169). Besides echo, qotd, chargen, DNS, TFTP itself and NTP: 0, from which nobody can be answered.
const LOOP_PORTS: [u16; 7] = [0, 7, 17, 19, 53, 69, 123];
/// How often a request begins anew because its file was replaced while it was being opened.
const REOPEN_MAX: usize = 3;

/// What came of a request.
pub(crate) enum Opened {
    /// A quorum knows the session.
    Session {
        /// Its id.
        id: SessionId,
        /// What was agreed.
        fixed: NewSession,
    },
    /// To be answered with an ERROR.
    Refused(Refusal),
    /// Not to be answered: this member no longer leads, or cannot know. The client asks again.
    Nothing,
}

/// An ERROR to send, and what it counts as.
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) result: &'static str,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>, result: &'static str) -> Self {
        Self {
            code,
            message: message.into(),
            result,
        }
    }
}

/// Whether a request of `key` may be answered at all.
pub(crate) fn is_answered(key: &SessionKey) -> bool {
    // RFC 1123 §4.2.3.5: a request to a broadcast address is silently ignored.
    !is_to_many(key.local().ip()) && !LOOP_PORTS.contains(&key.peer().port())
}

/// Checks what can be checked of a read request without looking anything up.
pub(crate) fn check(request: &Request) -> Result<(FilePath, TransferMode), Refusal> {
    let mode = match &request.mode {
        Mode::Octet => TransferMode::Octet,
        Mode::Netascii => TransferMode::Netascii,
        Mode::Mail | Mode::Unknown(_) => {
            let message = "mode not supported: use octet or netascii";
            return Err(Refusal::new(ErrorCode::IllegalOperation, message, "bad_mode"));
        }
    };
    // A name that can name nothing here is a file that does not exist.
    let path = FilePath::try_new(&request.path).map_err(|_| not_found())?;
    Ok((path, mode))
}

fn not_found() -> Refusal {
    Refusal::new(ErrorCode::FileNotFound, "file not found", "not_found")
}

/// Opens the session that `request` asks for.
pub(crate) async fn open(
    context: Arc<Context>,
    key: SessionKey,
    request: Request,
    path: FilePath,
    mode: TransferMode,
) -> Opened {
    for _ in 0..REOPEN_MAX {
        let fixed = match agree(&context, key, &request, &path, mode).await {
            Ok(fixed) => fixed,
            Err(refusal) => return Opened::Refused(refusal),
        };
        let command = Command::Open {
            session: fixed.clone(),
            sessions_max: context.options.sessions_max,
            sessions_per_client_max: context.options.sessions_per_client_max,
        };
        let busy = |whose| {
            Refusal::new(
                ErrorCode::NotDefined,
                format!("too many transfers {whose}: try again later"),
                "busy",
            )
        };
        match context.replica.propose(command).await {
            Ok(Outcome::Opened { id }) => return Opened::Session { id, fixed },
            Ok(Outcome::TooManySessions) => return Opened::Refused(busy("on this server")),
            Ok(Outcome::TooManySessionsOfClient) => return Opened::Refused(busy("of this client")),
            // The file was replaced or removed meanwhile: look again.
            Ok(_) => {}
            // Not silence: nothing will change until somebody acts, and the client's user is the first to notice.
            Err(error @ ProposeError::StorageFull) => {
                warn!(peer = %key.peer(), %error, "request refused");
                let message = "the server's disk is full: free some space there";
                return Opened::Refused(Refusal::new(ErrorCode::DiskFull, message, "disk_full"));
            }
            Err(error) => {
                warn!(peer = %key.peer(), %error, "request not answered: the client asks again");
                return Opened::Nothing;
            }
        }
    }
    Opened::Refused(not_found())
}

/// Fixes what the session is about.
async fn agree(
    context: &Context,
    key: SessionKey,
    request: &Request,
    path: &FilePath,
    mode: TransferMode,
) -> Result<NewSession, Refusal> {
    let file = context
        .replica
        .local(|state| state.lookup(path))
        .ok_or_else(not_found)?;
    let unreadable = |error: String| {
        warn!(%path, error, "content cannot be read");
        Refusal::new(
            ErrorCode::NotDefined,
            "the file cannot be read now: try again later",
            "unreadable",
        )
    };
    let store = &context.options.store;
    if !store.contains(&file.content) {
        context
            .options
            .files
            .ensure(file.content)
            .await
            .map_err(|error| unreadable(error.to_string()))?;
    }
    let size = match mode {
        TransferMode::Octet => file.size,
        TransferMode::Netascii => store
            .netascii(file.content)
            .await
            .map_err(|error| unreadable(error.to_string()))?,
    };
    let limits = packet::Limits {
        block_size_max: context.options.block_size_max,
        window_size_max: context.options.window_size_max,
        file_len: size,
    };
    let agreed = packet::negotiate(&request.options, &limits);
    Ok(NewSession {
        key,
        path: path.clone(),
        content: file.content,
        mode,
        size,
        block_size: agreed.block_size,
        window_size: agreed.window_size,
        timeout_ms: agreed.timeout.map_or(0, |seconds| u32::from(seconds) * 1000),
        oack: agreed.oack.unwrap_or_default(),
    })
}
