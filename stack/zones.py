"""The network zones and who may reach whom. Each zone is one Docker network; a connection needs a shared one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stack.model import Zone, ZoneSpec


def _spec(
    zone: Zone, summary: str, *, internal: bool, reachable_from: frozenset[Zone], isolated: bool = False
) -> tuple[Zone, ZoneSpec]:
    return zone, ZoneSpec(
        zone=zone, summary=summary, internal=internal, reachable_from=reachable_from, isolated=isolated
    )


ZONES: Mapping[Zone, ZoneSpec] = dict(
    [
        _spec(
            Zone.EDGE,
            "where the host's published ports arrive: the ingress",
            internal=False,
            reachable_from=frozenset({Zone.OBSERVE, Zone.MANAGE}),
        ),
        _spec(
            Zone.APP,
            "what people use, and what it is made of",
            internal=True,
            reachable_from=frozenset({Zone.EDGE, Zone.OBSERVE, Zone.MANAGE}),
        ),
        _spec(
            Zone.MODEL,
            "model servers, which check nobody: only their queue stands with one foot in it",
            internal=True,
            reachable_from=frozenset({Zone.APP, Zone.OBSERVE, Zone.MANAGE}),
        ),
        _spec(
            Zone.DATA,
            "databases and caches",
            internal=True,
            reachable_from=frozenset({Zone.APP, Zone.OBSERVE, Zone.MANAGE}),
        ),
        _spec(
            Zone.OBSERVE,
            "metrics, logs, traces",
            internal=True,
            reachable_from=frozenset({Zone.APP, Zone.MANAGE}),
        ),
        _spec(Zone.MANAGE, "administration and backups", internal=True, reachable_from=frozenset()),
        _spec(
            Zone.EGRESS,
            "a way out to the internet, and nothing else",
            internal=False,
            reachable_from=frozenset({Zone.APP, Zone.MODEL, Zone.OBSERVE, Zone.MANAGE}),
            isolated=True,
        ),
    ]
)

# A container in both would be a way around every rule above.
NEVER_TOGETHER = frozenset({frozenset({Zone.EDGE, Zone.DATA})})


def shared(first: Iterable[Zone], second: Iterable[Zone]) -> frozenset[Zone]:
    """The zones both are in: over these, and only these, they can talk. EGRESS is no place to meet."""
    return (frozenset(first) & frozenset(second)) - {Zone.EGRESS}


def may_reach(from_zones: Iterable[Zone], to_zones: Iterable[Zone]) -> bool:
    """Whether members of the first zones may open connections to members of the second."""
    sources = frozenset(from_zones)
    return any(zone in sources or ZONES[zone].reachable_from & sources for zone in frozenset(to_zones))


def badly_joined(zones: Iterable[Zone]) -> tuple[Zone, Zone] | None:
    """Two zones that one container must not be in together, or None.

    A container's zones must hang together by who may reach whom; and some never meet (NEVER_TOGETHER).
    """
    ordered = sorted(frozenset(zones))
    for pair in NEVER_TOGETHER:
        if pair <= set(ordered):
            first, second = sorted(pair)
            return first, second
    if not ordered:
        return None
    reached, rest = {ordered[0]}, set(ordered[1:])
    while near := {zone for zone in rest if any(_related(zone, other) for other in reached)}:
        reached |= near
        rest -= near
    return (ordered[0], min(rest)) if rest else None


def _related(first: Zone, second: Zone) -> bool:
    return first in ZONES[second].reachable_from or second in ZONES[first].reachable_from
