//! A member that loses its power shows, started again alone, what it has accepted: also what a quorum took for it, of which
//! its log says only later that it is committed.

mod support;

use support::Group;

const LOCAL: &str = "/v1/kv/k?consistent=false";

/// Cuts the power of a member and starts it again, alone.
async fn alone_after_power_cut(group: &mut Group, number: usize) {
    group.cut_power(number).await;
    for other in group.running() {
        group.stop(other).await;
    }
    group.start(number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_write_that_a_quorum_took_survives_a_power_cut_of_a_member_that_is_left_alone() {
    let mut group = Group::of_three().await;
    let number = (group.leader().await + 1) % 3;
    for (method, value) in [("PUT", "first"), ("PUT", "second"), ("DELETE", "")] {
        let done = group.ask(number, method, LOCAL, value).await;
        assert!(done.valid(), "{done:?}");
        alone_after_power_cut(&mut group, number).await;
        let got = group.ask(number, "GET", LOCAL, "").await;
        assert_eq!((got.timeout(), got.value()), (false, value), "{done:?} {got:?}");
        for other in 0..3 {
            if other != number {
                group.start(other).await;
            }
        }
        group.leader().await;
    }
}
