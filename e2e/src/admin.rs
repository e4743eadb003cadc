//! A member's admin port, as the tests read it.

use std::time::Duration;

use anyhow::{Context, ensure};
use operator_api::MemberStatus;
use tokio::runtime::Runtime;

use crate::clock::PATIENCE;

/// How long an answer may take. A paused member takes the connection and never answers.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// An HTTP client for admin ports.
#[derive(Debug)]
pub struct Admin {
    runtime: Runtime,
    client: reqwest::Client,
}

/// An answer: its status code, its content type and its body.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl Admin {
    /// A new client.
    pub fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a runtime for HTTP")?;
        let client = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .build()
            .context("making an HTTP client")?;
        Ok(Self { runtime, client })
    }

    /// `GET path` from the admin port of loopback, with an `Accept` header.
    pub fn get(&self, port: u16, path: &str, accept: &str) -> anyhow::Result<Reply> {
        self.request(reqwest::Method::GET, port, path, accept)
    }

    /// A request without a body and without a token.
    pub fn request(
        &self,
        method: reqwest::Method,
        port: u16,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<Reply> {
        let url = format!("http://127.0.0.1:{port}{path}");
        self.send(self.client.request(method, url).header("accept", accept))
    }

    /// The same as somebody with a token, at an address with its port, with all the time that a change may take.
    pub fn change(&self, address: &str, path: &str, token: &str, body: &str) -> anyhow::Result<Reply> {
        let request = self.client.post(format!("http://{address}{path}"));
        let request = request.header("content-type", "application/json");
        self.send(request.bearer_auth(token).body(body.to_owned()).timeout(PATIENCE))
    }

    /// `GET path` as somebody with a token, at an address with its port.
    pub fn get_as(&self, address: &str, path: &str, token: &str) -> anyhow::Result<Reply> {
        let request = self.client.get(format!("http://{address}{path}"));
        self.send(request.header("accept", "application/json").bearer_auth(token))
    }

    fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Reply> {
        self.runtime.block_on(async {
            let (client, request) = request.build_split();
            let request = request.context("making a request")?;
            let url = request.url().clone();
            let response = client
                .execute(request)
                .await
                .with_context(|| format!("asking {url}"))?;
            let status = response.status().as_u16();
            let header = response
                .headers()
                .get("content-type")
                .and_then(|value| value.to_str().ok());
            let content_type = header.unwrap_or_default().to_owned();
            let body = response
                .text()
                .await
                .with_context(|| format!("reading the answer of {url}"))?;
            Ok(Reply {
                status,
                content_type,
                body,
            })
        })
    }

    /// `GET /v1/status`.
    pub fn status(&self, port: u16) -> anyhow::Result<MemberStatus> {
        self.status_at(&format!("127.0.0.1:{port}"))
    }

    /// The same at an address with its port.
    pub fn status_at(&self, address: &str) -> anyhow::Result<MemberStatus> {
        let url = format!("http://{address}/v1/status");
        let reply = self.send(self.client.get(url).header("accept", "application/json"))?;
        ensure!(
            reply.status == 200,
            "/v1/status of {address} answers {}: {}",
            reply.status,
            reply.body
        );
        serde_json::from_str(&reply.body)
            .with_context(|| format!("reading /v1/status of {address}: {}", reply.body))
    }
}
