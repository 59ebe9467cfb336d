#!/bin/sh
# Starts Redis with its users. Who may administer, and the password of services, comes with the delivered files. Which
# others it takes as well is kept in the volume, by their SHA-256: a rotation changes it while the server runs, and a
# restart in the middle of one locks nobody out.
set -eu
umask 077
kept=/data/users.acl

hashes=
if [ -f "$kept" ]; then
    hashes=$(sed -n 's/^user default //p' "$kept" | tr ' ' '\n' | grep -E '^#[0-9a-f]{64}$' | tr '\n' ' ' || true)
fi
{
    cat /run/kit/static.acl
    echo "user default on #$(sha256sum </run/kit/password | cut -d ' ' -f 1) ${hashes}resetkeys resetchannels ~* &* +@all -@admin"
} >"$kept.new"
mv "$kept.new" "$kept"
exec "$@"
