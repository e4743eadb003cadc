//! Users come and go for a moment: the short version of `e2e/run long adc`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use e2e::adc::churn::{Churn, run};
use e2e::adc::contest::unlimited;
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;

fn hub() -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Adc,
        adc_options: Some(unlimited(0)),
        ..GroupOptions::default()
    })
    .unwrap()
}

fn churn(kills: u32) -> Churn {
    Churn {
        users: 200,
        lasts: Duration::from_secs(10),
        acts_min: 1_000,
        kills,
        seed: 1,
    }
}

#[test]
fn members_agree_on_who_is_left_and_keep_nothing_of_the_others() {
    let done = run(&hub(), &churn(0)).unwrap();
    let all = [done.joins, done.leaves, done.said, done.whispered, done.searched];
    assert!(all.iter().all(|count| *count > 50), "{done:?}");
}

#[test]
fn members_agree_although_the_leader_was_killed_meanwhile() {
    let done = run(&hub(), &churn(1)).unwrap();
    assert!(done.joins > 100 && done.leaves > 50, "{done:?}");
}
