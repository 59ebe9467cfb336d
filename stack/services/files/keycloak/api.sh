# What the jobs ask Keycloak's administration by. Sourced, by bash, with KIT_HOST, KIT_PORT and KIT_PATH.
token=''

say() { printf '%s\n' "$*"; }
stop() { say "$*"; exit 1; }
absent() { stop "$@"; } # what to do about a server that does not answer
trap '' PIPE # nor is one that hangs up the end of the script

# ask METHOD PATH [BODY [TYPE]]: sets `status` and `answer`. Bodies are ASCII, so a length is that in bytes. HTTP/1.0:
# the answer comes in one piece. What is secret goes through the connection, not into a program's arguments.
ask() {
    local body=${3:-}
    exec 3<>"/dev/tcp/$KIT_HOST/$KIT_PORT" || absent 'nobody answers'
    {
        printf '%s %s%s HTTP/1.0\r\nHost: %s\r\nX-Forwarded-Proto: https\r\nAccept: application/json\r\n' \
            "$1" "$KIT_PATH" "$2" "$KIT_HOST"
        [ -z "$token" ] || printf 'Authorization: Bearer %s\r\n' "$token"
        printf 'Content-Type: %s\r\nContent-Length: %s\r\n\r\n%s' "${4:-application/json}" "${#body}" "$body"
    } >&3 || absent "$1 $2: the connection ended"
    answer=$(timeout 60 cat <&3 || true)
    exec 3>&-
    status=${answer#* }
    status=${status%%[!0-9]*}
    answer=${answer#*$'\r\n\r\n'}
    case $status in '' | 502 | 503 | 504) absent "$1 $2: answered ${status:-nothing}" ;; esac
}

wanted() { # wanted WHAT STATUS...: what was asked last must have been answered so
    local what=$1 fine
    shift
    for fine in "$@"; do [ "$status" != "$fine" ] || return 0; done
    stop "$what: answered ${status:-nothing}: ${answer:0:300}"
}

# login FORM: a token of whose credential this is. 1 when it is refused, which is not the same as no answer.
login() {
    token=''
    ask POST /realms/master/protocol/openid-connect/token "$1" application/x-www-form-urlencoded
    case $status in
        200) [[ $answer =~ \"access_token\":\"([^\"]+)\" ]] && token=${BASH_REMATCH[1]} ;;
        400 | 401) return 1 ;;
        *) stop "a login answered ${status:-nothing}: ${answer:0:300}" ;;
    esac
}

id_of() { # id_of REALM CLIENT: sets `id`, empty when there is none
    ask GET "/admin/realms/$1/clients?clientId=$2"
    wanted "looking for $2" 200
    id=''
    if [[ $answer =~ ^\[\{\"id\":\"([0-9a-f-]{36})\" ]]; then id=${BASH_REMATCH[1]}; fi
}
