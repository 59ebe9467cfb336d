"""Plan -> the parts of haproxy.cfg that ask somebody else who a request is from, before it reaches its service.

HAProxy has no such question of its own: services/files/haproxy/login.lua asks it, over a listener on loopback, so that
the login service is checked, found by name and kept connected to like every other. Nothing here names a service.
"""

from __future__ import annotations

from collections.abc import Iterator

from stack.derive.haproxy import quoted
from stack.derive.values import route_named
from stack.model import (
    CONFIG_DIR,
    PEOPLE,
    ROLE_GROUPS,
    Access,
    Encoding,
    ForwardAuth,
    Owned,
    Ref,
    Role,
    Route,
    Template,
)
from stack.plan import Plan, PlannedService

CHECK_PORT = 10406  # on loopback, in the ingress's own container
SCRIPT = "login.lua"
VOUCHERS = "vouchers"

EVERYBODY = (PEOPLE, *ROLE_GROUPS.values())

# Headers in which services are told who somebody is, however they are spelled: _ and - are the same to many servers.
# Nobody but the front door may say so. HAProxy keeps header names in lower case.
IDENTITY = (
    "^(x[-_](auth[-_]request|forwarded|kit|webauth)[-_].*|x[-_]real[-_]ip|forwarded"
    "|(x[-_])?remote[-_](user|email|groups?|name)|gap[-_]auth)$"
)
VOUCHER = "X-Kit-Voucher"

FOREIGN = '{"error":"asked by a page of another address"}'

_PERSON = {
    "X-Forwarded-User": "txn.login_id",
    "X-Forwarded-Preferred-Username": "txn.login_user",
    "X-Forwarded-Email": "txn.login_email",
    "X-Forwarded-Groups": "txn.login_groups",
}

_PAGE = "<!doctype html><meta charset=utf-8><title>{title}</title><p>{text}"
DOWN = _PAGE.format(
    title="Back in a moment",
    text="Logging in does not work just now, so this page stays shut. Please try again in a few seconds.",
)
OTHER = _PAGE.format(
    title="Not for you",
    text="You are logged in, and your account has no role that may open this page. Ask an administrator for it, or "
    "<a href={sign_out}>log in as somebody else</a>.",
)


def provider(plan: Plan) -> tuple[PlannedService, ForwardAuth] | None:
    """Who logs people in for others, and how it is asked. None: what needs that stays shut."""
    service = plan.provider(Role.FORWARD_AUTH)
    if service is None or service.spec.forward_auth is None:
        return None
    return service, service.spec.forward_auth


def needs_login(route: Route) -> bool:
    """Whether somebody has to log in at the ingress before a request reaches the route's service."""
    return route.access in (Access.SSO, Access.ADMIN)


def guarded(plan: Plan) -> tuple[Owned[Route], ...]:
    """The routes with such a login."""
    return tuple(owned for owned in plan.routes if needs_login(owned.item))


def groups(route: Route) -> tuple[str, ...]:
    """The groups whose members a route is for."""
    if route.access is Access.ADMIN:
        return (ROLE_GROUPS["admin"],)
    return tuple(ROLE_GROUPS[role] for role in route.roles) or EVERYBODY


def vouchers(plan: Plan) -> Template:
    """What the ingress shows to each service that asks for a voucher: a line of route and value. Secret."""
    parts: list[str | Ref] = ["# Derived from the plan: the route, and what its service knows the front door by.\n"]
    for owned in plan.routes:
        if owned.item.voucher:
            secret = owned.item.voucher
            value = Ref(
                owned.owner,
                owned.item.port,
                template=f"{{{secret}}}",
                secrets=(secret,),
                start=False,
                encoding=Encoding.HEX_32,
            )
            parts += [f"{owned.item.name} ", value, "\n"]
    return Template(tuple(parts))


def load(plan: Plan) -> str:
    """Lines for the section `global`."""
    found = provider(plan)
    if found is None:
        return ""
    auth = found[1]
    where = f"http://127.0.0.1:{CHECK_PORT}"
    return f"    lua-load {CONFIG_DIR}/{SCRIPT} {where} {auth.cookie} {quoted(auth.check)} {quoted(auth.sign_out)}\n"


def forget() -> str:
    """A line for every frontend: what a client says about who it is."""
    return f"    http-request del-header {quoted(IDENTITY)} -m reg\n"


def question(plan: Plan, route: Route, condition: str) -> Iterator[str]:
    """Lines that find out who a request of the route is from, where `condition` holds of it."""
    yield f"http-request set-var(txn.login) str(down) if {condition}"
    asked = f"host_{route.name} {{ var(txn.login) -m str down }}"
    yield f"http-request lua.login {','.join(groups(route))} {plan.origin(route)} if {asked}"
    known = f"host_{route.name} {{ var(txn.login) -m str in }}"
    # One cookie for several hosts: a page of one of them must not act in another's name, by a form or a websocket.
    foreign = f"{{ req.hdr(origin) -m found }} !{{ req.fhdr(origin) -m str -i {plan.origin(route)} }}"
    for acts in ("!{ method GET HEAD OPTIONS }", "{ req.hdr(upgrade) -m found }"):
        yield f"http-request set-var(txn.login) str(foreign) if {known} {foreign} {acts}"
    if route.logout:
        # By its own button alone: a link or a picture elsewhere logs nobody out.
        yield f"http-request lua.logout if {known} {{ path -m str {plan.path(route)}{route.logout} }} {{ method POST }}"
    if route.voucher:
        value = f"%[str({route.name}),map_str({CONFIG_DIR}/{VOUCHERS})]"
        yield f"http-request set-header {VOUCHER} {value} if {known}"


def answers(plan: Plan, backend: str) -> str:
    """What follows from who it is, for all routes, after the last question. The cookie of the login goes no further.

    backend: that of the login service's own route.
    """
    found = provider(plan)
    if found is None:
        return ""
    service, auth = found
    home = route_named(service.spec, auth.route)
    start = f"{plan.url(home)}{auth.start}"
    told = OTHER.format(sign_out=f"{plan.url(home)}{auth.sign_out}")
    html, json = 'content-type "text/html; charset=utf-8"', "content-type application/json"
    nobody, other = "{ var(txn.login) -m str nobody }", "{ var(txn.login) -m str other }"
    login_first = quoted('{"error":"login required","login":"' + start + '"}')
    lines = [
        f"# {service.spec.source or service.name}: logs people in for the routes above",
        # What a browser opens as a page is led to the login; a program, or a script in a page, is told.
        "acl a_page method GET HEAD",
        "acl for_eyes req.hdr(accept) -m sub -i text/html",
        "acl no_page req.hdr(x-requested-with) -m found",
        "acl no_page req.hdr(upgrade) -m found",
        "acl says_mode req.hdr(sec-fetch-mode) -m found",
        "acl navigates req.hdr(sec-fetch-mode) -m str -i navigate",
        # Nobody is sent to a login that is not there.
        f"http-request set-var(txn.login) str(down) if {nobody} {{ nbsrv({backend}) lt 1 }}",
        *(
            f"http-request redirect code 302 location {start}?rd=%[var(txn.login_back),url_enc] "
            f"if {nobody} a_page for_eyes !no_page {mode}"
            for mode in ("!says_mode", "navigates")
        ),
        f"http-request return status 401 {json} string {login_first} hdr Cache-Control no-store if {nobody}",
        f"http-request return status 403 {html} string {quoted(told)} hdr Cache-Control no-store if {other} for_eyes",
        f'http-request return status 403 {json} string \'{{"error":"not allowed"}}\' if {other}',
        f"http-request return status 403 {json} string {quoted(FOREIGN)} if {{ var(txn.login) -m str foreign }}",
        f"http-request return status 503 {html} string {quoted(DOWN)} hdr Retry-After 5 "
        "if { var(txn.login) -m found } !{ var(txn.login) -m str in }",
        *(
            f"http-request set-header {name} %[var({variable})] if {{ var({variable}) -m found }}"
            for name, variable in _PERSON.items()
        ),
        f'http-request set-header Cookie "%[req.fhdr(cookie),regsub(\\"(^|; *){auth.cookie}[^=;]*=[^;]*\\",,g)]" '
        f"if {{ req.cook({auth.cookie}) -m found }} !host_{home.name}",
        # Nobody but the login service sets its cookie: a service's answer would make the visitor somebody else.
        f"http-request set-var(txn.home) bool(true) if host_{home.name}",
        f"http-response replace-header Set-Cookie '^ *{auth.cookie}.*' 'kit-none=; Max-Age=0' "
        "if !{ var(txn.home) -m bool }",
        # A session that was renewed, or is over.
        "http-after-response add-header Set-Cookie %[var(txn.login_cookie)] if { var(txn.login_cookie) -m found }",
    ]
    return "".join(f"    {line}\n" for line in lines) + "\n"


def serves(plan: Plan, service: PlannedService, route: Route) -> bool:
    """Whether a route is the login service's own, where people log in."""
    found = provider(plan)
    return found is not None and found[0].name == service.name and found[1].route == route.name


def listener(backend: str) -> str:
    """The frontend that login.lua asks: `backend` is that of the login service's own route."""
    return f"""# What the front door itself asks about each request of a route with a login.
frontend login
    bind 127.0.0.1:{CHECK_PORT}
    http-request set-log-level silent
    default_backend {backend}
"""
