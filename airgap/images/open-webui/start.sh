#!/usr/bin/env bash
# Starts Open WebUI. Without WEBUI_SECRET_KEY a key is made once and kept in WEBUI_SECRET_KEY_FILE
# (default: .webui_secret_key in the working directory, which a read-only root refuses: set the variable).
set -euo pipefail

if [[ -z ${WEBUI_SECRET_KEY:-} && -z ${WEBUI_JWT_SECRET_KEY:-} ]]; then
    key_file=${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}
    if [[ ! -s $key_file ]]; then
        printf 'start: making a secret key in %s\n' "$key_file"
        (umask 077 && head -c 24 /dev/urandom | base64 >"$key_file")
    fi
    WEBUI_SECRET_KEY=$(<"$key_file")
    export WEBUI_SECRET_KEY
fi

exec python3 -m uvicorn open_webui.main:app \
    --host "${HOST:-0.0.0.0}" --port "${PORT:-8080}" \
    --forwarded-allow-ips "${FORWARDED_ALLOW_IPS:-*}" --workers "${UVICORN_WORKERS:-1}" "$@"
