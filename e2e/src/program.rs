//! Where the programs under test and the stock programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The release binary of the agent: `QUORATE_AGENT`, else the one in the target directory this test was built in.
pub fn agent() -> anyhow::Result<PathBuf> {
    release_program("quorate-agent", "QUORATE_AGENT")
}

/// A release binary of ours: the one that the environment variable `named_by` names, else the one in the target directory
/// this test was built in.
pub fn release_program(name: &str, named_by: &str) -> anyhow::Result<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test driver: the environment enters here"
    )]
    let named = std::env::var(named_by).ok().map(PathBuf::from);
    let path = match named {
        Some(path) => path,
        None => {
            let exe = std::env::current_exe().context("finding the running program")?;
            let target = exe
                .ancestors()
                .find(|dir| dir.ends_with("debug") || dir.ends_with("release"))
                .and_then(Path::parent)
                .with_context(|| format!("{} is not in a cargo target directory", exe.display()))?;
            target.join("release").join(name)
        }
    };
    if !path.is_file() {
        bail!(
            "{} is missing: build it with `cargo build --release --bin {name}`, or name another with {named_by}",
            path.display()
        );
    }
    Ok(path)
}

/// A stock program on the search path.
pub fn stock(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("{name} is not installed: run `e2e/run`, or install the Debian package {package}")
        })
}

/// The top of the source tree.
#[must_use]
pub fn source_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
