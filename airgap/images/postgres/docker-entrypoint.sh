#!/usr/bin/env bash
# Starts PostgreSQL; on an empty PGDATA it first makes the cluster, the database and the password, and
# runs the files of /docker-entrypoint-initdb.d once, behind a server that only listens on its socket.
#
# An initialisation that was interrupted is never taken for a database: a marker file goes into PGDATA
# before initdb and leaves it, synced to disk, after the last init file. Only this script writes the
# marker, and only into an empty directory, so what stands beside it holds nothing but that attempt:
# the next start empties the directory and begins again.
set -Eeuo pipefail

readonly init_dir=/docker-entrypoint-initdb.d
readonly socket_dir=/var/run/postgresql
readonly marker_name=aikit-init.incomplete
readonly staging_name=aikit-init.staging

say() { printf 'docker-entrypoint: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# from_file NAME [DEFAULT]: NAME, else the content of the file NAME_FILE names, else DEFAULT.
from_file() {
    local name=$1 file_name="$1_FILE" default=${2:-} value
    if [[ -n ${!name:-} && -n ${!file_name:-} ]]; then
        die "both $name and $file_name are set; set one of them"
    fi
    if [[ -n ${!name:-} ]]; then
        value=${!name}
    elif [[ -n ${!file_name:-} ]]; then
        [[ -r ${!file_name} ]] || die "$file_name: cannot read ${!file_name}"
        value=$(<"${!file_name}")
    else
        value=$default
    fi
    export "$name"="$value"
    unset "$file_name"
}

# query [psql options]: SQL from standard input, as the superuser, over the socket.
query() {
    PGHOST=$socket_dir PGHOSTADDR='' psql --set ON_ERROR_STOP=1 --no-password --no-psqlrc --quiet \
        --username "$POSTGRES_USER" "$@"
}

# Init files call this by its well-known name.
docker_process_sql() { query --dbname "$POSTGRES_DB" "$@"; }

prepare_directories() {
    mkdir -p "$PGDATA"
    chmod 00700 "$PGDATA" || :
    mkdir -p "$socket_dir" || :
    chmod 03775 "$socket_dir" 2>/dev/null || :
    if [[ $(id -u) == 0 ]]; then
        find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
        find "$socket_dir" \! -user postgres -exec chown postgres '{}' +
    fi
}

check_settings() {
    if [[ -z $POSTGRES_PASSWORD && $POSTGRES_HOST_AUTH_METHOD != trust ]]; then
        die 'the superuser has no password: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE' \
            '(or POSTGRES_HOST_AUTH_METHOD=trust, which lets anybody in)'
    fi
    if [[ $POSTGRES_HOST_AUTH_METHOD == trust ]]; then
        say 'warning: POSTGRES_HOST_AUTH_METHOD=trust lets anybody in without a password'
    fi
    if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
        die 'POSTGRES_INITDB_WALDIR is not supported by this image'
    fi
}

# make_cluster postgres [server options]
make_cluster() {
    local staging=$PGDATA/$staging_name first_password=$POSTGRES_PASSWORD one_line=yes
    # initdb takes the first line of its password file. A password with a line break in it starts with a
    # random one and is set by SQL below, so that no byte of it is lost.
    if [[ $POSTGRES_PASSWORD == *[$'\n\r']* ]]; then
        one_line=no
        first_password=$(tr -dc a-f0-9 </dev/urandom | head -c 32 || :)
    fi
    local -a extra=() options=("${@:2}")
    # The official image reads these as shell words, quotes included.
    eval "extra=($POSTGRES_INITDB_ARGS)"
    initdb --username="$POSTGRES_USER" --pgdata="$staging" --pwfile=<(printf '%s\n' "$first_password") "${extra[@]}"
    # initdb wants an empty directory and PGDATA holds the marker: made beside it, moved up.
    find "$staging" -mindepth 1 -maxdepth 1 -exec mv -t "$PGDATA" '{}' +
    rmdir "$staging"

    local method=${POSTGRES_HOST_AUTH_METHOD:-}
    [[ -n $method ]] || method=$(postgres -C password_encryption "${options[@]}")
    {
        printf '\n'
        [[ $method != trust ]] || printf '# trust lets anybody in without a password\n'
        printf 'host all all all %s\n' "$method"
    } >>"$PGDATA/pg_hba.conf"

    export PGPASSWORD=$first_password
    start_socket_server "${options[@]}"
    if [[ $one_line == no ]]; then
        query --dbname postgres <<'SQL'
SET log_min_error_statement = panic;
\getenv name POSTGRES_USER
\getenv password POSTGRES_PASSWORD
ALTER ROLE :"name" PASSWORD :'password';
SQL
        export PGPASSWORD=$POSTGRES_PASSWORD
    fi
    if [[ $POSTGRES_DB != postgres ]]; then
        query --dbname postgres <<'SQL'
\getenv name POSTGRES_DB
CREATE DATABASE :"name";
SQL
    fi
    run_init_files
    stop_socket_server
    unset PGPASSWORD
}

start_socket_server() {
    # -p keeps the socket's name whatever the configuration says the port is.
    local -a options=("$@" -c listen_addresses='' -c unix_socket_directories="$socket_dir" -p "${PGPORT:-5432}")
    # NOTIFY_SOCKET would tell a supervisor that the real server is ready.
    NOTIFY_SOCKET='' pg_ctl --pgdata="$PGDATA" --wait --options="$(printf '%q ' "${options[@]}")" start
}

stop_socket_server() { pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop; }

run_init_files() {
    local file
    for file in "$init_dir"/*; do
        case $file in
            "$init_dir/*") ;;
            *.sh)
                if [[ -x $file ]]; then
                    say "running $file"
                    "$file"
                else
                    say "sourcing $file"
                    # shellcheck disable=SC1090
                    . "$file"
                fi
                ;;
            *.sql) say "running $file"; docker_process_sql --file "$file" ;;
            *.sql.gz) say "running $file"; gunzip --stdout "$file" | docker_process_sql ;;
            *.sql.xz) say "running $file"; xz --decompress --stdout "$file" | docker_process_sql ;;
            *.sql.zst) say "running $file"; zstd --decompress --stdout "$file" | docker_process_sql ;;
            *) say "ignoring $file" ;;
        esac
    done
}

initialise() {
    local marker=$PGDATA/$marker_name entry
    if [[ -e $marker ]]; then
        say 'the last initialisation was interrupted: beginning again'
        find "$PGDATA" -mindepth 1 -maxdepth 1 \! -name "$marker_name" -exec rm -rf '{}' +
    elif [[ -s $PGDATA/PG_VERSION ]]; then
        say 'PGDATA holds a database: not initialising'
        return
    fi
    check_settings
    if [[ ! -e $marker ]]; then
        entry=$(find "$PGDATA" -mindepth 1 -maxdepth 1 -print -quit)
        [[ -z $entry ]] || die "PGDATA holds no database but is not empty: $entry"
        : >"$marker"
        sync "$marker" "$PGDATA"
    fi
    # A stop during initialisation takes the socket server along; the marker stays.
    trap 'pg_ctl --pgdata="$PGDATA" --mode=fast --silent stop >/dev/null 2>&1 || :' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    make_cluster "$@"
    trap - EXIT INT TERM
    sync
    rm "$marker"
    sync "$PGDATA"
    say 'initialised'
}

only_asks() {
    local word
    for word in "$@"; do
        case $word in
            -'?' | --help | --describe-config | -V | --version) return 0 ;;
        esac
    done
    return 1
}

main() {
    [[ ${1:-} != -* ]] || set -- postgres "$@"
    if [[ ${1:-} == postgres ]] && ! only_asks "$@"; then
        prepare_directories
        if [[ $(id -u) == 0 ]]; then
            exec setpriv --reuid=postgres --regid=postgres --init-groups -- "${BASH_SOURCE[0]}" "$@"
        fi
        from_file POSTGRES_PASSWORD
        from_file POSTGRES_USER postgres
        from_file POSTGRES_DB "$POSTGRES_USER"
        from_file POSTGRES_INITDB_ARGS
        : "${POSTGRES_HOST_AUTH_METHOD:=}"
        initialise "$@"
        unset POSTGRES_PASSWORD  # the server has no use for it
    fi
    exec "$@"
}

main "$@"
