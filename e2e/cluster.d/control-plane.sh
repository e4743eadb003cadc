# Sourced by init.sh: the network that joins the nodes, and the control plane, which is on no node.
#
#   lab (this network namespace): bridge lab0 10.99.0.1/24 fd00:99::1/64, no way out
#     |- n1 === eth0 10.99.0.11 fd00:99::11  node n1, pods 10.88.0.0/24 fd00:88:0:1::/64
#     |- n2 === eth0 10.99.0.12 fd00:99::12  node n2, pods 10.88.1.0/24 fd00:88:0:2::/64
#     `- ...
#   Services 10.96.0.0/16 fd00:96::/108

lab_address=10.99.0.1
lab_prefix=10.99.0
pod_prefix=10.88
lab_prefix_v6=fd00:99::
pod_prefix_v6=fd00:88:0
pods="$pod_prefix.0.0/16,$pod_prefix_v6::/48"
services=10.96.0.0/16,fd00:96::/108

# The number of a node in addresses.
node_number() {
    echo "${1#n}"
}

network() {
    ip link set lo up
    ip link add lab0 type bridge
    ip address add "$lab_address/24" dev lab0
    ip address add "${lab_prefix_v6}1/64" dev lab0 nodad
    ip link set lab0 up
    # Clients outside reach pods as they would through a router, and node ports at each node's address.
    local node number
    for node in "${nodes[@]}"; do
        number=$(node_number "$node")
        ip netns add "$node"
        ip link add "$node" type veth peer name eth0 netns "$node"
        ip link set "$node" master lab0 up
        ip -n "$node" address add "$lab_prefix.1$number/24" dev eth0
        ip -n "$node" address add "${lab_prefix_v6}1$number/64" dev eth0 nodad
        ip -n "$node" link set eth0 up
        ip -n "$node" link set lo up
        ip -n "$node" route add default via "$lab_address"
        ip -n "$node" route add default via "${lab_prefix_v6}1"
        in_node "$node" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
        route_to_pods "$number"
    done
    local other
    for node in "${nodes[@]}"; do
        for other in "${nodes[@]}"; do
            [[ $node == "$other" ]] || route_to_pods "$(node_number "$other")" -n "$node"
        done
    done
}

# route_to_pods NUMBER [-n NODE]: to the pods of the node with this number, from that node or from the lab.
route_to_pods() {
    local number=$1
    shift
    ip "$@" route add "$pod_prefix.$((number - 1)).0/24" via "$lab_prefix.1$number"
    ip "$@" route add "$pod_prefix_v6:$number::/64" via "${lab_prefix_v6}1$number"
}

# Only the network changes: `ip netns exec` would also hide the control groups.
in_node() {
    local node=$1
    shift
    nsenter --net="/run/netns/$node" "$@"
}

control_plane() {
    certificates
    start etcd etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
    start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 \
        --advertise-address="$lab_address" --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key \
        --client-ca-file=pki/ca.crt --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/accounts.pub \
        --service-account-signing-key-file=pki/accounts.key --service-cluster-ip-range="$services" \
        --audit-policy-file=configuration/audit.yaml --audit-log-path=log/audit.log --audit-log-mode=blocking \
        --allow-privileged=true --enable-admission-plugins=NodeRestriction \
        --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate=pki/api.crt \
        --kubelet-client-key=pki/api.key
    await "the API server is ready" api get --raw /readyz
    start kube-controller-manager kube-controller-manager --kubeconfig=kube-controller-manager.kubeconfig \
        --service-account-private-key-file=pki/accounts.key --root-ca-file=pki/ca.crt \
        --use-service-account-credentials=true --leader-elect=false --allocate-node-cidrs=false \
        --cluster-cidr="$pods" --bind-address=127.0.0.1
    start kube-scheduler kube-scheduler --kubeconfig=kube-scheduler.kubeconfig --leader-elect=false \
        --bind-address=127.0.0.1
    start volumes bash configuration/volumes.sh
}

# The administrator's kubectl.
api() {
    kubectl --kubeconfig=admin.kubeconfig "$@"
}

certificates() {
    mkdir -p pki
    {
        openssl genrsa -out pki/accounts.key 2048
        openssl rsa -in pki/accounts.key -pubout -out pki/accounts.pub
        openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca.key -out pki/ca.crt -subj /CN=lab -days 30
        openssl req -newkey rsa:2048 -nodes -keyout pki/api.key -out pki/api.csr -subj /O=system:masters/CN=kube-apiserver
        openssl x509 -req -in pki/api.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 30 -out pki/api.crt \
            -extfile <(echo "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:10.96.0.1,IP:$lab_address,IP:127.0.0.1")
    } 2>/dev/null
    identity admin admin system:masters
    # For an operator whose requests are to be told from the administrator's.
    identity operator quorate-operator system:masters
    identity kube-controller-manager system:kube-controller-manager
    identity kube-scheduler system:kube-scheduler
    identity kube-proxy system:kube-proxy
    local node
    for node in "${nodes[@]}"; do
        identity "$node" "system:node:$node" system:nodes
    done
}

# identity FILE USER [GROUP]: a token, and a kubeconfig with it.
identity() {
    local token
    token=$(od -An -N 16 -tx1 /dev/urandom | tr -d ' \n')
    echo "$token,$2,$1,\"${3:-}\"" >>pki/tokens.csv
    cat >"$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {server: "https://$lab_address:6443", certificate-authority-data: $(base64 -w 0 pki/ca.crt)}
users:
- name: $1
  user: {token: $token}
contexts:
- name: lab
  context: {cluster: lab, user: $1}
current-context: lab
END
    chmod 600 "$1.kubeconfig" pki/tokens.csv
}

# What every cluster has besides: names, a storage class, what kube-proxy may do.
cluster_services() {
    api apply -f configuration/cluster.yaml >/dev/null
    await "all nodes are ready" api wait --for=condition=Ready node --all --timeout=60s
    await "names are resolved" api rollout status daemonset/coredns --namespace kube-system --timeout=60s
}
