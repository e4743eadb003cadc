//! Failed writes and syncs end the log; a full disk does not.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Content, all, append, at, done, entry, ignore, small, vote};
use crate::sim::SimDisk;
use crate::{Options, Space, Wal};

fn wait_until(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1_000_000 {
        if check() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("never: {what}");
}

/// A log whose next segment is ready, so that the preparer is quiet.
fn settled(disk: &SimDisk, options: Options) -> Wal {
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    wait_until("the next segment is prepared", || {
        wal.stats().segments_created + wal.stats().segments_recycled > 0
    });
    wal
}

#[test]
fn failed_sync_ends_the_log() {
    for good in 0..6 {
        let disk = SimDisk::default();
        let wal = settled(&disk, small());
        disk.lock().fail_sync_in = Some(good);
        let ok = AtomicUsize::new(0);
        for index in 0..10 {
            if append(&wal, vec![entry(1, index, 50)]).is_ok() {
                assert_eq!(
                    ok.fetch_add(1, Ordering::Relaxed) as u64,
                    index,
                    "no success after a failure"
                );
            }
        }
        assert_eq!(ok.into_inner(), good);
        assert!(wal.failed().unwrap().contains("injected sync error"));
        // Even if the disk were fine again.
        disk.lock().fail_sync_in = None;
        let written = disk.lock().events.len();
        let (vote_done, vote_result) = done();
        assert!(wal.save_vote(vote(9), vote_done).is_err());
        assert!(vote_result.recv().unwrap().is_err());
        assert!(wal.truncate_after(None, ignore()).is_err());
        assert!(wal.purge(at(1, 1), ignore()).is_err());
        assert!(wal.flush().is_err());
        drop(wal);
        assert_eq!(
            disk.lock().events.len(),
            written,
            "nothing is written after a failure"
        );
    }
}

#[test]
fn failed_write_answers_all_that_is_queued() {
    let disk = SimDisk::default();
    let wal = settled(&disk, small());
    append(&wal, vec![entry(1, 0, 50)]).unwrap();
    disk.lock().fail_writes = true;
    let mut results = Vec::new();
    for index in 1..50 {
        let (done, result) = done();
        let _ = wal.append(vec![entry(1, index, 50)], done);
        results.push(result);
        if wal.failed().is_some() {
            break;
        }
    }
    for result in results {
        assert!(result.recv().unwrap().is_err());
    }
    assert!(wal.failed().is_some());
}

#[test]
fn full_disk_refuses_appends_keeps_votes_and_recovers_by_purging() {
    let disk = SimDisk::default();
    // Three segments fit; the fourth does not.
    disk.lock().bytes_max = Some(3 * 8192 + 1000);
    let wal = settled(&disk, small());
    let mut next = 0;
    let refused = loop {
        match append(&wal, vec![entry(1, next, 700)]) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
        assert!(next < 100);
    };
    assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
    assert_eq!(wal.space(), Space::Full);
    assert_eq!(wal.failed(), None);
    assert!(
        next >= 13,
        "three segments hold 15 entries of 700 bytes, {next} taken"
    );
    assert_eq!(wal.last(), Some(at(1, next - 1)), "the refused entry is gone");
    // Each time the same, and nothing is lost.
    assert_eq!(
        append(&wal, vec![entry(1, next, 700)]).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    // The reserve.
    let (vote_done, result) = done();
    wal.save_vote(vote(5), vote_done).unwrap();
    result.recv().unwrap().unwrap();
    let image = disk.image();
    let (copy, _) = Wal::open_on(Arc::new(SimDisk::new(&image)), small()).unwrap();
    assert_eq!(Content::of(&copy), Content::of(&wal));
    drop(copy);
    // A purge frees segments, which are used again without needing new blocks.
    let (purge_done, result) = done();
    wal.purge(at(1, next - 2), purge_done).unwrap();
    result.recv().unwrap().unwrap();
    wait_until("there is room", || wal.space() == Space::Ok);
    append(&wal, vec![entry(1, next, 700)]).unwrap();
    assert_eq!(all(&wal), [entry(1, next - 1, 700), entry(1, next, 700)]);
    drop(wal);
    let (wal, recovered) = Wal::open_on(Arc::new(SimDisk::new(&disk.image())), small()).unwrap();
    assert!(recovered.closed_cleanly);
    assert_eq!(recovered.vote, Some(vote(5)));
    assert_eq!(all(&wal).len(), 2);
}

#[test]
fn last_segment_of_a_full_disk_still_takes_entries() {
    let disk = SimDisk::default();
    disk.lock().bytes_max = Some(2 * 8192);
    let wal = settled(&disk, small());
    // Into the second segment; there is no third.
    let mut next = 0;
    while wal.stats().segments < 2 {
        append(&wal, vec![entry(1, next, 700)]).unwrap();
        next += 1;
    }
    wait_until("no further segment can be prepared", || wal.space() != Space::Ok);
    assert_eq!(wal.space(), Space::Low);
    while wal.space() == Space::Low {
        append(&wal, vec![entry(1, next, 700)]).expect("an entry where there is said to be room");
        next += 1;
    }
    assert_eq!(wal.space(), Space::Full);
    append(&wal, vec![entry(1, next, 700)]).expect("what is under way");
}

#[test]
fn full_disk_recovers_when_somebody_else_frees_space() {
    let disk = SimDisk::default();
    disk.lock().bytes_max = Some(2 * 8192);
    let wal = settled(&disk, small());
    let mut next = 0;
    while append(&wal, vec![entry(1, next, 700)]).is_ok() {
        next += 1;
    }
    assert_eq!(wal.space(), Space::Full);
    disk.lock().bytes_max = None;
    wait_until("there is room", || wal.space() == Space::Ok);
    append(&wal, vec![entry(1, next, 700)]).unwrap();
    assert_eq!(all(&wal).len() as u64, next + 1);
}

#[test]
fn entry_too_long_for_a_full_disk_is_refused_alone() {
    let disk = SimDisk::default();
    disk.lock().bytes_max = Some(3 * 8192);
    let wal = settled(&disk, small());
    append(&wal, vec![entry(1, 0, 100)]).unwrap();
    let refused = append(&wal, vec![entry(1, 1, 50_000)]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    append(&wal, vec![entry(1, 1, 100)]).unwrap();
    assert_eq!(wal.last(), Some(at(1, 1)));
    assert_eq!(wal.failed(), None);
}

#[test]
fn burst_into_a_full_disk_leaves_a_prefix() {
    let disk = SimDisk::default();
    disk.lock().bytes_max = Some(2 * 8192);
    let options = Options {
        retry_after: Duration::from_secs(3600),
        ..small()
    };
    let wal = settled(&disk, options);
    let mut results = Vec::new();
    for index in 0..40 {
        let (done, result) = done();
        // Either way the callback tells.
        let _ = wal.append(vec![entry(1, index, 700)], done);
        results.push(result);
    }
    let stored: Vec<bool> = results
        .into_iter()
        .map(|result| result.recv().unwrap().is_ok())
        .collect();
    let count = stored.iter().take_while(|ok| **ok).count();
    assert!(stored[count..].iter().all(|ok| !ok), "{stored:?}");
    assert_eq!(all(&wal).len(), count);
    assert!(count > 5);
    let (copy, _) = Wal::open_on(Arc::new(SimDisk::new(&disk.image())), small()).unwrap();
    assert_eq!(all(&copy), all(&wal));
}
