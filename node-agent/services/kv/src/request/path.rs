//! The paths besides those of keys.

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
    match path {
        "/v1/sessions" => only(Method::POST, Target::OpenSession),
        "/v1/outcome" => only(Method::GET, Target::Outcome),
        "/v1/cancel" => only(Method::POST, Target::Cancel),
        "/v1/outbox" => only(Method::GET, Target::Outbox),
        _ => Err(no_such_path()),
    }
}

fn no_such_path() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "there is no such path: keys are at /v1/kv/{key}; there are /v1/sessions, /v1/outcome, /v1/cancel, /v1/outbox \
         and /v1/logs/{server}/extract besides",
    )
}
