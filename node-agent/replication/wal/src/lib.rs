//! A segmented write-ahead log for one Raft member: entries, votes, truncations, purges and the commit index in one
//! stream of records. It knows nothing of Raft's rules, of openraft or of async.
//!
//! # Few writes
//!
//! A commit of 300 bytes costs about one 4 KiB page: segments are filled with zeros in advance, so that appending
//! changes no metadata; all callers that wait share one write and one sync; the commit index rides along. Segments
//! no longer needed become the next ones by renaming. `writer` is the one thread that writes, `preparer` the one that
//! has the next segment ready.
//!
//! # What is on the disk
//!
//! ```text
//! segment 7 (complete)                segment 8 (being written)            segment 9 (prepared)
//! | header | batch 41 | batch 42 | 0 | header | batch 43 | batch 44 | 0 ... | header | 0 ... |
//!
//! batch:  | batch header: number, oldest segment needed, synced mark, commit index | record | record | ...
//! ```
//!
//! Bytes: `record` (records and batch headers) and `segment` (file names and headers). A batch is what one write
//! stores; it counts as a whole or not at all. Batches are numbered without gaps across segments. A segment is
//! written only when the one before it is synced to its end, and its first batch repeats the vote and the purge mark,
//! so that older segments can go.
//!
//! # Torn or corrupt
//!
//! Recovery reads batch after batch until one does not check out, at offset `bad` of segment `s`. What stood there is
//! either *torn* (the power failed while it was being written; nobody was told that it is stored) or *corrupt* (it was
//! stored, and somebody may rely on it). Cutting is right for the first and loses votes and entries for the second.
//! A disk may write the sectors of one unsynced write in any order, so valid records after `bad` prove nothing by
//! themselves. What proves it is that something was written *after a sync that covered `bad`*:
//!
//! 1. Every batch header says up to which offset its segment was synced when the batch was written (the *synced mark*).
//!    A valid batch header anywhere after `bad` (each multiple of 8 is tried) with a mark beyond `bad`: corrupt.
//! 2. A valid batch in a later segment whose number is not the next one, or that follows a segment without batches:
//!    corrupt.
//! 3. A segment is missing, be it in the middle or one that the last batch's *oldest segment needed* asks for: corrupt.
//! 4. A segment's header does not check out: corrupt, for a file gets its name after its header is synced.
//! 5. Otherwise: torn. The whole batch is cut.
//!
//! The last acknowledged batch has nothing after it that could prove anything: damage to it looks like a torn write,
//! until the next batch is written. A clean close therefore writes one more batch with a mark and the flag *closed*;
//! after it, all acknowledged batches are covered. In [`Durability::Relaxed`] marks only move when a segment is
//! complete, at [`Wal::flush`], at purges that free segments and at close: a power cut then may cut many batches.
//!
//! What no mark can show is that the whole file of the last segment was removed when no prepared one followed it.
//!
//! After an unclean stop, what is beyond the last whole batch is overwritten with zeros and synced, and prepared
//! segments get a new header with a new salt, before anything is written: no piece of a torn batch can ever check out
//! later. Recovery also syncs what it has read: a killed process may have written what it did not sync. This relies
//! on the disk not damaging the sector that it is told to write again with the same bytes and more after them.
//!
//! # When something fails
//!
//! A failed write or sync ends the log ([`Wal::failed`]): the kernel may have dropped the pages that it could not
//! write, so trying again would acknowledge what is not there. A full disk does not: the segment in use and the
//! prepared one have their blocks. [`Wal::space`] is [`Space::Full`] as soon as no further segment can be prepared,
//! appends are refused with [`std::io::ErrorKind::StorageFull`] when those two are used up, and a reserve remains for
//! votes, truncations and purges. Should even that be used up by thousands of votes, the log ends.

mod disk;
mod handle;
mod index;
mod preparer;
mod record;
mod recovery;
mod segment;
mod shared;
#[cfg(any(test, simulation))]
#[cfg_attr(not(test), expect(dead_code, reason = "some of it is for tests only"))]
mod sim;
#[cfg(simulation)]
pub mod simulation;
#[cfg(test)]
mod tests;
mod types;
mod wal;
mod writer;

pub use types::{
    Done, Durability, ENTRY_BYTES_MAX, Entry, OpenError, Options, Position, QUEUE_BYTES_MAX, Recovered,
    Space, Stats, Vote,
};
pub use wal::Wal;
