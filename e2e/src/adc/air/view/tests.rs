use super::*;
use crate::clock::now;

fn view() -> View {
    let options = AirOptions::new("air", "adc://127.0.0.1:1");
    let mut view = View::new(&options, Identity::of("air", 1));
    view.connected();
    view
}

fn hear(view: &mut View, lines: &[&str]) -> Vec<Reaction> {
    lines.iter().flat_map(|line| view.received(line, now())).collect()
}

#[test]
fn own_inf_is_the_login() {
    let mut view = view();
    hear(
        &mut view,
        &[
            "ISUP ADBASE ADTIGR",
            "ISID AAAB",
            "IINF CT32 NIhub",
            "BINF AAAC IDX NIold",
        ],
    );
    assert!(!view.is_normal());
    hear(&mut view, &["BINF AAAB IDY NIair", "BINF AAAD IDZ NInew"]);
    assert!(view.is_normal() && view.logins == 1);
    assert_eq!(
        view.at_login,
        BTreeSet::from(["old".to_owned(), "air".to_owned()])
    );
    assert_eq!(view.moves, ["+new"]);
    assert!(view.violations.is_empty(), "{:?}", view.violations);
}

#[test]
fn hub_says_when_to_come_back() {
    let mut view = view();
    hear(&mut view, &["ISID AAAB", "IQUI AAAB TL2 MSgo"]);
    assert_eq!(view.back, Back::After(2));
    hear(&mut view, &["IQUI AAAB TL-1"]);
    assert_eq!(view.back, Back::Never);
}

#[test]
fn offences_are_noted() {
    let offends = |line: &str| {
        let mut view = view();
        hear(
            &mut view,
            &["ISID AAAB", "BINF AAAC IDX NIold", "BINF AAAB IDY NIair", line],
        );
        !view.violations.is_empty()
    };
    assert!(!offends("BMSG AAAC hello"));
    assert!(offends("BMSG AAAZ hello"), "from nobody");
    assert!(offends("DMSG AAAC AAAD hello"), "for another");
    assert!(offends("BINF AAAE IDX NIold"), "one CID twice");
    assert!(offends("BINF AAAC IDZ"), "another user behind the same SID");
    assert!(offends("BINF AAAF IDZ PDsecret NIx"), "a PID");
    assert!(offends("IQUI AAAZ"), "nobody leaves");
}

#[test]
fn a_flood_of_searches_drives_it_away() {
    let mut view = view();
    hear(
        &mut view,
        &["ISID AAAB", "BINF AAAC IDX NIold", "BINF AAAB IDY NIair"],
    );
    let searches = vec!["BSCH AAAC ANx TO1"; SEARCHES_MAX];
    assert_eq!(hear(&mut view, &searches), []);
    assert_eq!(hear(&mut view, &["BSCH AAAC ANx TO1"]), [Reaction::Leave]);
}
