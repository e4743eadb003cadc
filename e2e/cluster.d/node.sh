# Sourced by init.sh: the nodes, each a network namespace with its own containerd, kubelet and kube-proxy.

containerd_start() {
    local node=$1 at=$run/$1 number
    number=$(node_number "$node")
    mkdir -p "$at/cni"
    cat >"$at/containerd.toml" <<END
version = 2
root = "$at/containerd"
state = "$at/containerd-state"
[grpc]
address = "$at/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/quorate/pause:e2e"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/run/programs/debian/usr/lib/cni"
conf_dir = "$at/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "$(snapshotter)"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
END
    # A default route, so that pods reach Services and other nodes; no address is hidden behind the node's.
    cat >"$at/cni/10-lab.conflist" <<END
{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$at/addresses", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            "ranges": [[{"subnet": "$pod_prefix.$((number - 1)).0/24"}], [{"subnet": "$pod_prefix_v6:$number::/64"}]]}}]}
END
    start "$node-containerd" nsenter --net="/run/netns/$node" containerd --config "$at/containerd.toml"
}

# Overlays cannot lie on an overlay, which is what the root of a container usually is.
snapshotter() {
    case $(stat --file-system --format %T .) in
        overlayfs) echo native ;;
        *) echo overlayfs ;;
    esac
}

node_start() {
    local node=$1 at=$run/$1 image number
    number=$(node_number "$node")
    await "containerd answers on $node" ctr --address "$at/containerd.sock" version
    for image in /run/programs/images/*.tar; do
        ctr --address "$at/containerd.sock" --namespace k8s.io images import "$image" >/dev/null
    done
    kubelet_configuration "$node" >"$at/kubelet.yaml"
    start "$node-kubelet" nsenter --net="/run/netns/$node" kubelet --config="$at/kubelet.yaml" \
        --kubeconfig="$node.kubeconfig" --root-dir="$at/kubelet" --cert-dir="$at/pki" --hostname-override="$node" \
        --node-ip="$lab_prefix.1$number,${lab_prefix_v6}1$number"
    # Limits of conntrack belong to the whole machine: they are left as they are.
    cat >"$at/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $node
clusterCIDR: $pods
clientConnection: {kubeconfig: $run/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
    start "$node-kube-proxy" nsenter --net="/run/netns/$node" kube-proxy --config="$at/kube-proxy.yaml"
}

kubelet_configuration() {
    local node=$1 at=$run/$1
    cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $run/pki/ca.crt}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /quorate-$name/$node
clusterDNS: ["10.96.0.10"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$at/containerd.sock
enforceNodeAllocatable: []
evictionHard: {"memory.available": "100Mi", "nodefs.available": "100Mi", "imagefs.available": "100Mi"}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 4s
oomScoreAdj: 0
podLogsDir: $at/logs
resolvConf: ""
volumePluginDir: $at/volume-plugins
END
}
