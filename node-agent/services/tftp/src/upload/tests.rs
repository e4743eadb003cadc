//! Transcripts at given times, and whole uploads over a lossy link.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    retransmissions_max: 3,
    idle_max: Duration::from_secs(60),
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn lockstep() -> Terms {
    Terms {
        block_size: 512,
        window_size: 1,
        timeout: None,
        has_oack: false,
        bytes_max: 1 << 30,
    }
}

const fn windowed(window_size: u16) -> Terms {
    Terms {
        window_size,
        has_oack: true,
        ..lockstep()
    }
}

#[track_caller]
fn out(upload: &mut Upload, expected: &[Output]) {
    let outputs: Vec<_> = std::iter::from_fn(|| upload.poll_output()).collect();
    assert_eq!(outputs, expected);
}

/// A block comes, is taken, and there is room for the next window at once.
#[track_caller]
fn taken(upload: &mut Upload, number: u16, length: usize, now: u64) {
    assert!(upload.data(number, length, ms(now)), "block {number} is taken");
}

#[track_caller]
fn acked_with_room(upload: &mut Upload, number: u16, now: u64) {
    out(upload, &[Output::MakeRoom]);
    upload.room(ms(now));
    out(upload, &[Output::SendAck(number)]);
}

#[test]
fn last_block_is_acknowledged_once_the_file_is_stored() {
    let mut upload = Upload::open(lockstep(), LIMITS, ms(0));
    out(&mut upload, &[Output::SendAck(0)]);
    taken(&mut upload, 1, 512, 10);
    acked_with_room(&mut upload, 1, 10);
    taken(&mut upload, 2, 5, 20);
    out(&mut upload, &[Output::Store]);
    // The client repeats itself while a quorum stores the file: that is no reason to claim it is stored.
    assert!(!upload.data(2, 5, ms(1020)));
    out(&mut upload, &[]);
    assert_eq!(upload.deadline(), Duration::MAX);
    upload.stored(ms(1500));
    out(&mut upload, &[Output::SendAck(2)]);
    // It did not hear that.
    assert!(!upload.data(2, 5, ms(2020)));
    out(&mut upload, &[Output::SendAck(2)]);
    assert!(upload.lingers());
    assert_eq!(upload.deadline(), ms(2020) + LINGER);
    upload.fire(ms(2020) + LINGER);
    out(&mut upload, &[Output::Closed(End::Complete)]);
}

#[test]
fn file_of_whole_blocks_ends_with_an_empty_one() {
    let mut upload = Upload::open(lockstep(), LIMITS, ms(0));
    out(&mut upload, &[Output::SendAck(0)]);
    taken(&mut upload, 1, 512, 10);
    acked_with_room(&mut upload, 1, 10);
    taken(&mut upload, 2, 0, 20);
    out(&mut upload, &[Output::Store]);
    assert_eq!(upload.bytes(), 512);
}

#[test]
fn old_block_is_acknowledged_again_and_not_taken() {
    let mut upload = Upload::open(lockstep(), LIMITS, ms(0));
    out(&mut upload, &[Output::SendAck(0)]);
    taken(&mut upload, 1, 512, 10);
    acked_with_room(&mut upload, 1, 10);
    assert!(!upload.data(1, 512, ms(1010)));
    out(&mut upload, &[Output::SendAck(1)]);
    // Nobody can be ahead in lockstep.
    assert!(!upload.data(5, 512, ms(1011)));
    out(&mut upload, &[]);
}

#[test]
fn silent_client_hears_the_last_ack_again_and_is_given_up() {
    let mut upload = Upload::open(lockstep(), LIMITS, ms(0));
    out(&mut upload, &[Output::SendAck(0)]);
    for at in [1000, 3000, 7000] {
        assert_eq!(upload.deadline(), ms(at));
        upload.fire(ms(at));
        out(&mut upload, &[Output::SendAck(0)]);
    }
    assert_eq!(upload.deadline(), ms(15_000));
    upload.fire(ms(15_000));
    out(&mut upload, &[Output::Closed(End::Idle)]);
    assert!(!upload.data(1, 512, ms(15_001)));
}

#[test]
fn window_is_acknowledged_whole_and_a_gap_once() {
    let mut upload = Upload::open(windowed(4), LIMITS, ms(0));
    out(&mut upload, &[Output::SendOack]);
    for number in 1..=4 {
        taken(&mut upload, number, 512, 10);
    }
    acked_with_room(&mut upload, 4, 10);
    taken(&mut upload, 5, 512, 20);
    // 6 was lost.
    assert!(!upload.data(7, 512, ms(21)));
    out(&mut upload, &[Output::SendAck(5)]);
    assert!(!upload.data(8, 512, ms(22)));
    out(&mut upload, &[]);
    for number in 6..=9 {
        taken(&mut upload, number, 512, 30);
    }
    acked_with_room(&mut upload, 9, 30);
}

#[test]
fn no_window_is_asked_for_without_room() {
    let mut upload = Upload::open(windowed(2), LIMITS, ms(0));
    out(&mut upload, &[Output::SendOack]);
    taken(&mut upload, 1, 512, 10);
    taken(&mut upload, 2, 512, 10);
    out(&mut upload, &[Output::MakeRoom]);
    // Neither time nor the client's repetitions bring the ACK about.
    assert_eq!(upload.deadline(), ms(10) + LIMITS.idle_max);
    assert!(!upload.data(1, 512, ms(5000)));
    upload.fire(ms(5001));
    out(&mut upload, &[]);
    upload.room(ms(6000));
    out(&mut upload, &[Output::SendAck(2)]);
    assert_eq!(upload.deadline(), ms(7000));
}

#[test]
fn bad_blocks_and_errors_end_it() {
    let mut long = Upload::open(lockstep(), LIMITS, ms(0));
    assert!(!long.data(1, 513, ms(1)));
    out(&mut long, &[Output::Closed(End::BlockTooLong)]);
    let terms = Terms {
        bytes_max: 600,
        ..lockstep()
    };
    let mut large = Upload::open(terms, LIMITS, ms(0));
    out(&mut large, &[Output::SendAck(0)]);
    taken(&mut large, 1, 512, 1);
    acked_with_room(&mut large, 1, 1);
    assert!(!large.data(2, 512, ms(2)));
    out(&mut large, &[Output::Closed(End::TooLarge)]);
    let mut given_up = Upload::open(lockstep(), LIMITS, ms(0));
    given_up.peer_error(3);
    out(&mut given_up, &[Output::Closed(End::ClientError { code: 3 })]);
}

#[test]
fn repeated_request_is_answered_until_data_came() {
    let mut upload = Upload::open(windowed(4), LIMITS, ms(0));
    out(&mut upload, &[Output::SendOack]);
    assert!(upload.repeated_request(ms(900)));
    out(&mut upload, &[Output::SendOack]);
    taken(&mut upload, 1, 512, 910);
    assert!(!upload.repeated_request(ms(920)));
}

/// A client as RFC 7440 §4 describes it: sends a window, waits for its ACK, starts after the block that it names.
struct Client {
    blocks: u64,
    last_length: usize,
    window: u64,
    /// The last block known to be acknowledged; none before the first answer.
    acked: Option<u64>,
    is_done: bool,
}

impl Client {
    fn length(&self, block: u64) -> usize {
        if block == self.blocks {
            self.last_length
        } else {
            512
        }
    }

    fn window(&self) -> std::ops::RangeInclusive<u64> {
        let acked = self.acked.unwrap_or(0);
        acked + 1..=(acked + self.window).min(self.blocks)
    }

    fn hears(&mut self, number: u16) -> bool {
        let acked = self.acked.unwrap_or(0);
        let ahead = u64::from(number.wrapping_sub(wire_number(acked)));
        if ahead > self.window || (self.acked.is_some() && ahead == 0) {
            return false;
        }
        self.acked = Some(acked + ahead);
        self.is_done = acked + ahead == self.blocks;
        true
    }
}

/// What the server says in one go, less what the link loses; returns the numbers of the ACKs that arrive.
fn answers(upload: &mut Upload, now: Duration, lost: &mut impl Iterator<Item = bool>) -> Vec<u16> {
    let mut arrived = Vec::new();
    while let Some(output) = upload.poll_output() {
        let number = match output {
            Output::SendOack => 0,
            Output::SendAck(number) => number,
            Output::MakeRoom => {
                upload.room(now);
                continue;
            }
            Output::Store => {
                upload.stored(now);
                continue;
            }
            Output::Closed(end) => panic!("ended by itself: {end:?}"),
        };
        if !lost.next().unwrap_or(false) {
            arrived.push(number);
        }
    }
    arrived
}

proptest! {
    /// Whatever is lost, each byte is taken once and in order, and the client learns that the file is stored.
    #[test]
    fn lossy_uploads_end_whole(
        blocks in 1_u64..200,
        last_length in 0_usize..512,
        window in 1_u16..9,
        start in prop_oneof![Just(0_u64), Just(65_500)],
        losses in prop::collection::vec(prop::bool::weighted(0.2), 0..400),
    ) {
        let terms = if window == 1 { lockstep() } else { windowed(window) };
        let limits = Limits {
            retransmissions_max: 10,
            ..LIMITS
        };
        let mut upload = Upload::open(terms, limits, ms(0));
        // Long files roll over; nobody needs to send their first 65,500 blocks for that.
        upload.received = start;
        upload.acked = start;
        let mut client = Client {
            blocks: start + blocks,
            last_length,
            window: window.into(),
            acked: (start > 0).then_some(start),
            is_done: false,
        };
        let mut lost = losses.into_iter();
        let (mut now, mut taken) = (ms(0), start);
        let mut quiet = 0;
        answers(&mut upload, now, &mut lost);
        while !client.is_done {
            now += ms(10);
            let mut heard = false;
            for block in client.window() {
                if lost.next().unwrap_or(false) {
                    continue;
                }
                if upload.data(wire_number(block), client.length(block), now) {
                    taken += 1;
                    prop_assert_eq!(block, taken, "blocks are taken in order");
                }
                for number in answers(&mut upload, now, &mut lost) {
                    heard |= client.hears(number);
                }
            }
            if !heard {
                // The client's own time-out: it sends its window again.
                now += ms(300);
                if now >= upload.deadline() {
                    upload.fire(now);
                    for number in answers(&mut upload, now, &mut lost) {
                        client.hears(number);
                    }
                }
                quiet += 1;
                prop_assert!(quiet < 1000, "it does not end");
            }
        }
        prop_assert_eq!(taken, client.blocks);
    }
}
