//! Blocks on their way out: from content in memory to the socket, and from the disk to memory.

use futures::FutureExt as _;
use tracing::warn;

use super::{Done, Leader};
use crate::content::{CHUNK_BYTES, ContentError};
use crate::packet::{self, DATA_HEADER_BYTES};
use crate::state::SessionKey;

impl Leader {
    /// Sends blocks, several in one call where the kernel can; stops where content is not in memory and fetches it.
    pub(super) fn send_data(&mut self, key: SessionKey, first: u64, count: u16) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let segment = DATA_HEADER_BYTES + usize::from(session.fixed.block_size);
        let segments_max = self.way.socket.segments_max(segment) as u64;
        let end = first + u64::from(count);
        let mut next = first;
        session.waiting = None;
        while next < end {
            self.scratch.clear();
            let start = next;
            let mut missing = None;
            while next < end && next - start < segments_max {
                let (offset, length) = session.extent(next);
                let header_at = self.scratch.len();
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the wire carries the low 16 bits; they roll over to 0"
                )]
                self.scratch.extend_from_slice(&packet::data_header(next as u16));
                if let Err(chunk) =
                    self.context
                        .options
                        .store
                        .append_to(&session.blob, offset, length, &mut self.scratch)
                {
                    self.scratch.truncate(header_at);
                    missing = Some(chunk);
                    break;
                }
                next += 1;
            }
            if next > start {
                self.way.send(key, &self.scratch, segment);
                let headers = (next - start) * DATA_HEADER_BYTES as u64;
                self.context
                    .options
                    .metrics
                    .sent(next - start, self.scratch.len() as u64 - headers);
                session.sent += next - start;
            }
            if let Some(chunk) = missing {
                #[expect(clippy::cast_possible_truncation, reason = "not more than count")]
                let rest = (end - next) as u16;
                session.waiting = Some((next, rest));
                return self.load(key, chunk);
            }
        }
        self.load_ahead(key, end - 1);
    }

    /// Fetches a chunk from the disk (or a peer, or by conversion) for the blocks that wait.
    fn load(&mut self, key: SessionKey, chunk: u64) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if session.loading {
            return;
        }
        session.loading = true;
        let (blob, store, files) = (
            session.blob,
            self.context.options.store.clone(),
            self.context.options.files.clone(),
        );
        let job = async move {
            let loaded = match store.load(&blob, chunk).await {
                Err(ContentError::Missing(content)) => match files.ensure(content).await {
                    Ok(_) => store.load(&blob, chunk).await,
                    Err(_) => Err(ContentError::Missing(content)),
                },
                loaded => loaded,
            };
            Done::Loaded(key, loaded.map(drop))
        };
        self.jobs.push(job.boxed());
    }

    /// Fetches the next chunk before it is needed.
    fn load_ahead(&mut self, key: SessionKey, block: u64) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let (offset, _) = session.extent(block);
        let ahead = offset / CHUNK_BYTES + 1;
        if session.ahead >= ahead || ahead * CHUNK_BYTES >= session.fixed.size {
            return;
        }
        session.ahead = ahead;
        let (blob, store) = (session.blob, self.context.options.store.clone());
        if store.chunk(&blob, ahead).is_none() {
            // A failure shows again when the chunk is really needed.
            self.jobs.push(
                async move {
                    store
                        .load(&blob, ahead)
                        .await
                        .map(drop)
                        .map_or(Done::LoadedAhead, |()| Done::LoadedAhead)
                }
                .boxed(),
            );
        }
    }

    pub(super) fn finish_load(&mut self, key: SessionKey, loaded: Result<(), ContentError>) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        session.loading = false;
        match loaded {
            Ok(()) => {
                if let Some((first, count)) = session.waiting.take() {
                    self.send_data(key, first, count);
                }
            }
            // The transfer's own timer asks again, and its limits end it if the content stays away.
            Err(error) => warn!(peer = %key.peer(), %error, "content could not be read"),
        }
    }
}
