//! The members' configuration as text: only what the agent would not fill in by itself.
//!
//! An option that a newer operator knows and an older agent does not is thus written only where somebody chose it, so that
//! groups with an `image` of their own go on; and a new operator alone replaces no pod.

use operator_api::AgentConfig;
use serde::Deserialize as _;
use serde_json::Value;

/// The shortest configuration that reads as `agent`.
pub(super) fn config_text(agent: &AgentConfig) -> String {
    let mut text = serde_json::to_value(agent).expect("a configuration is JSON");
    shorten(&mut text, agent, |text| Some(text));
    shorten(&mut text, agent, |text| text.get_mut("service"));
    serde_json::to_string_pretty(&text).expect("a configuration is JSON")
}

/// Leaves out each field of an object in `text` without which it still reads as `agent`.
fn shorten(text: &mut Value, agent: &AgentConfig, object: impl Fn(&mut Value) -> Option<&mut Value>) {
    let fields: Vec<String> = object(text)
        .and_then(|object| object.as_object())
        .map(|object| object.keys().cloned().collect())
        .unwrap_or_default();
    for field in fields {
        let removed = object(text)
            .and_then(Value::as_object_mut)
            .and_then(|object| object.remove(&field));
        let reads_the_same = AgentConfig::deserialize(&*text).is_ok_and(|read| read == *agent);
        if !reads_the_same
            && let Some(value) = removed
            && let Some(object) = object(text).and_then(Value::as_object_mut)
        {
            object.insert(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use operator_api::config::{ServiceConfig, TftpConfig};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_from_the_agents_defaults_is_written() {
        let mut agent: AgentConfig = serde_json::from_value(json!({
            "name": "boot-0", "dataDir": "/data", "timing": "edge",
            "peer": {"listen": "0.0.0.0:1", "advertise": "a:1"}, "admin": {"listen": "0.0.0.0:2", "advertise": "a:2"},
            "service": {"kind": "tftp", "listen": "0.0.0.0:6969"},
        }))
        .unwrap();
        agent.service = ServiceConfig::Tftp(TftpConfig {
            files_max: 7,
            ..TftpConfig::at("0.0.0.0:6969".parse().unwrap())
        });
        let text = config_text(&agent);
        let read: AgentConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(read, agent);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["service"],
            json!({"kind": "tftp", "listen": "0.0.0.0:6969", "filesMax": 7})
        );
        let names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["admin", "dataDir", "name", "peer", "service", "timing"]);
    }
}
