# The commands of this project. `just` (https://just.systems) is a convenience: each recipe is one line to type instead.

# Lists the recipes.
default:
    @just --list

# Reads and judges, changes nothing: format, lints, documentation, all tests, dependencies. The gate before a commit.
check: deny
    e2e/run

# Formats, and applies the lints' own suggestions.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Rewrites `crds/` and the expected texts that tests compare with; read the difference before you commit it.
generate:
    cargo run -p operator -- crds --out crds
    cargo run -p operator -- crds --out charts/quorate/files/crds
    UPDATE_EXPECT=1 cargo test --workspace --exclude e2e

# Unit and integration tests, simulations among them, with a seed of your choice.
sim SEED:
    QUORATE_SEED={{SEED}} e2e/run unit

# End-to-end tests: real processes, real clients.
e2e *FILTER:
    e2e/run e2e {{FILTER}}

# The leader killed 200 times in a row.
long *OPTIONS:
    e2e/run long {{OPTIONS}}

# A benchmark beside a real peer: tftp-failover, tftp-throughput or kv.
bench NAME *OPTIONS:
    e2e/bench/run {{NAME}} {{OPTIONS}}

# Licences, bans, sources and advisories of the dependencies (`cargo install cargo-deny`).
deny:
    cargo deny check
