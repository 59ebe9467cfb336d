"""How many networks the engine can still make: each takes a range of addresses out of the engine's pools.

When they are used up, `docker network create` says "could not find an available, non-overlapping IPv4 address pool",
in the middle of a deployment. IPv4 alone: the stack's networks have no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

# The engine's own, where daemon.json names none: 15 ranges of 65,536 addresses and 16 of 4,096. `docker info` leaves
# them out. Source: moby, libnetwork/ipamutils.
BUILT_IN = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)


@dataclass(frozen=True, kw_only=True)
class Subnets:
    """How many ranges the engine's pools have, how many nobody uses, and the names of the networks there are."""

    total: int
    free: int
    networks: frozenset[str] = frozenset()


def count(info: Mapping[str, Any], networks: Sequence[Mapping[str, Any]], routes: Iterable[str] = ()) -> Subnets:
    """From what the engine says of itself and of its networks.

    routes: further ranges that are taken, as "10.0.0.0/8". The engine passes those by to which the host has a route.
    """
    said = [(str(pool.get("Base", "")), int(pool.get("Size", 0))) for pool in info.get("DefaultAddressPools") or ()]
    taken = [
        str(part["Subnet"])
        for network in networks
        for part in (network.get("IPAM") or {}).get("Config") or ()
        if part.get("Subnet")
    ]
    used = [network for text in (*taken, *routes) if isinstance(network := ip_network(text, False), IPv4Network)]
    total = free = 0
    for base, size in said or BUILT_IN:
        pool = ip_network(base, False)
        if isinstance(pool, IPv4Network) and pool.prefixlen <= size <= pool.max_prefixlen:
            ranges = 1 << (size - pool.prefixlen)
            total += ranges
            free += ranges - len(_taken(pool, size, used))
    return Subnets(total=total, free=free, networks=frozenset(str(network.get("Name")) for network in networks))


def _taken(pool: IPv4Network, size: int, used: Iterable[IPv4Network]) -> set[int]:
    """Which of the pool's ranges somebody has a part of, by their number."""
    step, found = pool.max_prefixlen - size, set[int]()
    begin, end = int(pool.network_address), int(pool.broadcast_address)
    for network in used:
        first, last = max(int(network.network_address), begin), min(int(network.broadcast_address), end)
        if first <= last:
            found.update(range((first - begin) >> step, ((last - begin) >> step) + 1))
    return found


def routes_of(table: Path = Path("/proc/net/route")) -> tuple[str, ...]:
    """The ranges to which this host has a route, but for the way to everywhere; () where there is no such table."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return ()
    found: list[str] = []
    for fields in (line.split() for line in lines):
        destination, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (1, 7))
        if mask:
            found.append(str(IPv4Network((destination, mask.bit_count()), False)))
    return tuple(found)
