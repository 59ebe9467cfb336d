"""Plan -> haproxy.cfg of the front door. Each block names the service file that asked for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from stack import certificates
from stack.derive import forward_auth, headers, rates, waf
from stack.derive.haproxy import HEALTH, HEALTH_PORT, RESOLVERS, SERVER_DEFAULTS, quoted
from stack.derive.values import endpoint, managed_name, route_named
from stack.model import CONFIG_DIR, CertificateProvider, CertificateSource, Http, Role, Route
from stack.plan import Plan, PlannedContainer, PlannedService
from stack.settings import FRONT_PORT

__all__ = ["ADMIN_PORT", "HEALTH_PORT", "HTTPS_PORT", "HTTP_PORT", "config"]

# Inside the container. Published as the settings say; nobody else listens at these.
HTTP_PORT = 10080
HTTPS_PORT = FRONT_PORT
ADMIN_PORT = 10444
FIGURES_PORT = 10410
INNER_PORT = 10480  # where the firewall hands back what it has looked at

# Between two parts of an answer that streams: a model that is loaded first says nothing for minutes.
STREAM = "30m"

# Of one client at a time. A browser opens a handful; behind one address there may be a whole office.
MOST_CONNECTIONS = 256

PROXIES_IN_A_ROW = 3

RUN = "/run/haproxy"  # a tmpfs: the runtime API's socket, and what a worker leaves to the next
STATE_SCRIPT = "state.lua"

# The address that the worker before had for it, until Docker's DNS has answered. After a start there was none.
_SERVER = SERVER_DEFAULTS.replace("init-addr none", "init-addr last,none")
CERTIFICATE_PORT = 10407  # says when the certificate that is shown outside ends, to who collects metrics

CERTIFICATES = f"{CONFIG_DIR}/certs/"  # of the stack's CA: for containers, and for the program on this machine
BROUGHT = "front/front.pem"  # the operator's, among the delivered files
SIGNED = "/run/certificates"  # the volume of whoever has it signed by an authority outside
METRIC_SCRIPT = "front.lua"
METRICS_PATH = "/metrics"

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
# One JSON object per request (docs/services/haproxy.md). No query, no cookie, no header but the host: they carry login
# codes and tokens. Times are milliseconds, -1 where it did not come to that.
LOG = (
    '"%{+json}o '
    "%(time)[request_date(ms),ms_utime(%Y-%m-%dT%H:%M:%S.%3NZ)] %(client)[src] %(host)[capture.req.hdr(0)] "
    "%(method)HM %(path)HPO %(version)HV %(status)ST %(bytes)B %(frontend)f %(route)[var(txn.at)] %(backend)b "
    "%(server)s %(retries)rc %(end)ts %(wait_request)TR %(wait_queue)Tw %(connect)Tc %(answer)Tr %(all)Ta "
    '%(open)ac %(rate)[var(txn.rate)]"'
)

# Where this machine's requests come from if the engine is in a virtual machine (Docker Desktop) or has no privileges
# (slirp4netns), beside the gateway.
ENGINES = ("127.0.0.0/8", "::1", "192.168.65.0/24", "10.0.2.0/24")
HOST_AND_PORT = "^[^:]+(:[0-9]{1,5})?$"
TOO_LARGE = "This is larger than what is taken here."
UNSAID = "Please say how large this is."
MISDIRECTED = "There is nothing under this name here."
UNKNOWN = "There is nothing under this name here."
DENIED = "This address is not for the outside."
DOTTED_PATH = r"(^|/)\.\.?(/|$)"
ODD_PATH = DOTTED_PATH + r"|//|\\"
NO_LOGIN = "This address needs a login that this stack does not offer."


def config(plan: Plan) -> str:
    """The whole file. Routes are matched by exact host name, whatever port the browser names, and path if any."""
    names: list[str] = []
    fronts: list[str] = []
    backends: list[str] = []
    choices: list[str] = []
    for owned in plan.routes:
        service = plan.service(owned.owner)
        names.append(_named(plan, service, owned.item))
        fronts.append(_front(plan, service, owned.item))
        choices.append(f"    use_backend {_backend_name(service, owned.item)} if host_{owned.item.name}\n")
        backends.append(_backend(plan, service, owned.item))
    if login := _login_backend(plan):
        fronts.append(forward_auth.answers(plan, login))
    handed_on = waf.hand_on(plan)
    return "\n".join(
        (
            _global(plan),
            RESOLVERS.strip() + "\n",
            HEALTH.strip() + "\n",
            _plain(plan),
            # Every rule of every route comes before the first choice.
            _public(
                plan,
                [*_at_paths(plan), *names, _common(plan), *fronts, *([handed_on] if handed_on else choices)],
            ),
            *_looked_at(plan),
            *_admin(plan),
            *_certificate(plan),
            *_login(plan),
            _figures(plan),
            _connections(),
            rates.tables(plan),
            *backends,
        )
    )


def to_check(plan: Plan) -> str:
    """The same for a look at it before it is delivered: what an authority outside signs is in a volume, and for the
    first time there only when the front door is to start."""
    return config(plan).replace(f"crt {SIGNED}/{CertificateProvider.LIVE}", f"crt {CERTIFICATES}")


def _global(plan: Plan) -> str:
    return f"""# Derived from the plan. Edits here are lost.
global
    # What it asks by itself is not worth a line each: only requests that came from somebody are (below).
    log stdout format raw local0 notice
    # Each takes at most 60 kB here, so that all of them fit into the container's memory.
    maxconn 1024
    # A reload leaves open streams alone; a stop does not wait for them, the engine ends it.
    hard-stop-after 30m
    localpeer self
    stats socket {RUN}/admin.sock mode 600 level admin expose-fd listeners
    # What is known of the servers goes from worker to worker.
    server-state-file {RUN}/servers
    lua-load {CONFIG_DIR}/{STATE_SCRIPT} {RUN}/admin.sock {RUN}/servers
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-curves X25519:prime256v1:secp384r1
    ssl-default-bind-ciphers {CIPHERS}
    ssl-default-bind-ciphersuites {CIPHERSUITES}
{forward_auth.load(plan)}    lua-load {CONFIG_DIR}/{METRIC_SCRIPT}

defaults
    mode http
    log stdout format raw local0 info
    log-format {LOG}
    option dontlognull
    load-server-state-from-file global
    # A reload closes no connection on which somebody may be sending just now: each ends with its next answer.
    option idle-close-on-response
    option redispatch
    # A request whose connection could not be made goes out again; one that was sent only where reading twice is reading
    # once (the frontends say GET and HEAD), and its server said nothing at all.
    retries 3
    retry-on conn-failure empty-response
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
    asked, answered = _challenge(plan)
    unless = f" unless {{ path -m beg {CertificateProvider.CHALLENGE} }}" if asked else ""
    return f"""# Plain HTTP only leads to TLS.
frontend http
    bind :{HTTP_PORT}
{_on_loopback(plan.settings.bind_address)}    declare capture request len 64
    http-request capture req.hdr(host) id 0
    http-request return status 421 content-type text/plain string {quoted(MISDIRECTED)} unless {known}
    http-request redirect code 301 location https://%[{_HOST}]{port}%[capture.req.uri]{unless}
{asked}{answered}"""


def _challenge(plan: Plan) -> tuple[str, str]:
    """What an authority asks over plain HTTP goes to whoever asked it for a certificate: its rules, and its backend."""
    provider = plan.provider(Role.CERTIFICATES)
    if provider is None or provider.spec.certificate_provider is None:
        return "", ""
    host, port = endpoint(provider, provider.spec.certificate_provider.port)
    return (
        f"    # {_source(provider)}\n    use_backend challenge if {{ path -m beg {CertificateProvider.CHALLENGE} }}\n",
        f"""
# {_source(provider)}
backend challenge
    http-request deny deny_status 405 unless METH_GET
    server {host} {host}:{port} resolvers docker init-addr none resolve-prefer ipv4
""",
    )


def _front_certificate(plan: Plan) -> str:
    """Where the certificate is that people see."""
    match plan.settings.certificates:
        case CertificateSource.OWN_CA:
            return CERTIFICATES
        case CertificateSource.FILES:
            return f"{CONFIG_DIR}/{BROUGHT}"
        case CertificateSource.ACME:
            return f"{SIGNED}/{CertificateProvider.LIVE}"


def _certificate(plan: Plan) -> tuple[str, ...]:
    """The listener that says when the certificate ends which people see: asked over TLS, it is that one."""
    issuer = r"{issuer=\"%[ssl_f_i_dn(CN),json(utf8s)]\"}"
    lines = (
        f"# HELP {certificates.METRIC} {certificates.METRIC_HELP}",
        f"# TYPE {certificates.METRIC} gauge",
        f"{certificates.METRIC}{issuer} %[lua.front_not_after]",
    )
    text = "".join(rf"{line}\n" for line in lines)
    return (
        f"""# When the certificate ends that is shown outside.
frontend certificate
    bind :{CERTIFICATE_PORT} ssl crt {_front_certificate(plan)}
    http-request set-log-level silent
    http-request return status 200 content-type text/plain lf-string "{text}" if {{ path {METRICS_PATH} }}
    http-request return status 404
""",
    )


def _public(plan: Plan, fronts: list[str]) -> str:
    # Containers reach the public URL, port included, at this container: it listens at that port as well.
    ports = dict.fromkeys((HTTPS_PORT, plan.settings.https_port))
    outside = _front_certificate(plan)
    binds = "\n".join(
        f"    bind :{port} ssl crt {outside if port == HTTPS_PORT else CERTIFICATES} alpn h2,http/1.1" for port in ports
    )
    forget = "\n".join(f"    http-request del-header {name}" for name in FORWARDED)
    told = "\n".join(f"    {line}" for line in headers.rules(plan))
    known = f"{{ {_HOST} -m str {_hosts(plan)} }}"
    return f"""frontend https
{binds}
{_on_loopback(plan.settings.bind_address)}{_few_connections(plan)}    declare capture request len 64
    http-request capture req.hdr(host) id 0
    # What is looked at here is what the service reads: no absolute form, no CONNECT, no two hosts. Of HTTP/2 only the
    # path goes on anyway.
    http-request deny deny_status 400 if !{{ req.ver -m str 2.0 }} !{{ url -m beg / }}
    http-request deny deny_status 400 if {{ req.fhdr(host) -m sub , }}
    # No version before 1.1 knows chunks, and what reads them there reads another request than we do.
    http-request deny deny_status 400 if {{ req.ver -m str 1.0 }} {{ req.hdr(transfer-encoding) -m found }}
    http-request deny deny_status 405 if {{ method TRACE TRACK }}
    http-request disable-l7-retry if !METH_GET
{_believed(plan)}{forget}
{forward_auth.forget()}    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Host %[req.fhdr(host)]
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Port {plan.settings.https_port}
    http-request return status 421 content-type text/plain string {quoted(MISDIRECTED)} unless {known}
    # Services make addresses of it.
    http-request deny deny_status 400 unless {{ req.fhdr(host) -m reg {quoted(HOST_AND_PORT)} }}
{told}

{"".join(fronts).rstrip()}
"""


def _looked_at(plan: Plan) -> tuple[str, ...]:
    """To the firewall and back, where there is one."""
    choices = [(owned.item.name, _backend_name(plan.service(owned.owner), owned.item)) for owned in plan.routes]
    text = waf.backends(plan, INNER_PORT, choices, _SERVER)
    return (text,) if text else ()


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


def _on_loopback(address: str = "") -> str:
    """Who comes from elsewhere is not answered, where the port is published for this machine alone.

    Docker before 28 lets in whatever is addressed to the container itself, for a port that is published at all
    (docs/adr/0033).
    This machine's own requests come from the network's gateway, those of containers from beside it.
    """
    if address and not ipaddress.ip_address(address).is_loopback:
        return ""
    return f"""    # Published on loopback: a machine that has this one for its router would get here as well.
    tcp-request connection set-var-fmt(sess.from) %[src,ipmask(24,64)]
    tcp-request connection set-var-fmt(sess.here) %[dst,ipmask(24,64)]
    tcp-request connection reject unless {{ var(sess.from),strcmp(sess.here) eq 0 }} || {{ src {" ".join(ENGINES)} }}
"""


def _few_connections(plan: Plan) -> str:
    """One client does not take all places: whoever holds so many connections and says nothing gets no more."""
    proxies = _proxies(plan)
    return f"""    tcp-request connection track-sc1 src table connections
    tcp-request connection reject if {{ sc1_conn_cur gt {MOST_CONNECTIONS} }}{f" !{proxies}" if proxies else ""}
"""


def _figures(plan: Plan) -> str:
    """Figures for Prometheus at /metrics and a page for people at /stats, over the management network alone.

    Docker gives no network a fixed device or address: who called at the address that the network's own name stands for
    came over it.
    """
    name = managed_name(next(c for s in plan.services if Role.INGRESS in s.spec.roles for c in s.containers).host_name)
    return f"""# Who else has a network in common with this container is not told.
frontend figures
    bind :{FIGURES_PORT}
    http-request set-log-level silent
    http-request do-resolve(txn.managed,docker,ipv4) str({name})
    http-request set-var-fmt(txn.managed_at) %[var(txn.managed)]
    http-request set-var-fmt(txn.called_at) %[dst]
    acl over_it var(txn.called_at),strcmp(txn.managed_at) eq 0
    http-request deny deny_status 403 unless {{ var(txn.managed) -m found }} over_it
    http-request use-service prometheus-exporter if {{ path /metrics }}
    stats enable
    stats uri /stats
    stats hide-version
    http-request return status 404 unless {{ path -m beg /stats }}
"""


def _connections() -> str:
    return """backend connections
    stick-table type ipv6 size 50k expire 1m store conn_cur
"""


def _proxies(plan: Plan) -> str:
    """Whether a request is from a proxy before this one that the operator trusts. "" where there is none."""
    return f"{{ src {' '.join(plan.settings.trusted_proxies)} }}" if plan.settings.trusted_proxies else ""


def _believed(plan: Plan) -> str:
    """Who a request is from, where a trusted proxy says so; and who that one had it from, where it is another.

    Read from the right: what stands left of an address that nobody vouches for may be made up.
    """
    if not (trusted := _proxies(plan)):
        return ""
    lines = ["# trustedProxies: who a request is from is what they say, and only they."]
    for number in range(1, PROXIES_IN_A_ROW + 1):
        lines.append(
            f"http-request set-src req.hdr_ip(x-forwarded-for,-{number}) "
            f"if {trusted} {{ req.hdr_ip(x-forwarded-for,-{number}) -m found }}"
        )
    return "".join(f"    {line}\n" for line in lines)


def _named(plan: Plan, service: PlannedService, route: Route) -> str:
    """Which route a request is for, and what is said of it whatever it asks."""
    acl, at = f"host_{route.name}", plan.path(route)
    match = f"var(txn.route) -m str {route.name}" if at else f"{_HOST} -m str {plan.host_name(route)}"
    lines = [
        f"# {_source(service)}: {plan.host_name(route)}{at} ({route.access})",
        f"acl {acl} {match}",
        f"http-request set-var(txn.at) str({route.name}) if {acl}",
        f"http-request set-var(txn.rate) str({rates.of(plan, route)}) if {acl}",
        f"http-request set-var(txn.body) int({route.body_mb * 2**20}) if {acl}",
    ]
    if route.streaming:
        # Answers stream for as long as a model talks.
        lines.append(f"http-request set-timeout client {STREAM} if {acl}")
    return "".join(f"    {line}\n" for line in lines) + "\n"


def _common(plan: Plan) -> str:
    """What holds for every route alike, before anybody is asked who they are."""
    too_large = f"http-request return status 413 content-type text/plain string {quoted(TOO_LARGE)}"
    lines = [
        "# Too much at once, and too much in one.",
        *rates.rules(plan),
        f"{too_large} if {{ req.body_size,sub(txn.body) gt 0 }}",
    ]
    if plan.provider(Role.FIREWALL) is None:
        # Who does not say how much comes is measured by the firewall. HAProxy counts no body that it passes on.
        unsaid = f"http-request return status 411 content-type text/plain string {quoted(UNSAID)}"
        lines.append(f"{unsaid} if {{ req.fhdr(transfer-encoding) -m found }}")
        lines.append(
            f"{unsaid} if {{ req.ver -m str 2.0 }} {{ method POST PUT PATCH }} !{{ req.fhdr(content-length) -m found }}"
        )
    return "".join(f"    {line}\n" for line in lines) + "\n"


def _front(plan: Plan, service: PlannedService, route: Route) -> str:
    acl, at = f"host_{route.name}", plan.path(route)
    lines = [f"# {_source(service)}: {plan.host_name(route)}{at}", *_inside(plan, route)]
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
    return "".join(f"    {line}\n" for line in lines) + "\n" if lines[1:] else ""


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
    lines: list[str] = []
    servers = _servers(service, route)
    health = servers[0][0].spec.health.test
    if isinstance(health, Http):
        lines.append(f"option httpchk GET {health.path}")
    if len(servers) > 1:
        lines.append("balance leastconn")
    if route.name in plan.settings.sticky:
        # The server's number, and nothing about it. Only for the browser's session.
        lines.append(f"cookie kit-server-{route.name} insert indirect nocache httponly secure")
    if route.streaming:
        lines += [f"timeout server {STREAM}", "option http-no-delay"]
    if not route.websocket:
        lines.append("timeout tunnel 60s")
    if forward_auth.serves(plan, service, route):
        lines.append(f"http-request set-header Host {plan.host_name(route)}")  # no port: its cookies have none either
    for number, (container, port) in enumerate(servers, 1):
        check, test = _SERVER, container.spec.health.test
        if isinstance(test, Http):
            other = next(p.number for p in container.spec.ports if p.name == test.port)
            if other != port:
                check = check.replace("check", f"check port {other}", 1)
        cookie = f" cookie {number}" if route.name in plan.settings.sticky else ""
        lines.append(f"server {container.host_name} {container.host_name}:{port} {check}{cookie}")
    header = f"# {_source(service)}\nbackend {_backend_name(service, route)}\n"
    return header + "".join(f"    {line}\n" for line in lines)


def _servers(service: PlannedService, route: Route) -> list[tuple[PlannedContainer, int]]:
    """The containers that answer for a route, each with its port: one, or those of which several run."""
    name = re.compile(rf"{re.escape(route.port)}(-\d+)?")
    return [(c, port.number) for c in service.containers for port in c.spec.ports if name.fullmatch(port.name)]


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
{_on_loopback()}    declare capture request len 64
    http-request capture req.hdr(host) id 0
    http-request disable-l7-retry if !METH_GET
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
