//! Reads and checks the configuration of one member, and takes its data directory.
//!
//! Every error names the file, the field and what is expected there: the reader is a person or an operator's event.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use operator_api::AgentConfig;
use operator_api::config::{ServiceConfig, VARIABLES};
use rustix::fs::FlockOperation;
use tracing_subscriber::filter::Targets;

/// Reads and checks the configuration file.
pub(crate) fn read(path: &Path) -> anyhow::Result<AgentConfig> {
    let length = fs::metadata(path)
        .with_context(|| format!("reading the configuration file {}", path.display()))?
        .len();
    ensure!(
        length <= CONFIG_BYTES_MAX,
        "the configuration file {} has {length} bytes, more than {CONFIG_BYTES_MAX}: is it the right file?",
        path.display()
    );
    let bytes =
        fs::read(path).with_context(|| format!("reading the configuration file {}", path.display()))?;
    parse(&bytes, environment).with_context(|| format!("in the configuration file {}", path.display()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "what differs between the pods of one StatefulSet can only come from their environment"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Parses and checks a configuration.
fn parse(bytes: &[u8], environment: impl Fn(&str) -> Option<String>) -> anyhow::Result<AgentConfig> {
    let text = std::str::from_utf8(bytes).context("it is not text in UTF-8")?;
    let text = expand(text, environment)?;
    let mut json = serde_json::Deserializer::from_str(&text);
    let config: AgentConfig = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        match field.as_str() {
            "." => anyhow!("{}", error.inner()),
            field => anyhow!("field {field}: {}", error.inner()),
        }
    })?;
    json.end().context("after the configuration's closing brace")?;
    validate(&config)?;
    Ok(config)
}

/// Puts the values of the environment in the place of `$(NAME)`, for the names of [`VARIABLES`] and no others. JSON has
/// a `$` in strings only, and a value enters as the inside of a string, whatever it holds.
fn expand(text: &str, environment: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let mut expanded = text.to_owned();
    for (name, _) in VARIABLES {
        let place = format!("$({name})");
        if !expanded.contains(&place) {
            continue;
        }
        let value = environment(name).filter(|value| !value.is_empty()).with_context(|| {
            format!("{place} is used, but the environment variable {name} is not set: a pod gets it by the downward API")
        })?;
        ensure!(
            !value.contains("$("),
            "the environment variable {name} is `{}`: that is no value of a pod",
            value.escape_debug()
        );
        let string = serde_json::to_string(&value).context("writing a string as JSON")?;
        expanded = expanded.replace(&place, string.trim_start_matches('"').trim_end_matches('"'));
    }
    Ok(expanded)
}

/// Checks what the types cannot say.
fn validate(config: &AgentConfig) -> anyhow::Result<()> {
    validate_name(&config.name)?;
    ensure!(
        !config.data_dir.as_os_str().is_empty(),
        "field dataDir is empty: name a directory"
    );
    validate_address("peer.advertise", &config.peer.advertise)?;
    validate_address("admin.advertise", &config.admin.advertise)?;
    if let Some(address) = &config.client_address {
        validate_address("clientAddress", address)?;
    }
    if let Some(kubernetes) = &config.kubernetes {
        kubernetes
            .validate()
            .map_err(|reason| anyhow!("field kubernetes: {reason}"))?;
    }
    config.log_level.parse::<Targets>().with_context(|| {
        format!(
            "field logLevel: `{}` is not a filter such as `info` or `info,tftp=debug`",
            config.log_level
        )
    })?;
    ensure!(
        config.drain_seconds <= DRAIN_SECONDS_MAX,
        "field drainSeconds is {}: it must be at most {DRAIN_SECONDS_MAX}",
        config.drain_seconds
    );
    let kind = config.service.kind();
    ensure!(
        config.restore_from.is_none() || kind.state_is_everything(),
        "field restoreFrom: a {kind} group cannot begin with a backup, since its files are not in one; put them with \
         `quorate-agent files import`, or let the group take them from its sources"
    );
    ensure!(
        config.restore_from.is_some() || !config.accepts_backup,
        "field acceptsBackup: a backup that is sent needs a place: name a file in restoreFrom"
    );
    match &config.service {
        ServiceConfig::Tftp(tftp) => tftp
            .validate()
            .map_err(|reason| anyhow!("field service: {reason}")),
        ServiceConfig::Kv(kv) => kv.validate().map_err(|reason| anyhow!("field service: {reason}")),
        ServiceConfig::Adc(adc) => adc
            .validate()
            .map_err(|reason| anyhow!("field service: {reason}")),
    }
}

/// Names become labels, file names and DNS labels.
fn validate_name(name: &str) -> anyhow::Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) || name.starts_with('.') {
        bail!(
            "field name is `{}`: use 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` or `.`",
            name.escape_debug()
        );
    }
    Ok(())
}

fn validate_address(field: &str, address: &str) -> anyhow::Result<()> {
    let parts = address.rsplit_once(':');
    let is_valid = parts.is_some_and(|(host, port)| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.[]:%".contains(&byte))
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    ensure!(
        is_valid,
        "field {field} is `{}`: it must be host:port, as others reach it",
        address.escape_debug()
    );
    Ok(())
}

/// The data directory, owned by this process until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: fs::File,
}

impl DataDir {
    /// Creates the directory when it is missing, and locks it.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        Self::take_if_free(path)?.with_context(|| {
            format!(
                "the data directory {} is in use by another process: stop it, or use another dataDir",
                path.display()
            )
        })
    }

    /// The same; none when another process uses it.
    pub(crate) fn take_if_free(path: &Path) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(path)
            .with_context(|| format!("creating the data directory {}", path.display()))?;
        let file = path.join(LOCK_FILE);
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("the data directory {} cannot be written", path.display()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self {
                path: path.to_owned(),
                _lock: lock,
            })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(anyhow!(error).context(format!("locking {}", file.display()))),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A configuration is about a kilobyte; this only keeps a wrong path from being read into memory.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The length limit of a DNS label (RFC 1035 §2.3.4): names of pods and members become such labels.
const NAME_BYTES_MAX: usize = 63;

/// An hour: nobody waits longer for a pod to stop.
const DRAIN_SECONDS_MAX: u32 = 3600;

/// Locked while the member runs. The kernel frees the lock when the process dies, however it dies.
const LOCK_FILE: &str = "agent.lock";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use expect_test::{Expect, expect};

    use super::*;

    const GOOD: &str = r#"{"name":"tftp-0","dataDir":"d","peer":{"listen":"127.0.0.1:1","advertise":"127.0.0.1:1"},
"admin":{"listen":"127.0.0.1:2","advertise":"tftp-0.example:2"},"service":{"kind":"tftp","listen":"127.0.0.1:6969"}}"#;

    fn check(text: &str, expect: Expect) {
        let error = parse(text.as_bytes(), |_| None).unwrap_err();
        expect.assert_eq(&format!("{error:#}"));
    }

    fn with(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    }

    #[test]
    fn good_config_is_read() {
        assert_eq!(parse(GOOD.as_bytes(), |_| None).unwrap().name, "tftp-0");
    }

    #[test]
    fn errors_name_the_field() {
        check(
            &with(r#""listen":"127.0.0.1:2""#, r#""listen":"nowhere""#),
            expect!["field admin.listen: invalid socket address syntax at line 2 column 27"],
        );
        check(
            &with(
                r#""advertise":"tftp-0.example:2""#,
                r#""advertise":"tftp-0.example""#,
            ),
            expect!["field admin.advertise is `tftp-0.example`: it must be host:port, as others reach it"],
        );
        check(
            &with(r#""name":"tftp-0""#, r#""name":"../x""#),
            expect!["field name is `../x`: use 1 to 63 letters, digits, `-`, `_` or `.`"],
        );
        check(
            &with(r#""dataDir":"d","#, ""),
            expect!["missing field `dataDir` at line 2 column 116"],
        );
        check(
            &with(r#""kind":"tftp","#, r#""kind":"tftp","blockSizeMax":7,"#),
            expect!["field service: tftp option blockSizeMax is 7: it must be from 8 to 65464 (RFC 2348)"],
        );
        check(
            &with(r#""dataDir":"d""#, r#""dataDir":"d","logLevel":"info,=,x=loud""#),
            expect![
                "field logLevel: `info,=,x=loud` is not a filter such as `info` or `info,tftp=debug`: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5"
            ],
        );
        check(
            &with(r#""dataDir":"d""#, r#""dataDir":"d","drainSeconds":999999"#),
            expect!["field drainSeconds is 999999: it must be at most 3600"],
        );
    }

    /// The configuration of all pods of a StatefulSet, as the operator writes it.
    const POD: &str = r#"{"name":"$(POD_NAME)","dataDir":"/data",
"peer":{"listen":"[::]:7400","advertise":"$(POD_NAME).boot-members.$(POD_NAMESPACE).svc:7400"},
"admin":{"listen":"[::]:9400","advertise":"$(POD_NAME).boot-members.$(POD_NAMESPACE).svc:9400"},
"clientAddress":"boot.$(POD_NAMESPACE).svc:69",
"kubernetes":{"namespace":"$(POD_NAMESPACE)","leaderSlices":["boot-leader-ipv4"],"podName":"$(POD_NAME)",
"podUid":"$(POD_UID)","podIps":"$(POD_IPS)","nodeName":"$(NODE_NAME)"},
"service":{"kind":"tftp","listen":"[::]:6969"}}"#;

    fn pod(name: &str) -> Option<String> {
        let value = match name {
            "POD_NAME" => "boot-1",
            "POD_NAMESPACE" => "lab",
            "POD_UID" => "0b9f",
            "POD_IPS" => "10.88.1.7,fd00::7",
            "NODE_NAME" => "n2",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn one_config_serves_all_pods() {
        let config = parse(POD.as_bytes(), pod).unwrap();
        assert_eq!(config.name, "boot-1");
        assert_eq!(config.peer.advertise, "boot-1.boot-members.lab.svc:7400");
        assert_eq!(config.client_address.as_deref(), Some("boot.lab.svc:69"));
        let kubernetes = config.kubernetes.unwrap();
        assert_eq!(
            (kubernetes.pod_name.as_str(), kubernetes.pod_uid.as_str()),
            ("boot-1", "0b9f")
        );
        assert_eq!(kubernetes.addresses().unwrap().len(), 2);
    }

    #[test]
    fn unset_variable_is_named() {
        let error = parse(POD.as_bytes(), |name| pod(name).filter(|_| name != "POD_IPS")).unwrap_err();
        assert!(error.to_string().contains("$(POD_IPS) is used, but"), "{error}");
        let error = parse(POD.as_bytes(), |name| pod(name).map(|_| String::new())).unwrap_err();
        assert!(error.to_string().contains("$(POD_NAME) is used, but"), "{error}");
    }

    #[test]
    fn other_variables_are_left_alone() {
        let dir = |text: &str| {
            let text = with(r#""dataDir":"d""#, &format!(r#""dataDir":"{text}""#));
            parse(text.as_bytes(), |name| Some(format!("<{name}>"))).map(|config| config.data_dir)
        };
        assert_eq!(
            dir("$(HOME)/$POD_NAME/$(PATH)").unwrap(),
            Path::new("$(HOME)/$POD_NAME/$(PATH)")
        );
        assert_eq!(dir("/data/$(POD_UID)").unwrap(), Path::new("/data/<POD_UID>"));
    }

    #[test]
    fn value_cannot_leave_its_string() {
        let text = with(r#""dataDir":"d""#, r#""dataDir":"$(POD_NAME)""#);
        let config = parse(text.as_bytes(), |_| Some("a\",\"x\\".to_owned())).unwrap();
        assert_eq!(config.data_dir, Path::new("a\",\"x\\"));
        assert!(parse(text.as_bytes(), |_| Some("$(POD_UID)".to_owned())).is_err());
    }

    #[test]
    fn missing_file_is_named() {
        let error = read(Path::new("/nonexistent/agent.json")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/agent.json"), "{error}");
    }

    #[test]
    fn file_with_an_error_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        fs::write(&path, "{").unwrap();
        let error = read(&path).unwrap_err();
        assert!(format!("{error:#}").contains("agent.json: "), "{error:#}");
    }

    #[test]
    fn data_dir_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/data");
        let first = DataDir::take(&path).unwrap();
        let error = DataDir::take(&path).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        drop(first);
        assert_eq!(DataDir::take(&path).unwrap().path(), path);
    }

    #[test]
    fn data_dir_that_is_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = DataDir::take(&path).unwrap_err();
        assert!(
            error.to_string().contains("creating the data directory"),
            "{error}"
        );
    }
}
