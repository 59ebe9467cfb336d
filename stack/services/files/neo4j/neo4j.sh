#!/bin/bash
# Starts Neo4j with the delivered configuration. The image's own entrypoint is left out: it would hand the password
# to a program as an argument, which everybody on the host may read, and write a configuration of its own.
set -euo pipefail

export NEO4J_HOME=${NEO4J_HOME:-/var/lib/neo4j} NEO4J_CONF=/run/kit
mkdir -p /tmp/logs /tmp/run /tmp/import /data/native

# The server's own command line, not the program that starts it and waits: signals reach the server, and one Java
# less stays in memory.
server() { "$NEO4J_HOME/bin/neo4j" console --dry-run | tail -n 1; }

# Give a volume of unknown password the one of this stack: a server for nobody but this script, without logins.
adopt() {
    mkdir -p /tmp/adopt
    sed -e 's/^server.default_listen_address=.*/server.default_listen_address=127.0.0.1/' \
        -e 's/^dbms.security.auth_enabled=.*/dbms.security.auth_enabled=false/' /run/kit/neo4j.conf >/tmp/adopt/neo4j.conf
    local command status pid
    command=$(NEO4J_CONF=/tmp/adopt server)
    eval "$command &"
    pid=$!
    for _ in $(seq 150); do
        kill -0 "$pid" || { echo 'adopt: the server ended by itself'; return 1; }
        (exec 3<>/dev/tcp/127.0.0.1/7474) 2>/dev/null && break
        sleep 1
    done
    exec 3<>/dev/tcp/127.0.0.1/7474
    printf 'POST /db/system/tx/commit HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n' \
        "$(stat -c %s /run/kit/adopt.json)" >&3
    cat /run/kit/adopt.json >&3
    status=$(timeout 60 cat <&3 | tail -n 1)
    exec 3>&-
    kill "$pid"
    wait "$pid" || true
    [[ $status == *'"errors":[]'* ]] || { echo "adopt: the password was not taken: ${status:0:300}"; return 1; }
    rm /data/adopt-password
    echo 'adopt: the database has the password of this stack now'
}

# Only a volume that has never been a database takes a first password. One that has keeps its own, and the job that
# logs in after the start says when that is not ours.
if [ ! -e /data/databases/system ] && [ ! -e /data/dbms/auth.ini ]; then
    # The program reads its arguments from a file when one is named: the password stands in no process list.
    "$NEO4J_HOME/bin/neo4j-admin" dbms set-initial-password @/run/kit/first-password
elif [ -e /data/adopt-password ]; then
    adopt
fi

command=$(server)
eval "exec $command"
