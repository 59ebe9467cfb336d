# Starts nginx. What ModSecurity writes goes through audit.pl first: it would show passwords and cookies that matched.
set -euo pipefail
# What a start before this one left half received. Nobody else writes here.
find /spool -mindepth 1 -delete
nginx -t -q -c /run/kit/nginx.conf
exec nginx -c /run/kit/nginx.conf > >(exec perl /run/kit/audit.pl)
