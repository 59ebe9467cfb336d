#!/bin/bash
# Starts the replica; makes the copy that it begins with, and again when somebody asks for that by a file of this name:
#
#     /var/lib/postgresql/data/copy-again
#
# A copy is made beside the one that is there, and takes its place when it is whole: an interrupted one is begun again,
# and loses nothing. Promoted (pg_ctl promote), it stays a server of its own through restarts.
#
# KIT_PRIMARY says where the primary is (host=... port=... user=... dbname=...), KIT_SLOT names the slot. The password is
# the file /run/kit/password; it reaches the server by a file in memory that no volume holds.
set -euo pipefail
. /run/kit/passfile.sh

readonly volume=/var/lib/postgresql/data
readonly data=$volume/pgdata copy=$volume/pgdata.copy old=$volume/pgdata.old again=$volume/copy-again

say() { printf 'replica: %s\n' "$*" >&2; }

export PGPASSFILE=/tmp/passfile
passfile /run/kit/password "$PGPASSFILE"

# A failure of its own kind for each: a primary that is not there yet is waited for, everything else is said.
wait_for_primary() {
    local tries=0
    until pg_isready --quiet --dbname "$KIT_PRIMARY"; do
        tries=$((tries + 1))
        [ $((tries % 15)) != 1 ] || say "waiting for the primary ($KIT_PRIMARY)"
        sleep 2
    done
}

ask() {
    psql --no-psqlrc --quiet --no-align --tuples-only \
        --set ON_ERROR_STOP=1 --set VERBOSITY=terse --set slot="$KIT_SLOT" "$KIT_PRIMARY"
}

make_slot() {
    ask >/dev/null <<'SQL'
SELECT pg_create_physical_replication_slot(:'slot', true)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = :'slot');
SQL
}

make_copy() {
    wait_for_primary
    rm -rf "$copy"
    # From its beginning on the slot keeps the log that the copy will need. One of an earlier copy is of no use to it.
    ask >/dev/null <<'SQL'
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :'slot' AND NOT active;
SQL
    make_slot
    say "copying the primary"
    pg_basebackup --dbname "$KIT_PRIMARY" --pgdata "$copy" --wal-method=stream --slot "$KIT_SLOT" \
        --checkpoint=fast --no-password
    touch "$copy/standby.signal"
    sync -f "$copy"
    if [ -e "$data" ]; then
        rm -rf "$old"
        mv "$data" "$old"
    fi
    mv "$copy" "$data"
    rm -rf "$old" "$again"
    say "the copy is whole: $(du -sh "$data" | cut -f1)"
}

# Killed between the two moves of make_copy: the old one is still good.
if [ ! -e "$data" ] && [ -s "$old/PG_VERSION" ]; then
    mv "$old" "$data"
fi
if [ ! -s "$data/PG_VERSION" ] || [ -e "$again" ]; then
    make_copy
fi
if [ ! -e "$data/standby.signal" ]; then
    say "was promoted: it follows nobody, and takes writes"
elif pg_isready --quiet --dbname "$KIT_PRIMARY"; then
    # A primary that was restored has no slots. Away, it is no reason not to answer queries.
    make_slot || say "the primary gave no slot; following it without one is refused"
fi
exec postgres -c config_file=/run/kit/postgresql.conf
