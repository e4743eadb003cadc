//! gRPC on the ports of HTTP: each call is carried out as the request of HTTP that says the same.

mod messages;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use replication::Shutdown;
use tonic::Status;
use tonic::codegen::Service as _;

use super::Context;
use super::http::{Content, Source, admit, perform};
use super::told::Tellings;
use crate::proto::kv_server::{Kv, KvServer};
use crate::proto::{
    Answer, AppendRequest, EntriesRequest, ExtractRequest, GrantLeaseRequest, JournalRequest, Json,
    JsonRequest, KeyRequest, LeaseRequest, Message, MessageRequest, OpenSessionRequest, OutboxRequest,
    RangeRequest, ReplyRequest, SetRequest, SubscribeRequest, SwapRequest, Terms, TicketRequest,
    WatchRequest, WatchResponse,
};
use messages::{another_shape, received, refused, watched};

/// What a message may add to its values.
const MESSAGE_MARGIN_BYTES: usize = 64 << 10;

/// Whether a request is one of gRPC.
pub(super) fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a request of gRPC.
pub(super) async fn answer(
    context: Arc<Context>,
    request: Request<Incoming>,
    until: Shutdown,
) -> Response<tonic::body::Body> {
    let bytes_max = 2 * context.value_bytes_max + MESSAGE_MARGIN_BYTES;
    let mut server = KvServer::new(Front { context, until }).max_decoding_message_size(bytes_max);
    match server.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The store, as gRPC's calls see it.
struct Front {
    context: Arc<Context>,
    until: Shutdown,
}

/// A request of HTTP in the making.
struct Draft {
    method: Method,
    path: String,
    query: String,
    body: Bytes,
}

impl Draft {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: String::new(),
            body: Bytes::new(),
        }
    }

    fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(&format!("{name}={value}"));
        self
    }

    /// With a number that is not 0.
    fn with_number(self, name: &str, number: u64) -> Self {
        if number == 0 {
            self
        } else {
            self.with(name, number)
        }
    }

    fn on(mut self, terms: Option<&Terms>) -> Self {
        let Some(terms) = terms else {
            return self;
        };
        for (name, flag, value) in [
            ("consistent", terms.local, "false"),
            ("blocking", terms.blocking, "true"),
            ("first", terms.first, "true"),
        ] {
            if flag {
                self = self.with(name, value);
            }
        }
        for (name, number) in [
            ("timeoutMs", terms.timeout_ms.into()),
            ("session", terms.session),
            ("seq", terms.seq),
            ("floor", terms.floor),
        ] {
            if number != 0 {
                self = self.with(name, number);
            }
        }
        self
    }

    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

fn key_path(key: &str, end: &str) -> String {
    named_path("kv", key, end)
}

fn named_path(kind: &str, name: &str, end: &str) -> String {
    format!("/v1/{kind}/{}{end}", escaped(name))
}

fn escaped(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// The terms of a question about a request, with its numbers in the place of their own.
fn about(message: &TicketRequest) -> Terms {
    Terms {
        session: message.session,
        seq: message.seq,
        floor: 0,
        first: false,
        ..message.terms.unwrap_or_default()
    }
}

impl Front {
    async fn ask<T>(&self, request: &tonic::Request<T>, draft: Draft) -> Result<Content, Status> {
        let Draft {
            method,
            path,
            query,
            body,
        } = draft;
        let admitted = admit(
            &self.context,
            &method,
            (&path, Some(&query)),
            request.metadata().as_ref(),
        );
        perform(&self.context, admitted, Source::Ready(body), self.until.clone())
            .await
            .map_err(refused)
    }

    async fn answer<T>(
        &self,
        request: &tonic::Request<T>,
        draft: Draft,
    ) -> Result<tonic::Response<Answer>, Status> {
        match self.ask(request, draft).await? {
            Content::Answer(answer) => Ok(tonic::Response::new(answer.into())),
            Content::Json(_) | Content::Told(_) => Err(another_shape()),
        }
    }

    async fn told<T>(&self, request: &tonic::Request<T>, draft: Draft) -> Result<Tellings, Status> {
        match self.ask(request, draft).await? {
            Content::Told(told) => Ok(told),
            Content::Json(_) | Content::Answer(_) => Err(another_shape()),
        }
    }
}

impl Front {
    async fn on_lease(
        &self,
        method: Method,
        end: &str,
        request: tonic::Request<LeaseRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let path = format!("/v1/leases/{}{end}", message.id);
        let draft = Draft::new(method, path).on(message.terms.as_ref());
        self.answer(&request, draft).await
    }
}

impl Front {
    async fn with_message(
        &self,
        end: &str,
        request: tonic::Request<MessageRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::POST, named_path("bus", &message.address, end))
            .on(message.terms.as_ref())
            .body(message.message.clone());
        self.answer(&request, draft).await
    }
}

#[tonic::async_trait]
impl Kv for Front {
    async fn get(&self, request: tonic::Request<KeyRequest>) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::GET, key_path(&message.key, "")).on(message.terms.as_ref());
        self.answer(&request, draft).await
    }

    async fn set(&self, request: tonic::Request<SetRequest>) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::PUT, key_path(&message.key, ""))
            .on(message.terms.as_ref())
            .with_number("lease", message.lease)
            .with_number("ttlSeconds", message.ttl_seconds.into())
            .body(message.value.clone());
        self.answer(&request, draft).await
    }

    async fn range(&self, request: tonic::Request<RangeRequest>) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let mut draft = Draft::new(Method::GET, "/v1/kv")
            .on(message.terms.as_ref())
            .with_number("limit", message.limit.into());
        for (name, key) in [("prefix", &message.prefix), ("after", &message.after)] {
            if !key.is_empty() {
                draft = draft.with(name, escaped(key));
            }
        }
        self.answer(&request, draft).await
    }

    async fn transact(
        &self,
        request: tonic::Request<JsonRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::POST, "/v1/txn")
            .on(message.terms.as_ref())
            .body(message.json.clone());
        self.answer(&request, draft).await
    }

    async fn extract(
        &self,
        request: tonic::Request<ExtractRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let mut draft = Draft::new(
            Method::POST,
            format!("/v1/logs/{}/extract", escaped(&message.server)),
        )
        .on(message.terms.as_ref())
        .body(message.log.clone());
        if message.whole_lines {
            draft = draft.with("wholeLines", true);
        }
        self.answer(&request, draft).await
    }

    async fn grant_lease(
        &self,
        request: tonic::Request<GrantLeaseRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::POST, "/v1/leases")
            .on(message.terms.as_ref())
            .with_number("ttlSeconds", message.ttl_seconds.into());
        self.answer(&request, draft).await
    }

    async fn get_lease(
        &self,
        request: tonic::Request<LeaseRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        self.on_lease(Method::GET, "", request).await
    }

    async fn keep_alive(
        &self,
        request: tonic::Request<LeaseRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        self.on_lease(Method::POST, "/keepalive", request).await
    }

    async fn revoke_lease(
        &self,
        request: tonic::Request<LeaseRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        self.on_lease(Method::DELETE, "", request).await
    }

    async fn delete(&self, request: tonic::Request<KeyRequest>) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::DELETE, key_path(&message.key, "")).on(message.terms.as_ref());
        self.answer(&request, draft).await
    }

    async fn swap(&self, request: tonic::Request<SwapRequest>) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let body = serde_json::json!({
            "oldValue": BASE64_STANDARD.encode(&message.old_value),
            "newValue": BASE64_STANDARD.encode(&message.new_value),
            "encoding": "base64",
        });
        let draft = Draft::new(Method::POST, key_path(&message.key, "/swap"))
            .on(message.terms.as_ref())
            .body(body.to_string());
        self.answer(&request, draft).await
    }

    async fn open_session(
        &self,
        request: tonic::Request<OpenSessionRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let draft = Draft::new(Method::POST, "/v1/sessions").on(request.get_ref().terms.as_ref());
        self.answer(&request, draft).await
    }

    async fn outcome(
        &self,
        request: tonic::Request<TicketRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let draft = Draft::new(Method::GET, "/v1/outcome").on(Some(&about(request.get_ref())));
        self.answer(&request, draft).await
    }

    async fn cancel(
        &self,
        request: tonic::Request<TicketRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let draft = Draft::new(Method::POST, "/v1/cancel").on(Some(&about(request.get_ref())));
        self.answer(&request, draft).await
    }

    async fn outbox(&self, request: tonic::Request<OutboxRequest>) -> Result<tonic::Response<Json>, Status> {
        let json = match self.ask(&request, Draft::new(Method::GET, "/v1/outbox")).await? {
            Content::Json(json) => json.to_string(),
            Content::Answer(answer) => String::from_utf8_lossy(&answer.to_json()).into_owned(),
            Content::Told(_) => return Err(another_shape()),
        };
        Ok(tonic::Response::new(Json { json }))
    }

    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: tonic::Request<WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let message = request.get_ref();
        let mut draft = Draft::new(Method::GET, format!("/v1/watch/{}", escaped(&message.prefix)))
            .on(message.terms.as_ref())
            .with_number("from", message.from);
        if message.exact {
            draft = draft.with("exact", true);
        }
        let told = self.told(&request, draft).await?;
        Ok(tonic::Response::new(told.map(watched).boxed()))
    }

    async fn append(
        &self,
        request: tonic::Request<AppendRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::POST, named_path("journal", &message.journal, ""))
            .on(message.terms.as_ref())
            .body(message.value.clone());
        self.answer(&request, draft).await
    }

    async fn entries(
        &self,
        request: tonic::Request<EntriesRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::GET, named_path("journal", &message.journal, ""))
            .on(message.terms.as_ref())
            .with_number("from", message.from)
            .with_number("limit", message.limit.into());
        self.answer(&request, draft).await
    }

    async fn remove_journal(
        &self,
        request: tonic::Request<JournalRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let path = named_path("journal", &message.journal, "");
        let draft = Draft::new(Method::DELETE, path).on(message.terms.as_ref());
        self.answer(&request, draft).await
    }

    async fn publish(
        &self,
        request: tonic::Request<MessageRequest>,
    ) -> Result<tonic::Response<Answer>, Status> {
        self.with_message("/publish", request).await
    }

    async fn send(&self, request: tonic::Request<MessageRequest>) -> Result<tonic::Response<Answer>, Status> {
        self.with_message("/send", request).await
    }

    type SubscribeStream = BoxStream<'static, Result<Message, Status>>;

    async fn subscribe(
        &self,
        request: tonic::Request<SubscribeRequest>,
    ) -> Result<tonic::Response<Self::SubscribeStream>, Status> {
        let path = named_path("bus", &request.get_ref().address, "/subscribe");
        let told = self.told(&request, Draft::new(Method::GET, path)).await?;
        let messages = told.filter_map(async |told| received(told));
        Ok(tonic::Response::new(messages.boxed()))
    }

    async fn reply(&self, request: tonic::Request<ReplyRequest>) -> Result<tonic::Response<Answer>, Status> {
        let message = request.get_ref();
        let draft = Draft::new(Method::POST, "/v1/bus/reply")
            // Its dots stand for themselves.
            .with("token", escaped(&message.token).replace("%2E", "."))
            .body(message.reply.clone());
        self.answer(&request, draft).await
    }
}
