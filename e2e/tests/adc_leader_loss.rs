//! A hub whose users stay when a member dies: chat goes on, SIDs are kept, and those of the dead member come back to
//! their places unseen.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use anyhow::ensure;
use e2e::adc_user::AdcIdentity;
use e2e::clock::{PATIENCE, eventually};
use e2e::group::{detail, pid};
use e2e::process::signal;
use e2e::{AdcUser, Group, GroupOptions};
use operator_api::MemberStatus;
use operator_api::config::ServiceKind;
use rustix::process::Signal;

fn group() -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Adc,
        ..GroupOptions::default()
    })
    .unwrap()
}

/// The number of a member: `adc-2` is 2.
fn number(member: &MemberStatus) -> usize {
    member.name.rsplit('-').next().unwrap().parse().unwrap()
}

/// How many places of users that are away each member that answers keeps.
fn kept_places(group: &Group) -> Vec<u64> {
    let statuses = group.statuses();
    let details = statuses.iter().flatten().filter_map(|status| detail(status).ok());
    details
        .filter_map(|detail| detail.service_detail["keptPlaces"].as_u64())
        .collect()
}

/// Waits until the group knows that a member is lost, and keeps the places of its users. A client that is quicker than that
/// gets another SID; real ones wait a second at least.
fn places_are_kept(group: &Group, count: u64) {
    eventually("places are kept", PATIENCE, || {
        let most = kept_places(group).into_iter().max().unwrap_or_default();
        ensure!(most >= count, "{most} places are kept");
        Ok(())
    })
    .unwrap();
}

/// Logs a user in, again and again until the hub takes it.
fn come_back(port: u16, who: &AdcIdentity) -> AdcUser {
    eventually("the user is back", PATIENCE, || AdcUser::log_in(port, who)).unwrap()
}

fn said(user: &mut AdcUser, by: &str, text: &str) {
    let line = format!("BMSG {by} {text} ");
    user.expect(text, |came| came.starts_with(&line)).unwrap();
}

#[test]
fn users_stay_with_their_sids_when_the_leader_dies() {
    let group = group();
    let leader = number(&group.leader().unwrap());
    let ports = group.adc_member_ports();
    let living: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    let doomed = AdcIdentity::new("doomed").at(9);
    let mut ann = AdcUser::log_in(ports[living[0]], &AdcIdentity::new("ann")).unwrap();
    let mut bob = AdcUser::log_in(ports[living[1]], &AdcIdentity::new("bob")).unwrap();
    let old = AdcUser::log_in(ports[leader], &doomed).unwrap();
    for user in [&mut ann, &mut bob] {
        let joined = format!("BINF {} ", old.sid);
        user.expect("the doomed user joins", |line| line.starts_with(&joined))
            .unwrap();
    }
    group.kill_leader().unwrap();
    // Chat goes on between the living members, under the same SIDs.
    let (ann_sid, bob_sid) = (ann.sid.clone(), bob.sid.clone());
    ann.say("anybody").unwrap();
    said(&mut bob, &ann_sid, "anybody");
    bob.say("here").unwrap();
    said(&mut ann, &bob_sid, "here");
    // So do lines to one.
    bob.send(&format!("DMSG {bob_sid} {ann_sid} psst PM{bob_sid}"))
        .unwrap();
    ann.expect("a line to one", |line| line.contains(" psst "))
        .unwrap();
    // A new user comes in.
    let new = AdcUser::log_in(ports[living[0]], &AdcIdentity::new("new")).unwrap();
    assert_eq!(new.sid_of("bob"), Some(bob_sid.as_str()));
    // The dead member's user comes back elsewhere to its SID; nobody sees it quit or join.
    places_are_kept(&group, 1);
    let mut back = come_back(ports[living[1]], &doomed);
    assert_eq!(back.sid, old.sid);
    back.say("back").unwrap();
    for user in [&mut ann, &mut bob] {
        said(user, &old.sid, "back");
        let seen = |start: String| user.seen.iter().filter(|line| line.starts_with(&start)).count();
        assert_eq!(seen(format!("IQUI {}", old.sid)), 0);
        assert_eq!(seen(format!("BINF {}", old.sid)), 1);
        assert_eq!(seen(format!("BMSG {ann_sid} anybody")), 1);
        assert_eq!(seen(format!("BMSG {bob_sid} here")), 1);
    }
    group.all_ready().unwrap();
}

#[test]
fn users_behind_one_address_come_back_to_their_places() {
    let group = group();
    let leader = number(&group.leader().unwrap());
    let ports = group.adc_member_ports();
    let other = (leader + 1) % 3;
    let mut watcher = AdcUser::log_in(ports[other], &AdcIdentity::new("watcher")).unwrap();
    let family: Vec<AdcIdentity> = (0..5)
        .map(|number| AdcIdentity::new(&format!("n{number}")).at(7))
        .collect();
    let sids: Vec<String> = family
        .iter()
        .map(|who| AdcUser::log_in(ports[leader], who).map(|user| (user.sid.clone(), user)))
        .collect::<Result<Vec<_>, _>>()
        .unwrap()
        .into_iter()
        .map(|(sid, user)| {
            // Keeps the connection open until the leader dies.
            std::mem::forget(user);
            sid
        })
        .collect();
    watcher
        .expect("the last one joins", |line| {
            line.starts_with(&format!("BINF {} ", sids[4]))
        })
        .unwrap();
    group.kill_leader().unwrap();
    places_are_kept(&group, 5);
    let mut back: Vec<AdcUser> = family
        .iter()
        .rev()
        .map(|who| come_back(ports[other], who))
        .collect();
    back.reverse();
    for (user, sid) in back.iter_mut().zip(&sids) {
        user.say("hello").unwrap();
        said(&mut watcher, sid, "hello");
    }
    // A line to one arrives at it, whatever SID it believes to have.
    for (user, sid) in back.iter_mut().zip(&sids) {
        watcher.send(&format!("DMSG {} {sid} psst", watcher.sid)).unwrap();
        let mine = format!("DMSG {} {} psst", watcher.sid, user.sid);
        user.expect("a line to one", |line| line == mine).unwrap();
    }
    watcher.lines_until_quiet(Duration::from_millis(300));
    assert!(!watcher.seen.iter().any(|line| line.starts_with("IQUI")));
    group.all_ready().unwrap();
}

#[test]
fn a_member_that_was_given_up_by_mistake_misses_no_line_afterwards() {
    let group = group();
    let leader = group.leader().unwrap();
    let ports = group.adc_member_ports();
    let paused = (number(&leader) + 1) % 3;
    let mut ann = AdcUser::log_in(ports[number(&leader)], &AdcIdentity::new("ann")).unwrap();
    let mut bob = AdcUser::log_in(ports[paused], &AdcIdentity::new("bob")).unwrap();
    let joined = format!("BINF {} ", bob.sid);
    ann.expect("bob joins", |line| line.starts_with(&joined)).unwrap();
    let (from, to) = (ann.sid.clone(), bob.sid.clone());
    let mut whisper = |text: &str| {
        ann.send(&format!("DMSG {from} {to} {text}")).unwrap();
        let whispered = format!("DMSG {from} {to} {text}");
        bob.expect(text, |line| line == whispered).unwrap();
    };
    for text in ["one", "two", "three"] {
        whisper(text);
    }
    let statuses = group.statuses();
    let member = statuses.iter().flatten().find(|status| number(status) == paused);
    let process = pid(member.unwrap()).unwrap();
    signal(process, Signal::STOP).unwrap();
    places_are_kept(&group, 1);
    signal(process, Signal::CONT).unwrap();
    eventually("its users are back", PATIENCE, || {
        let kept = kept_places(&group);
        ensure!(kept.len() == 3 && kept.iter().all(|kept| *kept == 0), "{kept:?}");
        Ok(())
    })
    .unwrap();
    for text in ["four", "five", "six"] {
        whisper(text);
    }
    // The hub did not put him out in between.
    assert!(!bob.seen.iter().any(|line| line.starts_with("IQUI")));
}
