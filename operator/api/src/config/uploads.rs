//! Who may write which files over TFTP.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Lets clients upload files. Of several rules that fit a name, the one with the longest prefix counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UploadRule {
    /// How the names begin; empty for all names.
    #[serde(default)]
    pub prefix: String,
    /// Whether files may be replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// The networks of the clients that may, like `192.0.2.0/24`; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

/// Checks the rules; the error names the rule and the field.
pub(super) fn validate(rules: &[UploadRule]) -> Result<(), String> {
    if rules.len() > RULES_MAX {
        return Err(format!(
            "{} upload rules are named: at most {RULES_MAX} can be",
            rules.len()
        ));
    }
    for rule in rules {
        let prefix = &rule.prefix;
        if prefix.len() > PREFIX_BYTES_MAX || prefix.starts_with('/') {
            return Err(format!(
                "uploads: the prefix `{}` must not begin with a slash, and have at most {PREFIX_BYTES_MAX} bytes",
                prefix.escape_debug()
            ));
        }
        if rule.from.len() > NETWORKS_MAX {
            return Err(format!(
                "uploads: `{prefix}` names {} networks: at most {NETWORKS_MAX} can be",
                rule.from.len()
            ));
        }
        if let Some(wrong) = rule.from.iter().find(|network| !is_network(network)) {
            return Err(format!(
                "uploads: `{prefix}`: from: `{}` is no network like `192.0.2.0/24`",
                wrong.escape_debug()
            ));
        }
    }
    Ok(())
}

fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let bits_max = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
}

/// Each request is compared with each.
const RULES_MAX: usize = 64;
/// Networks of one rule.
const NETWORKS_MAX: usize = 64;
/// The longest name that a TFTP request can ask for.
const PREFIX_BYTES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(), String> {
        let rules: Vec<UploadRule> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        validate(&rules)
    }

    #[test]
    fn rules_are_checked() {
        assert_eq!(
            read(r#"[{},{"prefix":"backup/","overwrite":true,"from":["192.0.2.0/24","2001:db8::/32"]}]"#),
            Ok(())
        );
        let refused = |json: &str| read(json).unwrap_err();
        assert!(refused(r#"[{"prefix":"/backup"}]"#).contains("`/backup` must not begin with a slash"));
        for network in [
            "192.0.2.0",
            "192.0.2.0/33",
            "2001:db8::/129",
            "lab/8",
            "10.0.0.0/-1",
        ] {
            let error = refused(&format!(r#"[{{"from":["{network}"]}}]"#));
            assert!(error.contains(&format!("`{network}` is no network")), "{error}");
        }
        assert!(refused(r#"[{"prefixes":""}]"#).contains("prefixes"));
    }
}
