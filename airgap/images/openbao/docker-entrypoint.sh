#!/bin/sh
# `server` reads /openbao/config, as the official image's entrypoint has it; whatever else bao can do is passed on.
set -e
ulimit -c 0
case "${1:-}" in
    server) shift; set -- bao server -config=/openbao/config "$@" ;;
    agent | audit | auth | login | operator | policy | proxy | read | secrets | status | version | write) set -- bao "$@" ;;
    -*) set -- bao "$@" ;;
esac
exec "$@"
