#!/bin/sh
# Which passwords Redis takes of services: the user default. Any number of runs end alike.
#
# accept: the one in /run/kit/password, beside those it takes already; of generation 1 (KIT_GENERATION) there are none.
# retire: that one alone. Then both are tried, and the one before, in /run/kit/previous, must be refused. Connections that
# are older than the new password end: their owners connected again since, or are nobody we know.
#
# redis-cli reads a password from its input, where it would ask a person; the server is told its SHA-256.
set -eu
step=$1
mark=/data/password-taken

ask() { redis-cli -e -h "$KIT_HOST" -p "$KIT_PORT" --user kit --askpass "$@" </run/kit/access; }
stop() { echo "$1"; exit 1; }
hashes() { ask ACL GETUSER default | grep -E '^[0-9a-f]{64}$' | sort || true; }

tries=0
until ask PING >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 15 ] || { ask PING || true; stop "Redis does not answer this stack's own user"; }
    sleep 1
done

ours=$(sha256sum </run/kit/password | cut -d ' ' -f 1)
if [ "$step" = accept ]; then
    if [ "$KIT_GENERATION" = 1 ]; then
        rm -f "$mark"
    elif [ ! -f "$mark" ]; then # retire takes it away
        date +%s >"$mark"
    fi
    if [ "$KIT_GENERATION" = 1 ]; then
        ask ACL SETUSER default on resetpass "#$ours" >/dev/null
    else
        ask ACL SETUSER default on "#$ours" >/dev/null
    fi
else
    ask ACL SETUSER default on resetpass "#$ours" >/dev/null
fi
ask ACL SAVE >/dev/null
hashes | grep -qx "$ours" || stop 'Redis did not take the password'
if [ "$step" = accept ]; then
    echo "Redis takes the password, and $(($(hashes | wc -l) - 1)) others"
    exit 0
fi

[ "$(hashes)" = "$ours" ] || stop 'Redis takes another password as well'
ended=0
if [ -f "$mark" ]; then
    ended=$(ask CLIENT KILL USER default MAXAGE "$(($(date +%s) - $(cat "$mark") + 1))")
    rm -f "$mark"
fi

# try PASSWORD-FILE: the answer to PING, as a service asks.
try() {
    redis-cli -h "$KIT_HOST" -p "$KIT_PORT" --user default --askpass PING <"$1" 2>&1 || true
}
said=$(try /run/kit/password)
[ "$said" = PONG ] || stop "the password is not taken: $said"
said=$(try /run/kit/previous)
case "$said" in
    *WRONGPASS*) ;;
    *) stop "the password of before is not refused: $said" ;;
esac
echo "Redis takes this password alone, the one before is refused; connections ended: $ended"
