//! What a hub of three members does for its users, and with those who do not keep to the protocol.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use anyhow::ensure;
use e2e::adc_user::AdcIdentity;
use e2e::clock::{PATIENCE, eventually};
use e2e::program::agent;
use e2e::{AdcUser, Group, GroupOptions};
use operator_api::config::ServiceKind;
use serde_json::json;

/// Log-ins that race for one nick.
const RACES: usize = 1000;
/// Users that prove an address at another member as soon as they are let in.
const QUICK: usize = 200;
/// Connections that say nothing.
const PROBES: usize = 2000;
/// Long enough for anything that should not come.
const QUIET: Duration = Duration::from_millis(300);

fn group(options: serde_json::Value) -> Group {
    Group::start_with(GroupOptions {
        service: ServiceKind::Adc,
        adc_options: Some(options),
        ..GroupOptions::default()
    })
    .unwrap()
}

/// The number of a SID.
fn number(sid: &str) -> u32 {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        _ => byte - b'2' + 26,
    };
    sid.bytes().fold(0, |sid, byte| sid << 5 | u32::from(digit(byte)))
}

#[test]
fn probes_cost_no_sid_and_one_of_two_gets_a_nick() {
    let group = group(json!({}));
    let ports = group.adc_member_ports();
    // Probes first: the next SID is the next one.
    let before = AdcUser::log_in(ports[0], &AdcIdentity::new("before")).unwrap();
    for _ in 0..PROBES {
        drop(AdcUser::connect(ports[0], Ipv4Addr::LOCALHOST).unwrap());
    }
    let after = AdcUser::log_in(ports[0], &AdcIdentity::new("after")).unwrap();
    assert_eq!(number(&after.sid), number(&before.sid) + 1);
    // Two clients on two members want one nick, again and again.
    let barrier = Barrier::new(2);
    let race = |member: usize| {
        let mut won = Vec::new();
        for round in 0..RACES {
            let who = AdcIdentity {
                nick: format!("r{round}"),
                ..AdcIdentity::new(&format!("client {member}.{round}"))
            };
            let mut user = AdcUser::connect(ports[member], Ipv4Addr::LOCALHOST).unwrap();
            user.greet().unwrap();
            barrier.wait();
            user.identify(&who).unwrap();
            let outcome = user.wait_until_in();
            if let Err(error) = &outcome {
                assert!(format!("{error:#}").contains("ISTA 222"), "{error:#}");
            }
            won.push(outcome.is_ok());
            // The nick stays taken until both know.
            barrier.wait();
        }
        won
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| race(1));
        let other = scope.spawn(|| race(2));
        (one.join().unwrap(), other.join().unwrap())
    });
    let winners = one
        .iter()
        .zip(&other)
        .map(|(one, other)| u32::from(*one) + u32::from(*other));
    assert!(
        winners.clone().all(|winners| winners == 1),
        "{:?}",
        winners.collect::<Vec<_>>()
    );
}

#[test]
fn bad_input_is_answered_and_reaches_nobody() {
    let group = group(json!({ "setupSecondsMax": 2 }));
    let ports = group.adc_member_ports();
    let who = AdcIdentity::new("ann");
    let mut ann = AdcUser::log_in(ports[0], &who).unwrap();
    let mut bob = AdcUser::log_in(ports[1], &AdcIdentity::new("bob")).unwrap();
    ann.expect("bob joins", |line| line.contains(" NIbob ")).unwrap();
    // Before anybody is let in: a line, and what comes back before the end.
    let connect = || AdcUser::connect(ports[2], Ipv4Addr::LOCALHOST).unwrap();
    for (line, answer) in [
        ("GET / HTTP/1.1\r", ""),
        ("$ValidateNick bob|", ""),
        ("\u{16}\u{3}\u{1}", ""),
        ("HSUP ADTIGR", "ISTA 245"),
        ("HSUP ADBASE", "ISTA 247"),
        ("BINF AAAB NIx", "ISTA 244"),
        ("", ""),
    ] {
        let mut client = connect();
        client.send(line).unwrap();
        let end = loop {
            match client.next_line(PATIENCE) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{line:?} is not answered"),
                Err(end) => break format!("{end:#}"),
            }
        };
        assert!(end.contains("closed") && end.contains(answer), "{line:?}: {end}");
    }
    // An INF that is wrong.
    for (change, answer) in [
        ((who.pid.as_str(), AdcIdentity::new("x").pid), "ISTA 227"),
        (("NIann", "XXann".to_owned()), "ISTA 243"),
        (("NIann", "NIbob".to_owned()), "ISTA 22"),
        (("NIann", "NIbell\u{7}".to_owned()), "ISTA 221"),
    ] {
        let mut client = connect();
        client.greet().unwrap();
        let (from, to) = change;
        let inf = format!("BINF {} ID{} PD{} NIann", client.sid, who.cid, who.pid).replace(from, &to);
        client.send(&inf).unwrap();
        client.expect(answer, |line| line.starts_with(answer)).unwrap();
    }
    // What a user may not send.
    let (me, other) = (ann.sid.clone(), bob.sid.clone());
    for line in [
        format!("BMSG {other} not\\sme"),
        format!("BMSG {me} bro\\ken"),
        format!("BCTM {me} ADC/1.0 1 x"),
        format!("CMSG {me} x"),
        format!("IMSG {me} x"),
        format!("IQUI {other}"),
        format!("DINF {me} {other} NIx"),
        format!("DMSG {me} {other} x PM{other}"),
        format!("BMSG {me} {}", "x".repeat(20_000)),
        "nonsense".to_owned(),
    ] {
        ann.send(&line).unwrap();
    }
    ann.say("end").unwrap();
    let end = format!("BMSG {me} end ");
    ann.expect("the last line", |line| line.starts_with(&end))
        .unwrap();
    let start = bob.seen.len();
    bob.expect("the last line", |line| line.starts_with(&end))
        .unwrap();
    bob.lines_until_quiet(QUIET);
    assert_eq!(bob.seen.len(), start + 1, "{:?}", &bob.seen[start..]);
    // Nobody is told a PID.
    for user in [&ann, &bob] {
        assert!(!user.seen.iter().any(|line| line.contains(" PD")));
    }
}

#[test]
fn operators_keep_order_from_inside_and_outside() {
    let group = group(json!({ "selfRegistration": true, "motd": "be kind" }));
    let ports = group.adc_member_ports();
    // The first owner is made from outside.
    let mut put = Command::new(agent().unwrap())
        .args(["adc", "account", "put", "op", "owner", "--dir"])
        .arg(group.dir())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(put.wait().unwrap().success());
    let op = AdcIdentity::new("op").with_password("secret");
    let wrong = AdcIdentity::new("op").with_password("guess");
    let mut op = eventually("the account is known everywhere", PATIENCE, || {
        AdcUser::log_in(ports[0], &op)
    })
    .unwrap();
    assert!(op.users[&op.sid].contains(" CT16"));
    let error = AdcUser::log_in(ports[1], &wrong).unwrap_err();
    assert!(format!("{error:#}").contains("ISTA 223"), "{error:#}");
    let bob = AdcIdentity::new("bob");
    let mut guest = AdcUser::log_in(ports[1], &bob).unwrap();
    guest
        .expect("the greeting", |line| line.contains("be\\skind"))
        .unwrap();
    guest.say("+kick op").unwrap();
    guest
        .expect("no", |line| line.contains("you\\smay\\snot"))
        .unwrap();
    op.say("+topic news").unwrap();
    guest.expect("the topic", |line| line == "IINF DEnews").unwrap();
    op.say("+ban bob 1h spam").unwrap();
    guest
        .expect("why", |line| line.starts_with("ISTA 232 spam"))
        .unwrap();
    let quit = format!("IQUI {} ID{} MSspam TL3", guest.sid, op.sid);
    guest.expect("the end", |line| line.starts_with(&quit)).unwrap();
    let error = AdcUser::log_in(ports[2], &bob).unwrap_err();
    assert!(format!("{error:#}").contains("ISTA 232"), "{error:#}");
    let bans = group.succeed(&["adc", "bans"]).unwrap();
    assert!(bans.contains("nick bob") && bans.contains("spam"), "{bans}");
    group.succeed(&["adc", "unban", "1"]).unwrap();
    eventually("the ban is lifted everywhere", PATIENCE, || {
        AdcUser::log_in(ports[2], &bob)
    })
    .unwrap();
    let audit = group.succeed(&["adc", "audit"]).unwrap();
    for what in [
        "registered op as owner",
        "set the topic: news",
        "banned nick bob",
        "lifted ban 1",
    ] {
        assert!(audit.contains(what), "{audit}");
    }
    assert!(!audit.contains("secret"));
    // No password and no PID is on any disk.
    let pid = AdcIdentity::new("op").pid;
    for member in ["adc-0", "adc-1", "adc-2"] {
        let found = Command::new("grep")
            .args(["-rl", "-e", "secret", "-e", &pid])
            .arg(group.member_dir(member))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

#[test]
fn a_user_is_redirected_as_its_client_knows_it() {
    let group = group(json!({}));
    let ports = group.adc_member_ports();
    let log_in = |nick: &str, port: u16, more: &str| {
        let mut user = AdcUser::connect(port, Ipv4Addr::LOCALHOST).unwrap();
        user.greet().unwrap();
        let who = AdcIdentity::new(nick);
        let inf = format!("BINF {} ID{} PD{} NI{nick} {more}", user.sid, who.cid, who.pid);
        user.send(&inf).unwrap();
        user.wait_until_in().unwrap();
        user
    };
    let plain = log_in("plain", ports[0], "SUTCP4");
    let extended = log_in("extended", ports[1], "RP3");
    assert!(
        plain
            .seen
            .iter()
            .any(|line| line.starts_with("IINF ") && line.ends_with(" RP7"))
    );
    for nick in ["plain", "extended"] {
        eventually("the leader knows them", PATIENCE, || {
            ensure!(group.succeed(&["adc", "users"])?.contains(nick));
            Ok(())
        })
        .unwrap();
    }
    let redirect = |nick: &str, addresses: &str| {
        group.succeed(&["adc", "redirect", nick, addresses, "we moved", "--permanent"])
    };
    let error = redirect("plain", "adcs://a.example:1").unwrap_err();
    assert!(
        format!("{error:#}").contains("follows no such address"),
        "{error:#}"
    );
    for (mut user, nick, expected) in [
        (plain, "plain", "RDadc://b.example:2"),
        (
            extended,
            "extended",
            "RDadcs://a.example:1 RXadc://b.example:2 PT1",
        ),
    ] {
        redirect(nick, "adcs://a.example:1,adc://b.example:2").unwrap();
        let quit = format!("IQUI {} {expected} MSwe\\smoved", user.sid);
        user.expect("the other hubs", |line| line == quit).unwrap();
    }
    let audit = group.succeed(&["adc", "audit"]).unwrap();
    assert!(
        audit.contains("redirected plain for good to adcs://a.example:1,adc://b.example:2: we moved"),
        "{audit}"
    );
}

/// A connection that comes over IPv6, as the load balancer at 127.0.0.2 says.
fn over_ipv6(port: u16) -> AdcUser {
    let mut connection = AdcUser::connect(port, Ipv4Addr::new(127, 0, 0, 2)).unwrap();
    connection
        .send("PROXY TCP6 2001:db8::7 2001:db8::1 4000 411\r")
        .unwrap();
    connection
}

fn hybrid_group() -> Group {
    group(json!({
        "proxyNetworks": ["127.0.0.2/32"],
        "hybrid": {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "port": 411},
    }))
}

/// Logs in over IPv4, and says that it has an address of the other family; what it is given to prove that.
fn log_in_with_two(port: u16, nick: &str) -> (AdcUser, String) {
    let who = AdcIdentity::new(nick);
    let mut user = AdcUser::connect(port, Ipv4Addr::LOCALHOST).unwrap();
    user.send("HSUP ADBASE ADTIGR ADHBRI").unwrap();
    user.expect("its SID", |line| line.starts_with("ISID ")).unwrap();
    let (sid, cid, pid) = (&user.sid, &who.cid, &who.pid);
    let inf = format!("BINF {sid} ID{cid} PD{pid} NI{nick} SUTCP4,TCP6,UDP6 I6:: U61412");
    user.send(&inf).unwrap();
    user.wait_until_in().unwrap();
    let request = user.expect("a token", |line| line.starts_with("ITCP ")).unwrap();
    let token = request.strip_prefix("ITCP I62001:db8::1 P6411 TO").unwrap();
    (user, token.to_owned())
}

/// What a further connection is told that proves an address.
fn prove(mut connection: AdcUser, token: &str) -> String {
    connection.send(&format!("HTCP I6:: U61412 TO{token}")).unwrap();
    connection
        .expect("an answer", |line| line.starts_with("ISTA "))
        .unwrap()
}

#[test]
fn a_second_address_is_proved_at_any_member() {
    let group = hybrid_group();
    let ports = group.adc_member_ports();
    let mut bob = AdcUser::log_in(ports[2], &AdcIdentity::new("bob")).unwrap();
    for (nick, member) in [("near", 0), ("far", 1)] {
        let (mut user, token) = log_in_with_two(ports[0], nick);
        let (sid, token) = (user.sid.clone(), token.as_str());
        let same_family = AdcUser::connect(ports[member], Ipv4Addr::LOCALHOST).unwrap();
        let other_token = format!("{}{}", &token[..5], token[5..].chars().rev().collect::<String>());
        for (connection, token) in [
            (same_family, token),
            (over_ipv6(ports[member]), other_token.as_str()),
            (over_ipv6(ports[member]), "AAAAx"),
            (over_ipv6(ports[member]), ""),
        ] {
            assert!(prove(connection, token).starts_with("ISTA 240 "), "{token}");
        }
        assert!(prove(over_ipv6(ports[member]), token).starts_with("ISTA 000 "));
        let proved = format!("BINF {sid} SUTCP4,TCP6,UDP6 I62001:db8::7 U61412");
        for user in [&mut user, &mut bob] {
            user.expect("the second address", |line| line == proved).unwrap();
            let told = user.seen.iter().filter(|line| line.contains("2001:db8::7"));
            assert_eq!(told.filter(|line| line.contains(&sid)).count(), 1);
        }
        bob.send(&format!("FSCH {} +TCP6 ANgiraffe", bob.sid)).unwrap();
        user.expect("a search for those with IPv6", |line| line.starts_with("FSCH "))
            .unwrap();
        // A token is good for once.
        assert!(prove(over_ipv6(ports[member]), token).starts_with("ISTA 240 "));
    }
}

#[test]
fn a_second_address_is_proved_at_a_member_that_hears_of_the_user_later() {
    let group = hybrid_group();
    let ports = group.adc_member_ports();
    for number in 0..QUICK {
        // The user knows its token as soon as its own member does.
        let (_user, token) = log_in_with_two(ports[0], &format!("q{number}"));
        let told = prove(over_ipv6(ports[1]), &token);
        assert!(told.starts_with("ISTA 000 "), "{number}: {told}");
    }
}

#[test]
fn bans_cover_second_addresses() {
    let group = hybrid_group();
    let ports = group.adc_member_ports();
    let mut eve = AdcUser::log_in(ports[2], &AdcIdentity::new("eve")).unwrap();
    let (mut early, token) = log_in_with_two(ports[0], "early");
    assert!(prove(over_ipv6(ports[1]), &token).starts_with("ISTA 000 "));
    let proved = format!("BINF {} SUTCP4,TCP6,UDP6 I62001:db8::7 U61412", early.sid);
    eve.expect("the second address", |line| line == proved).unwrap();
    let users = group.succeed(&["adc", "users"]).unwrap();
    assert!(users.contains("2001:db8::7"), "{users}");
    let (late, token) = log_in_with_two(ports[0], "late");
    let (far, far_token) = log_in_with_two(ports[0], "far");
    // It is made by an operator while one of them has such an address.
    group
        .succeed(&["adc", "ban", "2001:db8::/64", "spam", "--for", "1h"])
        .unwrap();
    let mut is_put_out = |user: &mut AdcUser| {
        user.expect("why", |line| line.starts_with("ISTA 232 spam TL3"))
            .unwrap();
        let quit = format!("IQUI {} MSspam TL3", user.sid);
        user.expect("its QUI", |line| line.starts_with(&quit)).unwrap();
        assert!(user.next_line(PATIENCE).is_err(), "the connection is closed");
        let quit = format!("IQUI {} MSspam", user.sid);
        eve.expect("the QUI", |line| line == quit).unwrap();
    };
    is_put_out(&mut early);
    // The others prove it now, at their own member and at another one.
    for (mut user, token, member) in [(late, token, 0), (far, far_token, 1)] {
        let told = prove(over_ipv6(ports[member]), &token);
        assert!(
            told.starts_with("ISTA 232 You\\sare\\sbanned:\\sspam TL3"),
            "{told}"
        );
        is_put_out(&mut user);
    }
    assert_eq!(
        eve.seen
            .iter()
            .filter(|line| line.contains("2001:db8::7"))
            .count(),
        1,
        "nobody is told of an address that is banned"
    );
}

#[test]
fn who_is_muted_is_told_and_nobody_hears_it() {
    let group = group(json!({}));
    let ports = group.adc_member_ports();
    let mut bob = AdcUser::log_in(ports[0], &AdcIdentity::new("bob")).unwrap();
    let mut eve = AdcUser::log_in(ports[1], &AdcIdentity::new("eve")).unwrap();
    group.succeed(&["adc", "mute", "bob", "--for", "1h"]).unwrap();
    // His member may learn of it a moment after the leader.
    eventually("bob is muted", PATIENCE, || {
        bob.say("spam")?;
        bob.expect_within(QUIET, "why", |line| {
            line.starts_with("IMSG You\\sare\\smuted\\sfor\\s3")
        })
    })
    .unwrap();
    eve.lines_until_quiet(QUIET);
    bob.say("more spam").unwrap();
    bob.expect("why", |line| line.starts_with("IMSG You\\sare\\smuted"))
        .unwrap();
    group.succeed(&["adc", "unmute", "bob"]).unwrap();
    eventually("bob may speak", PATIENCE, || {
        bob.say("hello")?;
        let own = format!("BMSG {} hello", bob.sid);
        bob.expect_within(QUIET, "his own line", |line| line.starts_with(&own))
    })
    .unwrap();
    let hello = format!("BMSG {} hello", bob.sid);
    eve.expect("bob", |line| line.starts_with(&hello)).unwrap();
    assert!(
        !eve.seen.iter().any(|line| line.contains("more\\sspam")),
        "{:?}",
        eve.seen
    );
}

#[test]
fn who_is_taken_out_of_the_users_file_is_no_longer_registered() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("users.json");
    let write = |users: serde_json::Value| {
        let new = place.path().join("new");
        std::fs::write(&new, users.to_string()).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    let anna = json!({"nick": "anna", "password": "one", "class": "operator"});
    let bert = json!({"nick": "bert", "password": "two", "class": "registered"});
    write(json!([anna, bert]));
    let group = group(json!({ "usersFile": file }));
    let accounts = |wanted: &[&str], gone: &[&str]| {
        eventually("the group follows the file", PATIENCE, || {
            let known = group.succeed(&["adc", "account", "ls"])?;
            ensure!(
                wanted.iter().all(|nick| known.contains(nick))
                    && !gone.iter().any(|nick| known.contains(nick)),
                "{known}"
            );
            Ok(())
        })
        .unwrap();
    };
    accounts(&["anna", "bert"], &[]);
    let ports = group.adc_member_ports();
    AdcUser::log_in(ports[0], &AdcIdentity::new("bert").with_password("two")).unwrap();
    write(json!([anna]));
    accounts(&["anna"], &["bert"]);
    let mut guest = eventually("bert needs no password", PATIENCE, || {
        AdcUser::log_in(ports[1], &AdcIdentity::new("bert"))
    })
    .unwrap();
    // Registered once more, the nick is only for who knows the password.
    write(json!([anna, bert]));
    guest
        .expect("why", |line| {
            line.starts_with("ISTA 230 This\\snick\\sis\\sregistered\\snow")
        })
        .unwrap();
    let quit = format!("IQUI {} ", guest.sid);
    guest.expect("its QUI", |line| line.starts_with(&quit)).unwrap();
    AdcUser::log_in(ports[1], &AdcIdentity::new("bert").with_password("two")).unwrap();
}
