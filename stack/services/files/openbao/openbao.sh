#!/bin/sh
# Writes the name of the key that seals a new volume into it, and becomes the server. volume.sh reads the name.
set -eu
ulimit -c 0
[ -e /openbao/file/vault.db ] || cat /run/kit/seal-id >/openbao/file/kit-seal
exec bao server -config=/run/kit/server.hcl -config=/run/kit/seal.hcl
