//! Flipped bits: reported, never cut away silently.

use std::sync::Arc;

use super::{Content, append, at, entry, ignore, small, vote};
use crate::record::{self, Record, Seed};
use crate::segment::{SEGMENT_HEAD, encode_header, used_name};
use crate::sim::{Image, SimDisk};
use crate::{OpenError, Wal, recovery};

/// A log over two segments, closed cleanly; and where the last batch, the mark of the close, starts in the second.
fn closed_log() -> (Image, usize) {
    let disk = SimDisk::default();
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), small()).unwrap();
    wal.save_vote(vote(1), ignore()).unwrap();
    for index in 0..5 {
        append(
            &wal,
            vec![entry(1, index, 900), entry(1, index + 100, 0)][..1].to_vec(),
        )
        .unwrap();
    }
    wal.truncate_after(Some(at(1, 3)), ignore()).unwrap();
    wal.flush().unwrap();
    append(&wal, vec![entry(2, 4, 300)]).unwrap();
    assert_eq!(wal.stats().segments, 2);
    // Segment 3 is prepared; without it, nothing would tell that the last segment's file is gone.
    while !disk.image().contains_key(&used_name(3)) {
        std::thread::yield_now();
    }
    drop(wal);
    let image = disk.image();
    let found = recovery::recover(&disk, &small()).unwrap();
    assert!(found.replay.closed);
    assert_eq!(found.current.sequence, 2);
    (image, found.at as usize - record::BATCH_HEAD)
}

fn flipped(image: &Image, name: &str, byte: usize, bit: u32) -> Image {
    let mut image = image.clone();
    image.get_mut(name).unwrap()[byte] ^= 1 << bit;
    image
}

#[test]
fn any_flipped_bit_of_acknowledged_data_is_reported() {
    let (image, close_at) = closed_log();
    let whole = Content::found(&recovery::recover(&SimDisk::new(&image), &small()).unwrap());
    let head = SEGMENT_HEAD as usize;
    let (mut reported, mut harmless) = (0, 0);
    for sequence in [1, 2] {
        let name = used_name(sequence);
        let used = image[&name].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let end = if sequence == 1 { used } else { close_at };
        for byte in (0..32).chain(head..end) {
            let damaged = flipped(&image, &name, byte, byte as u32 % 8);
            match recovery::recover(&SimDisk::new(&damaged), &small()) {
                // Where it starts is known to the batch.
                Err(OpenError::Corrupt { segment, offset, .. }) => {
                    assert!(
                        segment == sequence && offset as usize <= byte,
                        "byte {byte}: {segment} {offset}"
                    );
                    reported += 1;
                }
                Err(other) => panic!("segment {sequence}, byte {byte}: {other:?}"),
                Ok(found) => {
                    // Padding after the last record of the first segment was never written.
                    panic!(
                        "segment {sequence}, byte {byte} not seen: {:?}",
                        Content::found(&found)
                    );
                }
            }
        }
    }
    // The mark itself: nothing that was acknowledged is in it.
    for byte in close_at..close_at + record::BATCH_HEAD {
        let damaged = flipped(&image, &used_name(2), byte, 3);
        let found = recovery::recover(&SimDisk::new(&damaged), &small()).unwrap();
        assert_eq!(Content::found(&found), whole);
        harmless += 1;
    }
    assert!(
        reported > 4000 && harmless == record::BATCH_HEAD,
        "{reported} reported, {harmless} harmless"
    );
}

#[test]
fn damage_to_the_last_batch_before_an_unclean_stop_looks_torn() {
    let disk = SimDisk::default();
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), small()).unwrap();
    append(&wal, vec![entry(1, 0, 100)]).unwrap();
    append(&wal, vec![entry(1, 1, 100)]).unwrap();
    let image = disk.image();
    let name = used_name(1);
    let used = image[&name].iter().rposition(|byte| *byte != 0).unwrap();
    let found = recovery::recover(&SimDisk::new(&flipped(&image, &name, used, 0)), &small()).unwrap();
    assert_eq!(found.replay.index.last(), Some(at(1, 0)));
    assert!(found.torn_bytes_cut > 0);
    // The next batch's mark proves it.
    append(&wal, vec![entry(1, 2, 100)]).unwrap();
    let image = flipped(&disk.image(), &name, used, 0);
    let error = recovery::recover(&SimDisk::new(&image), &small()).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { segment: 1, .. }), "{error}");
}

#[test]
fn lost_segments_are_reported() {
    let (image, _) = closed_log();
    for (name, segment) in [(used_name(1), 1), (used_name(2), 2)] {
        let mut image = image.clone();
        image.remove(&name).unwrap();
        let error = recovery::recover(&SimDisk::new(&image), &small()).err().unwrap();
        assert!(
            matches!(error, OpenError::Corrupt { segment: s, .. } if s == segment),
            "{name}: {error}"
        );
    }
}

#[test]
fn corruption_changes_nothing_on_disk() {
    let (image, _) = closed_log();
    let damaged = flipped(&image, &used_name(1), SEGMENT_HEAD as usize + 20, 0);
    let disk = SimDisk::new(&damaged);
    assert!(Wal::open_on(Arc::new(disk.clone()), small()).is_err());
    assert_eq!(disk.image(), damaged);
}

#[test]
fn a_log_stored_as_a_payload_is_no_record() {
    // Somebody stores a log's own segment through the log, then the power fails in the middle of the next batch.
    let (inner, _) = closed_log();
    let disk = SimDisk::default();
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), small()).unwrap();
    let mut smuggled = entry(1, 0, 0);
    smuggled.payload = inner[&used_name(1)][SEGMENT_HEAD as usize..][..3000]
        .to_vec()
        .into();
    let payload_at = SEGMENT_HEAD as usize + record::BATCH_HEAD + record::RECORD_HEAD;
    append(&wal, vec![smuggled]).unwrap();
    let torn = flipped(&disk.image(), &used_name(1), payload_at - 1, 0);
    let found = recovery::recover(&SimDisk::new(&torn), &small()).unwrap();
    assert_eq!(found.replay.index.last(), None);
}

#[test]
fn newer_version_is_named() {
    let mut header = encode_header(1, 7).to_vec();
    header[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..32]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header.resize(8192, 0);
    let image = Image::from([(used_name(1), header)]);
    let error = recovery::recover(&SimDisk::new(&image), &small()).err().unwrap();
    assert!(
        matches!(
            error,
            OpenError::Version {
                segment: 1,
                version: 2
            }
        ),
        "{error}"
    );
}

#[test]
fn records_check_out_in_their_place_only() {
    let seed = Seed::new(1, 2);
    let mut bytes = vec![0; 64];
    record::encode(&Record::Vote(vote(3)), seed, 64 - 64, &mut bytes);
    assert!(record::decode(&bytes, 64, seed).is_some());
    assert!(
        record::decode(&bytes, 64, Seed::new(1, 3)).is_none(),
        "another use of the file"
    );
    assert!(
        record::decode(&bytes, 64, Seed::new(2, 2)).is_none(),
        "another log"
    );
    bytes.splice(0..0, [0; 8]);
    assert!(record::decode(&bytes, 72, seed).is_none(), "another offset");
}
