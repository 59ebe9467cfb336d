"""The limits a container really gets: its own, as the settings and the machine change them."""

from __future__ import annotations

import re
from dataclasses import replace

from stack.model import ContainerSpec, HostProfile, ResourceLimits, ServiceSpec
from stack.settings import Settings


def limits_of(
    settings: Settings, host: HostProfile, spec: ServiceSpec, container: ContainerSpec
) -> ResourceLimits | None:
    """A container's limits on a host; None when it has none for the target.

    `modelMemoryMb` replaces the memory of the one that holds models. On an emulated host more processors than there
    are become those there are, and nothing is pinned to cores, which may be missing.
    """
    found = container.limits.get(host.target)
    if found is None:
        return None
    holds_models = spec.model_memory is not None and spec.model_memory.container == container.name
    if holds_models and settings.model_memory_mb:
        found = replace(found, memory_mb=settings.model_memory_mb)
    if host.emulated:
        found = replace(found, cpus=min(found.cpus, host.cpus), cpuset="")
    return found


def memory_of(settings: Settings, host: HostProfile, spec: ServiceSpec) -> int:
    """MB that a service's containers may take on a host; those without limits there count nothing."""
    found = (limits_of(settings, host, spec, container) for container in spec.containers)
    return sum(limits.memory_mb for limits in found if limits)


def cores(cpuset: str) -> frozenset[int]:
    """The cores of a Docker cpuset: "0,2-3" -> 0, 2, 3. ValueError when it is none."""
    result: set[int] = set()
    for part in filter(None, cpuset.split(",")):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"{part!r} is no core and no range of cores, such as 1-3")
        result |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(result)
