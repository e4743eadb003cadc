//! The client against real members on loopback.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv::AccessFiles;
use kv_client::{Client, Error, Options, Outcome, Terms};
use support::Group;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const WAIT: Terms = Terms::DEFAULT.blocking();

fn endpoints(group: &Group, numbers: &[usize]) -> Options {
    Options::at(
        numbers
            .iter()
            .map(|number| format!("http://{}", group.address(*number))),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_answered() {
    let group = Group::of_three().await;
    let client = Client::new(endpoints(&group, &[0, 1, 2])).unwrap();
    let absent = client.get("a/b c", WAIT).await.unwrap();
    assert!(!absent.valid && !absent.timeout, "{absent:?}");
    assert!(client.set("a/b c", [0xff, 0], WAIT).await.unwrap().valid);
    let got = client.get("a/b c", WAIT).await.unwrap();
    assert_eq!((got.valid, got.bytes()), (true, vec![0xff, 0]));
    let swapped = client.swap("a/b c", [0xff, 0], "text", WAIT).await.unwrap();
    assert_eq!((swapped.valid, swapped.value.as_str()), (true, "text"));
    let differs = client.swap("a/b c", "other", "never", WAIT).await.unwrap();
    assert_eq!((differs.valid, differs.value.as_str()), (false, "text"));
    let local = client.get("a/b c", Terms::default().local()).await.unwrap();
    assert!(local.valid || !local.remembered, "{local:?}");
    assert!(client.delete("a/b c", WAIT).await.unwrap().valid);
    assert!(!client.delete("a/b c", WAIT).await.unwrap().valid);
    let refused = client.set(&"k".repeat(2000), "", WAIT).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { status: 400, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_act_once_while_leaders_come_and_go() {
    const TASKS: u64 = 6;
    const EACH: u64 = 15;
    let mut group = Group::of_three().await;
    let client = Client::new(endpoints(&group, &[0, 1, 2])).unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..EACH {
                let mut known = client.get("counter", WAIT).await.unwrap().value;
                loop {
                    let next = known.parse::<u64>().unwrap_or(0) + 1;
                    let swapped = client
                        .swap("counter", &known, next.to_string(), WAIT)
                        .await
                        .unwrap();
                    if swapped.valid {
                        break;
                    }
                    assert!(!swapped.timeout && !swapped.unknown, "{swapped:?}");
                    known = swapped.value;
                }
            }
        });
    }
    for _ in 0..2 {
        let leader = group.leader().await;
        group.stop(leader).await;
        group.leader().await;
        group.start(leader).await;
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let counted = client.get("counter", WAIT).await.unwrap().value;
    assert_eq!(counted, (TASKS * EACH).to_string());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the proxy lives as long as the test's runtime"
)]
/// Passes requests on and swallows the answers to those whose head contains `word`.
async fn swallowing(to: SocketAddr, word: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let swallowed = Arc::new(AtomicUsize::new(0));
    let counter = swallowed.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let counter = counter.clone();
            connections.spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                let (mut asked, mut answered) = ([0; 8192], [0; 8192]);
                loop {
                    tokio::select! {
                        read = client.read(&mut asked) => match read {
                            Ok(length) if length > 0 => server.write_all(&asked[..length]).await.unwrap(),
                            _ => return,
                        },
                        read = server.read(&mut answered) => {
                            let length = read.unwrap_or(0);
                            if length == 0 || String::from_utf8_lossy(&asked).contains(word) {
                                counter.fetch_add(1, Ordering::SeqCst);
                                return;
                            }
                            client.write_all(&answered[..length]).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    (address, swallowed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_is_sent_again_and_acts_once() {
    let group = Group::of_three().await;
    let (proxy, swallowed) = swallowing(group.address(0), "/swap").await;
    let mut options = endpoints(&group, &[1]);
    options.endpoints.insert(0, format!("http://{proxy}"));
    let client = Client::new(options).unwrap();
    let swapped = client.swap("k", "", "mine", WAIT).await.unwrap();
    assert!(swapped.valid, "{swapped:?}");
    assert_eq!(swallowed.load(Ordering::SeqCst), 1);

    // Without another member nobody can tell, and the ticket does.
    let (proxy, _) = swallowing(group.address(0), "POST").await;
    let client = Client::new(endpoints(&group, &[0])).unwrap();
    let lonely = Client::new(Options::at([format!("http://{proxy}")])).unwrap();
    let unreached = lonely.swap("k", "mine", "x", Terms::default()).await;
    assert!(
        matches!(&unreached, Err(Error::Unreachable(_)) | Ok(_)),
        "no session could be opened: {unreached:?}"
    );
    let (proxy, _) = swallowing(group.address(0), "seq=2").await;
    let lonely = Client::new(Options::at([format!("http://{proxy}")])).unwrap();
    // The session is open then.
    assert!(lonely.set("first", "", WAIT).await.unwrap().valid);
    let terms = Terms::default().within(Duration::from_secs(3));
    let unknown = lonely.swap("k", "mine", "settled", terms).await.unwrap();
    assert!(unknown.unknown && !unknown.timeout, "{unknown:?}");
    let outcome = client.cancel(unknown.ticket.unwrap(), WAIT).await.unwrap();
    assert_eq!(outcome.outcome, Some(Outcome::Done), "{outcome:?}");
    assert_eq!(client.get("k", WAIT).await.unwrap().value, "settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_member_remembers_for_a_client_without_a_session() {
    let mut group = Group::of_three().await;
    let leader = group.leader().await;
    let last = (leader + 1) % 3;
    group.stop((leader + 2) % 3).await;
    group.stop(leader).await;
    let client = Client::new(endpoints(&group, &[leader, last])).unwrap();
    let short = Terms::default().within(Duration::from_millis(300));
    let timed_out = client.set("k", "never", short).await.unwrap();
    assert!(timed_out.timeout && !timed_out.valid, "{timed_out:?}");
    let remembered = client.set("k", "v", Terms::default().local()).await.unwrap();
    assert!(remembered.valid && remembered.remembered, "{remembered:?}");
    let shown = client.get("k", Terms::default().local()).await.unwrap();
    assert_eq!((shown.value.as_str(), shown.remembered), ("v", true));
    group.stop(last).await;
    let nobody = client.get("k", short).await.unwrap_err();
    assert!(matches!(nobody, Error::Unreachable(_)), "{nobody}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_certificates_are_shown_and_checked() {
    const TOKEN: &str = "0123456789abcdef";
    let group = Group::with(|directory| {
        let made = rcgen::generate_simple_self_signed(["kv.test".to_owned()]).unwrap();
        fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
        let tokens =
            format!(r#"{{"tokens":[{{"name":"a","token":"{TOKEN}","access":"write","prefix":"a/"}}]}}"#);
        fs::write(directory.join("tokens"), tokens).unwrap();
        AccessFiles {
            tokens: Some(directory.join("tokens")),
            tls: Some((directory.join("cert.pem"), directory.join("key.pem"))),
        }
    })
    .await;
    let options = Options {
        endpoints: vec![format!("https://{}", group.address(0))],
        token: Some(TOKEN.to_owned()),
        ca_file: Some(group.directory().join("cert.pem")),
        server_name: Some("kv.test".to_owned()),
    };
    let client = Client::new(options.clone()).unwrap();
    assert!(client.set("a/k", "v", WAIT).await.unwrap().valid);
    let refused = client.get("b", WAIT).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { status: 403, .. }), "{refused}");
    let without = Options {
        token: None,
        ..options.clone()
    };
    let refused = Client::new(without).unwrap().get("a/k", WAIT).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { status: 401, .. }), "{refused}");
    let another = Options {
        server_name: None,
        ..options
    };
    let refused = Client::new(another)
        .unwrap()
        .get("a/k", Terms::default())
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Unreachable(_)), "{refused}");
}
