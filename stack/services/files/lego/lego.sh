#!/bin/sh
# Gets the front door's certificate signed and renews it, for ever. Everything is in the volume: the account, what was
# signed, what was asked for last, and how often that failed.
#
# /data/live.pem is what the front door shows. Until an authority has signed one it is the stack's own.
set -uf
umask 077
. /run/kit/order.sh

LIVE=/data/live.pem
ISSUED=/data/issued     # the directory and the names of what was signed last
ASKED=/data/asked       # what was asked last, and with which credentials
FAILURES=/data/failures # how many in a row, and when the next try may be, in seconds since 1970
WORK=/data/work
EVERY=3600 # seconds between two looks, at which most often nothing is due

say() { echo "certificates: $*"; }

# One folder for each server, so that a stack can try a staging directory and go on to the real one. In it lego names
# files by the first name.
folder=/data/$(echo "${DIRECTORY#https://}" | tr -c 'A-Za-z0-9.\n' _)
read -r first </run/kit/names
file=certificates/$(echo "$first" | tr '*' _)

wanted() { echo "$DIRECTORY"; cat /run/kit/names; }
asking() { cat /run/kit/order.sh /run/kit/names; cat /run/kit/dns-credentials /run/kit/roots.pem 2>/dev/null | sha256sum; }

credentials() {
    # Each line NAME=value is a variable of lego's provider. It reads the value from the file that NAME_FILE names, so
    # that the value is no variable of any process.
    [ -f /run/kit/dns-credentials ] || return 0
    rm -rf /tmp/dns && mkdir /tmp/dns
    while IFS= read -r line || [ -n "$line" ]; do
        name=${line%%=*}
        case $line in
            '' | '#'*) continue ;;
            [A-Z]*=*) ;;
            *) say 'a line of acmeDnsCredentials is not NAME=value: it is left out'; continue ;;
        esac
        case $name in *[!A-Z0-9_]*) say 'a name in acmeDnsCredentials is none: it is left out'; continue ;; esac
        printf %s "${line#*=}" >"/tmp/dns/$name"
        export "${name}_FILE=/tmp/dns/$name"
    done </run/kit/dns-credentials
}

lego() {
    flags="--accept-tos --server $DIRECTORY --key-type ec256 --path $WORK"
    if [ "$CHALLENGE" = dns-01 ]; then
        flags="$flags --dns $DNS ${DNS_WAIT:+--dns.propagation-wait ${DNS_WAIT}s}"
    else
        flags="$flags --http --http.port :8402"
    fi
    while read -r name; do flags="$flags --domains $name"; done </run/kit/names
    # shellcheck disable=SC2086 # plain words, checked by the settings; set -f leaves a wildcard what it is
    /lego $flags "$@"
}

# An authority counts failures, five an hour for a name: each one makes the next try later, for who starts again as well.
# It is written down before the try, so that one that is cut short counts.
note_try() {
    failures=0
    read -r failures _ 2>/dev/null <"$FAILURES" || failures=0
    failures=$((failures + 1))
    case $failures in 1) pause=300 ;; 2) pause=900 ;; 3) pause=3600 ;; 4) pause=14400 ;; *) pause=43200 ;; esac
    echo "$failures $(($(date +%s) + pause))" >"$FAILURES"
    asking >"$ASKED"
}

may_try() {
    [ -f "$FAILURES" ] || return 0
    # Who changed the question need not wait for the answer to the old one.
    asking | cmp -s - "$ASKED" || { rm -f "$FAILURES"; return 0; }
    next=0
    read -r _ next <"$FAILURES"
    [ "$(date +%s)" -ge "${next:-0}" ]
}

# With HTTP-01 the authority asks at the front door, which starts after this, or leads elsewhere until it is replaced:
# without it the order would fail, and count. So it is asked first, as the authority will.
door() {
    [ -n "$DOOR_HOST" ] || return 0
    tries=0
    while [ $tries -lt 60 ]; do
        tries=$((tries + 1))
        answer=kit-$(date +%s)-$tries
        printf 'HTTP/1.0 200 OK\r\nContent-Length: %s\r\n\r\n%s' ${#answer} "$answer" | nc -l -p 8402 >/dev/null 2>&1 &
        listener=$!
        found=$({ printf 'GET /.well-known/acme-challenge/kit HTTP/1.0\r\nHost: %s\r\n\r\n' "$first"; sleep 2; } |
            nc -w 2 "$DOOR_HOST" "$DOOR_PORT" 2>/dev/null | tail -n 1)
        kill $listener 2>/dev/null
        wait $listener 2>/dev/null
        [ "$found" != "$answer" ] || return 0
    done
    say 'the front door does not lead here yet: tried again later'
    return 1
}

# Replaced at once, whatever is cut short: who reads it has the old one or the new one.
publish() {
    cat "$@" | cmp -s - "$LIVE" && return 1
    cat "$@" >"$LIVE.new" && chmod 0640 "$LIVE.new" && sync && mv "$LIVE.new" "$LIVE"
}

look() {
    may_try || { say "not tried before $(date -d "@$next" 2>/dev/null || echo "$next"), after $(cut -d' ' -f1 "$FAILURES") failures"; return; }
    door || return
    # On a copy: lego writes certificate and key one after the other, and one that is cut short leaves no pair.
    rm -rf "$WORK" && mkdir "$WORK"
    [ ! -d "$folder" ] || cp -a "$folder/." "$WORK/"
    if [ -s "$folder/$file.crt" ] && wanted | cmp -s - "$ISSUED"; then
        # --dynamic: when a third of its life is left (half of a short one); or when the authority says so (RFC 9773),
        # as it does when it revokes. Each stack looks from its own start on: no need to spread that further.
        set -- renew --dynamic --no-random-sleep
    else
        set -- run
    fi
    note_try
    if ! lego "$@"; then
        say "failed, the lines above say why. Tried again in $pause s, or at once with other settings"
        return
    fi
    publish "$WORK/$file.key" "$WORK/$file.crt" && say 'the front door is given a new one'
    wanted >"$ISSUED"
    rm -rf "$folder.old"
    [ ! -d "$folder" ] || mv "$folder" "$folder.old"
    mv "$WORK" "$folder" && rm -rf "$folder.old"
    rm -f "$FAILURES"
}

[ -d "$folder" ] || [ ! -d "$folder.old" ] || mv "$folder.old" "$folder"
if [ ! -s "$ISSUED" ]; then
    publish /run/kit/leaf.pem && say "the stack's own is shown until one is signed"
elif [ ! -s "$LIVE" ]; then
    publish "$folder/$file.key" "$folder/$file.crt" || publish /run/kit/leaf.pem
fi
if grep -q BEGIN /run/kit/roots.pem; then
    cat /etc/ssl/certs/ca-certificates.crt /run/kit/roots.pem >/tmp/roots.pem
    export LEGO_CA_CERTIFICATES=/tmp/roots.pem
fi
credentials

trap 'exit 0' TERM INT
while :; do
    look
    sleep "$EVERY" &
    wait $!
done
