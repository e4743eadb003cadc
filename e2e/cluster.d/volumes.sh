# Runs inside the cluster: disks for claims of the storage class `local`. A disk is a directory of the node that the
# scheduler has chosen, and stays on that node, as a real one would.
set -euo pipefail
cd /run/quorate
export KUBECONFIG=/run/quorate/admin.kubeconfig

claims='{range .items[?(@.status.phase=="Pending")]}{.metadata.namespace} {.metadata.name} {.metadata.uid} {.spec.resources.requests.storage} {.spec.storageClassName} {.spec.accessModes[0]} {.metadata.annotations.volume\.kubernetes\.io/selected-node}{"\n"}{end}'

provide() {
    local namespace=$1 claim=$2 uid=$3 size=$4 mode=$5 node=$6
    mkdir -p "disks/$node/$uid"
    chmod 777 "disks/$node/$uid"
    kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-$uid, annotations: {pv.kubernetes.io/provisioned-by: quorate.dev/local}}
spec:
  capacity: {storage: $size}
  accessModes: [$mode]
  storageClassName: local
  persistentVolumeReclaimPolicy: Retain
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $namespace, name: $claim, uid: $uid}
  local: {path: /run/quorate/disks/$node/$uid}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]
END
    echo "a disk on $node for $namespace/$claim"
}

look() {
    local namespace claim uid size class mode node volume
    while read -r namespace claim uid size class mode node; do
        if [[ $class == local && $node ]]; then
            provide "$namespace" "$claim" "$uid" "$size" "$mode" "$node"
        fi
    done < <(kubectl get persistentvolumeclaims --all-namespaces -o jsonpath="$claims")
    for volume in $(kubectl get persistentvolumes -o jsonpath='{range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}'); do
        kubectl delete persistentvolume "$volume" --wait=false >/dev/null
        rm -rf /run/quorate/disks/*/"${volume#disk-}"
        echo "$volume is gone"
    done
}

# Every change of a claim is a line; the watch ends by itself from time to time.
while :; do
    {
        echo start
        kubectl get persistentvolumeclaims --all-namespaces --watch-only -o name || true
    } | while read -r _; do
        look || echo "the API server did not answer; trying again at the next change"
    done
    sleep 1
done
