# Sourced by e2e/run: the tests on a real Kubernetes.

# Those that only `e2e/run long kubernetes` runs.
kubernetes_long=(kubernetes_certificates kubernetes_lab_leader_loss kubernetes_lab_quiet kubernetes_scale)

# kubernetes_tests short|long [FILTER]
kubernetes_tests() {
    local which=$1 beside=() tests=() file name is
    shift
    make_images
    section "Kubernetes tests: build"
    for file in e2e/tests/kubernetes_*.rs; do
        name=$(basename "$file" .rs)
        [[ " ${kubernetes_long[*]} " == *" $name "* ]] && is=long || is=short
        [[ $is == "$which" ]] || continue
        # These cut off nodes and kill programs, which only works where we started them.
        if [[ $name == kubernetes_lab_* && ${KUBECONFIG:-} ]]; then
            echo "$name is left out: it needs the cluster of e2e/cluster"
        else
            tests+=(--test "$name")
        fi
    done
    cargo test --locked -p e2e --no-run "${tests[@]}"
    cargo build --locked -p quorate-kubectl
    export QUORATE_KUBECTL=$CARGO_TARGET_DIR/debug/kubectl-quorate
    if [[ ${KUBECONFIG:-} ]]; then
        echo "the cluster of $KUBECONFIG must have these images: ${image_files[*]}"
    else
        section "Kubernetes: up"
        use_cluster
        beside=(e2e/cluster shell)
    fi
    section "Kubernetes tests"
    # No network from here on.
    "${beside[@]}" cargo test --locked --offline -p e2e --no-fail-fast "${tests[@]}" -- --test-threads=1 "$@"
    if [[ ${cluster_is_ours:-} ]]; then
        section "Kubernetes: down"
        e2e/cluster down
    fi
}

# Brings the cluster up, to end with this script however that ends; one that runs already is used, and left.
use_cluster() {
    local place=${XDG_CACHE_HOME:-$HOME/.cache}/quorate/kubernetes/cluster use
    mkdir -p "$place"
    # One run after the other.
    exec {use}>"$place/${QUORATE_CLUSTER:-e2e}.use"
    flock "$use"
    if ! e2e/cluster status >/dev/null 2>&1; then
        cluster_is_ours=1
        e2e/cluster up --owner $$ {use}>&-
    fi
    e2e/cluster load "${image_files[@]}" {use}>&-
}

# The images of the programs, as files, and their names for the tests. An image that the environment names is used as it is.
image_files=()
make_images() {
    section "images"
    local place=$CARGO_TARGET_DIR/images programs=$CARGO_TARGET_DIR/release applet links=()
    for applet in sh sleep stat sha256sum cat ls nslookup; do
        links+=("busybox->/bin/$applet")
    done
    pack agent /bin/quorate-agent "$programs/quorate-agent=/bin/quorate-agent"
    pack operator /bin/quorate-operator "$programs/quorate-operator=/bin/quorate-operator"
    pack clients /bin/sleep "$(command -v busybox)=/bin/busybox" "${links[@]}" \
        --libraries "$(command -v curl)=/bin/curl" "$(command -v tftp)=/bin/tftp" "$(command -v atftp)=/bin/atftp"
}

# pack NAME ENTRYPOINT FILES...
pack() {
    local variable=QUORATE_IMAGE_${1^^} file=$place/$1.tar reference
    if [[ -z ${!variable:-} ]]; then
        reference=$(e2e/cluster.d/image.sh "docker.io/quorate/$1:{id}" "$file" "${@:2}")
        export "$variable=$reference"
        image_files+=("$file")
    fi
    echo "${!variable}"
}
