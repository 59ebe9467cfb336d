#!/bin/bash
# An image whose own build cannot be written to has been built with our options: starting it --optimized saves a
# second Java process that would only find that out. Otherwise `start` builds what differs, once per container.
set -eu
kc=/opt/keycloak/bin/kc.sh
if [ -w /opt/keycloak/lib/quarkus ]; then
    exec "$kc" --config-file=/run/kit/keycloak.conf start
fi
exec "$kc" --config-file=/run/kit/keycloak.conf start --optimized
