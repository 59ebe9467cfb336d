#!/usr/bin/env bash
# The official image's entrypoint and server are here as well and take the server's arguments.
exec python3 -u /qdrant/standin.py "$@"
