"""Plan -> what the firewall runs by: nginx.conf, ModSecurity's rules, and what the ingress adds to be asked.

The ingress decides first: host, path, login. What it would hand on goes to the firewall, with the route's name in a
header that only the ingress can set. The firewall hands it back to the ingress's port named INNER, which leads on to
the service as if nobody had looked. So health checks, queues, timeouts and retries stay where they are, the firewall
needs no way to any service, and any ingress with such a port can use it. Nothing here names a service.
"""

from __future__ import annotations

import re

from stack.derive.values import endpoint
from stack.model import CONFIG_DIR, FREE_TEXT, Owned, Role, Route, WafExclusion
from stack.plan import Plan
from stack.settings import WafMode

PORT = "http"  # the name of the firewall's port
INNER = "inner"  # the name of the ingress's port that takes back what was looked at
HEADER = "X-Kit-Route"
REFUSED = "X-Kit-Firewall"  # on the firewall's own answers, so that nobody looks for their cause in a service

RULES = "/etc/modsecurity.d/owasp-crs/rules"
SPOOL = "/spool"
BUSY = "This service is starting or being looked after. Please try again in a few seconds."
EVERY_RULE = "OWASP_CRS"

LOOKED_AT_KB = 4096  # of a body: one that is cut cannot be read, so that more is refused
OWN_MB = 48  # what it takes without the largest request: 25 measured for one worker, and what is looked at
TWO_WORKERS_MB = 256  # from this limit on

# Ours begin here. Ids below 100,000 are for rules of one's own, 900,000 and on are the rule set's.
FIRST_ID = 10_000
PER_ROUTE = 100

RESTRICTED = (
    "/content-encoding/ /proxy/ /lock-token/ /content-range/ /if/"
    " /x-http-method-override/ /x-http-method/ /x-method-override/ /x-middleware-subrequest/"
)

# What services here are asked by, beside the rule set's own GET HEAD POST OPTIONS.
METHODS = "GET HEAD POST OPTIONS PUT PATCH DELETE"
# The rule set's own list, and what services here are sent: files as they are, patches, a line of JSON each.
CONTENT_TYPES = (
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/related",
    "text/xml",
    "application/xml",
    "application/soap+xml",
    "application/json",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/octet-stream",
    "application/x-ndjson",
    "text/plain",
)

# A segment below a folder of an exclusion: no dots alone, nothing encoded, nothing that a server reads otherwise.
_SEGMENT = r"[A-Za-z0-9_~:@$-][A-Za-z0-9_.~:@$-]*"
_BELOW = f"(?:{_SEGMENT}/)*(?:{_SEGMENT})?"

# What may follow a path: anything, or words alone. Of 650 queries in the rule set's tests that are attacks, 16 are of
# such words (a session's name, pg_catalog, process.env), and would not be seen. Two dots, underlines or colons in a
# row are a way up, the inside of an object, a cast. Comma, colon and @ are also as browsers write them.
_ANY_QUERY = r"(?:\?|$)"
_PLAIN_QUERY = r"(?:\?(?:(?!\.\.|__|::)(?:[A-Za-z0-9._=&,:@-]|%(?:2C|3A|40)))*)?$"


# ------------------------------------------------------------------------------------------------- the ingress


def hand_on(plan: Plan) -> str:
    """Lines of the public frontend of HAProxy, after every other rule, in place of its choices. "" without a firewall.

    A request of no route has been answered before.
    """
    if plan.provider(Role.FIREWALL) is None:
        return ""
    lines = ["# What is handed on is looked at first, and comes back below."]
    lines += [f"http-request set-header {HEADER} {owned.item.name} if host_{owned.item.name}" for owned in plan.routes]
    lines += [f"use_backend firewall if host_{owned.item.name}" for owned in plan.routes]
    return "".join(f"    {line}\n" for line in lines)


def backends(plan: Plan, inner_port: int, choices: list[tuple[str, str]], server: str) -> str:
    """The sections of HAProxy through which requests go to the firewall and come back. "" without one.

    choices: the name of each route and of its backend. server: what follows a server's address.
    """
    found = plan.provider(Role.FIREWALL)
    if found is None:
        return ""
    host, port = endpoint(found, PORT)
    ways = "".join(
        f"    use_backend {backend} if {{ var(txn.looked_at) -m str {name} }}\n" for name, backend in choices
    )
    return f"""# {found.spec.source or found.name}: looks at all that is handed on. Without it nothing is.
backend firewall
    option httpchk GET /healthz
    # How long an answer may take is for the service's own backend to say.
    timeout server 30m
    option http-no-delay
    server {host} {host}:{port} {server}

# What was looked at. Not published: who is on these networks reaches the services without it as well.
frontend looked-at
    bind :{inner_port}
    timeout client 30m
    option http-no-delay
    # It was logged when it came in.
    http-request set-log-level silent
    http-request set-var(txn.looked_at) req.hdr({HEADER})
    http-request del-header {HEADER}
    http-request return status 404 unless {{ var(txn.looked_at) -m found }}
{ways}"""


# ----------------------------------------------------------------------------------------------------- nginx


def nginx(plan: Plan) -> str:
    """nginx.conf: a server for each host name, a location for each route."""
    ingress = plan.provider(Role.INGRESS)
    firewall = plan.provider(Role.FIREWALL)
    if ingress is None or firewall is None:
        raise LookupError("no firewall without an ingress")
    host, inner = endpoint(ingress, INNER)
    number = endpoint(firewall, PORT)[1]
    by_host: dict[str, list[Owned[Route]]] = {}
    for owned in plan.routes:
        by_host.setdefault(plan.host_name(owned.item), []).append(owned)
    servers = "\n".join(_server(plan, name, number, f"{host}:{inner}", routes) for name, routes in by_host.items())
    return f"""# Derived from the plan. Edits here are lost.
load_module /etc/nginx/modules/ngx_http_modsecurity_module.so;
daemon off;
# What one is busy with, a text of some hundred kB, does not hold up the streams of another.
worker_processes {workers(plan)};
pid /tmp/nginx.pid;
# ModSecurity writes what matched, passwords included, at the level below. The audit log says it without.
error_log stderr crit;

events {{
    worker_connections 2048;
}}

http {{
    # The front door logs requests.
    access_log off;
    server_tokens off;
    default_type text/plain;
    client_body_temp_path {SPOOL}/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;

    modsecurity on;
    modsecurity_rules_file {CONFIG_DIR}/rules.conf;

    # Whoever connects is the front door, which says who asked.
    set_real_ip_from 0.0.0.0/0;
    real_ip_header X-Forwarded-For;

    # A request goes on as it came: its path as it is written, every header, whatever it is called.
    merge_slashes off;
    underscores_in_headers on;
    large_client_header_buffers 8 64k;
    client_header_timeout 10s;
    client_body_timeout 60s;
    # More rests in the spool: who sends a little and then nothing, over many connections, would hold all of the memory.
    client_body_buffer_size 16k;
    # Longer than the front door keeps a connection.
    keepalive_timeout 120s;
    keepalive_requests 100000;

    map $http_upgrade $passed_connection {{
        default upgrade;
        "" close;
    }}
    map "$upstream_status:$status" $refused {{
        default "";
        ":400" refused;
        ":403" refused;
        ":413" refused;
    }}

    # By name, for each request: the front door may come later, and from another address.
    resolver 127.0.0.11 valid=5s ipv6=off;
    resolver_timeout 2s;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $passed_connection;
    proxy_redirect off;
    proxy_pass_header Server;
    # No service tells this server what to do.
    proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;
    # An answer goes on byte by byte as it comes, for as long as it takes.
    proxy_buffering off;
    proxy_buffer_size 32k;
    proxy_buffers 8 32k;
    proxy_max_temp_file_size 0;
    proxy_connect_timeout 3s;
    proxy_send_timeout 2h;
    proxy_read_timeout 2h;

    server {{
        listen {number} default_server;
        modsecurity off;
        location = /healthz {{
            return 200 "ok\\n";
        }}
        location / {{
            return 421 "There is nothing under this name here.\\n";
        }}
    }}

{servers}}}
"""


def _server(plan: Plan, name: str, port: int, door: str, routes: list[Owned[Route]]) -> str:
    locations = "".join(_location(plan, owned) for owned in routes)
    return f"""    server {{
        listen {port};
        server_name {name};
        set $door {door};
        add_header {REFUSED} $refused always;
        error_page 502 504 = @busy;
        location @busy {{
            modsecurity off;
            default_type text/html;
            add_header Retry-After 5 always;
            return 503 "{BUSY}";
        }}
{locations}    }}
"""


def _memory(plan: Plan) -> int:
    found = plan.provider(Role.FIREWALL)
    return found.memory_mb if found else 0


def workers(plan: Plan) -> int:
    """One where memory is short: each has the rules once more, and a large request."""
    return 2 if _memory(plan) >= TWO_WORKERS_MB else 1


def largest_mb(plan: Plan, route: Route) -> int:
    """The largest request of a route: as it says, and no larger than the firewall can hold."""
    return min(route.body_mb, max(1, (_memory(plan) - OWN_MB) // workers(plan)))


def _location(plan: Plan, owned: Owned[Route]) -> str:
    path = plan.path(owned.item)
    source = plan.service(owned.owner).spec.source or owned.owner
    lines = (f"client_max_body_size {largest_mb(plan, owned.item)}m;", "proxy_pass http://$door;")
    body = "".join(f"            {line}\n" for line in lines)
    return "".join(
        f"        # {source}: {owned.item.name}\n        location {where} {{\n{body}        }}\n"
        for where in ((f"= {path}", f"{path}/") if path else ("/",))
    )


# --------------------------------------------------------------------------------------------------- the rules


def rules(plan: Plan) -> str:
    """What ModSecurity does before the rule set, and then the rule set."""
    settings = plan.settings
    engine = {WafMode.BLOCK: "On", WafMode.DETECT: "DetectionOnly", WafMode.NONE: "Off"}[settings.waf]
    types = " ".join(f"|{each}|" for each in CONTENT_TYPES)
    routes = "\n".join(_route_rules(plan, number, owned) for number, owned in enumerate(plan.routes))
    return f"""# Derived from the plan. Edits here are lost.
SecRuleEngine {engine}
SecRequestBodyAccess On
# So much of a body is looked at, and held until the request is over. nginx says how much may come at all (body_mb).
# More than is looked at may come where free text is excluded, and nowhere else: see id 3 to 6.
SecRequestBodyLimit {LOOKED_AT_KB * 1024}
SecRequestBodyNoFilesLimit {LOOKED_AT_KB * 1024}
SecRequestBodyLimitAction ProcessPartial
SecRequestBodyJsonDepthLimit 64
# A long conversation is some thousand messages of a few fields each.
SecArgumentsLimit 50000
SecPcreMatchLimit 100000
SecPcreMatchLimitRecursion 100000
# Answers are not looked at: they stream.
SecResponseBodyAccess Off
SecResponseBodyMimeType application/x-nothing
SecUnicodeMapFile /etc/modsecurity.d/unicode.mapping 20127
SecTmpDir /tmp/
SecDataDir /tmp/

# Only what matched. Without the parts that hold headers and bodies; audit.pl takes out the rest that nobody may read.
SecAuditEngine RelevantOnly
SecAuditLogRelevantStatus "^$"
SecAuditLogParts AFHZ
SecAuditLogFormat JSON
SecAuditLogType Serial
SecAuditLog /dev/stdout

SecDefaultAction "phase:1,log,auditlog,pass"
SecDefaultAction "phase:2,log,auditlog,pass"

# A body is read as what it says it is, and one that is not what it says is no request.
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\\+|/)|text/)xml" \\
    "id:1,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/(?:[a-z0-9.-]+\\+)?json" \\
    "id:2,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule INBOUND_DATA_ERROR "@eq 1" "id:3,phase:2,t:none,pass,nolog,setvar:tx.kit_cut=1"
SecRule REQBODY_ERROR "!@eq 0" "id:4,phase:2,t:none,log,deny,status:400,msg:'The body cannot be read',chain"
    SecRule &TX:kit_cut "@eq 0" "t:none"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:5,phase:2,t:none,log,deny,status:400,msg:'The form cannot be read',chain"
    SecRule &TX:kit_cut "@eq 0" "t:none"
SecRule &TX:kit_cut "@eq 1" "id:6,phase:2,t:none,log,deny,status:413,msg:'More than is looked at',chain"
    SecRule &TX:kit_large "@eq 0" "t:none"

SecAction "id:11,phase:1,t:none,pass,nolog,setvar:tx.crs_setup_version=4250,\\
    setvar:tx.blocking_paranoia_level={settings.waf_paranoia}"
SecAction "id:12,phase:1,t:none,pass,nolog,setvar:'tx.allowed_methods={METHODS}'"
# The rule set's own list without Expect: programs send it before a large body, and nginx answers it.
SecAction "id:14,phase:1,t:none,pass,nolog,setvar:'tx.restricted_headers_basic={RESTRICTED}'"
SecAction "id:13,phase:1,t:none,pass,nolog,setvar:'tx.allowed_request_content_type={types}'"

{routes}
Include {RULES}/REQUEST-*.conf
"""


def looks_at_query(route: Route, path: str) -> bool:
    """Whether the text of a query at this path of a route is looked at, whatever is in it."""
    return not any(
        each.rule == EVERY_RULE
        and "ARGS" in each.targets
        and not each.plain_query
        and (not each.paths or any(path == at or (at.endswith("/") and path.startswith(at)) for at in each.paths))
        for each in route.waf.exclusions
    )


def _route_rules(plan: Plan, number: int, owned: Owned[Route]) -> str:
    """Everything about one route: what is excluded and why, and how large a text may be."""
    route, first = owned.item, FIRST_ID + number * PER_ROUTE
    lines = [f"# {plan.service(owned.owner).spec.source or owned.owner}: {route.name}"]
    at_route = f'SecRule REQUEST_HEADERS:{HEADER} "@streq {route.name}" "id:{{id}},phase:{{phase}},t:none,{{then}}"'
    for index, exclusion in enumerate(route.waf.exclusions):
        lines.append(f"# {' '.join(exclusion.reason.split())}")
        does = _control(exclusion)
        if set(FREE_TEXT) <= set(exclusion.targets) and exclusion.rule == EVERY_RULE:
            does += ",setvar:tx.kit_large=1"  # nothing reads it that takes long
        if not exclusion.paths:
            lines.append(at_route.format(id=first + index, phase=1, then=f"pass,nolog,{does}"))
            continue
        lines.append(at_route.format(id=first + index, phase=1, then="pass,nolog,chain"))
        pattern = "|".join(_pattern(plan.path(route), path) for path in exclusion.paths)
        query = _PLAIN_QUERY if exclusion.plain_query else _ANY_QUERY
        lines.append(f'    SecRule REQUEST_URI_RAW "@rx ^(?:{pattern}){query}" "t:none,{does}"')
    size = route.waf.text_kb * 1024
    refused = f"log,deny,status:413,msg:'More text than {route.waf.text_kb} kB',chain"
    lines += [
        at_route.format(id=first + PER_ROUTE - 1, phase=2, then=refused),
        f'    SecRule ARGS_COMBINED_SIZE "@gt {size}" "t:none,chain"',
        '        SecRule &TX:kit_large "@eq 0" "t:none"',
    ]
    return "\n".join(lines) + "\n"


def _control(exclusion: WafExclusion) -> str:
    kind = "ById" if exclusion.rule.isdigit() else "ByTag"
    if not exclusion.targets:
        return f"ctl:ruleRemove{kind}={exclusion.rule}"
    return ",".join(f"ctl:ruleRemoveTarget{kind}={exclusion.rule};{target}" for target in exclusion.targets)


def _pattern(at: str, path: str) -> str:
    """The path as it is written, so that another way to write it has no exclusion."""
    return re.escape(at + path) + (_BELOW if path.endswith("/") else "")
