//! Files on their way in: from datagrams to the put that stores them under quorum.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, Stream, stream};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Done, Leader};
use crate::content::ContentError;
use crate::files::PutError;
use crate::netascii::Decoder;
use crate::packet::{self, ErrorCode, Request};
use crate::path::FilePath;
use crate::server::open::{self, Refusal};
use crate::server::uploads::Wanted;
use crate::state::{FileVersion, SessionKey};
use crate::upload::{End, Output, Upload};

/// Uploads that receive or store at the same time; a request beyond it is answered with ERROR 0.
const UPLOADS_MAX: usize = 16;
/// The same, with those that only wait for their client's repetitions.
const LINGERING_MAX: usize = 256;
/// Places of the way to the disk beside those for two windows: what the end of a file takes.
const END_PIECES: usize = 2;

/// A part of a file on its way to the disk. A way that closes before [`Piece::End`] was given up.
enum Piece {
    Bytes(Bytes),
    End,
}

/// A running upload.
struct Running {
    id: u64,
    path: FilePath,
    upload: Upload,
    oack: Vec<u8>,
    /// Of a netascii upload.
    decoder: Option<Decoder>,
    /// The way to the disk; none once all is on it.
    pieces: Option<mpsc::Sender<Piece>>,
    /// Places of the way that another window needs.
    room: usize,
    since: Duration,
}

/// The uploads of this leader.
#[derive(Default)]
pub(super) struct Incoming {
    running: BTreeMap<SessionKey, Running>,
    last_id: u64,
    /// No upload wants to be called earlier.
    pub(super) deadline: Option<Duration>,
}

/// What a job found out about an upload.
pub(super) enum Progress {
    /// There is room for another window.
    Room,
    /// The put ended.
    Put(Result<FileVersion, PutError>),
}

impl Leader {
    pub(super) fn handle_write(&mut self, key: SessionKey, request: &Request) {
        let now = self.now();
        let options = &self.context.options;
        let limits = (options.block_size_max, options.window_size_max);
        let wanted = match options.uploads.check(request, key.client(), limits) {
            Ok(wanted) => wanted,
            Err(refusal) => return self.refuse(key, &refusal),
        };
        if let Some(running) = self.incoming.running.get_mut(&key)
            && running.path == wanted.path
            && running.upload.repeated_request(now)
        {
            // The first answer was lost.
            return self.carry_out_upload(key);
        }
        // The client has started again; what it had begun is given up.
        self.incoming.running.remove(&key);
        match self.refuses(&wanted) {
            Some(refusal) => self.refuse(key, &refusal),
            None => self.begin_upload(key, wanted, now),
        }
    }

    fn refuses(&self, wanted: &Wanted) -> Option<Refusal> {
        let busy = |message| Some(Refusal::new(ErrorCode::NotDefined, message, "busy"));
        let running = &self.incoming.running;
        let active = running.values().filter(|running| !running.upload.lingers());
        if active.clone().any(|running| running.path == wanted.path) {
            return busy("another client is uploading this file: try again later");
        }
        if active.count() >= UPLOADS_MAX || running.len() >= LINGERING_MAX {
            return busy("too many uploads on this server: try again later");
        }
        let exists = || {
            self.context
                .replica
                .local(|state| state.lookup(&wanted.path).is_some())
        };
        (!wanted.overwrite && exists()).then(exists_already)
    }

    fn begin_upload(&mut self, key: SessionKey, wanted: Wanted, now: Duration) {
        let window = usize::from(wanted.terms.window_size);
        let (pieces, taken) = mpsc::channel(2 * window + END_PIECES);
        self.incoming.last_id += 1;
        let id = self.incoming.last_id;
        let (files, path, declared) = (
            self.context.options.files.clone(),
            wanted.path.clone(),
            wanted.declared,
        );
        let overwrite = wanted.overwrite;
        let job = async move {
            let bytes = file_of(taken);
            let put = if overwrite {
                files.put(path, bytes, declared).await
            } else {
                files.put_new(path, bytes, declared).await
            };
            Done::Uploading(key, id, Progress::Put(put))
        };
        self.jobs.push(job.boxed());
        self.context.options.metrics.request("upload_opened");
        let running = Running {
            id,
            path: wanted.path,
            upload: Upload::open(wanted.terms, self.context.options.limits, now),
            oack: wanted.oack,
            decoder: wanted.netascii.then(Decoder::default),
            pieces: Some(pieces),
            room: window + END_PIECES,
            since: now,
        };
        self.incoming.running.insert(key, running);
        self.carry_out_upload(key);
    }

    /// DATA came.
    pub(super) fn handle_block(&mut self, key: SessionKey, number: u16, payload: &[u8]) {
        let now = self.now();
        let Some(running) = self.incoming.running.get_mut(&key) else {
            // Only uploads send DATA to a server. Its upload ended with another leader.
            if !self.context.options.uploads.rules.is_empty() && open::is_answered(&key) {
                let message = "this upload is not known here (any more): send the file again";
                self.send_error(key, ErrorCode::UnknownTransferId, message);
            }
            return;
        };
        if running.upload.data(number, payload.len(), now) {
            running.keep(payload);
            self.context.options.metrics.uploaded_bytes(payload.len() as u64);
        }
        self.carry_out_upload(key);
    }

    /// Whether the ERROR was an upload's.
    pub(super) fn handle_upload_error(&mut self, key: SessionKey, code: u16) -> bool {
        let Some(running) = self.incoming.running.get_mut(&key) else {
            return false;
        };
        running.upload.peer_error(code);
        self.carry_out_upload(key);
        true
    }

    pub(super) fn finish_upload_job(&mut self, key: SessionKey, id: u64, progress: Progress) {
        let now = self.now();
        let Some(running) = self
            .incoming
            .running
            .get_mut(&key)
            .filter(|running| running.id == id)
        else {
            return;
        };
        match progress {
            Progress::Room => running.upload.room(now),
            Progress::Put(Ok(version)) => {
                info!(
                    peer = %key.peer(),
                    file = %running.path,
                    bytes = version.size,
                    seconds = (now - running.since).as_secs_f64(),
                    "file uploaded"
                );
                self.context.options.metrics.uploaded("complete");
                running.upload.stored(now);
            }
            Progress::Put(Err(error)) => {
                let path = running.path.clone();
                self.incoming.running.remove(&key);
                warn!(peer = %key.peer(), file = %path, error = %crate::files::with_causes(&error), "upload not stored");
                self.context.options.metrics.uploaded("not_stored");
                let refusal = not_stored(&error);
                return self.send_error(key, refusal.code, &refusal.message);
            }
        }
        self.carry_out_upload(key);
    }

    /// Calls the uploads whose time has come.
    pub(super) fn fire_uploads(&mut self) {
        let now = self.now();
        if self.incoming.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        let is_due = |running: &Running| running.upload.deadline() <= now;
        let due: Vec<_> = self
            .incoming
            .running
            .iter()
            .filter(|(_, running)| is_due(running))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            if let Some(running) = self.incoming.running.get_mut(&key) {
                running.upload.fire(now);
                self.carry_out_upload(key);
            }
        }
        self.incoming.deadline = self
            .incoming
            .running
            .values()
            .map(|running| running.upload.deadline())
            .min();
    }

    fn carry_out_upload(&mut self, key: SessionKey) {
        while let Some(running) = self.incoming.running.get_mut(&key)
            && let Some(output) = running.upload.poll_output()
        {
            match output {
                Output::SendOack => {
                    let oack = running.oack.clone();
                    self.way.send(key, &oack, oack.len());
                }
                Output::SendAck(number) => self.way.send(key, &packet::encode_ack(number), 4),
                Output::MakeRoom => self.make_room(key),
                Output::Store => running.end(),
                Output::Closed(end) => self.end_upload(key, end),
            }
        }
        if let Some(running) = self.incoming.running.get(&key) {
            let deadline = running.upload.deadline();
            let earlier = self.incoming.deadline.is_none_or(|known| deadline < known);
            if earlier {
                self.incoming.deadline = Some(deadline);
            }
        }
    }

    fn make_room(&mut self, key: SessionKey) {
        let now = self.now();
        let Some(running) = self.incoming.running.get_mut(&key) else {
            return;
        };
        let Some(pieces) = &running.pieces else {
            return;
        };
        if pieces.capacity() >= running.room {
            return running.upload.room(now);
        }
        let (pieces, room, id) = (pieces.clone(), running.room, running.id);
        let job = async move {
            // Fails when the put has ended; its own job says so.
            drop(pieces.reserve_many(room).await);
            Done::Uploading(key, id, Progress::Room)
        };
        self.jobs.push(job.boxed());
    }

    fn end_upload(&mut self, key: SessionKey, end: End) {
        let Some(running) = self.incoming.running.remove(&key) else {
            return;
        };
        let (name, answer) = match end {
            // Counted when it was stored.
            End::Complete => return,
            End::ClientError { .. } => ("client_error", None),
            End::Idle => ("idle", None),
            End::TooLarge => (
                "too_large",
                Some((ErrorCode::DiskFull, "the file is too large for this server")),
            ),
            End::BlockTooLong => (
                "malformed",
                Some((ErrorCode::IllegalOperation, "the block is longer than agreed")),
            ),
        };
        info!(peer = %key.peer(), file = %running.path, bytes = running.upload.bytes(), end = name, "upload given up");
        self.context.options.metrics.uploaded(name);
        if let Some((code, message)) = answer {
            self.send_error(key, code, message);
        }
    }
}

impl Running {
    /// Puts a block on the way to the disk. There is room for it, unless the put has failed, whose job says so.
    fn keep(&mut self, payload: &[u8]) {
        let bytes = match &mut self.decoder {
            Some(decoder) => {
                let mut decoded = Vec::new();
                decoder.decode(payload, &mut decoded);
                Bytes::from(decoded)
            }
            None => Bytes::copy_from_slice(payload),
        };
        if let Some(pieces) = &self.pieces
            && !bytes.is_empty()
        {
            pieces.try_send(Piece::Bytes(bytes)).ok();
        }
    }

    fn end(&mut self) {
        let Some(pieces) = self.pieces.take() else {
            return;
        };
        if let Some(decoder) = self.decoder.take() {
            let mut rest = Vec::new();
            decoder.finish(&mut rest);
            if !rest.is_empty() {
                pieces.try_send(Piece::Bytes(rest.into())).ok();
            }
        }
        pieces.try_send(Piece::End).ok();
    }
}

/// The file that comes in pieces; an error where it breaks off.
fn file_of(pieces: mpsc::Receiver<Piece>) -> impl Stream<Item = Result<Bytes, &'static str>> + Send {
    stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(Piece::End) => None,
            None => Some((Err("the upload was given up"), None)),
        }
    })
}

fn exists_already() -> Refusal {
    let message = "there is a file of this name already, and it may not be replaced";
    Refusal::new(ErrorCode::FileExists, message, "exists")
}

fn not_stored(error: &PutError) -> Refusal {
    let (code, message) = match error {
        PutError::Exists => return exists_already(),
        PutError::TooLarge { .. } | PutError::TooManyFiles { .. } => (
            ErrorCode::DiskFull,
            "there is no room for the file on this server",
        ),
        PutError::Store(ContentError::DiskFull { .. }) => (
            ErrorCode::DiskFull,
            "the server's disk is full: free some space there",
        ),
        PutError::SizeDiffers { .. } => (
            ErrorCode::NotDefined,
            "the file has another size than its tsize said",
        ),
        PutError::Receive(_)
        | PutError::HashDiffers { .. }
        | PutError::OfAnother
        | PutError::Store(_)
        | PutError::NoQuorum { .. }
        | PutError::Propose(_) => (
            ErrorCode::NotDefined,
            "the file could not be stored now: send it again",
        ),
    };
    Refusal::new(code, message, "not_stored")
}
