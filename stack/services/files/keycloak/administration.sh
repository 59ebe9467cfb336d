#!/bin/bash
# Who administers Keycloak: a client of the program's own, and nobody besides. Run after every change of its secret,
# and by `prove`. It may be stopped anywhere and run any number of times: each step looks first, and what opens the
# door goes last.
#
# Nobody else's work is undone: people who administer the master realm are named, not removed.
#
# It is started beside the server, and waits for it. A server that does not answer, or not yet, ends an attempt; the next
# one begins from the start. So it does not matter when the server is replaced meanwhile.
set -euo pipefail

master=/admin/realms/master
. /run/kit/api.sh

patience=${KIT_PATIENCE:-600}
again=75
absent() { say "$*" >/tmp/absent; exit "$again"; }

# ours: whether the program's own client is in, and may administer.
ours() {
    login "$(</run/kit/admin.form)" || return 1
    ask GET "$master/roles/admin/users"
    [ "$status" = 200 ]
}

# The way in for whoever has the database: a temporary client, made beside the running server. For a database that was
# restored from another time, and for a secret that was changed.
recover() {
    local name secret
    say 'neither credential is known here: making a temporary one through the database'
    name=kit-recovery-$(</proc/sys/kernel/random/uuid)
    secret=$(</proc/sys/kernel/random/uuid)$(</proc/sys/kernel/random/uuid)
    KIT_RECOVERY=$secret timeout 780 /opt/keycloak/bin/kc.sh --config-file=/run/kit/keycloak.conf bootstrap-admin service \
        --client-id "$name" --client-secret:env=KIT_RECOVERY </dev/null >/tmp/recovery.log 2>&1 ||
        stop "the database lets nobody in: $(tail -n 5 /tmp/recovery.log)"
    login "grant_type=client_credentials&client_id=$name&client_secret=$secret" || stop 'the temporary client is refused'
}

# With the token of somebody who may: the client, with the secret that it has from now on, and its role.
make() {
    local body role user
    body=$(</run/kit/client.json)
    id_of master "$KIT_ADMIN"
    if [ -n "$id" ]; then
        ask PUT "$master/clients/$id" "$body"
        wanted "giving $KIT_ADMIN its secret" 204
    else
        ask POST "$master/clients" "$body"
        wanted "making $KIT_ADMIN" 201
        id_of master "$KIT_ADMIN"
    fi
    ask GET "$master/roles/admin"
    wanted 'the role admin' 200
    role=$answer
    ask GET "$master/clients/$id/service-account-user"
    wanted "the account of $KIT_ADMIN" 200
    [[ $answer =~ ^\{\"id\":\"([0-9a-f-]{36})\" ]] || stop "$KIT_ADMIN has no account"
    user=${BASH_REMATCH[1]}
    ask POST "$master/users/$user/role-mappings/realm" "[$role]"
    wanted "giving $KIT_ADMIN the role admin" 204
}

work() {
    if ! ours; then
        login "$(</run/kit/previous.form)" || login "$(</run/kit/bootstrap.form)" || recover
        make
        ours || stop "$KIT_ADMIN was made, and is refused (${status:-no answer})"
        say "$KIT_ADMIN administers from now on"
    fi

    # Only with the new credential in hand, and proven, do the others go.
    id_of master "$KIT_BOOTSTRAP"
    if [ -n "$id" ]; then
        ask DELETE "$master/clients/$id"
        wanted "retiring $KIT_BOOTSTRAP" 204 404
        say "$KIT_BOOTSTRAP is retired"
    fi
    while ask GET "$master/clients?clientId=kit-recovery-&search=true&first=0&max=1"; do
        wanted 'looking for temporary clients' 200
        [[ $answer =~ ^\[\{\"id\":\"([0-9a-f-]{36})\" ]] || break
        ask DELETE "$master/clients/${BASH_REMATCH[1]}"
        wanted 'removing a temporary client' 204 404
    done

    ask GET "$master/roles/admin/users"
    wanted 'who administers' 200
    others=$(grep -o '"username":"[^"]*"' <<<"$answer" | cut -d '"' -f 4 | grep -vx "service-account-$KIT_ADMIN" | tr '\n' ' ' || true)
    ask GET "$master/roles/admin/groups"
    wanted 'which groups administer' 200
    [ "${answer:0:2}" = '[]' ] || others+='and members of groups '
    ask GET "$master/clients?max=1000"
    wanted 'which clients there are' 200
    services=$(grep -o '"serviceAccountsEnabled":true' <<<"$answer" | wc -l)
    [ "$services" = 1 ] || others+="and $((services - 1)) more service clients "
    ask GET "$master/users/count"
    wanted 'how many people the master realm has' 200
    people=$answer

    if login "$(</run/kit/previous.form)"; then stop "the secret that $KIT_ADMIN had before still gets in"; fi
    if login "$(</run/kit/bootstrap.form)"; then stop "$KIT_BOOTSTRAP still gets in: its credential was not retired"; fi
    if [ -n "$others" ] || [ "$people" != 0 ]; then
        say "$KIT_BOOTSTRAP is refused; besides $KIT_ADMIN there are in the master realm: $people people, administrators: ${others:-none}"
    else
        say "$KIT_ADMIN administers alone; $KIT_BOOTSTRAP is refused"
    fi
}

while :; do
    set +e # bash would ignore it within the attempt, were that part of a condition
    (set -e; work) 2>/tmp/said
    code=$?
    set -e
    [ "$code" != "$again" ] || [ "$SECONDS" -ge "$patience" ] || { sleep 0.3; continue; }
    [ "$code" != "$again" ] || say "gave up after $SECONDS s: $(</tmp/absent)"
    [ "$code" = 0 ] || cat /tmp/said >&2
    exit "$code"
done
