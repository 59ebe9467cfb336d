#!/bin/bash
# Makes a database, the role that owns it, and its extensions; repairs what differs. Any number of runs end alike.
#
# KIT_DATABASE, KIT_ROLE, KIT_EXTENSIONS say what, KIT_REPLICATION=1 that the role is a replica's, KIT_MAKES_LOGINS=1 that
# it makes logins for others, KIT_LOGINS_BY which role makes them for this one; the role's password is the file
# /run/kit/password, every byte of it. KIT_USER is the login that has it: the role itself or, once its password was
# rotated, another one that acts as the role; logins of before go on until retire.sh ends them. Further roles that may log
# in are the files /run/kit/logins/<role>, their passwords inside; /run/kit/setup.sql is what else the database needs, in
# one transaction. psql reads a password from its file and hands it on over the local socket: it is no argument and no
# variable of any process. The session logs no statement, so that it stands in no log even when something fails.
#
# The superuser works in databases that others own, and who owns one may make functions and operators in it, and say
# where its sessions look for such. This one looks in pg_catalog alone, and finds nothing of theirs (CVE-2018-1058). The
# session's own option counts more than what the database says. Whatever is made here needs its schema named.
set -euo pipefail

# psql drops a line break at the end of what a command says: the x keeps it, for every byte counts.
check() { # FILE ROLE
    [ -s "$1" ] || { echo "the password of role $2 is empty"; exit 1; }
}
check /run/kit/password "$KIT_ROLE"
export PGCLIENTENCODING=UTF8 PGCONNECT_TIMEOUT=10
PGOPTIONS='-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic'
export PGOPTIONS="$PGOPTIONS -c search_path=pg_catalog -c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0"

query() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set VERBOSITY=terse "$@"; }

replication=NOREPLICATION
[ "${KIT_REPLICATION:-}" != 1 ] || replication=REPLICATION
makes=NOCREATEROLE
[ "${KIT_MAKES_LOGINS:-}" != 1 ] || makes=CREATEROLE

query --set replication="$replication" --set makes="$makes" --set by="${KIT_LOGINS_BY:-}" <<'SQL'
\getenv database KIT_DATABASE
\getenv role KIT_ROLE
\set password `cat /run/kit/password; printf x`
SELECT format('CREATE ROLE %I', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" NOSUPERUSER NOCREATEDB :makes :replication;
-- Who makes logins for this role may give it to them (ADMIN), and has it neither by itself (INHERIT) nor by name (SET).
-- CREATEROLE alone reaches no role that somebody else made.
SELECT format('CREATE ROLE %I', :'by') WHERE :'by' <> '' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'by') \gexec
SET client_min_messages = warning;
SELECT format('GRANT %I TO %I WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', :'role', :'by') WHERE :'by' <> '' \gexec
RESET client_min_messages;
-- Nobody else may, not even whom somebody gave it to by hand; and logins that nobody makes any more no longer act as it.
SELECT format('REVOKE %I FROM %I CASCADE', :'role', m.rolname)
  FROM pg_auth_members g JOIN pg_roles m ON m.oid = g.member JOIN pg_roles r ON r.oid = g.roleid
 WHERE r.rolname = :'role' AND g.admin_option AND m.rolname <> :'by' \gexec
\getenv user KIT_USER
SELECT format('CREATE ROLE %I', :'user')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user') \gexec
ALTER ROLE :"user" LOGIN NOSUPERUSER NOCREATEDB :makes :replication;
SELECT format('ALTER ROLE %I PASSWORD %L', :'user', left(:'password', -1)) \gexec
-- With the first login in use, later ones are another state's: of a lost one that was adopted.
SELECT format('ALTER ROLE %I NOLOGIN PASSWORD NULL', rolname) FROM pg_roles
 WHERE :'user' = :'role'
   AND left(rolname, length(:'role') + 1) = :'role' || '.' AND substr(rolname, length(:'role') + 2) ~ '^[0-9]+$' \gexec
-- A login that acts as the role: what it makes is the role's, and what the role was told it is told as well. Lists are
-- taken apart and each name quoted anew: a role may tell itself anything, and this runs as superuser.
SELECT format('GRANT %I TO %I', :'role', :'user') WHERE :'role' <> :'user' \gexec
SELECT format('ALTER ROLE %I %s SET %I TO %s', :'user', coalesce('IN DATABASE ' || quote_ident(d.datname), ''), said.name,
              CASE WHEN said.name ~ '(^search_path|_libraries|_tablespaces)$' THEN coalesce((
                       SELECT string_agg(quote_literal(CASE
                                WHEN m.e[1] LIKE '"%' THEN replace(substr(m.e[1], 2, length(m.e[1]) - 2), '""', '"')
                                WHEN said.name ~ '_libraries$' THEN m.e[1] ELSE lower(m.e[1]) END), ', ' ORDER BY m.n)
                         FROM regexp_matches(said.value, '("(?:[^"]|"")*"|[^",\s][^,\s]*)', 'g')
                              WITH ORDINALITY AS m (e, n)), quote_literal(''))
                   ELSE quote_literal(said.value) END)
  FROM pg_db_role_setting s
  JOIN pg_roles r ON r.oid = s.setrole AND r.rolname = :'role'
  LEFT JOIN pg_database d ON d.oid = s.setdatabase
 CROSS JOIN LATERAL (SELECT split_part(line, '=', 1) AS name, substr(line, strpos(line, '=') + 1) AS value
                       FROM unnest(s.setconfig) AS line) AS said
 WHERE :'role' <> :'user' \gexec
SELECT format('ALTER ROLE %I SET role TO %L', :'user', :'role') WHERE :'role' <> :'user' \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
ALTER DATABASE :"database" OWNER TO :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL

for file in /run/kit/logins/*; do
    [ -f "$file" ] || continue
    export KIT_LOGIN="${file##*/}"
    check "$file" "$KIT_LOGIN"
    query <<'SQL'
\getenv role KIT_LOGIN
\set password `cat "/run/kit/logins/$KIT_LOGIN"; printf x`
SELECT format('CREATE ROLE %I', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
SELECT format('ALTER ROLE %I PASSWORD %L', :'role', left(:'password', -1)) \gexec
\getenv database KIT_DATABASE
GRANT CONNECT ON DATABASE :"database" TO :"role";
SQL
done

# As a connection string wants it: a backslash before each quote and each backslash.
inside=${KIT_DATABASE//\\/\\\\}
inside="dbname='${inside//\'/\\\'}'"
for extension in $KIT_EXTENSIONS; do
    export KIT_EXTENSION="$extension"
    query --dbname "$inside" <<'SQL'
\getenv extension KIT_EXTENSION
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS :"extension" SCHEMA public;
-- Does nothing when the extension is already as new as the server's files.
SELECT pg_catalog.format('ALTER EXTENSION %I UPDATE', :'extension') \gexec
SQL
done

if [ -f /run/kit/setup.sql ]; then
    query --dbname "$inside" --single-transaction --file /run/kit/setup.sql
fi

echo "database $KIT_DATABASE is there, owned by role $KIT_ROLE${KIT_EXTENSIONS:+, with $KIT_EXTENSIONS}"
