//! The key-value front: HTTP on every member's own port, and on the leader's. The only part that opens sockets.

mod http;
mod listener;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use replication::{Leadership, ProposeError, ReadError, Replica, ServeError, Service, Shutdown};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::request::Refusal;
use crate::state::{Change, Command, Item, KvState, Outcome};
use hyper::StatusCode;
use listener::Listener;

/// How long a leader that cannot bind its port waits before it tries again.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// How long a leader whose lease ran out waits before it looks again, while Raft has not named another.
const LEASE_RECHECK: Duration = Duration::from_millis(5);

/// What the service needs to know. Numbers are positive.
#[derive(Debug)]
pub struct Options {
    /// The TCP address that the leader serves.
    pub listen: SocketAddr,
    /// A socket bound to it already, held by a parent process so that the port is never closed between two leaders.
    pub socket: Option<std::net::TcpListener>,
    /// The TCP address that this member serves, whoever leads.
    pub member_listen: SocketAddr,
    /// The largest value.
    pub value_bytes_max: usize,
    /// Client connections on both addresses together.
    pub connections_max: usize,
}

/// The service.
pub struct Kv;

/// What the connections share.
struct Context {
    replica: Replica<KvState>,
    value_bytes_max: usize,
}

impl Service for Kv {
    type Options = Options;
    type State = KvState;

    async fn serve(options: Options, replica: Replica<KvState>, until: Shutdown) -> Result<(), ServeError> {
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let context = Arc::new(Context {
            replica,
            value_bytes_max: options.value_bytes_max,
        });
        let own = Listener::bind(options.member_listen)
            .map_err(|error| ServeError(format!("binding {}: {error}", options.member_listen)))?;
        let connections = http::Connections::new(context.clone(), slots, until.clone());
        tokio::select! {
            () = connections.accept(&own) => {}
            () = lead(&options, &context, &connections) => {}
            () = until.requested() => {}
        }
        drop(own);
        connections.ended().await;
        Ok(())
    }
}

/// Accepts connections at the leader's address whenever this member leads.
async fn lead(options: &Options, context: &Context, connections: &http::Connections) {
    let mut leadership = context.replica.leadership();
    let lease = context.replica.lease();
    loop {
        let now = *leadership.borrow_and_update();
        let Leadership::Leader { term } = now else {
            if leadership.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        if !lease.is_valid() {
            tokio::time::sleep(LEASE_RECHECK).await;
            continue;
        }
        match open(options) {
            Ok(listener) => {
                info!(address = %options.listen, "serving");
                context.replica.set_listening(Some(term));
                tokio::select! {
                    () = connections.accept(&listener) => {}
                    _ = leadership.changed() => {}
                }
                context.replica.set_listening(None);
            }
            // The old leader on the same machine may not have closed it yet.
            Err(error) => {
                warn!(address = %options.listen, %error, "cannot serve: is the port taken by another program?");
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    }
}

fn open(options: &Options) -> std::io::Result<Listener> {
    match &options.socket {
        Some(socket) => Listener::from_std(socket.try_clone()?),
        None => Listener::bind(options.listen),
    }
}

impl Context {
    async fn get(&self, key: &str) -> Result<Option<Item>, Refusal> {
        let read = self.replica.read(|state| state.get(key).cloned()).await;
        read.map_err(|error| match error {
            ReadError::NotLeader { leader } => not_leader(leader),
            ReadError::Stopping => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        })
    }

    async fn change(&self, change: Change) -> Result<Outcome, Refusal> {
        let outcomes = self.replica.propose(Command::Batch(vec![change])).await;
        let mut outcomes = outcomes.map_err(|error| match error {
            ProposeError::NotLeader { leader } => not_leader(leader),
            ProposeError::StorageFull => Refusal::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()),
            ProposeError::OutcomeUnknown | ProposeError::Stopping => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        })?;
        outcomes
            .pop()
            .ok_or_else(|| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the store gave no outcome"))
    }
}

fn not_leader(leader: Option<u64>) -> Refusal {
    let who = match leader {
        Some(id) => format!("the member with the node id {id} leads"),
        None => "nobody leads at the moment".to_owned(),
    };
    Refusal::new(
        StatusCode::MISDIRECTED_REQUEST,
        format!("this member does not lead; {who}"),
    )
}

/// What the member holds, for the status page.
pub fn detail(replica: &Replica<KvState>, member_address: SocketAddr) -> serde_json::Value {
    replica.local(|state| {
        serde_json::json!({
            "memberAddress": member_address.to_string(),
            "keys": state.keys(),
            "bytes": state.bytes(),
            "revision": state.revision(),
        })
    })
}
