# Sourced by e2e/run and e2e/bench/run: where builds go, and how missing programs are installed.

# Builds are kept outside the checkout, so that a fresh clone on the same machine builds only what changed.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

# The programs that are tested, linked so that they need no file beside them: these very files also go into images.
build_release() {
    # Cargo asks only for `strip=debuginfo` here, whatever the profile says: a fifth of the program would be symbols.
    local flags=(-C target-feature=+crt-static -C strip=symbols)
    cargo rustc --locked --release -p node-agent --bin quorate-agent -- "${flags[@]}"
    cargo rustc --locked --release -p operator --bin quorate-operator -- "${flags[@]}"
}

section_name=
section_started=0

# Ends the running section with its time and starts the next one.
section() {
    end_section
    section_name=$1
    section_started=$SECONDS
    printf '\n=== %s\n' "$section_name"
}

end_section() {
    if [[ -n $section_name ]]; then
        printf '=== %s: %d s\n' "$section_name" $((SECONDS - section_started))
        section_name=
    fi
}

# Installs the named Debian packages.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "missing: $*. This is no Debian: install what these packages hold, then start again." >&2
        exit 1
    fi
    local as_root=()
    if [[ $(id -u) -ne 0 ]]; then
        as_root=(sudo)
    fi
    echo "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # The lists of packages may be older than the mirror, or absent in a fresh container.
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Installs the programs that the tests use, when one is missing.
install_programs() {
    local missing=()
    command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; exit 1; }
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        { echo "rustfmt or clippy is missing: run \`rustup component add rustfmt clippy\`" >&2; exit 1; }
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    command -v curl >/dev/null || missing+=(curl)
    command -v atftp >/dev/null || missing+=(atftp)
    # Another package has a program of the same name, which knows other options.
    tftp -V 2>/dev/null | grep -q '^tftp-hpa' || missing+=(tftp-hpa)
    busybox tftp --help >/dev/null 2>&1 || missing+=(busybox-static)
    # Two ADC clients, a terminal for one of them, and the hub that ours is compared with. None of them is a service that
    # runs after its installation: uhub's is switched off in /etc/default/uhub until somebody switches it on.
    command -v ncdc >/dev/null || missing+=(ncdc)
    command -v eiskaltdcpp-daemon >/dev/null || missing+=(eiskaltdcpp-daemon)
    command -v tmux >/dev/null || missing+=(tmux)
    command -v uhub >/dev/null || missing+=(uhub)
    if ((${#missing[@]})); then
        install_packages "${missing[@]}"
    else
        echo "everything is there"
    fi
    install_promtool
}

# Makes `promtool` findable. It is taken out of its package: installing that would start a Prometheus.
install_promtool() {
    local tools=${XDG_CACHE_HOME:-$HOME/.cache}/quorate/tools
    export PATH=$PATH:$tools/usr/bin
    command -v promtool >/dev/null && return
    echo "unpacking promtool"
    local place
    place=$(mktemp -d)
    # apt downloads as a user of its own, who must be able to write here.
    chmod 777 "$place"
    (cd "$place" && { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; })
    mkdir -p "$tools"
    dpkg-deb --fsys-tarfile "$place"/prometheus_*.deb | tar -x -C "$tools" ./usr/bin/promtool
    rm -r "$place"
}
