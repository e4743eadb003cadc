use std::net::{IpAddr, Ipv4Addr};

use expect_test::expect;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    users_max: 3,
    reserved_places: 1,
    grace_ms: 1000,
    history_lines_max: 2,
    registered_only: false,
    exact_nicks: false,
    accounts_max: 10,
    bans_max: 10,
};

fn sid(number: u64) -> Sid {
    Sid::from_number(number)
}

/// A directory with a log around it.
#[derive(Default)]
struct Log {
    state: AdcState,
    at: LogTime,
    sent: BTreeMap<NodeId, u64>,
    read: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self::default();
        for front in [1, 2] {
            log.apply(Command::Open {
                front,
                epoch: 7,
                limits: LIMITS,
            });
        }
        log
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.at.index += 1;
        self.at.unix_ms += 1;
        self.state.apply(self.at, command)
    }

    fn event(&mut self, front: NodeId, event: Event) -> Vec<Effect> {
        let first = *self.sent.entry(front).or_default();
        self.sent.insert(front, first + 1);
        self.apply(Command::Batch {
            front,
            epoch: 7,
            first,
            events: vec![event],
            limits: LIMITS,
        });
        self.effects()
    }

    /// What came about since the last call.
    fn effects(&mut self) -> Vec<Effect> {
        let effects = self.state.effects_since(self.read).unwrap().cloned().collect();
        self.read = self.state.next_effect();
        effects
    }

    fn claim(&mut self, front: NodeId, link: LinkId, number: u64, who: u8, nick: &str) -> Vec<Effect> {
        self.event(front, Event::Claim(Box::new(claim(link, number, who, nick))))
    }

    fn order(&mut self, order: Order) -> Ordered {
        match self.apply(Command::Order {
            by: "test".to_owned(),
            order,
            limits: LIMITS,
        }) {
            Outcome::Ordered(ordered) => ordered,
            Outcome::Applied => panic!("an order has an answer"),
        }
    }
}

fn claim(link: LinkId, number: u64, who: u8, nick: &str) -> Claim {
    Claim {
        link,
        sid: sid(number),
        cid: Cid([who; 24]),
        nick: nick.to_owned(),
        inf: format!("ID{} NI{nick} SS1", Cid([who; 24])),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, who)),
        offer: "ADBASE ADTIGR".to_owned(),
        knows_password: false,
    }
}

fn refusal(effects: &[Effect]) -> &Refusal {
    match effects {
        [Effect::Refused { refusal, .. }] => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_nick_a_client_and_a_session_have_one_holder() {
    let mut log = Log::new();
    assert!(matches!(
        log.claim(1, 1, 0, 1, "Alice")[..],
        [Effect::Joined { link: 1, .. }]
    ));
    assert_eq!(*refusal(&log.claim(2, 1, 1, 2, "aLICE")), Refusal::NickTaken);
    assert_eq!(*refusal(&log.claim(2, 2, 1, 1, "bob")), Refusal::CidTaken);
    assert_eq!(*refusal(&log.claim(2, 3, 0, 2, "bob")), Refusal::SidTaken);
    assert!(matches!(
        log.claim(2, 4, 1, 2, "bob")[..],
        [Effect::Joined { .. }]
    ));
    assert!(matches!(
        log.claim(2, 5, 2, 3, "eve")[..],
        [Effect::Joined { .. }]
    ));
    assert_eq!(*refusal(&log.claim(2, 6, 3, 4, "late")), Refusal::Full);
    assert!(matches!(
        log.event(
            2,
            Event::Leave {
                sid: sid(1),
                departure: Departure::Left
            }
        )[..],
        [Effect::Left { .. }]
    ));
    assert!(matches!(
        log.claim(1, 7, 3, 4, "bob")[..],
        [Effect::Joined { .. }]
    ));
}

#[test]
fn a_batch_that_is_sent_twice_counts_once() {
    let mut log = Log::new();
    let say = |text: &str| Event::Say {
        sid: sid(0),
        text: text.to_owned(),
        third_person: false,
    };
    log.claim(1, 1, 0, 1, "alice");
    let batch = |first, events| Command::Batch {
        front: 1,
        epoch: 7,
        first,
        events,
        limits: LIMITS,
    };
    log.apply(batch(1, vec![say("a"), say("b")]));
    // The same again, with one more: its answer was lost.
    log.apply(batch(1, vec![say("a"), say("b"), say("c")]));
    // A gap, another run and a front that nobody knows.
    log.apply(batch(9, vec![say("x")]));
    log.apply(Command::Batch {
        front: 1,
        epoch: 8,
        first: 4,
        events: vec![say("x")],
        limits: LIMITS,
    });
    log.apply(Command::Batch {
        front: 3,
        epoch: 7,
        first: 0,
        events: vec![say("x")],
        limits: LIMITS,
    });
    let said: Vec<_> = log
        .effects()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Said(said) => Some(said.text.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(said, ["a", "b", "c"]);
    let kept: Vec<_> = log.state.history().map(|said| &*said.text).collect();
    assert_eq!(kept, ["b", "c"]);
}

#[test]
fn an_orphan_keeps_its_place_and_its_owner_takes_it_back() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    log.claim(2, 1, 1, 2, "bob");
    log.apply(Command::Lose {
        fronts: vec![(1, 7)],
        limits: LIMITS,
    });
    assert_eq!(log.effects(), [], "nobody is told");
    assert_eq!(log.state.orphans(), 1);
    assert_eq!(*refusal(&log.claim(2, 2, 2, 3, "ALICE")), Refusal::NickTaken);
    // Nothing of a front that was given up counts.
    assert_eq!(
        log.event(
            1,
            Event::Say {
                sid: sid(0),
                text: "x".to_owned(),
                third_person: false
            }
        ),
        []
    );
    // Back under the same SID, on another member: others see what changed, and only that.
    let mut back = claim(3, 0, 1, "alice");
    back.inf = back.inf.replace("SS1", "SS2");
    let effects = log.event(2, Event::Claim(Box::new(back)));
    let [
        Effect::Returned {
            link: 3,
            front: 2,
            changes: Some(changes),
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(&**changes, "SS2");
    assert_eq!(log.state.orphans(), 0);
    assert_eq!(log.state.users().len(), 2);
}

#[test]
fn an_owner_with_another_sid_leaves_first_and_a_stranger_with_the_sid_replaces_the_orphan() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    log.claim(1, 2, 1, 2, "bob");
    log.apply(Command::Lose {
        fronts: vec![(1, 7)],
        limits: LIMITS,
    });
    let effects = log.claim(2, 1, 5, 1, "alice");
    assert!(matches!(
        &effects[..],
        [
            Effect::Left {
                departure: Departure::Moved,
                ..
            },
            Effect::Joined { .. }
        ]
    ));
    let effects = log.claim(2, 2, 1, 3, "eve");
    assert!(matches!(
        &effects[..],
        [
            Effect::Left {
                departure: Departure::GaveWay,
                ..
            },
            Effect::Joined { .. }
        ]
    ));
    assert_eq!(log.state.orphans(), 0);
}

#[test]
fn grace_ends() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    log.effects();
    log.apply(Command::Lose {
        fronts: vec![(1, 7)],
        limits: LIMITS,
    });
    log.apply(Command::Expire);
    assert_eq!(log.effects(), []);
    assert!(!log.state.is_due(log.at.unix_ms) && log.state.is_due(log.at.unix_ms + 1000));
    log.at.unix_ms += 1000;
    log.apply(Command::Expire);
    assert!(matches!(
        log.effects()[..],
        [Effect::Left {
            departure: Departure::Lost,
            ..
        }]
    ));
    assert_eq!((log.state.users().len(), log.state.orphans()), (0, 0));
}

#[test]
fn a_front_that_was_given_up_by_mistake_takes_its_users_back() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    log.apply(Command::Lose {
        fronts: vec![(1, 7)],
        limits: LIMITS,
    });
    log.apply(Command::Open {
        front: 1,
        epoch: 7,
        limits: LIMITS,
    });
    assert_eq!(
        log.state.front(1),
        Some(Front {
            epoch: 7,
            next: 1,
            lost: false
        })
    );
    let effects = log.claim(1, 1, 0, 1, "alice");
    assert!(
        matches!(&effects[..], [Effect::Returned { changes: None, .. }]),
        "{effects:?}"
    );
    // Opening twice in one run changes nothing, a new run does.
    log.apply(Command::Open {
        front: 1,
        epoch: 7,
        limits: LIMITS,
    });
    assert_eq!(log.state.orphans(), 0);
    log.apply(Command::Open {
        front: 1,
        epoch: 8,
        limits: LIMITS,
    });
    assert_eq!(log.state.orphans(), 1);
    assert_eq!(
        log.state.front(1),
        Some(Front {
            epoch: 8,
            next: 0,
            lost: false
        })
    );
}

#[test]
fn only_changes_travel_and_an_empty_value_removes() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    let mut update = |fields: &str| match &log.event(
        1,
        Event::Update {
            sid: sid(0),
            fields: fields.to_owned(),
        },
    )[..]
    {
        [Effect::Updated { changes, .. }] => changes.to_string(),
        [] => String::new(),
        other => panic!("{other:?}"),
    };
    assert_eq!(update("SS1 SF7 XXnew"), "SF7 XXnew");
    assert_eq!(update("SS1"), "");
    assert_eq!(update("SS SF8"), "SF8 SS");
    assert_eq!(update("SS"), "");
    assert_eq!(update(&format!("DE{}", "x".repeat(INF_BYTES_MAX))), "");
    assert!(log.state.user(sid(0)).unwrap().inf.ends_with("NIalice SF8 XXnew"));
}

#[test]
fn registered_nicks_need_their_password_and_have_reserved_places() {
    let mut log = Log::new();
    let password = SealedPassword(vec![1, 2]);
    let order = |class| Order::PutAccount {
        nick: "Op".to_owned(),
        class,
        password: password.clone(),
    };
    assert!(log.order(order(Class::Guest)).is_err());
    log.order(order(Class::Operator)).unwrap();
    assert_eq!(*refusal(&log.claim(1, 1, 0, 1, "oP")), Refusal::PasswordNeeded);
    for number in 0..3 {
        log.claim(
            1,
            number,
            number,
            u8::try_from(number).unwrap(),
            &format!("n{number}"),
        );
    }
    let op = Claim {
        knows_password: true,
        ..claim(9, 9, 9, "op")
    };
    let effects = log.event(1, Event::Claim(Box::new(op)));
    let [.., Effect::Joined { inf, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(inf.ends_with(" CT4"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn operators_order_those_below_them() {
    let mut log = Log::new();
    log.order(Order::PutAccount {
        nick: "op".to_owned(),
        class: Class::Operator,
        password: SealedPassword(vec![]),
    })
    .unwrap();
    log.claim(1, 1, 0, 1, "alice");
    let op = Claim {
        knows_password: true,
        ..claim(2, 1, 2, "op")
    };
    log.event(1, Event::Claim(Box::new(op)));
    let kick = |nick: &str| Order::Kick {
        nick: nick.to_owned(),
        reason: "noise".to_owned(),
    };
    let by = |sid, order| Event::Order { sid, order };
    let answered = |effects: Vec<Effect>| match effects.last() {
        Some(Effect::Answered { text, .. }) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        answered(log.event(1, by(sid(0), kick("op")))),
        "you may not do this"
    );
    assert_eq!(
        answered(log.event(1, by(sid(1), kick("op")))),
        "op is not yours to order about"
    );
    assert_eq!(
        answered(log.event(1, by(sid(1), kick("nobody")))),
        "nobody here is called nobody"
    );
    assert_eq!(
        answered(log.event(1, by(sid(1), kick("ALICE")))),
        "kicked ALICE: noise"
    );
    assert_eq!(log.state.users().len(), 1);
    let ban = Order::Ban {
        target: BanTarget::Network {
            address: "10.0.0.0".parse().unwrap(),
            prefix: 24,
        },
        for_ms: Some(50),
        reason: "out".to_owned(),
    };
    log.event(1, by(sid(1), ban));
    assert_eq!(
        log.state.users().len(),
        1,
        "the operator itself is in that network"
    );
    assert!(matches!(
        refusal(&log.claim(1, 3, 3, 1, "alice")),
        Refusal::Banned { left_s: Some(1), .. }
    ));
    log.at.unix_ms += 50;
    log.apply(Command::Expire);
    assert_eq!(log.state.bans().len(), 0);
    assert!(matches!(
        log.claim(1, 4, 3, 1, "alice")[..],
        [Effect::Joined { .. }]
    ));
    log.event(
        1,
        by(
            sid(1),
            Order::Mute {
                nick: "Alice".to_owned(),
                for_ms: None,
            },
        ),
    );
    assert_eq!(
        log.event(
            1,
            Event::Say {
                sid: sid(3),
                text: "x".to_owned(),
                third_person: false
            }
        ),
        []
    );
    assert_eq!(
        log.state
            .audit()
            .map(|entry| entry.what.as_str())
            .collect::<Vec<_>>(),
        [
            "registered op as operator",
            "kicked ALICE: noise",
            "banned address 10.0.0.0/24: out",
            "muted Alice"
        ]
    );
}

#[test]
fn networks_are_told_apart() {
    let hits = |address: &str, prefix, other: &str| network(address, prefix).holds(other.parse().unwrap());
    assert!(hits("10.0.0.0", 8, "10.9.9.9") && !hits("10.0.0.0", 8, "11.0.0.0"));
    assert!(hits("10.0.0.1", 32, "10.0.0.1") && !hits("10.0.0.1", 32, "10.0.0.2"));
    assert!(hits("0.0.0.0", 0, "1.2.3.4") && !hits("0.0.0.0", 0, "::1"));
    assert!(hits("2001:db8::", 32, "2001:db8::7") && !hits("2001:db8::", 32, "2001:db9::"));
    assert!(hits("::", 0, "2001:db8::7"));
}

fn network(address: &str, prefix: u8) -> BanTarget {
    BanTarget::Network {
        address: address.parse().unwrap(),
        prefix,
    }
}

fn ban(address: &str, prefix: u8, for_ms: Option<u64>) -> Order {
    Order::Ban {
        target: network(address, prefix),
        for_ms,
        reason: "out".to_owned(),
    }
}

/// The user proves its second address, as its front says.
fn prove(number: u64, fields: &str) -> Event {
    Event::Update {
        sid: sid(number),
        fields: fields.to_owned(),
    }
}

#[test]
fn who_proves_an_address_that_is_banned_is_put_out() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    log.claim(1, 2, 1, 2, "bob");
    log.order(ban("2001:db8::", 64, Some(50))).unwrap();
    log.effects();
    let second: IpAddr = "2001:db8::7".parse().unwrap();
    let now = log.at.unix_ms;
    let found = log.state.ban_of_second(now, sid(0), second).unwrap();
    assert_eq!((&*found.reason, found.left_s(now)), ("out", Some(1)));
    assert_eq!(log.state.ban_of_second(now + 50, sid(0), second), None);
    let effects = log.event(1, prove(0, "I62001:db8::7 U61412 SUTCP6"));
    let [
        Effect::Left {
            link: Some((1, 1)),
            departure,
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(
        *departure,
        Departure::Kicked {
            by: "test".to_owned(),
            reason: "out".to_owned(),
            until_unix_ms: Some(now + 50),
            banned: true,
        }
    );
    // A neighbour is told of, and so is this one once the ban is over, before it is forgotten.
    assert!(matches!(
        log.event(1, prove(1, "I62001:db8:0:1::7"))[..],
        [Effect::Updated { .. }]
    ));
    log.at.unix_ms += 50;
    log.claim(1, 3, 2, 1, "alice");
    log.effects();
    assert!(matches!(
        log.event(1, prove(2, "I62001:db8::7"))[..],
        [Effect::Updated { .. }]
    ));
    assert_eq!(log.state.bans().len(), 1);
    assert_eq!(log.state.user(sid(2)).unwrap().second_address(), Some(second));
}

#[test]
fn a_ban_hits_those_who_proved_that_address() {
    let mut log = Log::new();
    log.order(Order::PutAccount {
        nick: "op".to_owned(),
        class: Class::Owner,
        password: SealedPassword(vec![]),
    })
    .unwrap();
    log.claim(1, 1, 0, 1, "alice");
    log.claim(1, 2, 1, 2, "bob");
    let op = Claim {
        knows_password: true,
        ..claim(3, 2, 3, "op")
    };
    log.event(1, Event::Claim(Box::new(op)));
    for (number, second) in [(0, "2001:db8::7"), (1, "2001:db8::8"), (2, "2001:db8::7")] {
        log.event(1, prove(number, &format!("I6{second}")));
    }
    // Its front is given up, and takes it back together with what it proved.
    let before = log.state.user(sid(0)).unwrap().clone();
    let taken_back = || {
        Event::Claim(Box::new(Claim {
            inf: before.inf.to_string(),
            ..claim(1, 0, 1, "alice")
        }))
    };
    log.event(1, Event::Release { sid: sid(0) });
    assert!(matches!(
        log.event(1, taken_back())[..],
        [Effect::Returned { changes: None, .. }]
    ));
    // A member that begins with a snapshot knows as much.
    log.state = AdcState::restore(&log.state.snapshot()).unwrap();
    log.read = log.state.next_effect();
    log.order(ban("2001:db8::7", 128, None)).unwrap();
    let gone: Vec<_> = log
        .effects()
        .iter()
        .map(|effect| match effect {
            Effect::Left {
                sid,
                departure: Departure::Kicked { banned: true, .. },
                ..
            } => *sid,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(gone, [sid(0)], "neither a neighbour nor who can lift bans");
    assert!(matches!(
        refusal(&log.event(1, taken_back())),
        Refusal::Banned { left_s: None, .. }
    ));
    // Who proved nothing of the kind is let in, and put out when it does.
    assert!(matches!(
        log.claim(1, 5, 0, 1, "alice")[..],
        [Effect::Joined { .. }]
    ));
}

#[test]
fn who_came_over_ipv6_is_hit_at_its_ipv4_address() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    let over_ipv6 = Claim {
        address: "2001:db8::9".parse().unwrap(),
        ..claim(6, 7, 7, "eve")
    };
    log.event(2, Event::Claim(Box::new(over_ipv6)));
    log.event(2, prove(7, "I4192.0.2.7"));
    log.effects();
    log.order(ban("192.0.2.0", 24, None)).unwrap();
    assert!(matches!(log.effects()[..], [Effect::Left { .. }]));
}

#[test]
fn the_file_of_registered_users_takes_back_only_what_it_gave() {
    let mut log = Log::new();
    let put = |nick: &str| Order::PutAccount {
        nick: nick.to_owned(),
        class: Class::Registered,
        password: SealedPassword(vec![1]),
    };
    let list = |nick: &str| Order::ListAccount {
        nick: nick.to_owned(),
        class: Class::Operator,
        password: SealedPassword(vec![2]),
    };
    let unlist = |nick: &str| Order::UnlistAccount {
        nick: nick.to_owned(),
    };
    let before = log.state.snapshot();
    log.order(list("Anna")).unwrap();
    log.order(list("Bert")).unwrap();
    log.order(put("carl")).unwrap();
    assert_eq!(log.state.listed().collect::<Vec<_>>(), ["anna", "bert"]);
    // Snapshots of hubs without such a file stay readable for programs that know of none.
    let bytes = log.state.snapshot();
    assert_eq!((before[0], bytes[0]), (1, 2));
    log.state = AdcState::restore(&bytes).unwrap();
    assert_eq!(log.state.snapshot(), bytes);
    // An owner registers one of them anew: it is the owner's now.
    log.order(put("bert")).unwrap();
    assert!(log.order(unlist("bert")).is_err());
    assert!(log.order(unlist("carl")).is_err());
    log.order(unlist("anna")).unwrap();
    assert!(log.state.account("anna").is_none() && log.state.account("bert").is_some());
    assert_eq!(log.state.listed().len(), 0);
    assert!(log.order(unlist("anna")).is_err());
}

#[test]
fn the_file_of_registered_users_puts_guests_out_who_have_its_nicks() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "anna");
    log.claim(1, 2, 1, 2, "bert");
    let by_hand = Order::PutAccount {
        nick: "bert".to_owned(),
        class: Class::Registered,
        password: SealedPassword(vec![1]),
    };
    log.order(by_hand).unwrap();
    let list = |nick: &str| Order::ListAccount {
        nick: nick.to_owned(),
        class: Class::Operator,
        password: SealedPassword(vec![2]),
    };
    // Who registers somebody by hand knows whom.
    assert!(log.state.user_by_nick("bert").is_some());
    log.order(list("Anna")).unwrap();
    assert!(log.state.user_by_nick("anna").is_none() && log.state.user_by_nick("bert").is_some());
    log.order(list("carl")).unwrap();
}

#[test]
fn forgotten_effects_are_not_made_up() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "alice");
    let bytes = log.state.snapshot();
    let restored = AdcState::restore(&bytes).unwrap();
    assert_eq!(restored.snapshot(), bytes);
    assert!(restored.effects_since(0).is_err());
    assert_eq!(
        restored
            .effects_since(restored.next_effect())
            .map(Iterator::count),
        Ok(0)
    );
    assert!(restored.effects_since(restored.next_effect() + 1).is_err());
    assert_eq!(restored.user_by_nick("alice").unwrap().sid, sid(0));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn stored_formats_do_not_change() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let encoded = |command: &Command| hex(postcard::to_stdvec(command).unwrap());
    expect!["000107030181010200000a0a"].assert_eq(&encoded(&Command::Open {
        front: 1,
        epoch: 7,
        limits: Limits {
            users_max: 3,
            reserved_places: 1,
            grace_ms: 129,
            ..LIMITS
        },
    }));
    let events = vec![
        Event::Borrow { count: 2 },
        Event::Claim(Box::new(claim(1, 0, 1, "a"))),
        Event::Update {
            sid: sid(0),
            fields: "SS".to_owned(),
        },
        Event::Say {
            sid: sid(0),
            text: "x".to_owned(),
            third_person: true,
        },
        Event::Leave {
            sid: sid(0),
            departure: Departure::Left,
        },
        Event::Release { sid: sid(0) },
        Event::Order {
            sid: sid(0),
            order: Order::Unban { id: 1 },
        },
    ];
    expect!["010107000700020101010101010101010101010101010101010101010101010101010161314944414541514341494241454151434149424145415143414942414541514341494241454151434149204e496120535331000a0000010d4144424153452041445449475200020102535303010178010401000501060102010301e8070200000a0a"].assert_eq(&encoded(&Command::Batch {
        front: 1,
        epoch: 7,
        first: 0,
        events,
        limits: LIMITS,
    }));
    expect!["020101070301e8070200000a0a"].assert_eq(&encoded(&Command::Lose {
        fronts: vec![(1, 7)],
        limits: LIMITS,
    }));
    expect!["03"].assert_eq(&encoded(&Command::Expire));
    let orders = [
        Order::Kick {
            nick: "a".to_owned(),
            reason: String::new(),
        },
        Order::Ban {
            target: BanTarget::Nick("a".to_owned()),
            for_ms: Some(1),
            reason: String::new(),
        },
        Order::Unban { id: 1 },
        Order::Mute {
            nick: "a".to_owned(),
            for_ms: None,
        },
        Order::Unmute { nick: "a".to_owned() },
        Order::Redirect {
            nick: "a".to_owned(),
            address: "b".to_owned(),
            reason: String::new(),
        },
        Order::Topic { topic: None },
        Order::PutAccount {
            nick: "a".to_owned(),
            class: Class::Owner,
            password: SealedPassword(vec![9]),
        },
        Order::RemoveAccount { nick: "a".to_owned() },
        Order::Register {
            password: SealedPassword(vec![9]),
        },
        Order::ListAccount {
            nick: "a".to_owned(),
            class: Class::Owner,
            password: SealedPassword(vec![9]),
        },
        Order::UnlistAccount { nick: "a".to_owned() },
        Order::RedirectForGood {
            nick: "a".to_owned(),
            address: "b".to_owned(),
            reason: String::new(),
        },
    ];
    let all: Vec<_> = orders
        .iter()
        .map(|order| hex(postcard::to_stdvec(order).unwrap()))
        .collect();
    expect!["00016100 01000161010100 0201 03016100 040161 050161016200 0600 070161030109 080161 090109 0a0161030109 0b0161 0c0161016200"]
        .assert_eq(&all.join(" "));
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "a");
    log.event(
        1,
        Event::Say {
            sid: sid(0),
            text: "x".to_owned(),
            third_person: false,
        },
    );
    log.order(Order::Topic {
        topic: Some("t".to_owned()),
    })
    .unwrap();
    expect!["0102010702000207000000010101010101010101010101010101010101010101010101010101610161314944414541514341494241454151434149424145415143414942414541514341494241454151434149204e496120535331000a0000010d4144424153452041445449475200030001010000000001017401010401016101780001050474657374107365742074686520746f7069633a207403"].assert_eq(&hex(log.state.snapshot()));
}

#[test]
fn a_user_is_sent_only_where_its_client_can_go() {
    let mut log = Log::new();
    log.claim(1, 1, 0, 1, "a");
    let redirect = |address: &str| Order::Redirect {
        nick: "A".to_owned(),
        address: address.to_owned(),
        reason: String::new(),
    };
    let check = |log: &Log, address: &str| log.state.check_order(&redirect(address), &LIMITS);
    assert_eq!(check(&log, "adcs://x,adc://y"), Ok(()));
    assert!(
        check(&log, "http://x")
            .unwrap_err()
            .to_string()
            .contains("dchub://")
    );
    let follows_none = check(&log, "adcs://x").unwrap_err().to_string();
    assert_eq!(follows_none, "the client of this user follows no such address");
    // What is in the log was ordered by a member that had no such check.
    log.order(redirect("adcs://x")).unwrap();
    assert_eq!(log.state.users().count(), 0);
    log.claim(1, 2, 1, 1, "a");
    let for_good = Order::RedirectForGood {
        nick: "a".to_owned(),
        address: "adc://y".to_owned(),
        reason: "we moved".to_owned(),
    };
    assert_eq!(
        log.order(for_good),
        Ok("redirected a for good to adc://y: we moved".to_owned())
    );
    assert_eq!(log.state.users().count(), 0);
}

proptest! {
    /// Whatever fronts send, in whatever order: two members agree, a restored one too, and every index is true.
    #[test]
    fn members_agree_and_indexes_are_true(steps in proptest::collection::vec((0..9_u8, 0..4_u64, 0..4_u8, 0..4_u8), 1..80)) {
        let mut log = Log::new();
        let mut other = AdcState::default();
        other.apply(LogTime { index: 1, unix_ms: 1 }, Command::Open { front: 1, epoch: 7, limits: LIMITS });
        other.apply(LogTime { index: 2, unix_ms: 2 }, Command::Open { front: 2, epoch: 7, limits: LIMITS });
        for (step, number, who, nick) in steps {
            let front = number % 2 + 1;
            let first = log.state.front(front).map_or(0, |front| front.next);
            let batch = |event| Command::Batch { front, epoch: 7, first, events: vec![event], limits: LIMITS };
            let command = match step {
                0..=3 => batch(Event::Claim(Box::new(claim(number, number, who, ["a", "A", "b", "c"][usize::from(nick)])))),
                4 => batch(Event::Leave { sid: sid(number), departure: Departure::Left }),
                5 => Command::Lose { fronts: vec![(front, 7)], limits: LIMITS },
                6 => Command::Open { front, epoch: 7, limits: LIMITS },
                7 => batch(Event::Release { sid: sid(number) }),
                _ => Command::Expire,
            };
            log.at.unix_ms += 400;
            let bytes = postcard::to_stdvec(&command).unwrap();
            log.apply(command);
            other.apply(log.at, postcard::from_bytes(&bytes).unwrap());
            prop_assert_eq!(log.state.snapshot(), other.snapshot());
            other = AdcState::restore(&other.snapshot()).unwrap();
            prop_assert!(log.state.users.len() <= 4);
            prop_assert_eq!(log.state.by_nick.len(), log.state.users.len());
            prop_assert_eq!(log.state.by_cid.len(), log.state.users.len());
            let orphans = log.state.users().filter(|user| user.orphan_until().is_some()).count();
            prop_assert_eq!(log.state.orphans() as usize, orphans);
            for user in log.state.users() {
                prop_assert_eq!(log.state.by_nick[&user.folded_nick], user.sid);
                prop_assert_eq!(log.state.by_cid[&user.cid], user.sid);
            }
        }
    }
}
