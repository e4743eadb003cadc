//! Reads and checks the configuration of one member, and takes its data directory.
//!
//! Every error names the file, the field and what is expected there: the reader is a person or an operator's event.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use operator_api::AgentConfig;
use operator_api::config::{Endpoint, ServiceConfig};
use rustix::fs::FlockOperation;
use tracing_subscriber::EnvFilter;

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
    parse(&bytes).with_context(|| format!("in the configuration file {}", path.display()))
}

/// Parses and checks a configuration.
fn parse(bytes: &[u8]) -> anyhow::Result<AgentConfig> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
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

/// Checks what the types cannot say.
fn validate(config: &AgentConfig) -> anyhow::Result<()> {
    validate_name(&config.name)?;
    ensure!(
        !config.data_dir.as_os_str().is_empty(),
        "field dataDir is empty: name a directory"
    );
    validate_endpoint("peer", &config.peer)?;
    validate_endpoint("admin", &config.admin)?;
    EnvFilter::try_new(&config.log_level).with_context(|| {
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
    match &config.service {
        ServiceConfig::Tftp(tftp) => tftp
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

fn validate_endpoint(field: &str, endpoint: &Endpoint) -> anyhow::Result<()> {
    let parts = endpoint.advertise.rsplit_once(':');
    let is_valid = parts.is_some_and(|(host, port)| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.[]:%".contains(&byte))
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    ensure!(
        is_valid,
        "field {field}.advertise is `{}`: it must be host:port, as others reach this member",
        endpoint.advertise.escape_debug()
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
        fs::create_dir_all(path)
            .with_context(|| format!("creating the data directory {}", path.display()))?;
        let file = path.join(LOCK_FILE);
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("the data directory {} cannot be written", path.display()))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => anyhow!(
                    "the data directory {} is in use by another process: stop it, or use another dataDir",
                    path.display()
                ),
                _ => anyhow!(error).context(format!("locking {}", file.display())),
            })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
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
        let error = parse(text.as_bytes()).unwrap_err();
        expect.assert_eq(&format!("{error:#}"));
    }

    fn with(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    }

    #[test]
    fn good_config_is_read() {
        assert_eq!(parse(GOOD.as_bytes()).unwrap().name, "tftp-0");
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
            expect![
                "field admin.advertise is `tftp-0.example`: it must be host:port, as others reach this member"
            ],
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
                "field logLevel: `info,=,x=loud` is not a filter such as `info` or `info,tftp=debug`: invalid filter directive"
            ],
        );
        check(
            &with(r#""dataDir":"d""#, r#""dataDir":"d","drainSeconds":999999"#),
            expect!["field drainSeconds is 999999: it must be at most 3600"],
        );
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
