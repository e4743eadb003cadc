//! The paths besides those of keys.

use std::sync::Arc;

use hyper::{Method, StatusCode};

use super::{Refusal, Target, name_of, not_allowed};

/// What a request to another path than a key's asks for.
pub(super) fn target(method: &Method, path: &str) -> Result<Target, Refusal> {
    let only = |wanted: Method, target: Target| {
        if *method == wanted {
            Ok(target)
        } else {
            Err(not_allowed(format!("{path} takes {wanted}")))
        }
    };
    if let Some(rest) = path.strip_prefix("/v1/logs/") {
        let Some(server) = rest.strip_suffix("/extract") else {
            return Err(no_such_path());
        };
        return only(Method::POST, Target::Extract(name_of(server, "server")?));
    }
    if let Some(prefix) = path.strip_prefix("/v1/watch") {
        let prefix = match prefix {
            "" | "/" => Arc::default(),
            named => name_of(named.strip_prefix('/').ok_or_else(no_such_path)?, "prefix")?,
        };
        return only(Method::GET, Target::Watch(prefix));
    }
    if path == "/v1/bus/reply" {
        return only(Method::POST, Target::Reply);
    }
    if let Some(rest) = path.strip_prefix("/v1/bus/") {
        let (address, what) = rest.rsplit_once('/').ok_or_else(no_such_path)?;
        let address = name_of(address, "address")?;
        return match what {
            "publish" => only(Method::POST, Target::Publish(address)),
            "send" => only(Method::POST, Target::Send(address)),
            "subscribe" => only(Method::GET, Target::Subscribe(address)),
            _ => Err(no_such_path()),
        };
    }
    if let Some(name) = path.strip_prefix("/v1/journal/") {
        let name = name_of(name, "journal")?;
        return match *method {
            Method::GET => Ok(Target::ReadJournal(name)),
            Method::POST => Ok(Target::Append(name)),
            Method::DELETE => Ok(Target::RemoveJournal(name)),
            _ => Err(not_allowed("a journal takes GET, POST and DELETE")),
        };
    }
    if let Some(rest) = path.strip_prefix("/v1/leases/") {
        if let Some(id) = rest.strip_suffix("/keepalive") {
            return only(Method::POST, Target::KeepAlive(id_of(id)?));
        }
        let id = id_of(rest)?;
        return match *method {
            Method::GET => Ok(Target::Lease(id)),
            Method::DELETE => Ok(Target::Revoke(id)),
            _ => Err(not_allowed("a lease takes GET, DELETE, and POST at /keepalive")),
        };
    }
    match path {
        "/v1/kv" => only(Method::GET, Target::Range),
        "/v1/txn" => only(Method::POST, Target::Transact),
        "/v1/leases" => only(Method::POST, Target::GrantLease),
        "/v1/sessions" => only(Method::POST, Target::OpenSession),
        "/v1/outcome" => only(Method::GET, Target::Outcome),
        "/v1/cancel" => only(Method::POST, Target::Cancel),
        "/v1/outbox" => only(Method::GET, Target::Outbox),
        _ => Err(no_such_path()),
    }
}

fn id_of(text: &str) -> Result<u64, Refusal> {
    text.parse()
        .map_err(|_| Refusal::bad("a lease has a number: /v1/leases/{id}"))
}

fn no_such_path() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "there is no such path: keys are at /v1/kv/{key}, ranges of them at /v1/kv; there are /v1/txn, /v1/leases, \
         /v1/watch/{prefix}, /v1/journal/{name}, /v1/bus/{address}/publish, send and subscribe, /v1/logs/{server}/extract, /v1/sessions, /v1/outcome, /v1/cancel and /v1/outbox besides",
    )
}
