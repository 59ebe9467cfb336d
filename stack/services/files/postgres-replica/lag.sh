#!/bin/bash
# How long after its commit on the primary a row is read from the replica: the median of five, in milliseconds.
#
# KIT_PRIMARY and KIT_REPLICA say where they are, the role's password is the file /run/kit/password.
set -euo pipefail
. /run/kit/passfile.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Whoever takes too long is sent TERM, and a shell that dies of it does not clean up.
trap 'exit 143' TERM INT HUP
passfile /run/kit/password "$work/passfile"
export PGPASSFILE="$work/passfile" PGCONNECT_TIMEOUT=10 PGOPTIONS='-c client_min_messages=warning'

query() { psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1 --set VERBOSITY=terse "$@"; }

if [ "$(query "$KIT_REPLICA" --command 'SELECT pg_is_in_recovery()')" != t ]; then
    echo "the replica was promoted: it follows nobody"
    exit 1
fi
query "$KIT_PRIMARY" --command 'CREATE TABLE IF NOT EXISTS lag (run text, number int, PRIMARY KEY (run, number))'

for turn in $(seq 100); do
    [ "$(query "$KIT_REPLICA" --command "SELECT to_regclass('lag') IS NOT NULL")" != t ] || break
    [ "$turn" != 100 ] || { echo "a table made on the primary did not reach the replica in 10 s"; exit 1; }
    sleep 0.1
done

run=$$-$(date +%s%N)
took=()
for number in 1 2 3 4 5; do
    # One session waits at the replica before the other writes: no time for connecting is counted.
    exec 3< <(query "$KIT_REPLICA" --set run="$run" --set number="$number" <<'SQL'
SELECT set_config('kit.run', :'run', false), set_config('kit.number', :'number', false) \g /dev/null
DO $$
BEGIN
    FOR turn IN 1..2000 LOOP
        IF EXISTS (SELECT FROM lag WHERE run = current_setting('kit.run')
                   AND number = current_setting('kit.number')::int) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.005);
    END LOOP;
    RAISE EXCEPTION 'a row of the primary did not reach the replica in 10 s';
END $$;
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
SQL
    )
    sleep 0.3
    written=$(query "$KIT_PRIMARY" --set run="$run" --set number="$number" <<'SQL'
INSERT INTO lag VALUES (:'run', :'number');
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
SQL
    )
    read -r seen <&3 || exit 1
    # Both servers run on one machine, by one clock. Read before it was noted here, it took no time.
    took+=($((seen > written ? seen - written : 0)))
done
query "$KIT_PRIMARY" --command 'TRUNCATE lag'

median=$(printf '%s\n' "${took[@]}" | sort -n | sed -n 3p)
echo "$median ms behind"
