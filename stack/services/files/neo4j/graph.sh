#!/bin/bash
# Logs in with the stack's password, writes a node, reads it again and takes it out. Says what to do when the volume
# has another password. `up` runs it after the start, `prove` whenever somebody asks.
set -euo pipefail

token=$(printf 'neo4j:%s' "$(cat /run/kit/password)" | base64 -w 0)

# ask STATEMENT: runs it in a transaction of its own; sets `status` and `answer`.
# The token goes through the connection: not into an argument, another process's variables, or a log.
ask() {
    local body="{\"statements\":[{\"statement\":\"$1\"}]}"
    exec 3<>"/dev/tcp/$KIT_HOST/$KIT_PORT"
    printf 'POST /db/neo4j/tx/commit HTTP/1.0\r\nHost: %s\r\nAuthorization: Basic %s\r\n' "$KIT_HOST" "$token" >&3
    printf 'Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: %s\r\n\r\n%s' \
        "${#body}" "$body" >&3
    answer=$(timeout 60 cat <&3 || true)
    exec 3>&-
    status=$(head -n 1 <<<"$answer" | cut -d ' ' -f 2)
    answer=${answer#*$'\r\n\r\n'}
}

stop() { echo "$1"; exit 1; }

# A password that was rotated: the one before lets us in once more, to say what it is now. Whether it worked.
move() {
    [ -s /run/kit/previous ] || return 1
    local old
    old=$(printf 'neo4j:%s' "$(cat /run/kit/previous)" | base64 -w 0)
    exec 3<>"/dev/tcp/$KIT_HOST/$KIT_PORT"
    printf 'POST /db/system/tx/commit HTTP/1.0\r\nHost: %s\r\nAuthorization: Basic %s\r\n' "$KIT_HOST" "$old" >&3
    printf 'Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: %s\r\n\r\n' \
        "$(stat -c %s /run/kit/change.json)" >&3
    cat /run/kit/change.json >&3
    answer=$(timeout 60 cat <&3 || true)
    exec 3>&-
    [[ $answer == *'"errors":[]'* ]] || return 1
    echo 'the database has the new password'
}

ask 'RETURN 1'
if [ "$status" = 401 ] && move; then
    ask 'RETURN 1'
fi
if [ -s /run/kit/previous ]; then
    ours=$token
    token=$(printf 'neo4j:%s' "$(cat /run/kit/previous)" | base64 -w 0)
    kept=$status
    ask 'RETURN 1'
    [ "$status" = 401 ] || stop "the password of before was not refused: the database answered ${status:-nothing}"
    token=$ours status=$kept
fi
case $status in
    200 | 201 | 202) ;;
    401)
        stop "This volume holds a database with another password than this stack's: it was made by another stack, or the
state that had its password is gone. Nothing in it was changed. One of:
  - go back to the state that made it: its backup has the password;
  - give the database the password that this state has:
      docker exec $KIT_CONTAINER touch /data/adopt-password && docker restart $KIT_CONTAINER
  - start with an empty one, when nothing in it is needed: ./kit down --data removes the volume with all others." ;;
    *) stop "the database answered ${status:-nothing}: ${answer:0:300}" ;;
esac

mark="kit-$(cat /proc/sys/kernel/random/uuid)"
remove="MATCH (n:KitProof {mark: '$mark'}) DETACH DELETE n RETURN count(n)"
trap 'ask "$remove" || true' EXIT
ask "CREATE (:KitProof {mark: '$mark', made: timestamp()})-[:LEADS_TO]->(:KitProof {mark: '$mark'})"
[[ $answer == *'"errors":[]'* ]] || stop "a node was not written: ${answer:0:300}"
ask "MATCH (a:KitProof {mark: '$mark'})-[:LEADS_TO]->(b) RETURN count(b)"
[[ $answer == *'"row":[1]'* ]] || stop "the node that was written was not found: ${answer:0:300}"
ask "$remove"
[[ $answer == *'"row":[2]'* ]] || stop "the nodes were not removed: ${answer:0:300}"
trap - EXIT
echo 'two nodes and what leads from one to the other: written, found, removed'
