//! Transcripts: what a client sends, and what comes of it.

use expect_test::{Expect, expect};

use super::*;

const PID: &str = "3CYKDCBHTVEPJSZPVWYRPXX6CZTIJAIYUCGDRXY";
const CID: &str = "HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI";

fn rate(burst: u32, ms: u64) -> Rate {
    Rate {
        burst,
        every: Duration::from_millis(ms),
    }
}

fn settings() -> Settings {
    Settings {
        name: "A Hub".to_owned(),
        description: String::new(),
        motd: "Be kind\nto all".to_owned(),
        rules: String::new(),
        self_registration: false,
        redirect_when_full: None,
        users_max: 100,
        about: About::default(),
        hybrid: None,
        setup_max: Duration::from_secs(30),
        share_bytes_min: 0,
        slots_min: 0,
        hubs_max: 10,
        search_chars_min: 3,
        rates: Rates {
            chat: rate(2, 1000),
            private: rate(2, 1000),
            search: rate(6, 2000),
            info: rate(5, 500),
            other: rate(50, 100),
        },
    }
}

/// A client at 192.0.2.7 and its session.
struct Client {
    session: Session,
    now: Duration,
    said: String,
}

impl Client {
    fn new() -> Self {
        Self::with(settings(), "192.0.2.7")
    }

    fn with(settings: Settings, address: &str) -> Self {
        let origin = Origin {
            address: address.parse().unwrap(),
        };
        Self {
            session: Session::new(Arc::new(settings), origin),
            now: Duration::ZERO,
            said: String::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) -> &mut Self {
        for output in self.session.handle(self.now, input) {
            self.said += &match output {
                Output::Send(line) => format!("< {line}"),
                other => format!("! {other:?}\n"),
            };
        }
        self
    }

    fn line(&mut self, line: &str) -> &mut Self {
        self.input(Input::Line(line.as_bytes()))
    }

    fn sid(&mut self) -> &mut Self {
        self.line("HSUP ADBASE ADTIGR")
            .input(Input::Sid(Sid::from_number(0)))
    }

    fn inf(&mut self, fields: &str) -> &mut Self {
        self.line(&format!("BINF AAAB ID{CID} PD{PID} {fields}"))
    }

    fn normal() -> Self {
        let mut client = Self::new();
        client
            .sid()
            .inf("NIme")
            .input(Input::Account(None))
            .input(Input::Admitted(Class::Guest));
        client.said.clear();
        client
    }

    fn check(&mut self, expected: Expect) -> &mut Self {
        // The PID shows nowhere.
        assert!(!self.said.contains(PID), "{}", self.said);
        expected.assert_eq(&std::mem::take(&mut self.said));
        self
    }
}

#[test]
fn a_guest_comes_in() {
    let mut client = Client::new();
    client
        .line("")
        .line("HSUP ADBAS0 ADBASE ADTIGR ADUCM0")
        .check(expect![[r#"
            ! NeedSid { offer: "BAS0 BASE TIGR UCM0" }
        "#]]);
    assert!(client.session.is_waiting() && client.session.sid().is_none());
    client.input(Input::Sid(Sid::from_number(0))).check(expect![[r#"
        < ISUP ADBASE ADTIGR ADUCM0 ADUCMD ADPING
        < ISID AAAB
        < IINF CT32 NIA\sHub DE APQuorate VE0.1.0 RP7
    "#]]);
    client
        .inf("NIme\\stoo SS12 SUTCP4,TCP6,UDP6,SEGA CT16 I40.0.0.0 U41412 U61412 XXnew")
        .check(expect![[r#"
            ! LookUp { nick: "me too" }
        "#]]);
    client.input(Input::Account(None)).check(expect![[r#"
        ! Claim(Login { sid: AAAB, cid: HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI, nick: "me too", inf: "IDHOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI NIme\\stoo SS12 SUTCP4,SEGA U41412 XXnew I4192.0.2.7", address: 192.0.2.7, offer: "BAS0 BASE TIGR UCM0", knows_password: false, second: None })
    "#]]);
    client.input(Input::Admitted(Class::Guest)).check(expect![[r#"
        < IMSG Be\skind
        < IMSG to\sall
    "#]]);
    assert!(client.session.is_normal() && client.session.deadline().is_none());
}

#[test]
fn a_password_is_asked_for_and_checked() {
    let mut client = Client::new();
    client.sid().inf("NIop").said.clear();
    let account = || Input::Account(Some(("secret".to_owned(), [0; 24])));
    client.input(account()).line("BMSG AAAB hi").check(expect![[r#"
        < IGPA AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
        < ISTA 144 This\scommand\sis\snot\sfor\snow FCBMSG
    "#]]);
    client
        .line("HPAS 2HMOLBN3LG6PE4VUTQMEHMIKQ5TKIESY3MWKNEY")
        .check(expect![[r#"
            ! Claim(Login { sid: AAAB, cid: HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI, nick: "op", inf: "IDHOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI NIop I4192.0.2.7", address: 192.0.2.7, offer: "BASE TIGR", knows_password: true, second: None })
        "#]]);
    let mut client = Client::new();
    client.sid().inf("NIop").said.clear();
    client.input(account()).line("HPAS AAAA").check(expect![[r#"
        < IGPA AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
        < ISTA 223 Wrong\spassword
        < IQUI AAAB MSWrong\spassword
        ! Close(Dropped { reason: "Wrong password" })
    "#]]);
    assert!(client.session.is_closed());
}

#[test]
fn greetings_that_are_none_end_the_session() {
    for greeting in [
        "GET / HTTP/1.1\r",
        "$Lock EXTENDED",
        "\u{16}\u{3}\u{1}",
        "BINF AAAA",
        "HSUP ADTIGR",
        "HSUP ADBASE",
    ] {
        let mut client = Client::new();
        client.line(greeting);
        assert!(
            client.session.is_closed() && client.session.sid().is_none(),
            "{greeting}"
        );
    }
    Client::new().line("HSUP ADBASE").check(expect![[r#"
        < ISTA 247 This\shub\sneeds\sTIGR:\sthere\sis\sno\sother\shash\sin\scommon
        < IQUI AAAA MSThis\shub\sneeds\sTIGR:\sthere\sis\sno\sother\shash\sin\scommon TL-1
        ! Close(Dropped { reason: "This hub needs TIGR: there is no other hash in common" })
    "#]]);
    Client::new().line("HINF").check(expect![[r#"
        < ISTA 244 A\ssession\sbegins\swith\sHSUP
        < IQUI AAAA MSA\ssession\sbegins\swith\sHSUP
        ! Close(Dropped { reason: "A session begins with HSUP" })
    "#]]);
    Client::new().line("GET / HTTP/1.1\r").check(expect![[r#"
        ! Close(Dropped { reason: "not ADC" })
    "#]]);
}

#[test]
fn identities_are_checked() {
    let refused = |fields: &str, expected: Expect| {
        let mut client = Client::new();
        client.sid().said.clear();
        client.line(&format!("BINF {fields}")).check(expected);
        assert!(client.session.is_closed());
    };
    refused(
        &format!("AAAC ID{CID} PD{PID} NIme"),
        expect![[r#"
        < ISTA 240 That\sis\snot\syour\sSID
        < IQUI AAAB MSThat\sis\snot\syour\sSID
        ! Close(Dropped { reason: "That is not your SID" })
    "#]],
    );
    refused(
        &format!("AAAB ID{CID} NIme"),
        expect![[r#"
        < ISTA 243 A\sfield\sis\smissing\sin\syour\sINF FMPD
        < IQUI AAAB MSA\sfield\sis\smissing\sin\syour\sINF
        ! Close(Dropped { reason: "A field is missing in your INF" })
    "#]],
    );
    refused(
        &format!("AAAB ID{CID} PD{PID}"),
        expect![[r#"
        < ISTA 243 A\sfield\sis\smissing\sin\syour\sINF FMNI
        < IQUI AAAB MSA\sfield\sis\smissing\sin\syour\sINF
        ! Close(Dropped { reason: "A field is missing in your INF" })
    "#]],
    );
    refused(
        &format!("AAAB ID{CID} PD{CID} NIme"),
        expect![[r#"
        < ISTA 227 Your\sPID\sdoes\snot\sbelong\sto\syour\sCID
        < IQUI AAAB MSYour\sPID\sdoes\snot\sbelong\sto\syour\sCID
        ! Close(Dropped { reason: "Your PID does not belong to your CID" })
    "#]],
    );
    refused(
        &format!("AAAB ID{} PD{PID} NIme", CID.to_lowercase()),
        expect![[r#"
            < ISTA 243 A\sfield\sof\syour\sINF\sis\smalformed FBID
            < IQUI AAAB MSA\sfield\sof\syour\sINF\sis\smalformed
            ! Close(Dropped { reason: "A field of your INF is malformed" })
        "#]],
    );
    refused(
        &format!("AAAB ID{CID} PD{PID} NIme NIyou"),
        expect![[r#"
        < ISTA 243 A\sfield\sof\syour\sINF\sis\sthere\stwice FBNI
        < IQUI AAAB MSA\sfield\sof\syour\sINF\sis\sthere\stwice
        ! Close(Dropped { reason: "A field of your INF is there twice" })
    "#]],
    );
    refused(
        &format!("AAAB ID{CID} PD{PID} NI\\sme"),
        expect![[r#"
        < ISTA 221 Nobody\scan\shave\sthis\snick
        < IQUI AAAB MSNobody\scan\shave\sthis\snick
        ! Close(Dropped { reason: "Nobody can have this nick" })
    "#]],
    );
    refused(
        &format!("AAAB ID{CID} PD{PID} NIme DE{}", "x".repeat(5000)),
        expect![[r#"
            < ISTA 240 Your\sINF\sis\stoo\slong
            < IQUI AAAB MSYour\sINF\sis\stoo\slong
            ! Close(Dropped { reason: "Your INF is too long" })
        "#]],
    );
}

#[test]
fn refusals_say_when_to_come_back() {
    let refused = |refusal, expected: Expect| {
        let mut client = Client::new();
        client.sid().inf("NIme").input(Input::Account(None)).said.clear();
        client.input(Input::Refused(refusal)).check(expected);
    };
    refused(
        Refusal::Full,
        expect![[r#"
        < ISTA 211 The\shub\sis\sfull
        < IQUI AAAB MSThe\shub\sis\sfull TL600
        ! Close(Dropped { reason: "The hub is full" })
    "#]],
    );
    refused(
        Refusal::NickTaken,
        expect![[r#"
        < ISTA 222 Somebody\shas\sthis\snick
        < IQUI AAAB MSSomebody\shas\sthis\snick
        ! Close(Dropped { reason: "Somebody has this nick" })
    "#]],
    );
    refused(
        Refusal::CidTaken,
        expect![[r#"
        < ISTA 224 You\sare\sconnected\salready
        < IQUI AAAB MSYou\sare\sconnected\salready TL20
        ! Close(Dropped { reason: "You are connected already" })
    "#]],
    );
    refused(
        Refusal::SidTaken,
        expect![[r#"
        < ISTA 220 Please\slog\sin\sagain
        < IQUI AAAB MSPlease\slog\sin\sagain TL1
        ! Close(Dropped { reason: "Please log in again" })
    "#]],
    );
    refused(
        Refusal::RegisteredOnly,
        expect![[r#"
        < ISTA 226 Only\sregistered\susers\smay\scome\sin
        < IQUI AAAB MSOnly\sregistered\susers\smay\scome\sin TL-1
        ! Close(Dropped { reason: "Only registered users may come in" })
    "#]],
    );
    refused(
        Refusal::Banned {
            reason: "noise".to_owned(),
            left_s: Some(60),
        },
        expect![[r#"
            < ISTA 232 You\sare\sbanned:\snoise TL60
            < IQUI AAAB MSYou\sare\sbanned:\snoise TL60
            ! Close(Dropped { reason: "You are banned: noise" })
        "#]],
    );
    refused(
        Refusal::Banned {
            reason: "noise".to_owned(),
            left_s: None,
        },
        expect![[r#"
            < ISTA 231 You\sare\sbanned:\snoise
            < IQUI AAAB MSYou\sare\sbanned:\snoise TL-1
            ! Close(Dropped { reason: "You are banned: noise" })
        "#]],
    );
}

#[test]
fn limits_keep_guests_out_and_not_operators() {
    let strict = Settings {
        share_bytes_min: 100,
        slots_min: 2,
        hubs_max: 3,
        ..settings()
    };
    let refused = |fields: &str| {
        let mut client = Client::with(strict.clone(), "192.0.2.7");
        client
            .sid()
            .inf(&format!("NIme {fields}"))
            .input(Input::Account(None));
        client.session.is_closed()
    };
    assert!(refused("SS99 SL2") && refused("SS100 SL1") && refused("SS-5 SL2") && refused("SSabc SL2"));
    assert!(refused("SS100 SL2 HN1 HR1 HO2") && !refused("SS100 SL2 HN1 HR1 HO1"));
    let mut client = Client::with(strict, "192.0.2.7");
    client
        .sid()
        .inf("NIop")
        .input(Input::Account(Some(("x".to_owned(), [0; 24]))));
    assert!(!client.session.is_closed());
}

#[test]
fn what_a_user_sends_goes_where_it_should() {
    let mut client = Client::normal();
    client
        .line("BMSG AAAB hello\\sall ME1 TS1 PMAAAC")
        .line("DMSG AAAB AAAC hi PMAAAB")
        .line("EMSG AAAB AAAC hi PMAAAB")
        .check(expect![[r#"
            ! Say { text: "hello\\sall", third_person: true }
            ! Relay { reach: One(AAAC), line: "DMSG AAAB AAAC hi PMAAAB\n" }
            ! Relay { reach: Echo(AAAC), line: "EMSG AAAB AAAC hi PMAAAB\n" }
        "#]]);
    client.now += Duration::from_secs(9);
    client
        .line("BSCH AAAB ANfoo TOx")
        .line("FSCH AAAB +TCP4-NAT0 ANfoo TOx")
        .line("DRES AAAB AAAC SI1 SL1 FNx TOx")
        .line("DCTM AAAB AAAC ADC/1.0 1412 x")
        .line("DRNT AAAB AAAC ADC/1.0 1412 x")
        .line("BXYZ AAAB new")
        .line("BINF AAAB SS1 ID2 PD3 NIx CT16 I41.2.3.4 I6::1 U61 SUTCP6,TCP4 DE")
        .check(expect![[r#"
            ! Relay { reach: All, line: "BSCH AAAB ANfoo TOx\n" }
            ! Relay { reach: Selected("+TCP4-NAT0"), line: "FSCH AAAB +TCP4-NAT0 ANfoo TOx\n" }
            ! Relay { reach: One(AAAC), line: "DRES AAAB AAAC SI1 SL1 FNx TOx\n" }
            ! Relay { reach: One(AAAC), line: "DCTM AAAB AAAC ADC/1.0 1412 x\n" }
            ! Relay { reach: One(AAAC), line: "DRNT AAAB AAAC ADC/1.0 1412 x\n" }
            ! Relay { reach: All, line: "BXYZ AAAB new\n" }
            ! Update("SS1 SUTCP4 DE")
        "#]]);
}

#[test]
fn what_must_not_pass_does_not() {
    let mut client = Client::normal();
    for line in [
        "BMSG AAAC spoofed",
        "DMSG AAAC AAAB spoofed",
        "DMSG AAAB AAAC hi PMAAAC",
        "BMSG AAAB",
        "BINF AAAB PDsecret",
        "DINF AAAB AAAC NIx",
        "FINF AAAB +TCP4 NIx",
        "BCTM AAAB ADC/1.0 1 x",
        "FCTM AAAB +TCP4 ADC/1.0 1 x",
        "BRES AAAB x",
        "ERES AAAB AAAC x",
        "BQUI AAAB",
        "BSID AAAB",
        "DQUI AAAB AAAC x",
        "BCMD AAAB x",
        "ISTA 000 x",
        "IMSG x",
        "CSTA 000 x",
        "UINF x",
        "HXYZ",
        "HSUP ADZLIF",
        "BMSG AAAB \\x",
        "junk",
    ] {
        client.line(line);
        assert_eq!(client.said, "", "{line}");
    }
    client.line("BSCH AAAB ANab").line("HPAS x").check(expect![[r#"
        < ISTA 110 Search\sfor\sat\sleast\s3\scharacters
        < ISTA 144 Nobody\sasked\sfor\sa\spassword FCHPAS
    "#]]);
    client
        .line("HSND blom / 0 4")
        .line("HGET file files.xml.bz2 0 -1")
        .check(expect![[r#"
            < ISTA 145 This\shub\skeeps\sno\sfilters\sof\shashes,\sand\sno\sfiles FCHSND
            < ISTA 145 This\shub\skeeps\sno\sfilters\sof\shashes,\sand\sno\sfiles FCHGET
        "#]]);
    client.line("HQUI AAAB").check(expect![[r#"
        ! Close(Left)
    "#]]);
    Client::normal().line("HZON").check(expect![[r#"
        < ISTA 244 This\shub\scompresses\swhat\sit\ssends,\sand\stakes\snothing\scompressed FCHZON
        < IQUI AAAB MSThis\shub\scompresses\swhat\sit\ssends,\sand\stakes\snothing\scompressed
        ! Close(Dropped { reason: "This hub compresses what it sends, and takes nothing compressed" })
    "#]]);
    client.line("BMSG AAAB late").check(expect![""]);
    Client::normal().line("HSUP RMTIGR").check(expect![[r#"
        < ISTA 245 This\shub\sneeds\sBASE\sand\sTIGR FCBASE
        < IQUI AAAB MSThis\shub\sneeds\sBASE\sand\sTIGR
        ! Close(Dropped { reason: "This hub needs BASE and TIGR" })
    "#]]);
}

#[test]
fn floods_are_dropped_and_double_searches_are_not() {
    let mut client = Client::normal();
    for _ in 0..5 {
        client.line("BMSG AAAB x");
    }
    client.check(expect![[r#"
        ! Say { text: "x", third_person: false }
        ! Say { text: "x", third_person: false }
        < ISTA 110 You\stalk\stoo\smuch:\ssome\sof\sit\sis\sdropped
    "#]]);
    client.now += Duration::from_secs(1);
    client.line("BMSG AAAB y").line("BMSG AAAB z").check(expect![[r#"
        ! Say { text: "y", third_person: false }
        < ISTA 110 You\stalk\stoo\smuch:\ssome\sof\sit\sis\sdropped
    "#]]);
    // A passive client, a search each four seconds, for an hour.
    for _ in 0..900 {
        client.now += Duration::from_secs(4);
        client
            .line("FSCH AAAB +TCP4-NAT0 ANfoo")
            .line("FSCH AAAB +NAT0 ANfoo");
        assert_eq!(client.said.matches("Relay").count(), 2);
        client.said.clear();
    }
}

#[test]
fn setup_ends_in_time_and_after_errors() {
    let mut client = Client::new();
    client.input(Input::Deadline).check(expect![""]);
    client.now = Duration::from_secs(30);
    client.input(Input::Deadline).check(expect![[r#"
        ! Close(Dropped { reason: "said nothing" })
    "#]]);
    let mut client = Client::new();
    client.sid().now = Duration::from_secs(30);
    client.said.clear();
    client.input(Input::Deadline).check(expect![[r#"
        < ISTA 220 You\stook\stoo\slong\sto\slog\sin
        < IQUI AAAB MSYou\stook\stoo\slong\sto\slog\sin
        ! Close(Dropped { reason: "You took too long to log in" })
    "#]]);
    let mut client = Client::new();
    client.sid().inf("NIme").input(Input::Account(None)).now = Duration::from_secs(30);
    client.said.clear();
    client.input(Input::Deadline).check(expect![[r#"
        < ISTA 210 The\shub\scannot\slet\syou\sin\sright\snow
        < IQUI AAAB MSThe\shub\scannot\slet\syou\sin\sright\snow TL2
        ! Close(Dropped { reason: "The hub cannot let you in right now" })
    "#]]);
    let mut client = Client::new();
    client.sid();
    for _ in 0..8 {
        client.line("BMSG AAAB x").line("junk");
    }
    assert!(client.session.is_closed());
}

#[test]
fn a_client_with_ipv6_is_stamped_with_it() {
    let mut client = Client::with(settings(), "2001:db8::7");
    client
        .sid()
        .inf("NIme SUTCP4,TCP6 U41 U62 I41.2.3.4")
        .check(expect![[r#"
            ! NeedSid { offer: "BASE TIGR" }
            < ISUP ADBASE ADTIGR ADUCM0 ADUCMD ADPING
            < ISID AAAB
            < IINF CT32 NIA\sHub DE APQuorate VE0.1.0 RP7
            ! LookUp { nick: "me" }
        "#]]);
    client.input(Input::Account(None)).check(expect![[r#"
        ! Claim(Login { sid: AAAB, cid: HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI, nick: "me", inf: "IDHOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI NIme SUTCP6 U62 I62001:db8::7", address: 2001:db8::7, offer: "BASE TIGR", knows_password: false, second: None })
    "#]]);
}

#[test]
fn a_full_hub_sends_clients_where_they_can_go() {
    let full = |fields: &str| {
        let settings = Settings {
            redirect_when_full: Some("adcs://a:1,adc://b:2".to_owned()),
            ..settings()
        };
        let mut client = Client::with(settings, "192.0.2.7");
        client.sid().inf(fields).input(Input::Account(None));
        client.said.clear();
        client.input(Input::Refused(Refusal::Full));
        std::mem::take(&mut client.said)
    };
    for (fields, expected) in [
        ("NIme", " RDadc://b:2\n"),
        ("NIme SUADC0", " RDadcs://a:1\n"),
        ("NIme RP3", " RDadcs://a:1 RXadc://b:2\n"),
        ("NIme RP4", "\n"),
    ] {
        let said = full(fields);
        let quit = format!("< IQUI AAAB MSThe\\shub\\sis\\sfull TL600{expected}");
        assert!(said.contains(&quit), "{fields}: {said}");
    }
}

#[test]
fn what_a_client_follows_does_not_change() {
    let mut client = Client::normal();
    client.line("BINF AAAB RP1 SS5").check(expect![[r#"
        ! Update("SS5")
    "#]]);
}

fn hybrid_hub() -> Settings {
    Settings {
        hybrid: Some(Hybrid {
            ipv4: "192.0.2.1".parse().unwrap(),
            ipv6: "2001:db8::1".parse().unwrap(),
            port: 1511,
        }),
        ..settings()
    }
}

#[test]
fn a_client_with_two_addresses_may_prove_the_second() {
    let mut client = Client::with(hybrid_hub(), "192.0.2.7");
    client
        .line("HSUP ADBASE ADTIGR ADHBRI")
        .input(Input::Sid(Sid::from_number(0)))
        .inf("NIme SUTCP4,TCP6,UDP6 I6:: U61412")
        .input(Input::Account(None))
        .check(expect![[r#"
            ! NeedSid { offer: "BASE TIGR HBRI" }
            < ISUP ADBASE ADTIGR ADUCM0 ADUCMD ADPING ADHBRI
            < ISID AAAB
            < IINF CT32 NIA\sHub DE APQuorate VE0.1.0 RP7
            ! LookUp { nick: "me" }
            ! Claim(Login { sid: AAAB, cid: HOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI, nick: "me", inf: "IDHOBJ25Z3YNH6PH3EC3G5MRWKNTN5DFCT4OHIVSI NIme SUTCP4 I4192.0.2.7", address: 192.0.2.7, offer: "BASE TIGR HBRI", knows_password: false, second: Some("TCP6,UDP6") })
        "#]]);
    client.input(Input::Admitted(Class::Guest)).said.clear();
    // Until it has proved it, nobody is told.
    client
        .line("BINF AAAB SUTCP4,TCP6 U61413 I62001:db8::7")
        .check(expect![[r#"
            ! Update("SUTCP4")
        "#]]);
    client.input(Input::Hybrid);
    client
        .line("BINF AAAB SUTCP4,TCP6 U61413 I62001:db8::8")
        .check(expect![[r#"
            ! Update("SUTCP4,TCP6 U61413")
        "#]]);
}

#[test]
fn a_further_connection_proves_an_address_and_nothing_else() {
    let connect = |settings, address| Client::with(settings, address);
    let mut client = connect(hybrid_hub(), "2001:db8::7");
    client.line("HTCP I6:: U4999 U61412 TOAAABxyz").check(expect![[r#"
            ! Prove { token: "AAABxyz", udp_port: Some(1412) }
        "#]]);
    // What it says meanwhile is not heard.
    client
        .line("HSUP ADBASE ADTIGR")
        .input(Input::Proved(Ok(())))
        .check(expect![[r#"
            < ISTA 000 Your\saddress\sis\sproved
            ! Close(Left)
        "#]]);
    connect(hybrid_hub(), "192.0.2.7")
        .line("HTCP")
        .input(Input::Proved(Err(Unproved::Unknown)))
        .check(expect![[r#"
            ! Prove { token: "", udp_port: None }
            < ISTA 240 Nobody\swaits\sfor\sthis\stoken\sat\sthis\saddress
            ! Close(Left)
        "#]]);
    for (left_s, expected) in [
        (None, "< ISTA 231 You\\sare\\sbanned:\\sout\n! Close(Left)\n"),
        (
            Some(9),
            "< ISTA 232 You\\sare\\sbanned:\\sout TL9\n! Close(Left)\n",
        ),
    ] {
        let banned = Unproved::Banned {
            reason: "out".to_owned(),
            left_s,
        };
        let mut client = connect(hybrid_hub(), "2001:db8::7");
        client.line("HTCP TOAAAB").said.clear();
        client.input(Input::Proved(Err(banned)));
        assert_eq!(client.said, expected);
    }
    // A hub without a second address takes no proofs.
    connect(settings(), "192.0.2.7")
        .line("HTCP TOAAAB")
        .check(expect![[r#"
            < ISTA 244 A\ssession\sbegins\swith\sHSUP
            < IQUI AAAA MSA\ssession\sbegins\swith\sHSUP
            ! Close(Dropped { reason: "A session begins with HSUP" })
        "#]]);
}

proptest::proptest! {
    /// Whatever a client sends, the machine goes on, closes at most once, and speaks no more after that.
    #[test]
    fn no_line_breaks_the_machine(lines in proptest::collection::vec(
        proptest::prop_oneof![
            "[BDEFHICU](INF|SUP|MSG|PAS|SCH|QUI|CTM|RES|XYZ) (AAAB )?(AAAC )?.{0,20}",
            ".{0,30}",
            proptest::strategy::Just(format!("BINF AAAB ID{CID} PD{PID} NIme")),
            proptest::strategy::Just("HSUP ADBASE ADTIGR".to_owned()),
        ], 1..40)) {
        let mut client = Client::new();
        for line in lines {
            client.line(&line);
            match client.session.phase {
                Phase::AwaitSid { .. } => drop(client.input(Input::Sid(Sid::from_number(0)))),
                Phase::AwaitAccount(_) => drop(client.input(Input::Account(None))),
                Phase::AwaitClaim => drop(client.input(Input::Admitted(Class::Guest))),
                _ => {}
            }
        }
        let closes = client.said.matches("! Close").count();
        proptest::prop_assert_eq!(closes, usize::from(client.session.is_closed()));
        if let Some((_, after)) = client.said.split_once("! Close") {
            proptest::prop_assert_eq!(after.lines().count(), 1);
        }
        proptest::prop_assert!(!client.said.contains(PID));
    }
}
