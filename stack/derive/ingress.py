"""Plan -> haproxy.cfg of the front door. Each block names the service file that asked for it."""

from __future__ import annotations

from collections.abc import Iterable

from stack.derive import forward_auth
from stack.derive.haproxy import HEALTH, HEALTH_PORT, LOG_FORMAT, RESOLVERS, SERVER_DEFAULTS, quoted
from stack.derive.values import endpoint, route_named
from stack.model import CONFIG_DIR, Http, Role, Route
from stack.plan import Plan, PlannedService

__all__ = ["ADMIN_PORT", "HEALTH_PORT", "HTTPS_PORT", "HTTP_PORT", "config"]

# Inside the container. Published as the settings say; nobody else listens at these.
HTTP_PORT = 10080
HTTPS_PORT = 10443
ADMIN_PORT = 10444

RUN = "/run/haproxy"  # a tmpfs: the runtime API's socket, and what a worker leaves to the next
STATE_SCRIPT = "state.lua"

# The address that the worker before had for it, until Docker's DNS has answered. After a start there was none.
_SERVER = SERVER_DEFAULTS.replace("init-addr none", "init-addr last,none")

CERTIFICATES = f"{CONFIG_DIR}/certs/"

# Mozilla's intermediate: TLS 1.2 with forward secrecy, and 1.3.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    ":ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
    ":ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
CIPHERSUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

# What only the front door may say about a request.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP")

UNAVAILABLE = (
    "<!doctype html><meta charset=utf-8><title>Back in a moment</title>"
    "<p>This service is starting or being looked after. Please try again in a few seconds."
)
UNKNOWN = "There is nothing under this name here."
DENIED = "This address is not for the outside."
DOTTED_PATH = r"(^|/)\.\.?(/|$)"
ODD_PATH = DOTTED_PATH + r"|//|\\"
NO_LOGIN = "This address needs a login that this stack does not offer."


def config(plan: Plan) -> str:
    """The whole file. Routes are matched by exact host name, whatever port the browser names, and path if any."""
    fronts: list[str] = []
    backends: list[str] = []
    choices: list[str] = []
    for owned in plan.routes:
        service = plan.service(owned.owner)
        fronts.append(_front(plan, service, owned.item))
        choices.append(f"    use_backend {_backend_name(service, owned.item)} if host_{owned.item.name}\n")
        backends.append(_backend(plan, service, owned.item))
    if login := _login_backend(plan):
        fronts.append(forward_auth.answers(plan, login))
    return "\n".join(
        (
            _global(plan),
            RESOLVERS.strip() + "\n",
            HEALTH.strip() + "\n",
            _plain(plan),
            # Every rule of every route comes before the first choice.
            _public(plan, [*_at_paths(plan), *fronts, *choices]),
            *_admin(plan),
            *_login(plan),
            *backends,
        )
    )


def _global(plan: Plan) -> str:
    return f"""# Derived from the plan. Edits here are lost.
global
    # What it asks by itself is not worth a line each: only requests that came from somebody are (below).
    log stdout format raw local0 notice
    maxconn 2048
    # A reload leaves open streams alone; a stop does not wait for them, the engine ends it.
    hard-stop-after 30m
    stats socket {RUN}/admin.sock mode 600 level admin expose-fd listeners
    # What is known of the servers goes from worker to worker.
    server-state-file {RUN}/servers
    lua-load {CONFIG_DIR}/{STATE_SCRIPT} {RUN}/admin.sock {RUN}/servers
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-curves X25519:prime256v1:secp384r1
    ssl-default-bind-ciphers {CIPHERS}
    ssl-default-bind-ciphersuites {CIPHERSUITES}
{forward_auth.load(plan)}
defaults
    mode http
    log stdout format raw local0 info
    log-format {LOG_FORMAT}
    option dontlognull
    load-server-state-from-file global
    # A reload closes no connection on which somebody may be sending just now: each ends with its next answer.
    option idle-close-on-response
    option redispatch
    retries 3
    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout queue 30s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout client-fin 30s
    timeout tunnel 1h
    http-error status 503 content-type "text/html; charset=utf-8" string {quoted(UNAVAILABLE)} hdr Retry-After 5
"""


def _hosts(plan: Plan) -> str:
    return " ".join(plan.host_names)


# The host name as routes know it: no port, no trailing dot, lower case.
# The whole of it: req.hdr would try each of what stands between commas, and two routes would hold at once.
_HOST = "req.fhdr(host),field(1,:),lower"


def _plain(plan: Plan) -> str:
    port = "" if plan.settings.https_port == 443 else f":{plan.settings.https_port}"
    known = f"{{ {_HOST} -m str {_hosts(plan)} }}"
    return f"""# Plain HTTP only leads to TLS.
frontend http
    bind :{HTTP_PORT}
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    http-request return status 404 content-type text/plain string {quoted(UNKNOWN)} unless {known}
    http-request redirect code 301 location https://%[{_HOST}]{port}%[capture.req.uri]
"""


def _public(plan: Plan, fronts: list[str]) -> str:
    # Containers reach the public URL, port included, at this container: it listens at that port as well.
    ports = dict.fromkeys((HTTPS_PORT, plan.settings.https_port))
    binds = "\n".join(f"    bind :{port} ssl crt {CERTIFICATES} alpn h2,http/1.1" for port in ports)
    forget = "\n".join(f"    http-request del-header {name}" for name in FORWARDED)
    # Browsers keep the port when HSTS turns http into https: only right where both ports are the usual ones.
    hsts = (
        "    http-response set-header Strict-Transport-Security max-age=63072000\n"
        if (plan.settings.http_port, plan.settings.https_port) == (80, 443)
        and not plan.settings.domain.endswith("localhost")
        else ""
    )
    known = f"{{ {_HOST} -m str {_hosts(plan)} }}"
    return f"""frontend https
{binds}
    # Answers stream for as long as a model talks.
    timeout client 30m
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    # What is looked at here is what the service reads: no absolute form, no CONNECT, no two hosts. Of HTTP/2 only the
    # path goes on anyway.
    http-request deny deny_status 400 if !{{ req.ver -m str 2.0 }} !{{ url -m beg / }}
    http-request deny deny_status 400 if {{ req.fhdr(host) -m sub , }}
{forget}
{forward_auth.forget()}    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Host %[req.fhdr(host)]
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Port {plan.settings.https_port}
{hsts}    http-request return status 404 content-type text/plain string {quoted(UNKNOWN)} unless {known}

{"".join(fronts).rstrip()}
"""


def _at_paths(plan: Plan) -> list[str]:
    """Which of the routes that share a host a request is for: by its path as it is written, which nobody rewrites.

    The prefix of a route with a host of its own leads there, with what follows it. Not two addresses for one service:
    its links, cookies and redirect URIs know one, and a host of its own keeps these away from the others.
    """
    moved = [owned.item for owned in plan.routes if plan.path(owned.item)]
    leading = [owned.item for owned in plan.routes if owned.item.prefix]
    if not (moved or leading):
        return []
    host = plan.settings.domain
    lines = ["# Routes at paths of one host.", f"acl shared_host {_HOST} -m str {host}"]
    for route in moved:
        path, is_at = plan.path(route), f"http-request set-var(txn.route) str({route.name})"
        lines.append(f"{is_at} if shared_host {{ path -m str {path} }} || shared_host {{ path -m beg {path}/ }}")
    for route in leading:
        leads_on, prefix = f"http-request redirect code 307 location {plan.url(route)}%[pathq]", route.prefix
        lines.append(f"{leads_on} if shared_host {{ path -m str {prefix} }} || shared_host {{ path -m beg {prefix}/ }}")
    lines.append(
        f"http-request return status 404 content-type text/plain string {quoted(UNKNOWN)} "
        "if shared_host !{ var(txn.route) -m found }"
    )
    return ["".join(f"    {line}\n" for line in lines) + "\n"]


def _front(plan: Plan, service: PlannedService, route: Route) -> str:
    acl, at = f"host_{route.name}", plan.path(route)
    match = f"var(txn.route) -m str {route.name}" if at else f"{_HOST} -m str {plan.host_name(route)}"
    lines = [f"# {_source(service)}: {plan.host_name(route)}{at} ({route.access})", f"acl {acl} {match}"]
    lines += _inside(plan, route)
    below = tuple(path for path in route.paths if path != "/" and path.endswith("/"))
    if route.open or below:
        # A path is taken as it is written, and one that a server could read as another's is below no folder.
        lines.append(f"acl odd_{route.name} path,url_dec -m reg {quoted(ODD_PATH)}")
        lines.append(f"acl odd_{route.name} path -m sub -i %2f %5c %2e")
    if forward_auth.needs_login(route):
        spared = ""
        if route.open:
            lines.append(f"acl open_{route.name} path -m beg {_below(at, route.open)}")
            spared = f" !open_{route.name} || {acl} odd_{route.name}"
        if forward_auth.provider(plan):
            lines += forward_auth.question(plan, route, f"{acl}{spared}")
        else:
            # Nobody here can ask for a login, so nobody gets in.
            deny = f"http-request deny deny_status 403 content-type text/plain string {quoted(NO_LOGIN)}"
            lines.append(f"{deny} if {acl}{spared}")
    if route.deny:
        lines.append(
            f"http-request deny deny_status 403 content-type text/plain string {quoted(DENIED)} "
            f"if {acl} {{ path,url_dec,regsub(/+,/,g) -m beg -i {_below(at, route.deny)} }} "
            f"|| {acl} {{ path,url_dec -m reg {quoted(DOTTED_PATH)} }}"  # which a server may read as one of them
        )
    if route.paths:
        lines.append(_only(plan, route, below))
    return "".join(f"    {line}\n" for line in lines) + "\n"


def _below(at: str, paths: Iterable[str]) -> str:
    """A route's paths as they arrive where it is at one itself."""
    return " ".join(at + path for path in paths)


def _inside(plan: Plan, route: Route) -> list[str]:
    """The service answers below its prefix alone: the host's own front page leads there, the rest is nowhere.

    307: a method stays what it was, and no browser keeps it when the prefix changes.
    """
    if not route.prefix:
        return []
    acl, inside = f"host_{route.name}", f"below_{route.name}"
    home = plan.url(route) + route.prefix + "/"
    return [
        f"acl {inside} path -m str {route.prefix}",
        f"acl {inside} path -m beg {route.prefix}/",
        f"http-request redirect code 307 location {home} if {acl} {{ path -m str / }}",
        f"http-request return status 404 content-type text/plain string {quoted(UNKNOWN)} if {acl} !{inside}",
    ]


def _only(plan: Plan, route: Route, below: tuple[str, ...]) -> str:
    """Refuse what is none of the route's paths. The path as it came: one that is written otherwise is none of them."""
    acl, at = f"host_{route.name}", plan.path(route)
    exact = [path for path in route.paths if path not in below]
    allowed = [f"!{{ path -m str {_below(at, exact)} }}"] if exact else []
    allowed += [f"!{{ path -m beg {_below(at, below)} }}"] if below else []
    refusal = f"http-request deny deny_status 403 content-type text/plain string {quoted(DENIED)}"
    return f"{refusal} if {acl} {' '.join(allowed)}" + (f" || {acl} odd_{route.name}" if below else "")


def _backend(plan: Plan, service: PlannedService, route: Route) -> str:
    container = next(c for c in service.containers if any(p.name == route.port for p in c.spec.ports))
    port = next(p.number for p in container.spec.ports if p.name == route.port)
    lines: list[str] = []
    check = _SERVER
    health = container.spec.health.test
    if isinstance(health, Http):
        lines.append(f"option httpchk GET {health.path}")
        other = next(p.number for p in container.spec.ports if p.name == health.port)
        if other != port:
            check = check.replace("check", f"check port {other}", 1)
    if route.streaming:
        lines += ["timeout server 30m", "option http-no-delay"]
    if not route.websocket:
        lines.append("timeout tunnel 60s")
    if forward_auth.serves(plan, service, route):
        lines.append(f"http-request set-header Host {plan.host_name(route)}")  # no port: its cookies have none either
    lines.append(f"server {container.host_name} {container.host_name}:{port} {check}")
    header = f"# {_source(service)}\nbackend {_backend_name(service, route)}\n"
    return header + "".join(f"    {line}\n" for line in lines)


def _admin(plan: Plan) -> tuple[str, ...]:
    """The listener through which the program administers the identity provider: published on loopback only."""
    provider = plan.provider(Role.IDENTITY)
    if provider is None or provider.spec.identity_provider is None:
        return ()
    host, port = endpoint(provider, provider.spec.identity_provider.port)
    forget = "\n".join(f"    http-request del-header {name}" for name in FORWARDED)
    return (
        f"""# {_source(provider)}: administration, from this machine only
frontend admin
    bind :{ADMIN_PORT} ssl crt {CERTIFICATES}
    declare capture request len 64
    http-request capture req.hdr(host) id 0
{forget}
{forward_auth.forget()}    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Port {plan.settings.admin_port}
    default_backend admin

# No check: the program calls as soon as the engine calls the server healthy, which checks would notice seconds later.
backend admin
    retries 20
    server {host} {host}:{port} resolvers docker init-addr last,none resolve-prefer ipv4
""",
    )


def _login(plan: Plan) -> tuple[str, ...]:
    """The listener through which login.lua asks who a request is from."""
    login = _login_backend(plan)
    return (forward_auth.listener(login),) if login else ()


def _login_backend(plan: Plan) -> str:
    """The backend where people log in for services that have no login. "" where there is none."""
    found = forward_auth.provider(plan)
    return _backend_name(found[0], route_named(found[0].spec, found[1].route)) if found else ""


def _backend_name(service: PlannedService, route: Route) -> str:
    return f"{service.name}-{route.name}"


def _source(service: PlannedService) -> str:
    return service.spec.source or service.name
