//! Messages reach subscribers on every member; a member that is gone is named, and back on the bus once it is back.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use anyhow::ensure;
use e2e::clock::{PATIENCE, eventually};
use e2e::{Group, GroupOptions};
use operator_api::config::ServiceKind;
use serde_json::{Value, json};

/// A subscriber's connection.
struct Subscriber {
    response: reqwest::Response,
    text: String,
}

impl Subscriber {
    async fn at(http: &reqwest::Client, port: u16) -> anyhow::Result<Self> {
        let url = format!("http://127.0.0.1:{port}/v1/bus/news/subscribe");
        let response = http.get(url).send().await?;
        let mut subscriber = Self {
            response,
            text: String::new(),
        };
        subscriber.block().await?;
        Ok(subscriber)
    }

    /// The next lines up to an empty one.
    async fn block(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Ok(block);
            }
            let piece = self.response.chunk().await?;
            let piece = piece.ok_or_else(|| anyhow::anyhow!("the events ended"))?;
            self.text += std::str::from_utf8(&piece)?;
        }
    }

    async fn data(&mut self) -> Value {
        loop {
            let block = self.block().await.unwrap();
            if let Some((_, data)) = block.split_once("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

async fn publish(http: &reqwest::Client, port: u16, text: &'static str) -> anyhow::Result<Value> {
    let url = format!("http://127.0.0.1:{port}/v1/bus/news/publish");
    let answer = http.post(url).body(text).send().await?.text().await?;
    Ok(serde_json::from_str(&answer)?)
}

#[test]
fn messages_reach_all_members_that_are_there() {
    let group = Group::start_with(GroupOptions {
        service: ServiceKind::Kv,
        ..GroupOptions::default()
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let ports = group.kv_member_ports();
    let leader = group.leader().unwrap();
    let place = group
        .statuses()
        .iter()
        .position(|status| status.as_ref().is_some_and(|status| status.name == leader.name))
        .unwrap();
    let mut subscribers: Vec<Subscriber> = ports
        .iter()
        .map(|port| runtime.block_on(Subscriber::at(&http, *port)).unwrap())
        .collect();
    let answer = runtime.block_on(publish(&http, ports[0], "one")).unwrap();
    assert_eq!(
        (&answer["valid"], &answer["delivered"]),
        (&json!(true), &json!(3))
    );
    for subscriber in &mut subscribers {
        assert_eq!(runtime.block_on(subscriber.data())["value"], "one");
    }
    group
        .supervisor()
        .unwrap()
        .signal(rustix::process::Signal::STOP)
        .unwrap();
    group.kill(&leader).unwrap();
    let answer = runtime
        .block_on(publish(&http, ports[(place + 1) % 3], "two"))
        .unwrap();
    assert_eq!(
        (&answer["valid"], &answer["delivered"]),
        (&json!(false), &json!(2))
    );
    assert_eq!(answer["unreached"], json!([leader.name]));
    for more in [1, 2] {
        let subscriber = &mut subscribers[(place + more) % 3];
        assert_eq!(runtime.block_on(subscriber.data())["value"], "two");
    }
    group
        .supervisor()
        .unwrap()
        .signal(rustix::process::Signal::CONT)
        .unwrap();
    group.all_ready().unwrap();
    let mut back = runtime.block_on(Subscriber::at(&http, ports[place])).unwrap();
    eventually("all members are reached again", PATIENCE, || {
        let answer = runtime.block_on(publish(&http, ports[(place + 1) % 3], "three"))?;
        ensure!(answer["valid"] == true && answer["delivered"] == 3, "{answer}");
        Ok(())
    })
    .unwrap();
    assert_eq!(runtime.block_on(back.data())["value"], "three");
}
