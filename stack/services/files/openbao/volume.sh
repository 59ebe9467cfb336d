#!/bin/sh
# Whether this stack has the key that the volume is sealed with. Before the server starts: it would start, stay sealed,
# and say so in its log alone.
set -eu
ours=$(cat /run/kit/seal-id)
if [ ! -e /openbao/file/vault.db ]; then
    echo 'the volume is new'
    exit 0
fi
theirs=$(cat /openbao/file/kit-seal 2>/dev/null || echo 'one without a name')
if [ "$ours" != "$theirs" ]; then
    echo "the volume $KIT_VOLUME was sealed with another key than this stack's: with $theirs, and this stack has $ours.
Nothing was changed. Without that key nobody can read it. Either bring back the state (with its passphrase) that goes with
the volume, or, to begin anew without what is in it:
    docker volume rm $KIT_VOLUME"
    exit 1
fi
echo 'the volume is sealed with the key of this stack'
