"""What browsers are told to refuse, route by route, as lines of haproxy.cfg. Nothing here names a service."""

from __future__ import annotations

from collections.abc import Iterator

from stack.derive.haproxy import quoted
from stack.model import Headers
from stack.plan import Plan

# For two years, as the lists that browsers ship ask for at least one.
HSTS = "max-age=63072000"

# The front door's alone: what an application says of it by itself would hold for its neighbours' ports as well.
_HSTS = "Strict-Transport-Security"

# What answers where no route is: pages of the front door's own.
NO_ROUTE = Headers.nothing()

# Names of programs and their versions help nobody but who looks for a hole in one.
TELLING = ("Server", "X-Powered-By")


def fields(headers: Headers) -> dict[str, str]:
    """Name and value of each header that is sent."""
    every = {
        "Content-Security-Policy": headers.csp,
        "X-Frame-Options": headers.frame,
        "Referrer-Policy": headers.referrer,
        "Permissions-Policy": headers.permissions,
        "Cross-Origin-Opener-Policy": headers.coop,
        "X-Content-Type-Options": "nosniff",
    }
    return {name: value for name, value in every.items() if value}


def hsts(plan: Plan) -> bool:
    """Whether browsers may be told to come by TLS alone, for two years.

    Only right where both ports are the usual ones, for they keep the port when they turn http into https; and where
    every browser trusts the chain, for there is no way past a warning then, and a stack's own CA is not in all of them.
    """
    usual = (plan.settings.http_port, plan.settings.https_port) == (80, 443)
    return usual and plan.public_chain and not plan.settings.domain.endswith("localhost")


def rules(plan: Plan) -> Iterator[str]:
    """Lines of a frontend in which txn.at names the route. They hold for the front door's own answers as well."""
    yield f"http-after-response set-header {_HSTS} {HSTS}" if hsts(plan) else f"http-after-response del-header {_HSTS}"
    for name in TELLING:
        yield f"http-after-response del-header {name}"
    by_value: dict[tuple[str, str], list[str]] = {}
    for owned in plan.routes:
        for pair in fields(owned.item.headers).items():
            by_value.setdefault(pair, []).append(owned.item.name)
    for name, value in fields(NO_ROUTE).items():
        yield f"http-after-response set-header {name} {_argument(value)} if !{{ var(txn.at) -m found }}"
    for (name, value), routes in by_value.items():
        here = f"{{ var(txn.at) -m str {' '.join(routes)} }}"
        yield f"http-after-response set-header {name} {_argument(value)} if {here} !{{ res.hdr({name}) -m found }}"


def _argument(value: str) -> str:
    """One argument: policies quote their words with single quotes."""
    if '"' in value or "\\" in value or "$" in value or "%" in value:
        return quoted(value.replace("%", "%%"))
    return f'"{value}"'
