#!/bin/sh
# Has HAProxy, which is process 1 here, take over its files, and ends well once a worker that has them is there.
set -eu

haproxy -c -f /run/kit/haproxy.cfg

# The processes whose parent is process 1: its workers, for this script's parent is outside.
workers() {
    grep -l '^PPid:[[:space:]]*1$' /proc/[0-9]*/status 2>/dev/null | cut -d / -f 3 | sort
}

before=$(workers)
kill -USR2 1
tries=0
while [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.2
    for worker in $(workers); do
        case "
$before
" in *"
$worker
"*) continue ;; esac
        # One that cannot listen ends at once.
        sleep 1
        [ -d "/proc/$worker" ] && { echo "worker $worker has the new files"; exit 0; }
    done
done
echo 'no worker took the new files over: the one before goes on. Its log says why'
exit 1
