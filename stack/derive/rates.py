"""How often one client may ask, as lines of haproxy.cfg. Nothing here names a service.

Each class is a bucket per client: `burst` requests at once, and one more every `every` tenths of a second. Of each
client one number is kept, the time at which its bucket would be full again, so that Retry-After says to the second when
the next request is let through, and refused ones cost a client nothing (the generic cell rate algorithm, ITU-T I.371).
Two requests at the very same time, in two threads, may be counted as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stack.derive.haproxy import quoted
from stack.model import RateClass, Route
from stack.plan import Plan

# A client is an IPv4 address, or an IPv6 network of the size that one customer gets.
CLIENT = "src,ipmask(32,64)"
REFUSED = "X-Kit-Rate"  # on the front door's own 429, so that nobody takes it for a service's
TOO_MANY = "Too many requests. Please wait a moment."

# How the worker before a reload tells the next one what it has counted. On loopback.
PEERS_PORT = 10409


@dataclass(frozen=True)
class Rate:
    """burst: requests at once. every: tenths of a second in which one more is allowed."""

    burst: int
    every: int


RATES: Mapping[RateClass, Rate] = MappingProxyType(
    {
        RateClass.PAGE: Rate(burst=100, every=1),
        RateClass.BUNDLE: Rate(burst=500, every=1),
        RateClass.STEADY: Rate(burst=200, every=6),
        RateClass.API: Rate(burst=20, every=60),
    }
)


def of(plan: Plan, route: Route) -> RateClass:
    """The operator's choice for a route, or its service's."""
    return plan.settings.rate_classes.get(route.name, route.rate)


def used(plan: Plan) -> tuple[RateClass, ...]:
    """The classes that routes of the plan are in."""
    found = {of(plan, owned.item) for owned in plan.routes}
    return tuple(rate for rate in RateClass if rate in found)


def rules(plan: Plan) -> Iterator[str]:
    """Lines of a frontend in which txn.rate says the class. A request without one is not counted."""
    for rate in used(plan):
        limit, mine = RATES[rate], f"{{ var(txn.rate) -m str {rate} }}"
        yield f"http-request track-sc0 {CLIENT} table rate-{rate} if {mine}"
        yield f"http-request set-var(txn.rate_every) int({limit.every}) if {mine}"
        yield f"http-request set-var(txn.rate_room) int({limit.burst * limit.every}) if {mine}"
    yield "http-request set-var(txn.rate_now) date(0,ms),div(100),mod(4294967296)"
    yield "http-request set-var(txn.rate_full) sc_get_gpt(0,0)"
    yield "http-request set-var(txn.rate_full) var(txn.rate_now) if { var(txn.rate_full),sub(txn.rate_now) lt 0 }"
    yield "http-request set-var(txn.rate_full) var(txn.rate_full),add(txn.rate_every)"
    yield "http-request set-var(txn.rate_wait) var(txn.rate_full),sub(txn.rate_now),sub(txn.rate_room)"
    yield (
        f"http-request return status 429 content-type text/plain string {quoted(TOO_MANY)} "
        f'hdr Retry-After "%[var(txn.rate_wait),add(9),div(10)]" hdr {REFUSED} refused '
        "if { var(txn.rate_wait) -m int gt 0 }"
    )
    yield "http-request sc-set-gpt(0,0) var(txn.rate_full) if { var(txn.rate) -m found }"


def tables(plan: Plan) -> str:
    """The sections that keep what was counted. 100,000 clients of a class take 16 MB; the oldest make room."""
    sections = [
        f"""# What was counted goes from worker to worker when one takes over.
peers workers
    bind 127.0.0.1:{PEERS_PORT}
    server self
"""
    ]
    for rate in used(plan):
        limit = RATES[rate]
        forgotten = max(10, limit.burst * limit.every // 10)
        sections.append(
            f"backend rate-{rate}\n    stick-table type ipv6 size 50k expire {forgotten}s store gpt(1) peers workers\n"
        )
    return "\n".join(sections)
