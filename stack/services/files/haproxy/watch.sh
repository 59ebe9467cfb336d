#!/bin/sh
# Starts the front door, and beside it a loop that has it read its certificate anew when the authority has signed another
# one: nobody outside of this container may tell the front door anything.
#   watch.sh CERTIFICATE RELOAD PROGRAM...
set -eu
certificate=$1 reload=$2
shift 2

watch() {
    shown=$(cksum <"$certificate")
    while :; do
        sleep 5
        # In the moment of its replacement it may be away.
        found=$(cksum <"$certificate" 2>/dev/null) || continue
        [ "$found" != "$shown" ] || continue
        shown=$found
        # One that HAProxy refuses changes nothing: what runs goes on with what it has.
        if sh -c "$reload" >/tmp/reload.log 2>&1; then
            echo 'watch: the certificate is another one, and is shown now'
        else
            echo "watch: the new certificate was refused: $(tail -n 3 /tmp/reload.log)"
        fi
    done
}

watch &
exec docker-entrypoint.sh "$@"
