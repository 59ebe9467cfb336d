#!/bin/sh
# Starts Redis the way the official image does: options or a .conf file alone mean redis-server, root
# is dropped to redis (uid 999), files are private to it.
set -eu

case "${1:-}" in
    '') set -- redis-server ;;
    -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis:redis '{}' +
    exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
fi

if [ "$1" = redis-server ]; then
    [ "$(umask)" = 0022 ] && umask 0077
    # The official build turns protected mode off, since the network in front of a container is not the
    # loopback. Whoever says otherwise, on the command line or in the config file, is left alone.
    said=no
    for word in "$@"; do
        case "$word" in
            --protected-mode*) said=yes ;;
            *.conf) [ -r "$word" ] && grep -qiE '^[[:space:]]*protected-mode[[:space:]]' "$word" && said=yes ;;
        esac
    done
    [ "$said" = yes ] || set -- "$@" --protected-mode no
fi

exec "$@"
