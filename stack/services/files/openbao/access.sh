#!/bin/sh
# Makes what services and people find in OpenBao, takes away what was rotated out, and then asks as they do. `up` runs it
# after the start, `prove` whenever somebody asks. Any number of runs end alike.
#
# Secrets reach bao by files and by its standard input, tokens by its environment: none is an argument.
set -eu
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Whoever takes too long is sent TERM, and a shell that dies of it does not clean up.
trap 'exit 143' TERM INT HUP

stop() { echo "$1"; exit 1; }
# said WHAT COMMAND...: what the server answers is shown only when it refuses.
said() {
    what=$1
    shift
    "$@" >"$work/said" 2>&1 || stop "$what: $(tail -n 3 "$work/said")"
}
login() { bao write -field=token auth/approle/login role_id="$1" secret_id=@"$2" 2>"$work/said"; }
refused() { ! "$@" >/dev/null 2>"$work/said" && grep -q 'permission denied' "$work/said"; }

# only ROLE FILE: the role takes the secret in the file, and no other.
only() {
    path=auth/approle/role/$1
    # Of a secret that the role does not have it says that all went well, and nothing else.
    accessor=$(bao write -field=secret_id_accessor "$path/secret-id/lookup" secret_id=@"$2" 2>/dev/null |
        grep -E '^[0-9a-f-]{36}$' || true)
    if [ -z "$accessor" ]; then
        accessor=$(bao write -field=secret_id_accessor "$path/custom-secret-id" secret_id=@"$2") ||
            stop "role $1 did not take its secret"
    fi
    for other in $(bao list "$path/secret-id" 2>/dev/null | tail -n +3); do
        [ "$other" = "$accessor" ] ||
            said "an older secret of role $1 stays" bao write "$path/secret-id-accessor/destroy" secret_id_accessor="$other"
    done
}

# ------------------------------------------------------------------------------------------------------ the way in

# A token of five minutes. With a secret that was just rotated, the one before opens once more.
if ! BAO_TOKEN=$(login kit-setup /run/kit/setup); then
    [ -s /run/kit/setup-previous ] && BAO_TOKEN=$(login kit-setup /run/kit/setup-previous) ||
        stop "OpenBao does not take this stack's way in: $(tail -n 3 "$work/said")"
fi
export BAO_TOKEN
said 'the policy of the set-up' bao policy write kit-setup /run/kit/setup.hcl
only kit-setup /run/kit/setup

# ---------------------------------------------------------------------------------------- what people and services find

bao secrets list | grep -q '^kv/' || said 'no place for secrets' bao secrets enable -path=kv -version=2 kv
bao secrets list | grep -q '^database/' || said 'no place for databases' bao secrets enable database
bao auth list | grep -q '^userpass/' || said 'no way in for people' bao auth enable userpass
said 'the policy of the owner' bao policy write owner /run/kit/owner.hcl
said 'the owner' bao write auth/userpass/users/owner password=@/run/kit/owner token_policies=owner token_ttl=1h

# connect NAME USER PASSWORD-FILE: the server logs in at once, and is told when that fails.
connect() {
    bao write "database/config/$1" plugin_name=postgresql-database-plugin allowed_roles='*' \
        connection_url="postgresql://{{username}}:{{password}}@$KIT_DATABASE_HOST/openbao?sslmode=disable&connect_timeout=10" \
        password_authentication=scram-sha-256 max_open_connections=4 max_connection_lifetime=5m \
        username="$2" password=@"$3"
}
said 'the database' connect postgres "$(cat /run/kit/database-user)" /run/kit/database-password

# Where a service takes its login from here: a role in the database engine, and one that may ask for that alone.
held=' '
while read -r database key; do
    [ -n "$database" ] || continue
    held="$held$database "
    sed "s/KIT_ROLE/$database/g" /run/kit/create.sql >"$work/create"
    said "logins to $database" bao write "database/roles/$database" db_name=postgres \
        creation_statements=@"$work/create" revocation_statements=@/run/kit/revoke.sql \
        default_ttl="$KIT_LOGIN_TTL" max_ttl="$KIT_LOGIN_MAX_TTL"
    printf 'path "database/creds/%s" { capabilities = ["read"] }\n' "$database" >"$work/policy"
    said "the policy for $database" bao policy write "lease-$database" "$work/policy"
    # Its token is renewed for as long as it is used. Logins go with the token that asked for them.
    said "the role for $database" bao write "auth/approle/role/lease-$database" role_id="lease-$database" \
        token_policies="lease-$database" token_period="$KIT_LOGIN_TTL"
    printf %s "$key" >"$work/key"
    only "lease-$database" "$work/key"
done </run/kit/leases

# Who takes it elsewhere now has no use for this way any more.
for role in $(bao list auth/approle/role | tail -n +3 | sed -n 's/^lease-//p'); do
    case "$held" in *" $role "*) continue ;; esac
    said "the older role for $role" bao delete "auth/approle/role/lease-$role"
    said "the older policy for $role" bao policy delete "lease-$role"
    said "the older logins to $role" bao lease revoke -prefix "database/creds/$role"
    said "logins to $role" bao delete "database/roles/$role"
done

# ------------------------------------------------------------------------------------------------- as services ask

# A role that may read one secret, and one that may write it.
for right in read write; do
    capabilities='"read"'
    [ $right = read ] || capabilities='"create", "update", "delete"'
    printf 'path "kv/data/kit/proof" { capabilities = [%s] }\n' "$capabilities" >"$work/policy"
    said "a policy to $right" bao policy write "kit-proof-$right" "$work/policy"
    said "a role to $right" bao write "auth/approle/role/kit-proof-$right" token_policies="kit-proof-$right" token_ttl=60 \
        secret_id_ttl=60 secret_id_num_uses=1 role_id="kit-proof-$right"
    bao write -f -field=secret_id "auth/approle/role/kit-proof-$right/secret-id" >"$work/key"
    login "kit-proof-$right" "$work/key" >"$work/$right" || stop "a role to $right does not get in: $(cat "$work/said")"
    if login "kit-proof-$right" "$work/key" >/dev/null; then stop 'a secret for one use was taken twice'; fi
done
as() { BAO_TOKEN=$(cat "$work/$1") && shift && BAO_TOKEN=$BAO_TOKEN "$@"; }
as_reader() (as read "$@")
as_writer() (as write "$@")
written=$(date +%s)-$$
said 'nothing was written' as_writer bao kv put -mount=kv kit/proof value="$written"
[ "$(as_reader bao kv get -mount=kv -field=value kit/proof)" = "$written" ] || stop 'what was written is not what is read'
refused as_writer bao kv get -mount=kv kit/proof || stop 'a secret was read by who may only write'
refused as_reader bao kv put -mount=kv kit/proof value=x || stop 'a secret was written by who may only read'
refused as_reader bao kv get -mount=kv kit/other || stop 'another secret than its own was read'
refused env -u BAO_TOKEN bao kv get -mount=kv kit/proof || stop 'a secret was read without a token'
echo 'a secret was written and read by policy, and refused to three others'

# A login to the database that is there for this alone. That the server lets it in, and then not, is seen by connecting.
cat >"$work/create" <<'SQL'
CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
GRANT CONNECT ON DATABASE openbao TO "{{name}}";
SQL
cat >"$work/revoke" <<'SQL'
REVOKE ALL ON DATABASE openbao FROM "{{name}}";
DROP ROLE "{{name}}";
SQL
said 'logins to try' bao write database/roles/kit-proof db_name=postgres default_ttl=60s max_ttl=60s \
    creation_statements=@"$work/create" revocation_statements=@"$work/revoke"
bao read -format=json database/creds/kit-proof >"$work/login" || stop 'no login was made'
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" "$work/login"; }
printf %s "$(field password)" >"$work/password"
said 'a login was made, and the database refuses it' connect kit-proof "$(field username)" "$work/password"
said 'a login was not taken back' bao write sys/leases/revoke lease_id="$(field lease_id)" sync=true
said 'what was tried stays' bao delete database/config/kit-proof
if connect kit-proof "$(field username)" "$work/password" >"$work/said" 2>&1; then
    stop 'a login that was taken back is still let in'
fi
grep -q 'authentication failed\|28P01\|28000' "$work/said" || stop "not refused as it should be: $(tail -n 3 "$work/said")"
bao delete database/config/kit-proof >/dev/null 2>&1 || true
echo 'a login to the database was let in, taken back, and refused'
[ "$held" = ' ' ] || echo "logins are made for:$held"
said 'its own token stays' bao token revoke -self
