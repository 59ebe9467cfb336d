#!/bin/bash
# Asks without the key and with a wrong one, which must be refused; then writes three vectors, finds the nearest, also
# among some only, and takes them out. `up` runs it after the start, `prove` whenever somebody asks.
set -euo pipefail

key=$(cat /run/kit/key)

# ask METHOD PATH BODY [KEY]: sets `status` and `answer`. The body is ASCII, so its length is that in bytes.
# The key goes through the connection: not into an argument, another process's variables, or a log.
ask() {
    exec 3<>"/dev/tcp/$KIT_HOST/$KIT_PORT"
    printf '%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n' "$1" "$2" "$KIT_HOST" >&3
    [ -z "${4:-}" ] || printf 'api-key: %s\r\n' "$4" >&3
    printf 'Content-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "${#3}" "$3" >&3
    answer=$(timeout 30 cat <&3 || true)
    exec 3>&-
    status=$(head -n 1 <<<"$answer" | cut -d ' ' -f 2)
    answer=${answer#*$'\r\n\r\n'}
}

stop() { echo "$1"; exit 1; }

refused() {
    case $status in
        401 | 403) ;;
        *) stop "asked $1 the collections, the server answered ${status:-nothing}: anybody inside could read everything" ;;
    esac
}

ask GET /collections ''
refused 'without a key for'
ask GET /collections '' "${key}x"
refused 'with a wrong key for'
ask GET /collections '' "$key"
[ "$status" = 200 ] || stop "the stack's key was refused (${status:-no answer}): ${answer:0:300}"

place="/collections/kit-proof-$(cat /proc/sys/kernel/random/uuid)"
trap 'ask DELETE "$place" "" "$key" || true' EXIT
ask PUT "$place" '{"vectors":{"size":4,"distance":"Cosine"}}' "$key"
[ "$status" = 200 ] || stop "no collection was made ($status): ${answer:0:300}"
ask PUT "$place/points?wait=true" '{"points":[{"id":1,"vector":[1,0,0,0],"payload":{"kind":"a"}},{"id":2,"vector":[0,1,0,0],"payload":{"kind":"a"}},{"id":3,"vector":[0,0.7,0.7,0],"payload":{"kind":"b"}}]}' "$key"
[ "$status" = 200 ] || stop "no vector was written ($status): ${answer:0:300}"
ask POST "$place/points/query" '{"query":[0.1,0.9,0,0],"limit":1,"with_payload":true}' "$key"
[[ $answer == *'"points":[{"id":2,'* ]] || stop "the nearest vector was not found ($status): ${answer:0:300}"
ask POST "$place/points/query" '{"query":[0.1,0.9,0,0],"limit":1,"filter":{"must":[{"key":"kind","match":{"value":"b"}}]}}' "$key"
[[ $answer == *'"points":[{"id":3,'* ]] || stop "the nearest of some was not found ($status): ${answer:0:300}"
ask DELETE "$place" '' "$key"
[ "$status" = 200 ] || stop "the vectors were not removed ($status): ${answer:0:300}"
trap - EXIT
echo 'three vectors: written, found, removed; refused without the key'
