//! On real files: the calls, the formats, the costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::{all, append, at, done, entry, ignore, small, vote};
use crate::record::{self, Batch, Record, Seed};
use crate::segment::encode_header;
use crate::{Durability, ENTRY_BYTES_MAX, OpenError, Options, Space, Wal};

fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(8)
        .map(|eight| eight.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + " ")
        .collect()
}

#[test]
fn golden_bytes_of_version_1() {
    // A change here loses the logs of all who upgrade: make it version 2, and read both.
    assert_eq!(
        hex(&encode_header(3, 0x0102_0304_0506_0708)),
        "51554f5257414c00 01000000f5163826 0300000000000000 0807060504030201 "
    );
    let seed = Seed::new(0x0102_0304_0506_0708, 3);
    let batch = Batch {
        number: 9,
        oldest: 2,
        synced: 4096,
        body: 48,
        committed: Some(at(7, 5)),
        closed: false,
    };
    let mut bytes = vec![0; record::BATCH_HEAD];
    record::encode_batch(&batch, seed, 4096, &mut bytes);
    assert_eq!(
        hex(&bytes),
        "9a47e60d18000000 0101000000000000 0700000000000000 0100000000000000 0500000000000000 0900000000000000 0200000000000000 0010000030000000 "
    );
    let mut segment = vec![0; 4096];
    segment.extend_from_slice(&bytes);
    assert_eq!(record::decode_batch(&segment, 4096, seed), Some(batch));
    let records = [
        (
            Record::Entry(at(7, 6), b"hello"),
            "dc41041005000000 0200000000000000 0700000000000000 0100000000000000 0600000000000000 68656c6c6f000000 ",
        ),
        (
            Record::Vote(crate::Vote {
                committed: true,
                ..vote(8)
            }),
            "de48870500000000 0301000000000000 0800000000000000 0200000000000000 0000000000000000 ",
        ),
        (
            Record::Truncate(Some(at(7, 5))),
            "ea8ad62700000000 0401000000000000 0700000000000000 0100000000000000 0500000000000000 ",
        ),
        (
            Record::Truncate(None),
            "6ace87ec00000000 0400000000000000 0000000000000000 0000000000000000 0000000000000000 ",
        ),
        (
            Record::Purge(at(7, 4)),
            "8b47eb2b00000000 0500000000000000 0700000000000000 0100000000000000 0400000000000000 ",
        ),
    ];
    for (wanted, golden) in records {
        let mut bytes = vec![0; 4160];
        record::encode(&wanted, seed, 0, &mut bytes);
        assert_eq!(hex(&bytes[4160..]), golden, "{wanted:?}");
        assert_eq!(record::decode(&bytes, 4160, seed), Some((wanted, wanted.bytes())));
    }
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (wal, recovered) = Wal::open(&path, small()).unwrap();
    assert_eq!(
        (recovered.vote, recovered.last, recovered.closed_cleanly),
        (None, None, true)
    );
    wal.save_vote(vote(3), ignore()).unwrap();
    for index in 0..30 {
        append(&wal, vec![entry(1, index, 700)]).unwrap();
    }
    let (purge_done, result) = done();
    wal.purge(at(1, 9), purge_done).unwrap();
    result.recv().unwrap().unwrap();
    wal.save_committed(Some(at(1, 20)));
    let before = all(&wal);
    assert_eq!(wal.first_index(), Some(10));
    drop(wal);
    let (wal, recovered) = Wal::open(
        &path,
        Options {
            cache_bytes_max: 2000,
            ..small()
        },
    )
    .unwrap();
    assert_eq!(recovered.vote, Some(vote(3)));
    assert_eq!(recovered.committed, Some(at(1, 20)));
    assert_eq!(recovered.purged, Some(at(1, 9)));
    assert_eq!(recovered.last, Some(at(1, 29)));
    assert!(recovered.closed_cleanly);
    assert_eq!(recovered.torn_bytes_cut, 0);
    assert_eq!(all(&wal), before);
    assert_eq!(wal.entries(12..14, usize::MAX).unwrap(), before[2..4]);
    assert_eq!(wal.entries(12..20, 1500).unwrap().len(), 2);
    assert_eq!(wal.entries(12..20, 0).unwrap().len(), 1);
    assert!(wal.entries(0..10, 1500).unwrap().is_empty());
    // The youngest ones are in memory, as far as it may hold them, and what does not exist yet is not on the disk.
    assert!(!wal.is_in_memory(10));
    assert!(wal.is_in_memory(29));
    assert!(wal.is_in_memory(30));
}

#[test]
fn entries_longer_than_a_segment_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(
        dir.path(),
        Options {
            cache_bytes_max: 0,
            ..small()
        },
    )
    .unwrap();
    append(
        &wal,
        vec![
            entry(1, 0, 10),
            entry(1, 1, 100_000),
            entry(1, 2, 10),
            entry(1, 3, ENTRY_BYTES_MAX),
        ],
    )
    .unwrap();
    append(&wal, vec![entry(1, 4, 4000), entry(1, 5, 4100)]).unwrap();
    let before = all(&wal);
    assert_eq!(before[3], entry(1, 3, ENTRY_BYTES_MAX));
    drop(wal);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert!(all(&wal) == before);
    let (purge_done, result) = done();
    wal.purge(at(1, 5), purge_done).unwrap();
    result.recv().unwrap().unwrap();
    append(&wal, vec![entry(1, 6, 4000), entry(1, 7, 4000)]).unwrap();
    drop(wal);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(all(&wal).len(), 2);
}

#[test]
fn gaps_and_giants_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    append(&wal, vec![entry(1, 5, 1)]).unwrap();
    for wrong in [
        vec![entry(1, 7, 1)],
        vec![entry(1, 5, 1)],
        vec![entry(1, 6, ENTRY_BYTES_MAX + 1)],
    ] {
        let (done, result) = done();
        assert_eq!(
            wal.append(wrong, done).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
        assert!(result.recv().unwrap().is_err());
    }
    append(&wal, vec![entry(1, 6, 1)]).unwrap();
    assert_eq!(all(&wal).len(), 2);
}

#[test]
fn second_opener_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let error = Wal::open(dir.path(), small()).err().unwrap();
    assert!(
        matches!(&error, OpenError::Locked { directory } if directory == dir.path()),
        "{error}"
    );
    drop(wal);
    Wal::open(dir.path(), small()).unwrap();
}

#[test]
fn serial_append_of_300_bytes_writes_one_page_and_syncs_once() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options::default()).unwrap();
    let before = wal.stats();
    for index in 0..100 {
        append(&wal, vec![entry(1, index, 300)]).unwrap();
    }
    let after = wal.stats();
    assert_eq!(after.syncs - before.syncs, 100);
    assert_eq!(after.batches - before.batches, 100);
    // 408 bytes each touch 1.1 pages of 4 KiB.
    assert_eq!(after.bytes_written - before.bytes_written, 100 * (64 + 40 + 304));
    assert_eq!(wal.space(), Space::Ok);
}

#[test]
fn callers_that_wait_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options::default()).unwrap();
    // The first callback holds the writer until all others are queued.
    let (go, gate) = mpsc::channel::<()>();
    wal.save_vote(vote(1), Box::new(move |_| gate.recv().unwrap()))
        .unwrap();
    let results: Vec<_> = (0..100)
        .map(|index| {
            let (done, result) = done();
            wal.append(vec![entry(1, index, 100)], done).unwrap();
            result
        })
        .collect();
    assert_eq!(all(&wal).len(), 100, "readable before they are stored");
    go.send(()).unwrap();
    results
        .into_iter()
        .for_each(|result| result.recv().unwrap().unwrap());
    wal.flush().unwrap();
    let stats = wal.stats();
    assert!(
        stats.batches <= 3 && stats.syncs <= 3 && stats.records == 101,
        "{stats:?}"
    );
}

#[test]
fn moved_commit_index_is_written_when_idle() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let options = Options {
        commit_idle: Duration::from_millis(1),
        ..small()
    };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    append(&wal, vec![entry(1, 0, 10)]).unwrap();
    wal.save_committed(Some(at(1, 0)));
    while wal.stats().batches < 2 {
        std::thread::yield_now();
    }
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let (_killed, recovered) = Wal::open(copy.path(), small()).unwrap();
    assert_eq!(recovered.committed, Some(at(1, 0)));
    assert!(!recovered.closed_cleanly);
    wal.save_committed(Some(at(1, 0)));
    wal.flush().unwrap();
    assert_eq!(wal.stats().batches, 2, "what has not moved is not written");
}

#[test]
fn relaxed_log_syncs_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(
        dir.path(),
        Options {
            durability: Durability::Relaxed,
            ..Options::default()
        },
    )
    .unwrap();
    for index in 0..50 {
        append(&wal, vec![entry(1, index, 100)]).unwrap();
    }
    assert_eq!(wal.stats().syncs, 0);
    wal.flush().unwrap();
    assert_eq!(wal.stats().syncs, 1);
}

#[test]
fn last_handle_may_go_in_a_callback() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let held = wal.clone();
    let (sender, receiver) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    wal.append(
        vec![entry(1, 0, 1)],
        Box::new(move |_| {
            gate.recv().unwrap();
            drop(held);
            sender.send(()).unwrap();
        }),
    )
    .unwrap();
    drop(wal);
    go.send(()).unwrap();
    receiver.recv().unwrap();
    loop {
        // The threads end by themselves and release the lock.
        match Wal::open(dir.path(), small()) {
            Ok((wal, recovered)) => {
                assert!(recovered.closed_cleanly);
                assert_eq!(wal.last(), Some(at(1, 0)));
                break;
            }
            Err(OpenError::Locked { .. }) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn readers_see_whole_entries_while_segments_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        durability: Durability::Relaxed,
        cache_bytes_max: 3000,
        ..small()
    };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut read = 0;
                    while !over.load(Ordering::Relaxed) {
                        let first = wal.first_index().unwrap_or(0);
                        for found in wal.entries(first..first + 20, 8000).unwrap() {
                            assert_eq!(found, entry(1, found.position.index, 500));
                            read += 1;
                        }
                    }
                    read
                })
            })
            .collect();
        for index in 0..1500u64 {
            append(&wal, vec![entry(1, index, 500)]).unwrap();
            if index % 40 == 39 {
                wal.purge(at(1, index - 30), ignore()).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        let read: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(read > 100, "{read} entries read");
    });
    wal.flush().unwrap();
    let stats = wal.stats();
    assert!(stats.segments_recycled > 20 && stats.segments < 12, "{stats:?}");
}
