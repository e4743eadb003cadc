# Sourced by e2e/cluster: how a cluster begins, is looked at, and ends.
#
# Everything of a cluster runs in one process-id namespace, one mount namespace and network namespaces that only live
# there. Its first process (init.sh) is the only one that has to be ended: the kernel ends all others with it, and takes
# their mounts and networks away.

up_seconds_max=300
nodes=(n1 n2 n3)

up() {
    local owner=
    if [[ ${1:-} == --owner ]]; then
        owner=${2:?whose process id?}
    fi
    install_cluster_programs
    local lock
    mkdir -p "$cache/cluster"
    exec {lock}>"$cache/cluster/$name.lock"
    flock "$lock"
    if runs && [[ -e $state/ready ]]; then
        echo "cluster $name runs already"
        return
    fi
    # What a killed `up` left behind.
    end
    mkdir -p "$state"/{log,configuration}
    cp "$here"/cluster.d/{init,start-again,control-plane,node,volumes}.sh "$here"/cluster.d/{cluster,audit}.yaml "$state/configuration"
    local started=$SECONDS
    # It has its own session and none of our files: it must outlive the terminal, and hold no lock.
    (
        exec {lock}>&-
        exec setsid bash "$here/cluster.d/begin.sh" "$state" "$name" "$programs" "${nodes[*]}" \
            </dev/null >"$state/log/init.log" 2>&1
    ) &
    local beginning=$!
    if [[ $owner ]]; then
        watch_owner "$owner"
    fi
    until [[ -e $state/ready ]]; do
        if ! kill -0 "$beginning" 2>/dev/null || ((SECONDS - started > up_seconds_max)); then
            tail -n 30 "$state/log/init.log" >&2
            end
            fail "the cluster did not come up"
        fi
        # Nothing to wait on but a file.
        sleep 0.1
    done
    disown -a
    echo "cluster $name is up after $((SECONDS - started)) s"
}

# Ends the cluster when the process that wanted it has ended, however it ended.
watch_owner() {
    QUORATE_CLUSTER=$name setsid bash -c 'tail --pid="$1" -f /dev/null; exec "$2" down' watch "$1" "$here/cluster" \
        </dev/null >/dev/null 2>&1 {lock}>&- &
    process_identity $! >"$state/watcher"
}

down() {
    local lock
    mkdir -p "$cache/cluster"
    exec {lock}>"$cache/cluster/$name.lock"
    flock "$lock"
    end
}

# Ends whatever runs of this cluster, also half of one.
end() {
    local identity group
    if identity=$(identity_in watcher) && [[ ${identity% *} != "$$" ]]; then
        # With the program that it waits with.
        kill -- -"${identity% *}" || true
    fi
    if identity=$(identity_in process); then
        kill -KILL "${identity% *}"
        # It ends after all processes in its namespaces.
        tail --pid="${identity% *}" -f /dev/null
    fi
    for group in /sys/fs/cgroup/{,*/}quorate-"$name"; do
        if [[ -d $group ]]; then
            remove_group "$group"
        fi
    done
    rm -rf --one-file-system "$state"
}

# A control group cannot be removed while the kernel still takes its last process away.
remove_group() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        find "$1" -depth -type d -exec rmdir {} + 2>/dev/null && return
        [[ -d $1 ]] || return 0
        sleep 0.1
    done
    fail "the control group $1 is still in use"
}

# "PID START-TIME": a process id is used again one day, together with the time it is not.
process_identity() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    # The fields after the name in parentheses; the start time is field 22.
    read -ra stat <<<"${stat##*) }"
    echo "$1 ${stat[19]}"
}

# The recorded identity, if that process still runs.
identity_in() {
    local identity
    identity=$(cat "$state/$1" 2>/dev/null) || return 1
    [[ $identity && $(process_identity "${identity% *}") == "$identity" ]] && echo "$identity"
}

runs() {
    identity_in process >/dev/null
}

# The process id, as seen from here, of the cluster's first process.
init_pid() {
    local identity children
    identity=$(identity_in process) || fail "cluster $name does not run: e2e/cluster up"
    read -r children <"/proc/${identity% *}/task/${identity% *}/children"
    echo "${children%% *}"
}

# Runs a command among the cluster's processes, with its file system and in the network of its control plane.
inside() {
    local init
    init=$(init_pid)
    nsenter --target "$init" --mount --net --pid -- env PATH="$(cluster_path)" "$@"
}

cluster_path() {
    echo "/run/programs/bin:/run/programs/debian/usr/bin:/run/programs/debian/usr/sbin:$PATH"
}

shell() {
    local init
    init=$(init_pid)
    (($#)) || set -- "${SHELL:-bash}"
    exec nsenter --target "$init" --net -- env PATH="$programs/bin:$PATH" KUBECONFIG="$state/admin.kubeconfig" \
        KUBECACHEDIR="$state/kubectl-cache" QUORATE_CLUSTER="$name" QUORATE_LAB="$here/cluster" "$@"
}

status() {
    if ! runs; then
        echo "cluster $name does not run"
        return 1
    fi
    echo "cluster $name, Kubernetes $kubernetes_version, files and logs in $state"
    local file pid
    for file in "$state"/pids/*; do
        pid=$(<"$file")
        if inside test -d "/proc/$pid"; then
            printf '  %-26s runs\n' "${file##*/}"
        else
            printf '  %-26s is stopped\n' "${file##*/}"
        fi
    done
    (shell kubectl get nodes,pods --all-namespaces -o wide)
}

load() {
    local node file image
    for file in "$@"; do
        image=$(tar -xOf "$file" manifest.json | sed 's/.*"RepoTags":\["\([^"]*\)".*/\1/')
        for node in "${nodes[@]}"; do
            # The cluster's processes may see another file system: the file is handed to them.
            [[ $(inside ctr -a "/run/quorate/$node/containerd.sock" -n k8s.io images ls -q "name==$image") ]] ||
                inside ctr -a "/run/quorate/$node/containerd.sock" -n k8s.io images import - <"$file" >/dev/null
        done
    done
}

on_node() {
    local node=${1:?which node?}
    shift
    inside nsenter --net="/run/netns/$node" "$@"
}

program_stop() {
    [[ -e $state/pids/$1 ]] || fail "no program is named $1: see e2e/cluster status"
    inside kill -KILL "$(<"$state/pids/$1")"
}

program_start() {
    [[ -e $state/commands/$1 ]] || fail "no program is named $1: see e2e/cluster status"
    local pid
    pid=$(<"$state/pids/$1")
    if inside test -d "/proc/$pid"; then
        return
    fi
    inside setsid bash /run/quorate/configuration/start-again.sh "$1"
}

signal_pod() {
    local uid=${2//-/_}
    # shellcheck disable=SC2016 # expanded inside
    inside bash -c '
        for task in $(ctr -a "/run/quorate/$1/containerd.sock" -n k8s.io tasks ls | awk "NR > 1 {print \$1 \":\" \$2}"); do
            if grep -q "pod$2\|pod$4" "/proc/${task#*:}/cgroup" && ! [[ $(readlink "/proc/${task#*:}/exe") == /pause ]]; then
                kill -s "$3" "${task#*:}"
                found=1
            fi
        done
        [[ ${found:-} ]]' signal "$1" "$2" "$3" "$uid" || fail "no container of pod $2 runs on $1"
}
