# Runs inside the cluster: starts a program that was stopped, with the same command as before.
set -euo pipefail
cd /run/quorate
export LD_LIBRARY_PATH=/run/programs/debian/usr/lib/$(uname -m)-linux-gnu:/run/programs/debian/lib/$(uname -m)-linux-gnu
bash -c 'echo $$ >"pids/$1"; exec >>"log/$1.log" 2>&1 </dev/null; eval "exec $(<"commands/$1")"' start "$1" &
