//! The way to a member: through the API server into its pod, so that it works from wherever `kubectl` works. Does I/O.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use operator_api::admin::Problem;
use operator_api::{AUTHORIZATION_SCHEME, MemberStatus};
use serde::Serialize;

/// Which cluster to look at, as `kubectl` takes it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Where {
    /// The context of the kubeconfig; its current one without it.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig; without it that of $KUBECONFIG or of the home directory, and in a pod the pod's own rights.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
}

impl Where {
    /// A client, and the namespace that the context names.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match (&self.kubeconfig, &self.context) {
            (Some(file), _) => {
                let read = Kubeconfig::read_from(file)
                    .with_context(|| format!("reading the kubeconfig {}", file.display()))?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await,
            (None, None) => {
                let config = Config::infer().await;
                return client(config.context("reading the kubeconfig, or the pod's own rights")?);
            }
        };
        client(config.context("reading the kubeconfig")?)
    }
}

fn client(mut config: Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).context("preparing requests to the API server")
}

/// A member's admin port.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    /// To the API server.
    pub client: &'a Client,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name, which is its pod's.
    pub name: &'a str,
}

impl Member<'_> {
    /// What it says of itself.
    pub(crate) async fn status(&self) -> anyhow::Result<MemberStatus> {
        let answer = self.ask(Request::get("/v1/status"), Bytes::new(), STATUS).await?;
        let status: MemberStatus = serde_json::from_slice(&answer).context("reading its status")?;
        if status.name != self.name {
            bail!("{} answered in its place", status.name);
        }
        Ok(status)
    }

    /// A request that changes something.
    pub(crate) async fn post(&self, path: &str, token: &str, body: &impl Serialize) -> anyhow::Result<()> {
        let body = serde_json::to_vec(body).context("writing the request")?;
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, bearer(token));
        self.ask(request, body.into(), STATUS).await.map(drop)
    }

    /// Something large that only the group's owner may have.
    pub(crate) async fn fetch(&self, path: &str, token: &str) -> anyhow::Result<Bytes> {
        let request = Request::get(path).header(AUTHORIZATION, bearer(token));
        self.ask(request, Bytes::new(), BACKUP).await
    }

    /// Sends something large.
    pub(crate) async fn put(&self, path: &str, token: &str, body: Bytes) -> anyhow::Result<()> {
        let request = Request::put(path)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(AUTHORIZATION, bearer(token));
        self.ask(request, body, BACKUP).await.map(drop)
    }

    async fn ask(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
        bounds: Bounds,
    ) -> anyhow::Result<Bytes> {
        let request = request
            .header(HOST, self.name)
            .body(Full::new(body))
            .context("writing the request")?;
        tokio::time::timeout(bounds.time, self.exchange(request, bounds.bytes))
            .await
            .map_err(|_| anyhow!("no answer within {} s", bounds.time.as_secs()))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, bytes_max: usize) -> anyhow::Result<Bytes> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let mut ports = pods.portforward(self.name, &[ADMIN_PORT]).await.context(
            "its pod cannot be reached through the API server (the right is `create` on `pods/portforward`)",
        )?;
        let stream = ports.take_stream(ADMIN_PORT).context("no stream to its port")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("speaking to its admin port")?;
        let answer = async {
            let response = sender
                .send_request(request)
                .await
                .context("its admin port does not answer")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), bytes_max)
                .collect()
                .await
                .map_err(|error| anyhow!("its answer broke off: {error}"))?
                .to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let problem = serde_json::from_slice::<Problem>(&body).ok();
            bail!(problem.map_or_else(
                || format!("it refused with status {status}"),
                |problem| problem.error
            ));
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = connection => {
                ended.context("the connection to its admin port broke")?;
                // What arrived before it was closed may be all of it.
                answer.await
            }
        }
    }
}

fn bearer(token: &str) -> String {
    format!("{AUTHORIZATION_SCHEME} {token}")
}

/// How long an answer may take, and how long it may be.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    time: Duration,
    bytes: usize,
}

/// A member waits 10 s at most for a step of its own. A status has a few kilobytes.
const STATUS: Bounds = Bounds {
    time: Duration::from_secs(15),
    bytes: 4 << 20,
};

/// A whole state, over any line.
const BACKUP: Bounds = Bounds {
    time: Duration::from_secs(1800),
    bytes: 2 << 30,
};

/// The token of a group, which requests carry that change something.
pub(crate) async fn token(client: &Client, namespace: &str, group: &str) -> anyhow::Result<String> {
    let name = format!("{group}-token");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets
        .get(&name)
        .await
        .with_context(|| format!("reading the secret {name}, which has the group's token"))?;
    let token = secret.data.as_ref().and_then(|data| data.get("token"));
    let token = token.with_context(|| format!("the secret {name} has no key `token`"))?;
    String::from_utf8(token.0.clone()).with_context(|| format!("the token in the secret {name} is no text"))
}

/// Members' own, in every pod.
const ADMIN_PORT: u16 = 9400;

/// A cluster that is far away still answers within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
