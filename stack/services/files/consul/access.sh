#!/bin/sh
# Makes the token that only reads, takes away tokens that were rotated out, and then asks as services do: who leads,
# where a service is. `up` runs it after the start, `prove` whenever somebody asks.
set -eu
umask 077

export CONSUL_HTTP_TOKEN_FILE=/run/kit/management
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Whoever takes too long is sent TERM, and a shell that dies of it does not clean up.
trap 'exit 143' TERM INT HUP

patience=30
. /run/kit/http.sh

# ask METHOD PATH TOKEN-FILE BODY
ask() {
    asked="$1 $2 HTTP/1.0"
    [ -z "$3" ] || asked="$asked
X-Consul-Token: $(cat "$3")"
    exchange "$KIT_PORT" "$asked" "$4"
}

# A server that was only just elected has its tokens a moment later.
tries=0
ask GET /v1/acl/token/self /run/kit/management ''
while [ "$status" != 200 ] && [ $tries -lt 20 ]; do
    tries=$((tries + 1))
    sleep 1
    ask GET /v1/acl/token/self /run/kit/management ''
done
[ "$status" = 200 ] || refused "the server has not taken this stack's token yet (no leader? a slow or full disk?).
Nothing was changed; its log says why: docker logs kit-$KIT_STACK-consul. The server"

# ------------------------------------------------------------------------------------------------------- tokens

consul acl policy read -name kit-reader >/dev/null 2>&1 ||
    consul acl policy create -name kit-reader -description 'reads the catalogue' -rules @/run/kit/reader.hcl >/dev/null
consul acl policy update -name kit-reader -rules @/run/kit/reader.hcl >/dev/null 2>&1 ||
    stop 'the policy of readers could not be written'

ask GET /v1/acl/token/self /run/kit/reader ''
if [ "$status" != 200 ]; then
    ask PUT /v1/acl/token /run/kit/management \
        "{\"SecretID\": \"$(cat /run/kit/reader)\", \"Description\": \"kit reader\", \"Policies\": [{\"Name\": \"kit-reader\"}]}"
    [ "$status" = 200 ] || refused 'the token of readers was not made'
fi

# Those of ours that have another secret were rotated out. Tokens that people made stay.
consul acl token list >"$work/tokens"
awk '
    BEGIN { getline management <"/run/kit/management"; getline reader <"/run/kit/reader" }
    /^AccessorID:/ { accessor = $2 }
    /^SecretID:/ { secret = $2 }
    /^Description:/ {
        ours = $0 ~ /: +kit reader$/ || $0 ~ /: +Initial Management Token$/
        if (ours && secret != management && secret != reader) print accessor
    }
' "$work/tokens" >"$work/old"
while read -r accessor; do
    consul acl token delete -accessor-id "$accessor" >/dev/null
    echo "an older token is gone"
done <"$work/old"

# ------------------------------------------------------------------------------------------------- as services ask

ask GET /v1/status/leader '' ''
leader=$(tr -d '"\n' <"$work/body")
[ "$status" = 200 ] && [ -n "$leader" ] || refused 'there is no leader'
# The agent brings what it has into the catalogue after the election, and after an error up to 30 s later. Of that, what
# the plan lists: it carries `declared-in`. What somebody registered is somebody's, and may look as it likes.
end=$(($(date +%s) + 45))
while :; do
    ask GET '/v1/agent/services?filter=%22declared-in%22%20in%20Meta' /run/kit/reader ''
    [ "$status" = 200 ] || refused "the agent's services were not read"
    grep -o '"Service": *"[a-z0-9-]*"' "$work/body" | cut -d '"' -f 4 | sort -u >"$work/held"
    ask GET /v1/catalog/services /run/kit/reader ''
    [ "$status" = 200 ] || refused 'the catalogue was not read'
    grep -o '"[a-z0-9-]*": *\[' "$work/body" | cut -d '"' -f 2 | sort >"$work/listed"
    echo consul >>"$work/held"
    missing=$(grep -v -x -F -f "$work/listed" "$work/held" | tr '\n' ' ')
    [ -n "$missing" ] || break
    [ "$(date +%s)" -lt $end ] || stop "not in the catalogue: $missing"
    sleep 1
done
found=''
while read -r name; do
    ask GET "/v1/catalog/service/$name" /run/kit/reader ''
    [ "$status" = 200 ] || refused "$name was not found with the token"
    [ "$name" = consul ] || grep -q '"declared-in"' "$work/body" || continue
    grep -q '"ServicePort": *[1-9]' "$work/body" || refused "$name was found without a port"
    found="$found $name"
done <"$work/listed"
ask GET /v1/catalog/services '' ''
if [ "$status" = 200 ] && grep -q '"[a-z0-9-]*": *\[' "$work/body"; then stop 'the catalogue was read without a token'; fi
ask PUT /v1/kv/kit-proof '' 'x'
[ "$status" = 403 ] || refused 'a key was written without a token'
ask PUT /v1/kv/kit-proof /run/kit/reader 'x'
[ "$status" = 403 ] || refused 'a key was written with the token that only reads'
echo "led by $leader; found with a token alone:$found"
