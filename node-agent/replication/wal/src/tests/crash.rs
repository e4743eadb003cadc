//! Power cuts and killed processes: what was answered is found again, and nothing that was never asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Content, Step, append, at, entry, small, vote};
use crate::record::{BATCH_HEAD, RECORD_HEAD};
use crate::segment::{SEGMENT_HEAD, used_name};
use crate::sim::{Event, Image, SECTOR, SimDisk};
use crate::{Durability, Options, Wal, recovery};

/// A small generator of numbers that look random; the same seed gives the same run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// xorshift64*: plenty for choosing sectors.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// All kinds of records, a segment change or two, truncations and a purge that frees a segment.
fn script() -> Vec<Step> {
    let mut steps = vec![Step::Vote(vote(1))];
    for index in 0..6 {
        steps.push(Step::Append(vec![entry(1, index, 200)]));
    }
    steps.push(Step::Committed(at(1, 3)));
    steps.push(Step::Append(vec![
        entry(1, 6, 700),
        entry(1, 7, 0),
        entry(1, 8, 1),
    ]));
    steps.push(Step::Truncate(Some(at(1, 5))));
    steps.push(Step::Vote(vote(2)));
    steps.push(Step::Append(vec![
        entry(2, 6, 900),
        entry(2, 7, 900),
        entry(2, 8, 900),
    ]));
    steps.push(Step::Purge(at(1, 5)));
    steps.push(Step::Append(vec![entry(2, 9, 1200)]));
    steps.push(Step::Append(vec![entry(2, 10, 1200)]));
    steps.push(Step::Purge(at(2, 8)));
    steps.push(Step::Append(vec![entry(2, 11, 1200), entry(2, 12, 100)]));
    steps.push(Step::Purge(at(2, 20)));
    steps.push(Step::Append(vec![entry(3, 21, 300)]));
    steps.push(Step::Truncate(None));
    steps.push(Step::Append(vec![entry(3, 21, 10)]));
    steps
}

/// Every stage that the log goes through, each with the number of the last step that has begun.
fn stages(start: &Content, steps: &[Step]) -> Vec<(usize, Content)> {
    let mut stages = vec![(0, start.clone())];
    for (number, step) in steps.iter().enumerate() {
        let now = stages.last().unwrap().1.clone();
        stages.extend(now.after(step).into_iter().map(|content| (number + 1, content)));
    }
    stages
}

/// Runs the steps, waiting for the answers after every `burst` of them.
fn run(disk: &SimDisk, wal: &Wal, steps: &[Step], burst: usize) {
    let mut waiting = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let (sender, receiver) = std::sync::mpsc::channel();
        disk.note(Event::Asked(number + 1));
        let noted = disk.clone();
        step.start(
            wal,
            Box::new(move |result| {
                result.unwrap();
                noted.note(Event::Answered(number + 1));
                sender.send(()).unwrap();
            }),
        );
        waiting.push(receiver);
        if waiting.len() >= burst {
            waiting.drain(..).for_each(|receiver| receiver.recv().unwrap());
        }
    }
    waiting.drain(..).for_each(|receiver| receiver.recv().unwrap());
}

/// The last step asked for by then, and the last one up to which all were answered.
fn progress(events: &[Event]) -> (usize, usize) {
    let mut asked = 0;
    let mut answered = BTreeSet::new();
    for event in events {
        match event {
            Event::Asked(step) => asked = *step,
            Event::Answered(step) => {
                answered.insert(*step);
            }
            _ => {}
        }
    }
    (asked, (1..).take_while(|step| answered.contains(step)).count())
}

fn is_stage(found: &Content, stages: &[(usize, Content)], asked: usize, answered: usize) -> bool {
    // The stage at which the last answered step was complete, and all later ones that had begun.
    let first = stages.iter().rposition(|(step, _)| *step <= answered).unwrap();
    stages[first..]
        .iter()
        .any(|(step, content)| *step <= asked && content == found)
}

fn check(image: &Image, stages: &[(usize, Content)], events: &[Event], what: &str, options: &Options) {
    let (asked, answered) = progress(events);
    let disk = SimDisk::new(image);
    let found = recovery::recover(&disk, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    let content = Content::found(&found);
    assert!(
        is_stage(&content, stages, asked, answered),
        "{what}: asked {asked}, answered {answered}, found {content:?}"
    );
    let again = recovery::recover(&SimDisk::new(&disk.image()), options).unwrap();
    assert_eq!(Content::found(&again), content, "{what}: recovering twice");
    assert_eq!(again.at, found.at, "{what}: recovering twice");
}

fn recorded(burst: usize, options: &Options) -> (SimDisk, Vec<(usize, Content)>) {
    let disk = SimDisk::default();
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
    let steps = script();
    run(&disk, &wal, &steps, burst);
    assert_eq!(
        Content::of(&wal),
        stages(&Content::default(), &steps).last().unwrap().1
    );
    drop(wal);
    (disk, stages(&Content::default(), &steps))
}

#[test]
fn every_prefix_of_every_write_recovers_all_that_was_answered() {
    let mut images = 0;
    for burst in [1, 4] {
        let options = small();
        let (disk, stages) = recorded(burst, &options);
        let sim = disk.lock();
        for count in 0..=sim.events.len() {
            let image = sim.cut(count, &mut || true);
            check(
                &image,
                &stages,
                &sim.events[..count],
                &format!("after event {count}"),
                &options,
            );
            images += 1;
            // A segment's zeros are all alike: their first and last few bytes will do.
            let Some(Event::Write { file, offset, bytes }) = sim.events.get(count) else {
                continue;
            };
            for cut in
                (1..bytes.len()).filter(|cut| bytes.len() < 4000 || *cut < 64 || bytes.len() - cut < 64)
            {
                let mut events = sim.events[..count].to_vec();
                events.push(Event::Write {
                    file: *file,
                    offset: *offset,
                    bytes: bytes[..cut].to_vec(),
                });
                let image = sim.cut_at(&events, &mut || true);
                check(
                    &image,
                    &stages,
                    &events,
                    &format!("event {count} cut at {cut}"),
                    &options,
                );
                images += 1;
            }
        }
    }
    assert!(images > 10_000, "{images} images checked");
}

#[test]
fn every_choice_of_unsynced_sectors_recovers_all_that_was_answered() {
    let mut images = 0;
    for burst in [1, 2, 3, 5, 8, 30] {
        let options = small();
        let (disk, stages) = recorded(burst, &options);
        let sim = disk.lock();
        for count in 0..=sim.events.len() {
            let pieces = sim.unsynced(count);
            let what = |choice: u64| format!("burst {burst}, event {count}, sectors {choice:b}");
            if pieces <= 9 {
                for choice in 0..1u64 << pieces {
                    let mut piece = 0;
                    let mut keep = || {
                        piece += 1;
                        choice >> (piece - 1) & 1 == 1
                    };
                    let image = sim.cut(count, &mut keep);
                    check(&image, &stages, &sim.events[..count], &what(choice), &options);
                    images += 1;
                }
            } else {
                for seed in 1..64 {
                    let mut dice = Dice(seed * 0x9e37_79b9 + count as u64);
                    let image = sim.cut(count, &mut || dice.below(4) > 0);
                    check(&image, &stages, &sim.events[..count], &what(seed), &options);
                    images += 1;
                }
            }
        }
    }
    assert!(images > 5_000, "{images} images checked");
}

/// A step that Raft might ask for, random but fitting the content.
pub(super) fn random_step(dice: &mut Dice, content: &Content, term: &mut u64) -> Step {
    let last = content.last();
    let next = last.map_or(0, |last| last.index + 1);
    match dice.below(20) {
        0..=11 => {
            let count = 1 + dice.below(4);
            let long = if dice.below(12) == 0 { 9000 } else { 700 };
            let entries = (next..next + count).map(|index| entry(*term, index, dice.below(long) as usize));
            Step::Append(entries.collect())
        }
        12 | 13 => {
            *term += 1;
            Step::Vote(vote(*term))
        }
        14 | 15 => {
            *term += 1;
            let keep = content
                .entries
                .get(dice.below(content.entries.len().max(1) as u64) as usize);
            Step::Truncate(keep.map(|entry| entry.position))
        }
        16 | 17 => {
            let beyond = at(*term, next + dice.below(3));
            let present = content
                .entries
                .get(dice.below(content.entries.len().max(1) as u64) as usize);
            Step::Purge(
                present
                    .filter(|_| dice.below(8) > 0)
                    .map_or(beyond, |entry| entry.position),
            )
        }
        _ => last.map_or(Step::Vote(vote(*term)), Step::Committed),
    }
}

#[test]
fn log_survives_power_cut_after_power_cut() {
    let (mut cuts, mut torn, mut recycled) = (0, 0, 0);
    for seed in 1..=40u64 {
        let durability = if seed % 3 == 0 {
            Durability::Relaxed
        } else {
            Durability::Strict
        };
        let options = Options {
            durability,
            ..small()
        };
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut image, mut content, mut term) = (Image::new(), Content::default(), 1);
        for life in 0..12 {
            let disk = SimDisk::new(&image);
            let (wal, recovered) = Wal::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
            assert_eq!(Content::of(&wal), content, "seed {seed}, life {life}");
            assert_eq!(recovered.last, content.last());
            assert!(recovered.committed.map(|at| at.index) <= content.last().map(|at| at.index));
            torn += usize::from(recovered.torn_bytes_cut > 0);
            let mut steps = Vec::new();
            let mut now = content.clone();
            for _ in 0..dice.below(25) {
                let step = random_step(&mut dice, &now, &mut term);
                now = now.after(&step).pop().unwrap();
                steps.push(step);
            }
            run(&disk, &wal, &steps, 1 + dice.below(6) as usize);
            recycled += wal.stats().segments_recycled;
            drop(wal);
            let sim = disk.lock();
            let stages = stages(&content, &steps);
            let opened = sim
                .events
                .iter()
                .position(|e| matches!(e, Event::Asked(_)))
                .unwrap_or(0);
            let mut count = opened + dice.below((sim.events.len() - opened + 1) as u64) as usize;
            if dice.below(3) > 0 {
                // Right after a write is where it hurts.
                let written = |event: &Event| matches!(event, Event::Write { .. });
                count += sim.events[count..]
                    .iter()
                    .position(written)
                    .map_or(0, |write| write + 1);
            }
            let unlucky = dice.below(5);
            // A killed process loses nothing that was written; a power cut may.
            let killed = durability == Durability::Relaxed || unlucky == 0;
            image = sim.cut(count, &mut || killed || dice.below(5) < unlucky);
            let (asked, answered) = progress(&sim.events[..count]);
            let what = format!("seed {seed}, life {life}, event {count}");
            let found = recovery::recover(&SimDisk::new(&image), &options);
            content = Content::found(&found.unwrap_or_else(|error| panic!("{what}: {error}")));
            assert!(
                is_stage(&content, &stages, asked, answered),
                "{what}: {asked}, {answered}, {content:?}"
            );
            cuts += 1;
        }
    }
    assert!(
        cuts == 480 && torn > 0 && recycled > 300,
        "{cuts} cuts, {torn} torn, {recycled} recycled"
    );
}

#[test]
fn relaxed_log_loses_only_its_youngest_part_in_a_power_cut() {
    let options = Options {
        durability: Durability::Relaxed,
        ..small()
    };
    let (disk, stages) = recorded(3, &options);
    let sim = disk.lock();
    for count in 0..=sim.events.len() {
        for seed in 1..20 {
            let mut dice = Dice(seed * 0x9e37_79b9 + count as u64);
            let image = sim.cut(count, &mut || dice.below(3) > 0);
            let found = recovery::recover(&SimDisk::new(&image), &options).unwrap();
            let (asked, _) = progress(&sim.events[..count]);
            assert!(
                is_stage(&Content::found(&found), &stages, asked, 0),
                "event {count}, seed {seed}"
            );
        }
    }
}

/// A log of unsynced batches of exactly one sector each, of which the power cut took the first only.
fn second_of_two_kept() -> Image {
    let disk = SimDisk::default();
    let options = Options {
        durability: Durability::Relaxed,
        ..small()
    };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    let payload = SECTOR as usize - BATCH_HEAD - RECORD_HEAD;
    append(&wal, vec![entry(1, 0, payload)]).unwrap();
    append(&wal, vec![entry(1, 1, payload)]).unwrap();
    let mut image = disk.image();
    let head = SEGMENT_HEAD as usize;
    image.get_mut(&used_name(1)).unwrap()[head..head + SECTOR as usize].fill(0);
    image
}

#[test]
fn what_was_cut_never_comes_back() {
    let disk = SimDisk::new(&second_of_two_kept());
    let (wal, recovered) = Wal::open_on(Arc::new(disk.clone()), small()).unwrap();
    assert_eq!((recovered.last, recovered.torn_bytes_cut), (None, 2 * SECTOR));
    let payload = SECTOR as usize - BATCH_HEAD - RECORD_HEAD;
    append(&wal, vec![entry(2, 0, payload)]).unwrap();
    // Were the old second batch still there, its number and place would follow the new first one.
    let found = recovery::recover(&SimDisk::new(&disk.image()), &small()).unwrap();
    assert_eq!(found.replay.index.last(), Some(at(2, 0)));
}

#[test]
fn what_recovery_found_is_synced_before_anything_is_built_on_it() {
    let disk = SimDisk::default();
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), small()).unwrap();
    append(&wal, vec![entry(1, 0, 100)]).unwrap();
    let disk = SimDisk::new(&disk.image());
    let file = disk
        .image()
        .keys()
        .position(|name| *name == used_name(1))
        .unwrap();
    recovery::recover(&disk, &small()).unwrap();
    assert!(matches!(disk.lock().events[0], Event::Sync { file: synced } if synced == file));
}
