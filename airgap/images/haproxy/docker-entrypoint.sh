#!/bin/sh
# Options alone mean haproxy. It runs as a master with workers (-W: SIGUSR2 reloads the config file) and
# stays in the foreground whatever the config says (-db).
set -eu

case "${1:-}" in
    -*) set -- haproxy "$@" ;;
esac
if [ "${1:-}" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi
exec "$@"
