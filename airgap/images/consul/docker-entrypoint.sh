#!/bin/sh
# Starts Consul as the official image does for its common uses: agent with the image's folders, CONSUL_LOCAL_CONFIG as
# one more configuration, other commands of Consul by their names. Stays who it was started as.
set -e

data=${CONSUL_DATA_DIR:-/consul/data}
config=${CONSUL_CONFIG_DIR:-/consul/config}
if [ -n "${CONSUL_LOCAL_CONFIG:-}" ]; then
    echo "$CONSUL_LOCAL_CONFIG" >"$config/local.json"
fi
case ${1:-} in
    -*) set -- consul "$@" ;;
    agent) shift; set -- consul agent -data-dir="$data" -config-dir="$config" "$@" ;;
    version) set -- consul "$@" ;;
    *) if consul --help "${1:-}" 2>&1 | grep -q "consul ${1:-}"; then set -- consul "$@"; fi ;;
esac
exec "$@"
