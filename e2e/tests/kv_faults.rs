//! Real members under load while they are killed, paused, stopped and left alone; what all clients saw is checked.
//! `e2e/run long kv` does the same for longer.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![expect(
    clippy::print_stdout,
    reason = "the faults so far, for whoever reads a failure"
)]

use e2e::kv::campaign::Campaign;
use e2e::kv::faults::Fault;

/// A group whose clients got so few answers for each fault checked nothing.
const OPERATIONS_A_FAULT_MIN: usize = 20;

fn campaign(replicas: u16, only: Vec<Fault>) {
    let campaign = Campaign {
        replicas,
        faults: u32::try_from(only.len()).unwrap(),
        only,
        seed: u64::from(replicas),
        clients: 8,
        local: true,
    };
    let faults = campaign.only.len();
    let summary = campaign
        .run(|line| println!("{line}"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    println!("{summary:?}");
    assert!(
        summary.operations >= OPERATIONS_A_FAULT_MIN * faults,
        "{summary:?}"
    );
    assert!(summary.accepted_alone > 0, "{summary:?}");
}

#[test]
fn three_members_keep_their_word_under_faults() {
    campaign(
        3,
        vec![
            Fault::KillLeader,
            Fault::PauseLeader,
            Fault::OneAlone,
            Fault::TerminateLeader,
            Fault::KillAll,
            Fault::EmptyDisk,
        ],
    );
}

#[test]
fn five_members_keep_their_word_under_faults() {
    campaign(
        5,
        vec![
            Fault::KillLeader,
            Fault::OneAlone,
            Fault::PauseFollower,
            Fault::Transfer,
            Fault::KillAll,
        ],
    );
}
