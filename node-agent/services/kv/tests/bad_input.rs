//! Clients that send too much, too slowly, or nothing that makes sense, on real sockets.

mod support;

use std::fmt::Write as _;

use support::{Group, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends these bytes, then as much as the member takes, if asked to; what it says until it closes the connection.
async fn send(group: &Group, bytes: &[u8], endless: bool) -> String {
    let mut stream = connect(group.address(0)).await;
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        if writer.write_all(bytes).await.is_err() {
            return;
        }
        let chunk = format!("1000\r\n{}\r\n", "v".repeat(0x1000));
        while endless && writer.write_all(chunk.as_bytes()).await.is_ok() {}
        if !endless {
            std::future::pending::<()>().await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = reader.read_to_end(&mut answer) => {}
        () = sending => {
            // A broken connection may still have an answer to read.
            reader.read_to_end(&mut answer).await.ok();
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_makes_a_member_wait_or_end() {
    let group = Group::of_three().await;
    let head = |line: &str, headers: &str| {
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
    };
    let mut many = String::new();
    for number in 0..200 {
        write!(many, "X-{number}: x\r\n").unwrap();
    }
    let long = format!("X: {}\r\n", "x".repeat(64 << 10));
    let put = "PUT /v1/kv/k?timeoutMs=20000";
    let chunked = head(put, "Transfer-Encoding: chunked\r\n");
    let stalled = head(put, "Content-Length: 10\r\n") + "half";
    let lying = head(put, "Content-Length: 99999999999\r\n") + "x";
    let (garbled, endless, stalled, lying, heads) = tokio::join!(
        async {
            let mut answers = Vec::new();
            for bytes in [
                &b"\x16\x03\x01\x02\x00\x01\x00"[..],
                b"\xff\xfe\xfd\r\n\r\n",
                b"GET\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nnonsense and more nonsense",
                b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
            ] {
                answers.push(send(&group, bytes, false).await);
            }
            answers
        },
        send(&group, chunked.as_bytes(), true),
        send(&group, stalled.as_bytes(), false),
        send(&group, lying.as_bytes(), false),
        async {
            let many = send(&group, head(put, &many).as_bytes(), false).await;
            (many, send(&group, head(put, &long).as_bytes(), false).await)
        },
    );
    for answer in garbled {
        assert!(answer.is_empty() || !answer.contains("200 OK"), "{answer}");
    }
    assert!(endless.is_empty() || status(&endless) == "413", "{endless}");
    assert_eq!(status(&stalled), "408", "{stalled}");
    assert!(stalled.contains("did not arrive within"), "{stalled}");
    assert!(["408", "413"].contains(&status(&lying)), "{lying}");
    assert_eq!((status(&heads.0), status(&heads.1)), ("431", "431"), "{heads:?}");
    let set = group.ask(0, "PUT", "/v1/kv/k?timeoutMs=20000", "v").await;
    assert!(set.valid(), "{set:?}");
}
