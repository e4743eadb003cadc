//! Random calls against the simplest model.

use std::sync::Arc;

use proptest::prelude::*;

use super::crash::{Dice, random_step};
use super::{Content, Step, all, done, small};
use crate::sim::SimDisk;
use crate::{Options, Position, Wal};

fn check_reads(wal: &Wal, content: &Content, from: u64, count: u64, bytes_max: usize) {
    let range = from..from.saturating_add(count);
    let present: Vec<_> = content
        .entries
        .iter()
        .filter(|entry| range.contains(&entry.position.index))
        .cloned()
        .collect();
    let read = wal.entries(range, bytes_max).unwrap();
    assert_eq!(read, present[..read.len()]);
    assert!(read.is_empty() == present.is_empty());
    let bytes: usize = read.iter().map(|entry| entry.payload.len()).sum();
    assert!(bytes <= bytes_max || read.len() == 1);
    if let Some(next) = present.get(read.len()) {
        assert!(
            bytes + next.payload.len() > bytes_max,
            "one more would have fitted"
        );
    }
}

fn play(seed: u64, cache_bytes_max: usize, lives: usize, burst: u64) {
    let options = Options {
        cache_bytes_max,
        ..small()
    };
    let mut dice = Dice(seed | 1);
    let (mut content, mut term) = (Content::default(), 1);
    let mut disk = SimDisk::default();
    let mut committed: Option<Position> = None;
    for _ in 0..lives {
        let (wal, recovered) = Wal::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
        assert!(recovered.closed_cleanly);
        assert_eq!(recovered.torn_bytes_cut, 0);
        let clamped = committed.filter(|at| content.last().is_some_and(|last| at.index <= last.index));
        assert_eq!(
            recovered.committed,
            if committed.is_some() {
                clamped.or(content.last())
            } else {
                None
            }
        );
        committed = recovered.committed;
        for _ in 0..dice.below(60) {
            let step = random_step(&mut dice, &content, &mut term);
            content = content.after(&step).pop().unwrap();
            if let Step::Committed(at) = &step {
                committed = Some(*at);
            }
            let (done, result) = done();
            step.start(&wal, done);
            if dice.below(burst) == 0 {
                result.recv().unwrap().unwrap();
            }
            assert_eq!(wal.last(), content.last());
            assert_eq!(
                wal.first_index(),
                content.entries.first().map(|entry| entry.position.index)
            );
            let first = content.entries.first().map_or(0, |entry| entry.position.index);
            check_reads(
                &wal,
                &content,
                first + dice.below(10),
                dice.below(20),
                dice.below(4000) as usize,
            );
        }
        assert_eq!(all(&wal), content.entries);
        wal.flush().unwrap();
        assert_eq!(Content::of(&wal), content);
        let stats = wal.stats();
        assert_eq!(stats.queued_bytes, 0);
        assert!(stats.cache_bytes as usize <= cache_bytes_max, "{stats:?}");
        drop(wal);
        disk = SimDisk::new(&disk.image());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn log_behaves_like_a_vector(seed: u64, cache in 0usize..20_000, lives in 1usize..5, burst in 1u64..6) {
        play(seed, cache, lives, burst);
    }
}
