#!/usr/bin/env bash
# The official image's entrypoint is here as well and takes the server's arguments.
exec python3 -u /qdrant/standin.py "$@"
