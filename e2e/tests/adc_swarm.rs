//! The benchmark's users do what they say, on uhub.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use e2e::adc::load::{broadcast, relay, survive};
use e2e::adc::{Air, Swarm, Uhub};
use e2e::clock::PATIENCE;

const USERS: usize = 60;

fn swarm(uhub: &Uhub) -> Swarm {
    let mut swarm = Swarm::new(vec![uhub.port()], USERS).unwrap();
    swarm.log_in_all(10, PATIENCE).unwrap();
    swarm
}

#[test]
fn every_line_is_counted_once() {
    let uhub = Uhub::start().unwrap();
    let mut swarm = swarm(&uhub);
    let watcher = Air::join("watcher", &uhub.url()).unwrap();
    assert_eq!(watcher.view().at_login.len(), USERS + 1);
    let all: Vec<usize> = (0..USERS).collect();
    let lasts = Duration::from_millis(300);
    let chat = broadcast(&mut swarm, &all, 5, lasts).unwrap();
    assert!(chat.per_second > 0.0 && chat.p99_ms >= chat.p50_ms, "{chat:?}");
    let private = relay(&mut swarm, 5, lasts).unwrap();
    assert!(private.per_second > 0.0, "{private:?}");
    watcher.was_treated_well().unwrap();
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let uhub = Uhub::start().unwrap();
    let mut swarm = swarm(&uhub);
    let (slow, fast): (Vec<usize>, Vec<usize>) = (0..USERS).partition(|user| user % 10 == 0);
    for user in slow {
        swarm.set_reading(user, false).unwrap();
    }
    let chat = broadcast(&mut swarm, &fast, 5, Duration::from_millis(300)).unwrap();
    assert!(chat.per_second > 0.0, "{chat:?}");
}

#[test]
fn all_come_back_after_a_loss() {
    let mut uhub = Uhub::start().unwrap();
    let mut swarm = swarm(&uhub);
    let loss = survive(&mut swarm, PATIENCE, || uhub.launch()).unwrap();
    assert_eq!((loss.cut, loss.silence_of_others_ms), (USERS, None));
    assert!(loss.all_chat_ms >= loss.all_back_ms, "{loss:?}");
}
