# HTTP with what BusyBox has, for a job's script to read: `. /run/kit/http.sh`. The script has made the folder $work,
# KIT_HOST is whom it asks, and $patience how many seconds it waits for an answer.

stop() { echo "$1"; exit 1; }

# exchange PORT HEAD BODY: sets `status` and the file $work/body. HEAD: the first line of a request and headers, a line
# each. What is secret goes through the connection, not into an argument of a program. Our end stays open until the
# answer is there: whoever closes first is not answered.
exchange() {
    rm -f "$work/request"
    mkfifo "$work/request"
    nc -w "$patience" "$KIT_HOST" "$1" <"$work/request" >"$work/answer" 2>/dev/null &
    exec 3>"$work/request"
    {
        printf '%s\n' "$2" "Host: $KIT_HOST:$1" "Content-Length: ${#3}" '' | sed 's/$/\r/'
        printf %s "$3"
    } >&3 || true
    wait $! || true
    exec 3>&-
    status=$(head -n 1 "$work/answer" | cut -d ' ' -f 2)
    sed '1,/^\r$/d' "$work/answer" >"$work/body"
}

refused() { stop "$1: answered ${status:-nothing}: $(head -c 300 "$work/body")"; }
