#!/bin/bash
# The clients that Keycloak makes with every realm, without what nobody needs of them. Run once the realm is made, and by
# `prove`. It may be stopped anywhere and run any number of times: each step looks first, and it looks again at the end.
#
# Not by the provider that makes the rest of the realm: it can neither change two of them, nor one thing of the others
# without owning all (docs/adr/0025-own-clients.md).
set -euo pipefail

realm=/admin/realms/$KIT_REALM
. /run/kit/api.sh

clients='account account-console admin-cli broker realm-management security-admin-console'
put_right=''

# look CLIENT: sets `left` to what the client, of which `id` is, has too much of. Each word ends with a comma.
look() {
    left=''
    ask GET "$realm/clients/$id"
    wanted "the client $1" 200
    case $1 in
        # A password by itself buys a token: nobody's way in here, and the way of whoever guesses passwords.
        admin-cli) [[ $answer == *'"directAccessGrantsEnabled":false'* ]] || left+='password grant,' ;;
        # Keycloak asks for it of the newer one alone. A code that was seen on its way is worth nothing then.
        account) [[ $answer == *'"pkce.code.challenge.method":"S256"'* ]] || left+='no PKCE,' ;;
    esac
    # Tokens that outlive the logout.
    ask GET "$realm/clients/$id/optional-client-scopes"
    wanted "the scopes of $1" 200
    if [[ $answer == *'"name":"offline_access"'* ]]; then left+='offline tokens,'; fi
    ask GET "$realm/clients/$id/default-client-scopes"
    wanted "the scopes of $1" 200
    if [[ $answer == *'"name":"offline_access"'* ]]; then left+='offline tokens always,'; fi
}

scope_of() { # sets `scope`: the id of the realm's scope for offline tokens, empty where it has none
    ask GET "$realm/client-scopes"
    wanted 'the scopes of the realm' 200
    scope=''
    if [[ $answer =~ \"id\":\"([0-9a-f-]{36})\",\"name\":\"offline_access\" ]]; then scope=${BASH_REMATCH[1]}; fi
}

take() { # take CLIENT: what `look` found
    case $left in
        *'password grant'*)
            ask PUT "$realm/clients/$id" "{\"clientId\":\"$1\",\"directAccessGrantsEnabled\":false}"
            wanted "the password grant of $1" 204
            ;;
        *'no PKCE'*)
            ask PUT "$realm/clients/$id" "{\"clientId\":\"$1\",\"attributes\":{\"pkce.code.challenge.method\":\"S256\"}}"
            wanted "PKCE of $1" 204
            ;;
    esac
    if [[ $left == *'offline tokens,'* ]]; then
        ask DELETE "$realm/clients/$id/optional-client-scopes/$scope"
        wanted "offline tokens of $1" 204 404
    fi
    if [[ $left == *'offline tokens always,'* ]]; then
        ask DELETE "$realm/clients/$id/default-client-scopes/$scope"
        wanted "offline tokens of $1" 204 404
    fi
}

login "$(</run/kit/admin.form)" || stop "$KIT_ADMIN is refused: ./kit up puts that right"
scope_of
for client in $clients; do
    id_of "$KIT_REALM" "$client"
    [ -n "$id" ] || continue # who removed it has taken more than this does
    look "$client"
    [ -n "$left" ] || continue
    put_right+="$client (${left%,}) "
    take "$client"
    look "$client"
    [ -z "$left" ] || stop "$client still has: ${left%,}"
done
if [ -n "$put_right" ]; then say "put right: $put_right"; fi
say "Keycloak's own clients have what they need and no more"
