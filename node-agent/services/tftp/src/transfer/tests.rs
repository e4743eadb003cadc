//! Transcripts at given times. The simulation of whole downloads is in `simulation.rs`.

mod client;
mod simulation;

use super::*;

const LIMITS: Limits = Limits {
    retransmissions_max: 8,
    idle_max: Duration::from_secs(60),
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn plain(blocks: u64) -> Terms {
    Terms {
        length: (blocks - 1) * 512 + 5,
        block_size: 512,
        window_size: 1,
        timeout: None,
        has_oack: false,
        one_oack: false,
    }
}

fn windowed(blocks: u64, window_size: u16) -> Terms {
    Terms {
        window_size,
        has_oack: true,
        ..plain(blocks)
    }
}

fn known(position: u64, checkpoint: u64) -> Known {
    Known {
        position: Position::Acked(position),
        checkpoint: Position::Acked(checkpoint),
        exact: false,
    }
}

fn data(first: u64, count: u16) -> Output {
    Output::SendData { first, count }
}

fn drain(transfer: &mut Transfer) -> Vec<Output> {
    std::iter::from_fn(|| transfer.poll_output()).collect()
}

/// At `millis` comes `input`; `expected` goes out.
#[track_caller]
fn at(transfer: &mut Transfer, millis: u64, input: Input, expected: &[Output]) {
    transfer.handle(input, ms(millis));
    assert_eq!(drain(transfer), expected, "at {millis} ms, after {input:?}");
}

/// Nothing goes out before `millis`; then the timer runs out, and `expected` goes out.
#[track_caller]
fn wait(transfer: &mut Transfer, millis: u64, expected: &[Output]) {
    assert_eq!(transfer.deadline(), ms(millis));
    at(transfer, millis - 1, Input::Deadline, &[]);
    at(transfer, millis, Input::Deadline, expected);
}

/// An open transfer with options, its handshake done and its first window sent at 10 ms.
fn running(terms: Terms) -> Transfer {
    let mut transfer = Transfer::open(terms, LIMITS, ms(0));
    at(&mut transfer, 0, Input::Deadline, &[Output::SendOack]);
    at(&mut transfer, 10, Input::Ack(0), &[Output::Checkpoint(0)]);
    let first_window = terms
        .window_size
        .min(u16::try_from(transfer.last_block).unwrap_or(u16::MAX));
    at(
        &mut transfer,
        10,
        Input::CheckpointCommitted(0),
        &[data(1, first_window)],
    );
    transfer
}

#[test]
fn three_blocks_in_lockstep() {
    let mut transfer = Transfer::open(plain(3), LIMITS, ms(0));
    assert_eq!(drain(&mut transfer), [data(1, 1)]);
    assert_eq!(transfer.position(), Position::Unheard);
    at(&mut transfer, 1, Input::Ack(1), &[data(2, 1)]);
    at(&mut transfer, 2, Input::Ack(2), &[data(3, 1)]);
    assert_eq!(transfer.outstanding(), Outstanding::Blocks { first: 3, count: 1 });
    at(&mut transfer, 3, Input::Ack(3), &[Output::Closed(End::Complete)]);
    assert_eq!(transfer.deadline(), Duration::MAX);
}

#[test]
fn file_that_fills_its_blocks_ends_with_an_empty_one() {
    let terms = Terms {
        length: 1024,
        ..plain(1)
    };
    let mut transfer = Transfer::open(terms, LIMITS, ms(0));
    drain(&mut transfer);
    at(&mut transfer, 1, Input::Ack(1), &[data(2, 1)]);
    at(&mut transfer, 2, Input::Ack(2), &[data(3, 1)]);
    at(&mut transfer, 3, Input::Ack(3), &[Output::Closed(End::Complete)]);

    let mut transfer = Transfer::open(
        Terms {
            length: 0,
            ..plain(1)
        },
        LIMITS,
        ms(0),
    );
    assert_eq!(drain(&mut transfer), [data(1, 1)]);
    at(&mut transfer, 1, Input::Ack(1), &[Output::Closed(End::Complete)]);
}

// RFC 1123 §4.2.3.1
#[test]
fn repeated_ack_sends_nothing() {
    let mut transfer = Transfer::open(plain(9), LIMITS, ms(0));
    drain(&mut transfer);
    at(&mut transfer, 1, Input::Ack(1), &[data(2, 1)]);
    at(&mut transfer, 2, Input::Ack(1), &[]);
    at(&mut transfer, 3, Input::Ack(2), &[data(3, 1)]);
    at(&mut transfer, 4, Input::Ack(1), &[]);
    at(&mut transfer, 5, Input::Ack(2), &[]);
}

#[test]
fn ack_of_a_block_never_sent_is_ignored() {
    let mut transfer = Transfer::open(plain(9), LIMITS, ms(0));
    drain(&mut transfer);
    for number in [0, 2, 9, 32_767, 40_000, 65_535] {
        at(&mut transfer, 1, Input::Ack(number), &[]);
    }
    assert_eq!(transfer.position(), Position::Unheard);
    at(&mut transfer, 2, Input::Ack(1), &[data(2, 1)]);
}

#[test]
fn data_waits_until_a_quorum_knows_of_the_handshake() {
    let mut transfer = Transfer::open(windowed(9, 4), LIMITS, ms(0));
    assert_eq!(drain(&mut transfer), [Output::SendOack]);
    assert_eq!(transfer.outstanding(), Outstanding::Oack);
    at(&mut transfer, 10, Input::Ack(0), &[Output::Checkpoint(0)]);
    assert_eq!(transfer.position(), Position::Acked(0));
    at(&mut transfer, 20, Input::Ack(0), &[]);
    wait(&mut transfer, 1010, &[Output::Checkpoint(0)]);
    at(&mut transfer, 1100, Input::CheckpointCommitted(0), &[data(1, 4)]);
    at(&mut transfer, 1110, Input::Ack(4), &[data(5, 4)]);
    at(&mut transfer, 1120, Input::Ack(8), &[data(9, 1)]);
    at(
        &mut transfer,
        1130,
        Input::Ack(9),
        &[Output::Closed(End::Complete)],
    );
}

#[test]
fn first_packet_is_sent_again_three_times_at_most() {
    let mut transfer = Transfer::open(windowed(9, 4), LIMITS, ms(0));
    assert_eq!(drain(&mut transfer), [Output::SendOack]);
    wait(&mut transfer, 1000, &[Output::SendOack]);
    wait(&mut transfer, 3000, &[Output::SendOack]);
    wait(&mut transfer, 7000, &[Output::SendOack]);
    wait(
        &mut transfer,
        15_000,
        &[Output::Closed(End::GaveUp { retransmissions: 3 })],
    );

    let mut transfer = Transfer::open(plain(9), LIMITS, ms(0));
    assert_eq!(drain(&mut transfer), [data(1, 1)]);
    wait(&mut transfer, 1000, &[data(1, 1)]);
    wait(&mut transfer, 3000, &[data(1, 1)]);
    wait(&mut transfer, 7000, &[data(1, 1)]);
    wait(
        &mut transfer,
        15_000,
        &[Output::Closed(End::GaveUp { retransmissions: 3 })],
    );
}

#[test]
fn repeated_request_repeats_the_first_packet_only_before_progress() {
    let mut transfer = Transfer::open(windowed(9, 4), LIMITS, ms(0));
    drain(&mut transfer);
    at(&mut transfer, 5, Input::RepeatedRequest, &[Output::SendOack]);
    at(&mut transfer, 6, Input::Ack(0), &[Output::Checkpoint(0)]);
    at(&mut transfer, 7, Input::RepeatedRequest, &[]);
    let mut transfer = Transfer::open(plain(9), LIMITS, ms(0));
    drain(&mut transfer);
    at(&mut transfer, 5, Input::RepeatedRequest, &[data(1, 1)]);
}

#[test]
fn lost_block_is_sent_again_by_the_measured_time_with_back_off() {
    let mut transfer = running(Terms {
        window_size: 1,
        ..windowed(9, 1)
    });
    // The OACK took 10 ms, so the shortest time-out counts.
    wait(&mut transfer, 210, &[data(1, 1)]);
    wait(&mut transfer, 610, &[data(1, 1)]);
    // Karn: this round trip is ambiguous, so it is not measured and the back-off stays.
    at(&mut transfer, 620, Input::Ack(1), &[data(2, 1)]);
    assert_eq!(transfer.deadline(), ms(620 + 800));
    at(&mut transfer, 630, Input::Ack(2), &[data(3, 1)]);
    assert_eq!(transfer.deadline(), ms(630 + 200));
}

#[test]
fn silent_client_is_given_up() {
    let mut transfer = running(windowed(9, 1));
    let mut sent = 0;
    let end = loop {
        let deadline = transfer.deadline();
        transfer.handle(Input::Deadline, deadline);
        match drain(&mut transfer)[..] {
            [Output::SendData { first: 1, count: 1 }] => sent += 1,
            [Output::Closed(end)] => break (end, deadline),
            ref other => panic!("{other:?}"),
        }
    };
    // GRUB waits for about 31 s: giving up must come later.
    assert_eq!(
        end,
        (
            End::GaveUp { retransmissions: 8 },
            ms(10 + 200 + 400 + 800 + 1600 + 3200 + 6400 + 8000 * 3)
        )
    );
    assert_eq!(sent, 8);
}

#[test]
fn idle_client_is_given_up() {
    let limits = Limits {
        idle_max: ms(500),
        ..LIMITS
    };
    let mut transfer = Transfer::open(plain(9), limits, ms(0));
    drain(&mut transfer);
    at(&mut transfer, 100, Input::Ack(1), &[data(2, 1)]);
    wait(&mut transfer, 400, &[data(2, 1)]);
    wait(&mut transfer, 600, &[Output::Closed(End::Idle)]);
}

// RFC 7440 §4
#[test]
fn ack_inside_the_window_starts_a_new_window_there() {
    let mut transfer = running(windowed(99, 8));
    at(&mut transfer, 20, Input::Ack(8), &[data(9, 8)]);
    // Block 12 was lost. The burst halves; its rest follows after a round trip.
    at(&mut transfer, 30, Input::Ack(11), &[data(12, 4)]);
    at(&mut transfer, 31, Input::Ack(11), &[]);
    at(&mut transfer, 32, Input::Ack(11), &[]);
    wait(&mut transfer, 40, &[data(16, 4)]);
    // Two good round trips: the next window's burst is two larger.
    at(&mut transfer, 50, Input::Ack(19), &[data(20, 6)]);
    wait(&mut transfer, 60, &[data(26, 2)]);
    at(&mut transfer, 70, Input::Ack(27), &[data(28, 8)]);
}

// RFC 7440 §4, where the first block of the window was lost: its gap shows no progress.
#[test]
fn repeated_ack_after_a_round_trip_starts_the_window_again_once() {
    let mut transfer = running(windowed(99, 8));
    at(&mut transfer, 20, Input::Ack(8), &[data(9, 8)]);
    // So soon, the link repeated the ACK.
    at(&mut transfer, 21, Input::Ack(8), &[]);
    at(&mut transfer, 30, Input::Ack(8), &[data(9, 4)]);
    at(&mut transfer, 31, Input::Ack(8), &[]);
    wait(&mut transfer, 40, &[data(13, 4)]);
    at(&mut transfer, 49, Input::Ack(8), &[]);
    at(&mut transfer, 50, Input::Ack(16), &[data(17, 6)]);
}

#[test]
fn time_out_resends_the_window_and_the_first_ack_then_is_no_gap() {
    let mut transfer = running(windowed(99, 4));
    wait(&mut transfer, 210, &[data(1, 2)]);
    wait(&mut transfer, 220, &[data(3, 2)]);
    // The client had 1 and 2 before: it acknowledges them at once, while 3 and 4 are under way.
    at(&mut transfer, 221, Input::Ack(2), &[data(5, 2)]);
    at(&mut transfer, 222, Input::Ack(2), &[]);
    at(&mut transfer, 230, Input::Ack(6), &[data(7, 3)]);
}

#[test]
fn errors_of_the_client_end_the_transfer() {
    let finished = |code| [Output::Closed(End::ClientFinishedEarly { code })];
    let failed = |code| [Output::Closed(End::ClientError { code })];
    let mut transfer = Transfer::open(windowed(9, 4), LIMITS, ms(0));
    drain(&mut transfer);
    at(&mut transfer, 1, Input::PeerError { code: 8 }, &finished(8));
    at(&mut transfer, 2, Input::Ack(0), &[]);
    at(
        &mut running(windowed(9, 4)),
        20,
        Input::PeerError { code: 0 },
        &finished(0),
    );
    at(
        &mut running(windowed(9, 4)),
        20,
        Input::PeerError { code: 3 },
        &failed(3),
    );
    let mut transfer = running(windowed(9, 4));
    at(&mut transfer, 20, Input::Ack(4), &[data(5, 4)]);
    at(&mut transfer, 30, Input::PeerError { code: 8 }, &failed(8));
}

#[test]
fn block_numbers_roll_over_and_old_ones_stay_old() {
    let mut transfer = Transfer::resume(plain(200_000), LIMITS, known(65_535, 65_535), ms(0));
    assert_eq!(drain(&mut transfer), [data(65_536, 1)]);
    at(&mut transfer, 1, Input::Ack(0), &[data(65_537, 1)]);
    at(&mut transfer, 2, Input::Ack(65_535), &[]);
    at(&mut transfer, 3, Input::Ack(1), &[data(65_538, 1)]);
    assert_eq!(transfer.position(), Position::Acked(65_537));
}

#[test]
fn files_beyond_32_bits_of_blocks_are_counted() {
    let far = 1 << 60;
    let terms = Terms {
        length: u64::MAX,
        block_size: 8,
        ..plain(1)
    };
    let mut transfer = Transfer::resume(terms, LIMITS, known(far + 7, far), ms(0));
    assert_eq!(drain(&mut transfer), [data(far + 8, 1)]);
    at(&mut transfer, 1, Input::Ack(8), &[data(far + 9, 1)]);
}

#[test]
fn transfer_stalls_without_a_checkpoint() {
    let mut transfer = running(windowed(200_000, 64));
    let mut checkpoints = vec![];
    let mut acked: u64 = 0;
    loop {
        acked += 64;
        transfer.handle(Input::Ack(wire_number(acked)), ms(20 + acked / 64));
        let outputs = drain(&mut transfer);
        checkpoints.extend(
            outputs
                .iter()
                .filter(|output| matches!(output, Output::Checkpoint(_)))
                .copied(),
        );
        match outputs
            .iter()
            .find(|output| matches!(output, Output::SendData { .. }))
        {
            Some(Output::SendData { first, count }) if *count == 64 => assert_eq!(*first, acked + 1),
            Some(last) => {
                assert_eq!(*last, data(acked + 1, 63));
                break;
            }
            None => panic!("stalled early at {acked}"),
        }
    }
    assert_eq!(acked + 63, 32_767 - 64);
    assert_eq!(checkpoints, [8_192, 16_384, 24_576].map(Output::Checkpoint));
    let now = 20 + acked / 64;
    at(
        &mut transfer,
        now,
        Input::CheckpointCommitted(8_192),
        &[data(acked + 64, 1)],
    );
    // Nothing under way and no checkpoint: asked again, the client is not to blame.
    let mut transfer = Transfer::resume(windowed(200_000, 64), LIMITS, known(32_703, 0), ms(0));
    assert_eq!(drain(&mut transfer), [Output::Checkpoint(32_703)]);
    for second in 1..20 {
        wait(&mut transfer, second * 1000, &[Output::Checkpoint(32_703)]);
    }
    at(
        &mut transfer,
        20_000,
        Input::CheckpointCommitted(32_703),
        &[data(32_704, 64)],
    );
}

#[test]
fn new_leader_sends_at_once_and_walks_upward_without_gaps() {
    let mut transfer = Transfer::resume(plain(90_000), LIMITS, known(1000, 0), ms(0));
    assert_eq!(drain(&mut transfer), [data(1001, 1)]);
    for step in 1..50 {
        wait(&mut transfer, step, &[data(1001 + step, 1)]);
    }
    // The client was 20 ahead. What the walk sent meanwhile is under way and not sent again.
    at(&mut transfer, 50, Input::Ack(1020), &[]);
    at(&mut transfer, 51, Input::Ack(1021), &[]);
    at(&mut transfer, 52, Input::Ack(1050), &[data(1051, 1)]);
    assert_eq!(transfer.position(), Position::Acked(1050));
}

#[test]
fn client_far_ahead_is_believed_up_to_what_can_have_been_sent() {
    let mut transfer = Transfer::resume(plain(90_000), LIMITS, known(1000, 0), ms(0));
    drain(&mut transfer);
    at(&mut transfer, 1, Input::Ack(32_767), &[]);
    at(&mut transfer, 1, Input::Ack(999), &[]);
    at(
        &mut transfer,
        2,
        Input::Ack(32_766),
        &[Output::Checkpoint(32_766)],
    );
    at(
        &mut transfer,
        3,
        Input::CheckpointCommitted(32_766),
        &[data(32_767, 1)],
    );
}

#[test]
fn repeated_ack_of_the_known_position_restarts_plainly_and_the_timer_walks_later() {
    let mut transfer = Transfer::resume(plain(90_000), LIMITS, known(1000, 0), ms(0));
    assert_eq!(drain(&mut transfer), [data(1001, 1)]);
    at(&mut transfer, 1, Input::Deadline, &[data(1002, 1)]);
    at(&mut transfer, 2, Input::Ack(1000), &[data(1001, 1)]);
    at(&mut transfer, 3, Input::Ack(1000), &[]);
    wait(&mut transfer, 252, &[data(1001, 1)]);
    wait(&mut transfer, 752, &[data(1001, 1)]);
    wait(&mut transfer, 753, &[data(1002, 1)]);
}

#[test]
fn silent_walk_grows_and_is_bounded() {
    let mut transfer = Transfer::resume(plain(90_000), LIMITS, known(1000, 900), ms(0));
    drain(&mut transfer);
    let (mut rounds, mut last) = (vec![], 1001);
    while rounds.len() < 4 {
        let deadline = transfer.deadline();
        transfer.handle(Input::Deadline, deadline);
        match drain(&mut transfer)[..] {
            [
                Output::SendData {
                    first: 1001,
                    count: 1,
                },
            ] => rounds.push(std::mem::replace(&mut last, 1001)),
            [Output::SendData { first, count: 1 }] if first == last + 1 => last = first,
            ref other => panic!("{other:?} after {last}"),
        }
    }
    assert_eq!(rounds, [1128, 2024, 9192, 900 + 32_766]);
}

#[test]
fn resumed_handshake_repeats_the_oack_and_never_sends_data_early() {
    let unheard = Known {
        position: Position::Unheard,
        checkpoint: Position::Unheard,
        exact: false,
    };
    let mut transfer = Transfer::resume(windowed(99, 4), LIMITS, unheard, ms(0));
    assert_eq!(drain(&mut transfer), [Output::SendOack]);
    at(&mut transfer, 1, Input::Ack(4), &[]);
    at(&mut transfer, 2, Input::Ack(0), &[Output::Checkpoint(0)]);
    at(&mut transfer, 3, Input::CheckpointCommitted(0), &[data(1, 4)]);
    // The ACK was heard of, but not by a quorum: it is stored first, and the OACK is not repeated.
    let heard = Known {
        position: Position::Acked(0),
        ..unheard
    };
    let mut transfer = Transfer::resume(windowed(99, 4), LIMITS, heard, ms(0));
    assert_eq!(drain(&mut transfer), [Output::Checkpoint(0)]);
    // A quorum knows: never an OACK, since curl would start again.
    let mut transfer = Transfer::resume(windowed(99, 4), LIMITS, known(0, 0), ms(0));
    assert_eq!(drain(&mut transfer), [data(1, 4)]);
    wait(&mut transfer, 1, &[data(5, 4)]);
}

#[test]
fn planned_hand_over_resends_one_window() {
    let exact = Known {
        exact: true,
        ..known(1000, 0)
    };
    let mut transfer = Transfer::resume(windowed(9000, 4), LIMITS, exact, ms(0));
    assert_eq!(drain(&mut transfer), [data(1001, 4)]);
    assert_eq!(
        transfer.outstanding(),
        Outstanding::Blocks {
            first: 1001,
            count: 4
        }
    );
    wait(&mut transfer, 1, &[data(1005, 4)]);
    assert_eq!(transfer.deadline(), ms(1 + 250));
    at(&mut transfer, 2, Input::Ack(1008), &[data(1009, 4)]);
    let exact = Known {
        exact: true,
        ..known(1000, 0)
    };
    let mut transfer = Transfer::resume(plain(9000), LIMITS, exact, ms(0));
    assert_eq!(drain(&mut transfer), [data(1001, 1)]);
    assert_eq!(transfer.deadline(), ms(250));
}

#[test]
fn position_is_exact_once_the_client_has_all_that_a_former_leader_can_have_sent() {
    let exact = Known {
        exact: true,
        ..known(1000, 0)
    };
    let planned = Transfer::resume(plain(99_000), LIMITS, exact, ms(0));
    assert!(planned.is_position_exact());
    assert!(Transfer::open(plain(99_000), LIMITS, ms(0)).is_position_exact());
    let mut found = Transfer::resume(plain(99_000), LIMITS, known(1000, 0), ms(0));
    let mut acked = 1000;
    while !found.is_position_exact() {
        acked += 1;
        assert!(acked < 99_000, "it never was");
        found.handle(Input::CheckpointCommitted(acked - 1), ms(acked));
        found.handle(Input::Ack(u16::try_from(acked % 0x1_0000).unwrap()), ms(acked));
        drain(&mut found);
    }
    assert!(
        acked > 1001,
        "the first answer may be one to a block that the client had"
    );
}

#[test]
fn resumed_transfer_that_was_complete_closes() {
    let mut transfer = Transfer::resume(plain(9), LIMITS, known(9, 0), ms(0));
    assert_eq!(drain(&mut transfer), [Output::Closed(End::Complete)]);
}

#[test]
fn oack_that_was_acknowledged_meanwhile_is_not_sent_by_the_new_leader() {
    let terms = Terms {
        length: 5_000,
        block_size: 512,
        window_size: 4,
        timeout: None,
        has_oack: true,
        one_oack: false,
    };
    let limits = Limits {
        retransmissions_max: 5,
        idle_max: Duration::from_secs(60),
    };
    let known = Known {
        position: Position::Unheard,
        checkpoint: Position::Unheard,
        exact: false,
    };
    let mut transfer = Transfer::resume(terms, limits, known, Duration::ZERO);
    transfer.handle(Input::RepeatedRequest, Duration::ZERO);
    transfer.handle(Input::Ack(0), Duration::ZERO);
    assert_eq!(transfer.poll_output(), Some(Output::Checkpoint(0)));
    assert_eq!(transfer.poll_output(), None);
}

/// A client like atftp, which gives up on a second OACK.
const UNHEARD: Known = Known {
    position: Position::Unheard,
    checkpoint: Position::Unheard,
    exact: false,
};

fn one_oack(timeout: Option<Duration>) -> Terms {
    Terms {
        one_oack: true,
        timeout,
        ..windowed(9, 4)
    }
}

#[test]
fn client_that_bears_one_oack_gets_the_next_when_it_asks_or_is_silent_for_long() {
    let mut transfer = Transfer::open(one_oack(None), LIMITS, ms(0));
    assert_eq!(drain(&mut transfer), [Output::SendOack]);
    // It missed the OACK, and says so.
    at(&mut transfer, 5000, Input::RepeatedRequest, &[Output::SendOack]);
    wait(&mut transfer, 11_000, &[Output::SendOack]);
    at(&mut transfer, 11_001, Input::Ack(0), &[Output::Checkpoint(0)]);

    let mut transfer = Transfer::open(one_oack(Some(ms(9000))), LIMITS, ms(0));
    assert_eq!(drain(&mut transfer), [Output::SendOack]);
    wait(&mut transfer, 10_000, &[Output::SendOack]);
}

#[test]
fn new_leader_waits_for_a_client_that_bears_one_oack() {
    let mut transfer = Transfer::resume(one_oack(None), LIMITS, UNHEARD, ms(0));
    assert_eq!(drain(&mut transfer), []);
    assert_eq!(transfer.deadline(), ms(6000));
    // The ACK that died with the old leader comes again.
    at(&mut transfer, 4700, Input::Ack(0), &[Output::Checkpoint(0)]);
    at(&mut transfer, 4702, Input::CheckpointCommitted(0), &[data(1, 4)]);

    let mut transfer = Transfer::resume(one_oack(None), LIMITS, UNHEARD, ms(0));
    at(&mut transfer, 4700, Input::RepeatedRequest, &[Output::SendOack]);
    at(&mut transfer, 4701, Input::Ack(0), &[Output::Checkpoint(0)]);
}
