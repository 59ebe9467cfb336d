#!/bin/bash
# Ends the logins that a rotation replaced: all of a role but the one in use. Any number of runs end alike.
#
# KIT_ROLE owns KIT_DATABASE, KIT_USER is the login in use, with the password in the file /run/kit/password; the one
# before is KIT_PREVIOUS_USER with that in /run/kit/previous. Their sessions end as well: who has what was rotated out
# does not stay. Then both are tried over the network, as a service does it: the new one is let in, the old one is not.
#
# Passwords reach psql by a file of their own form; as in database.sh nothing is looked for outside of pg_catalog.
set -euo pipefail
. /run/kit/passfile.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Whoever takes too long is sent TERM, and a shell that dies of it does not clean up.
trap 'exit 143' TERM INT HUP

export PGCLIENTENCODING=UTF8 PGCONNECT_TIMEOUT=10 LC_ALL=C
readonly as_superuser='-c log_statement=none -c log_min_error_statement=panic -c search_path=pg_catalog -c default_transaction_read_only=off'

query() { psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1 --set VERBOSITY=terse "$@"; }
server() { PGHOST=/var/run/postgresql PGUSER=postgres PGOPTIONS="$as_superuser" query "$@"; }
# As a connection string wants it: a backslash before each quote and each backslash.
inside=${KIT_DATABASE//\\/\\\\}
inside="dbname='${inside//\'/\\\'}'"

# Nobody comes in any more; then who is in goes. What an old login owns or was granted, against its settings, becomes the
# role's: only then it can go. One that is needed elsewhere in the server stays, and cannot log in.
server --dbname "$inside" <<'SQL'
\getenv role KIT_ROLE
\getenv user KIT_USER
CREATE TEMPORARY TABLE old AS
SELECT rolname AS name FROM pg_roles
 WHERE rolname <> :'user' AND (rolname = :'role' OR (left(rolname, length(:'role') + 1) = :'role' || '.'
   AND substr(rolname, length(:'role') + 2) ~ '^[0-9]+$'));
SELECT format('ALTER ROLE %I NOLOGIN PASSWORD NULL', name) FROM pg_temp.old \gexec
SELECT count(pg_terminate_backend(pid, 5000)) AS ended
  FROM pg_stat_activity WHERE usename IN (SELECT name FROM pg_temp.old) \gset
SELECT format('REASSIGN OWNED BY %I TO %I', name, :'role') FROM pg_temp.old WHERE name <> :'role' \gexec
SELECT format('DROP OWNED BY %I', name) FROM pg_temp.old WHERE name <> :'role' \gexec
\set ON_ERROR_STOP 0
SELECT format('DROP ROLE %I', name) FROM pg_temp.old WHERE name <> :'role' \gexec
\set ON_ERROR_STOP 1
\echo sessions ended: :ended
SQL

left=$(server --dbname "$inside" <<'SQL'
\getenv role KIT_ROLE
\getenv user KIT_USER
SELECT count(*) FROM pg_roles
 WHERE rolcanlogin AND rolname <> :'user' AND (rolname = :'role' OR (left(rolname, length(:'role') + 1) = :'role' || '.'
   AND substr(rolname, length(:'role') + 2) ~ '^[0-9]+$'));
SQL
)
[ "$left" = 0 ] || { echo "$left older logins of role $KIT_ROLE can still log in"; exit 1; }

# try USER PASSWORD-FILE
try() {
    passfile "$2" "$work/passfile" || return 1
    PGUSER="$1" PGPASSFILE="$work/passfile" query \
        --dbname "host=$KIT_HOST port=$KIT_PORT $inside" --command "SELECT 'as ' || current_user" 2>&1
}

said=$(try "$KIT_USER" /run/kit/password) || { echo "the new login was refused: $said"; exit 1; }
[ "$said" = "as $KIT_ROLE" ] || { echo "the new login acts $said, not as $KIT_ROLE"; exit 1; }
if said=$(try "$KIT_PREVIOUS_USER" /run/kit/previous); then
    echo "the old login is still let in"
    exit 1
fi
case "$said" in
    *'password authentication failed'* | *'is not permitted to log in'*) ;;
    *) echo "whether the old login is refused could not be seen: $said"; exit 1 ;;
esac
echo "role $KIT_ROLE: $KIT_USER is let in, $KIT_PREVIOUS_USER is refused"
