#!/bin/bash
# Whether the program can administer Keycloak; lets it in again where it cannot. Any number of runs end alike.
#
# The program's client and its secret are in Keycloak's database, where they were made once. A state that is older than
# the database, or that knows nothing of it, has another secret. Whoever has the database may make a temporary
# administrator (kc.sh bootstrap-admin, Keycloak's own way): with that one the program's client gets the secret of this
# state, and then it is removed. Users, realms and other clients are left alone.
set -euo pipefail
umask 077

readonly client=$KIT_CLIENT prefix=kit-recovery-
token='' temporary=''

# ask METHOD PATH [BODY [TYPE]]: sets `status` and `answer`. What is secret goes through the connection alone.
ask() {
    local body=${3:-} LC_ALL=C
    exec 3<>"/dev/tcp/$KIT_HOST/$KIT_PORT"
    {
        printf '%s %s HTTP/1.0\r\nHost: %s:%s\r\n' "$1" "$2" "$KIT_HOST" "$KIT_PORT"
        [ -z "$token" ] || printf 'Authorization: Bearer %s\r\n' "$token"
        printf 'Content-Type: %s\r\nContent-Length: %s\r\n\r\n%s' "${4:-application/json}" "${#body}" "$body"
    } >&3
    answer=$(timeout 60 cat <&3 || true)
    exec 3>&-
    status=$(head -n 1 <<<"$answer" | cut -d ' ' -f 2)
    answer=${answer#*$'\r\n\r\n'}
}

stop() { echo "$1"; exit 1; }
well() { case $status in 2*) ;; *) stop "$1: Keycloak answered ${status:-nothing}: ${answer:0:300}" ;; esac; }
first_id() { grep -o '"id" *: *"[0-9a-f-]*"' <<<"$answer" | head -n 1 | cut -d '"' -f 4; }

# log_in CLIENT ENCODED-SECRET: sets `token`; fails when the client or its secret is another.
log_in() {
    token=''
    ask POST /realms/master/protocol/openid-connect/token \
        "grant_type=client_credentials&client_id=$1&client_secret=$2" application/x-www-form-urlencoded
    case $status in
        200) token=$(grep -o '"access_token" *: *"[^"]*"' <<<"$answer" | cut -d '"' -f 4) ;;
        400 | 401) return 1 ;;
        *) well 'the login of the program' ;;
    esac
}

may_administer() {
    log_in "$client" "$(cat /run/kit/secret.url)" || return 1
    ask GET /admin/realms/master/users/count
    [ "$status" = 200 ]
}

forget_temporary() {
    [ -n "$token" ] || return 0
    ask GET "/admin/realms/master/clients?clientId=$prefix&search=true"
    local id
    for id in $(grep -o "\"id\" *: *\"[0-9a-f-]*\" *, *\"clientId\" *: *\"$prefix" <<<"$answer" | cut -d '"' -f 4); do
        ask DELETE "/admin/realms/master/clients/$id"
    done
}

if may_administer; then
    forget_temporary # of a run that was cut short
    echo 'the program can administer Keycloak'
    exit 0
fi

echo 'Keycloak does not know the secret of this state: making a temporary administrator'
temporary=$prefix$(cat /proc/sys/kernel/random/uuid)
KIT_TEMPORARY=$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')
export KIT_TEMPORARY
if ! /opt/keycloak/bin/kc.sh --config-file=/run/kit/keycloak.conf bootstrap-admin service \
    --client-id "$temporary" --client-secret:env=KIT_TEMPORARY >/tmp/bootstrap.log 2>&1; then
    tail -n 15 /tmp/bootstrap.log
    stop 'no temporary administrator could be made: docs/security.md says how to do it by hand'
fi
log_in "$temporary" "$KIT_TEMPORARY" || stop "the temporary administrator $temporary cannot log in: remove it by hand"
trap 'log_in "$temporary" "$KIT_TEMPORARY" && forget_temporary || true' EXIT

ask GET "/admin/realms/master/clients?clientId=$client"
well 'the clients'
id=$(first_id)
settings="{\"clientId\": \"$client\", \"enabled\": true, \"serviceAccountsEnabled\": true, \"publicClient\": false,
    \"standardFlowEnabled\": false, \"directAccessGrantsEnabled\": false, \"clientAuthenticatorType\": \"client-secret\",
    \"secret\": $(cat /run/kit/secret.json)}"
if [ -n "$id" ]; then
    ask PUT "/admin/realms/master/clients/$id" "$settings"
    well 'the secret of the program'
else
    ask POST /admin/realms/master/clients "$settings"
    well 'the client of the program'
    ask GET "/admin/realms/master/clients?clientId=$client"
    id=$(first_id)
fi
ask GET "/admin/realms/master/clients/$id/service-account-user"
well 'the user of the program'
user=$(first_id)
ask GET /admin/realms/master/roles/admin
well 'the role of administrators'
ask POST "/admin/realms/master/users/$user/role-mappings/realm" "[$answer]"
well 'the role of the program'

may_administer || stop "the program still cannot administer Keycloak (${status:-nothing})"
forget_temporary
trap - EXIT
echo 'the program can administer Keycloak again; the temporary administrator is gone'
