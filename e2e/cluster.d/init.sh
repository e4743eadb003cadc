#!/usr/bin/env bash
# The first process of a cluster, in namespaces of its own. Brings everything else up and then takes in orphans. When it
# ends, whatever the reason, the kernel ends all that it started.
set -euo pipefail
state=$1 name=$2 programs=$3
read -ra nodes <<<"$4"
run=/run/quorate
source "$state/configuration/control-plane.sh"
source "$state/configuration/node.sh"

main() {
    private_files
    export PATH=/run/programs/bin:/run/programs/debian/usr/bin:/run/programs/debian/usr/sbin:$PATH
    export LD_LIBRARY_PATH=/run/programs/debian/usr/lib/$(uname -m)-linux-gnu:/run/programs/debian/lib/$(uname -m)-linux-gnu
    cd "$run"
    mkdir -p pids commands
    control_groups
    network
    control_plane
    local node
    for node in "${nodes[@]}"; do
        containerd_start "$node"
    done
    for node in "${nodes[@]}"; do
        node_start "$node"
    done
    cluster_services
    touch ready
    trap 'exit 0' TERM
    # Bash reaps orphans whenever a child of its own ends.
    while :; do
        sleep 5 &
        wait $! || true
    done
}

# The same short names on every machine, and no traces outside: what programs write beside our own directory is lost with
# this mount namespace.
private_files() {
    mount --make-rshared /
    mkdir -p "$state/run"
    mount -t tmpfs tmpfs "$state/run"
    mkdir -p "$state"/run/{quorate,programs,netns,lock}
    mount --bind "$state" "$state/run/quorate"
    mount --bind "$programs" "$state/run/programs"
    mount --make-rprivate "$state/run"
    mount --rbind "$state/run" /run
    mount --make-rshared /run
    mount -t tmpfs tmpfs /var/lib
    mount -t tmpfs tmpfs /var/log
}

# start NAME COMMAND...: runs it in the background; its log, its process id and how to start it again are kept.
start() {
    local program=$1
    shift
    printf '%q ' "$@" >"commands/$program"
    # Recorded before it runs.
    bash -c 'echo $$ >"pids/$1"; exec >>"log/$1.log" 2>&1 </dev/null; shift; exec "$@"' start "$program" "$@" &
}

# await WHAT COMMAND...: until the command succeeds.
await() {
    local what=$1 deadline=$((SECONDS + 120))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > deadline)); then
            echo "not so after 120 s: $what" >&2
            "$@" >&2 || true
            return 1
        fi
        sleep 0.1
    done
}

# One subtree of our own in every hierarchy, so that all of it can be found again.
control_groups() {
    local hierarchy group
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        mkdir -p "/sys/fs/cgroup/quorate-$name"
        for group in /sys/fs/cgroup "/sys/fs/cgroup/quorate-$name"; do
            sed 's/\([a-z]\+\)/+\1/g' "$group/cgroup.controllers" >"$group/cgroup.subtree_control"
        done
    else
        for hierarchy in /sys/fs/cgroup/*/; do
            mkdir -p "$hierarchy/quorate-$name"
            # A cpuset has no processors and no memory unless somebody copies them.
            [[ ! -e $hierarchy/quorate-$name/cgroup.clone_children ]] ||
                echo 1 >"$hierarchy/quorate-$name/cgroup.clone_children"
        done
        for group in cpuset.cpus cpuset.mems; do
            [[ ! -e /sys/fs/cgroup/cpuset/$group ]] ||
                cat "/sys/fs/cgroup/cpuset/$group" >"/sys/fs/cgroup/cpuset/quorate-$name/$group"
        done
    fi
    for node in "${nodes[@]}"; do
        for hierarchy in /sys/fs/cgroup/{,*/}"quorate-$name"; do
            [[ ! -d $hierarchy ]] || mkdir -p "$hierarchy/$node"
        done
    done
}

main
