//! A short run of the long campaign (`e2e/run long`): the leader killed again and again under load.

use std::process::Command;

#[test]
fn short_campaign_loses_nothing() {
    // 25 kills: twice with an emptied disk, once all members together.
    let mut campaign = Command::new(env!("CARGO_BIN_EXE_kill-campaign"));
    let status = campaign.args(["--kills", "25"]).status().unwrap();
    assert!(
        status.success(),
        "the campaign ended with {status}; its seed is printed above"
    );
}
