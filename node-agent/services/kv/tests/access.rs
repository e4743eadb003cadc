//! Who is let in: tokens and TLS on real sockets, changed while the members run.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kv::AccessFiles;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use support::{Answer, Group, connect, eventually, exchange};
use tokio_rustls::TlsConnector;

const APP: &str = "app-0123456789abcdef";
const OPS: &str = "ops-0123456789abcdef";
const NEW: &str = "new-0123456789abcdef";

fn tokens(ops: &str) -> String {
    format!(
        r#"{{"tokens":[{{"name":"app","token":"{APP}","access":"write","prefix":"app/"}},
            {{"name":"ops","token":"{ops}","access":"admin"}}]}}"#
    )
}

fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for_at_every_member_and_changed_ones_count() {
    let file = |directory: &Path| directory.join("tokens.json");
    let group = Group::with(|directory| {
        fs::write(file(directory), tokens(OPS)).unwrap();
        AccessFiles {
            tokens: Some(file(directory)),
            tls: None,
        }
    })
    .await;
    let ask = async |number: usize, method: &str, path: &str, token: &str, body: &str| -> Answer {
        group.send(number, &request(method, path, token, body)).await
    };
    for number in 0..3 {
        let stranger = group.ask(number, "GET", "/v1/kv/app/k", "").await;
        assert_eq!(stranger.status, 401, "{stranger:?}");
        assert!(stranger.error().contains("Authorization: Bearer"), "{stranger:?}");
        let guess = ask(number, "GET", "/v1/kv/app/k", NEW, "").await;
        assert_eq!(guess.status, 401, "{guess:?}");
        assert!(!guess.error().contains(NEW), "{guess:?}");
        let own = ask(number, "PUT", "/v1/kv/app/k", APP, "v").await;
        assert_eq!((own.status, own.valid()), (200, true), "{own:?}");
        for (method, path, body) in [
            ("PUT", "/v1/kv/other", "v"),
            ("GET", "/v1/kv/other?consistent=false", ""),
            ("DELETE", "/v1/kv/app", ""),
            ("POST", "/v1/kv/other/swap", r#"{"oldValue":"","newValue":"x"}"#),
            ("GET", "/v1/outbox", ""),
        ] {
            let foreign = ask(number, method, path, APP, body).await;
            assert_eq!(foreign.status, 403, "{method} {path}: {foreign:?}");
            assert!(foreign.error().contains("the token `app` may not"), "{foreign:?}");
        }
        assert_eq!(ask(number, "GET", "/v1/outbox", OPS, "").await.status, 200);
        assert_eq!(
            ask(number, "GET", "/v1/kv/other", OPS, "").await.json["valid"],
            false
        );
    }

    // A file that cannot be read leaves what was there.
    fs::write(file(group.directory()), "{").unwrap();
    assert_eq!(ask(0, "GET", "/v1/kv/other", OPS, "").await.status, 200);
    let aside = group.directory().join("aside");
    fs::write(&aside, tokens(NEW)).unwrap();
    fs::rename(aside, file(group.directory())).unwrap();
    for number in 0..3 {
        eventually("the new token counts", async || {
            ask(number, "GET", "/v1/kv/other", NEW, "").await.status == 200
        })
        .await;
        assert_eq!(ask(number, "GET", "/v1/kv/other", OPS, "").await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_tickets_are_the_tokens_that_made_them() {
    let file = |directory: &Path| directory.join("tokens.json");
    let mut group = Group::with(|directory| {
        fs::write(file(directory), tokens(OPS)).unwrap();
        AccessFiles {
            tokens: Some(file(directory)),
            tls: None,
        }
    })
    .await;
    let opened = group
        .send(0, &request("POST", "/v1/sessions?blocking=true", OPS, ""))
        .await;
    let session = opened.json["session"].as_u64().unwrap();
    let numbered = |path: &str, seq: u64| format!("{path}session={session}&seq={seq}");
    let set = numbered("/v1/kv/app/k?blocking=true&", 1);
    let outcome = numbered("/v1/outcome?", 1);
    for number in 0..3 {
        // Another token finds no such session, at any member, and uses no number up.
        let stranger = group.send(number, &request("PUT", &set, APP, "theirs")).await;
        assert_eq!(stranger.status, 410, "{stranger:?}");
        let cancel = numbered("/v1/cancel?", 1);
        let told = group.send(number, &request("POST", &cancel, APP, "")).await;
        assert_eq!(told.json["outcome"], "forgotten", "{told:?}");
    }
    for number in 0..3 {
        let owner = group.send(number, &request("PUT", &set, OPS, "mine")).await;
        assert_eq!(
            (owner.status, &owner.json["revision"]),
            (200, &1.into()),
            "{owner:?}"
        );
        let told = group.send(number, &request("GET", &outcome, APP, "")).await;
        assert_eq!(told.json["outcome"], "forgotten", "{told:?}");
        let told = group.send(number, &request("GET", &outcome, OPS, "")).await;
        assert_eq!(told.json["outcome"], "done", "{told:?}");
    }
    // A renewed token of the same name repeats what the former one asked for; another leader answers it.
    fs::write(file(group.directory()), tokens(NEW)).unwrap();
    let leader = group.leader().await;
    group.stop(leader).await;
    for number in group.running() {
        eventually("the renewed token counts", async || {
            let read = group.send(number, &request("GET", "/v1/outbox", NEW, "")).await;
            read.status == 200
        })
        .await;
        let again = group.send(number, &request("PUT", &set, NEW, "mine")).await;
        assert_eq!(
            (again.status, &again.json["revision"]),
            (200, &1.into()),
            "{again:?}"
        );
    }
}

/// Writes a certificate and its key; what a client must trust.
fn certificate(directory: &Path) -> RootCertStore {
    let made = rcgen::generate_simple_self_signed(["kv.test".to_owned()]).unwrap();
    fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    roots
}

async fn over_tls(group: &Group, number: usize, roots: &RootCertStore) -> std::io::Result<Answer> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let stream = connect(group.address(number)).await;
    let name = ServerName::try_from("kv.test").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(exchange(stream, &request("PUT", "/v1/kv/k", APP, "v")).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_tls_and_a_renewed_certificate_is_shown() {
    let mut first = None;
    let group = Group::with(|directory| {
        first = Some(certificate(directory));
        AccessFiles {
            tokens: None,
            tls: Some((directory.join("cert.pem"), directory.join("key.pem"))),
        }
    })
    .await;
    let first = first.unwrap();
    for number in 0..3 {
        let answer = over_tls(&group, number, &first).await.unwrap();
        assert_eq!((answer.status, answer.valid()), (200, true), "{answer:?}");
    }
    // Who speaks plain TCP is not answered.
    let mut plain = connect(group.address(0)).await;
    let mut answer = Vec::new();
    tokio::io::AsyncWriteExt::write_all(&mut plain, request("GET", "/v1/kv/k", APP, "").as_bytes())
        .await
        .unwrap();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut answer).await;
    assert!(read.is_err() || !answer.starts_with(b"HTTP"), "{answer:?}");

    let second = certificate(group.directory());
    for number in 0..3 {
        eventually("the new certificate is shown", async || {
            over_tls(&group, number, &second).await.is_ok()
        })
        .await;
        assert!(over_tls(&group, number, &first).await.is_err());
    }
}
