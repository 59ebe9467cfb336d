# For a Bash script to read: `. /run/kit/passfile.sh`.

# passfile PASSWORD-FILE PLACE: writes the password to PLACE in the form that PostgreSQL's programs read when the variable
# PGPASSFILE names it, for any server and login. So it is a variable of no process: those of a server's children stay
# there for as long as it runs. A line break cannot be written down in that form, and is refused.
passfile() {
    local password back='\'
    password=$(cat "$1"; printf x)
    password=${password%x}
    case $password in
        '' | *[$'\r\n']*) echo "the password in $1 is empty or has a line break" >&2; return 1 ;;
    esac
    password=${password//"$back"/"$back$back"}
    password=${password//:/"$back:"}
    (umask 077; printf '*:*:*:*:%s\n' "$password" >"$2")
}
