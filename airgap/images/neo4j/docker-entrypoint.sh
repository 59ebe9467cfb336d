#!/bin/bash
# Starts Neo4j as the official image does for its common settings: NEO4J_AUTH or NEO4J_AUTH_FILE on a new volume, and
# NEO4J_some_setting__name=value as lines of neo4j.conf. Other commands run as they are.
set -euo pipefail

if [ "${1:-neo4j}" != neo4j ]; then
    exec "$@"
fi
if [ "$(id -u)" = 0 ]; then
    chown neo4j:neo4j /data /logs
    exec setpriv --reuid=neo4j --regid=neo4j --init-groups -- "$0" "$@"
fi

conf="$NEO4J_HOME/conf"
file="$conf/neo4j.conf"
touch "$file"
if [ -n "${NEO4J_AUTH_FILE:-}" ]; then
    if [ -n "${NEO4J_AUTH:-}" ]; then
        echo 'NEO4J_AUTH and NEO4J_AUTH_FILE are both set: one of them is enough' >&2
        exit 1
    fi
    NEO4J_AUTH=$(cat "$NEO4J_AUTH_FILE")
fi
auth=${NEO4J_AUTH:-}
unset NEO4J_AUTH NEO4J_AUTH_FILE

put() {
    sed -i "/^$1=/d" "$file"
    printf '%s=%s\n' "$1" "$2" >>"$file"
}
put server.default_listen_address 0.0.0.0
put server.directories.data /data
put server.directories.logs /logs
while IFS= read -r -d '' pair; do
    name=${pair%%=*}
    case $name in
        NEO4J_HOME | NEO4J_CONF | NEO4J_PLUGINS | NEO4J_EDITION) ;;
        NEO4J_*)
            setting=$(printf '%s' "${name#NEO4J_}" | sed 's/__/\x01/g; s/_/./g; s/\x01/_/g')
            put "$setting" "${pair#*=}" ;;
    esac
done < <(env -0)

if [ "$auth" = none ]; then
    put dbms.security.auth_enabled false
elif [ -n "$auth" ] && [ ! -e /data/databases/system ] && [ ! -e /data/dbms/auth.ini ]; then
    if [[ $auth != neo4j/?* ]]; then
        echo 'NEO4J_AUTH is neo4j/PASSWORD or none' >&2
        exit 1
    fi
    # Through a file of arguments: the password stands in no process list.
    password=${auth#neo4j/}
    password=${password//\\/\\\\}
    (umask 077 && printf '"%s"' "${password//\"/\\\"}" >/tmp/first-password)
    "$NEO4J_HOME/bin/neo4j-admin" dbms set-initial-password @/tmp/first-password
    rm /tmp/first-password
fi
command=$("$NEO4J_HOME/bin/neo4j" console --dry-run | tail -n 1)
eval "exec $command"
