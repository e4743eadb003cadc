#!/usr/bin/env bash
# Started by e2e/cluster. Records itself, and becomes the parent of the cluster's first process: whoever kills this one
# ends the whole cluster.
set -euo pipefail
state=$1
read -ra stat <"/proc/$$/stat"
# The start time is field 22; our name has no blanks.
echo "$$ ${stat[21]}" >"$state/process"
exec unshare --net --mount --pid --fork --kill-child=KILL --mount-proc --propagation private \
    bash "$state/configuration/init.sh" "$@"
