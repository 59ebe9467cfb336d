"""What the chosen services take of the host: memory, processors, graphics card, disk. With the cheapest way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stack.model import Problem, ServiceSpec, Target
from stack.planning.resolve import Selection, at, holders, resolve
from stack.words import mb

INDENT = "\n      "


def memory_of(spec: ServiceSpec, target: Target) -> int:
    """MB that a service's containers may take on a target; those without limits there count nothing."""
    return sum(container.limits[target].memory_mb for container in spec.containers if target in container.limits)


def memory(selection: Selection) -> Iterator[Problem]:
    """All containers at their limits must fit what the system leaves."""
    host = selection.host
    sizes = {name: memory_of(spec, host.target) for name, spec in selection.chosen.items()}
    wanted, given = sum(sizes.values()), host.memory_mb - host.reserve_mb
    if wanted <= given:
        return
    largest_first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        " · ".join(f"{name} {size:,}" for name, size in largest_first),
        f"would fit: {' or '.join(_ways_out(selection, wanted, given))}",
    ]
    what = f"{mb(wanted)} wanted, {mb(given)} to give ({host.memory_mb:,} less {host.reserve_mb:,} for the system)"
    yield Problem(where="memory", what=what, fix=INDENT.join(lines))


def _ways_out(selection: Selection, wanted: int, given: int) -> list[str]:
    """Services the operator may leave out so that the rest fits, smallest loss first; and the memory that would do."""
    settings, host = selection.settings, selection.host
    ways: list[tuple[int, str]] = []
    for name in selection.chosen:
        less = replace(settings, without=(*settings.without, name))
        smaller = resolve(less, host, selection.catalog.values())
        if len(smaller.problems) > len(selection.problems) or not smaller.chosen:
            continue  # something else needs it
        saved = wanted - sum(memory_of(spec, host.target) for spec in smaller.chosen.values())
        if saved >= wanted - given:
            ways.append((saved, f"without: [{name}] (saves {saved:,})"))
    cheapest = [text for _, text in sorted(ways)[:2]]
    return [*cheapest, f"memoryMb: {wanted + host.reserve_mb} if the machine has it"]


def processors(selection: Selection) -> Iterator[Problem]:
    """No container may be promised more processors than there are. Their sum may be more: they share."""
    host = selection.host
    for spec in selection.chosen.values():
        for container in spec.containers:
            limits = container.limits.get(host.target)
            if limits and limits.cpus > host.cpus:
                yield Problem(
                    where=at(spec, container.name, "limits", host.target),
                    what=f"{limits.cpus:g} CPUs wanted, {host.cpus:g} there",
                    fix=f"set cpus to what the machine has, or lower the limit to {host.cpus:g}",
                )


def graphics(selection: Selection) -> Iterator[Problem]:
    """A graphics card must be there where one is asked for."""
    host = selection.host
    for spec in selection.chosen.values():
        for container in spec.containers:
            limits = container.limits.get(host.target)
            if limits and limits.gpu and not host.gpu:
                fix = f"take gpu=True out of the limits for {host.target}, or plan for target gpu"
                where = at(spec, container.name, "limits", host.target)
                yield Problem(where=where, what=f"wants a GPU, and {host.target} has none", fix=fix)


def disk(selection: Selection) -> Iterator[Problem]:
    """The images must fit the disk, twice: an upgrade needs the next ones beside them."""
    sizes = image_sizes(selection.chosen)
    needed, given = 2 * sum(sizes.values()), selection.host.disk_gb * 1024
    if needed > given:
        largest_first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        lines = [
            " · ".join(f"{name} {size:,}" for name, size in largest_first),
            f"would fit: diskGb: {-(-needed // 1024)} if the machine has it",
        ]
        what = f"{mb(needed)} for the images and their next versions, {mb(given)} there"
        yield Problem(where="disk", what=what, fix=INDENT.join(lines))


def image_sizes(services: Mapping[str, ServiceSpec]) -> dict[str, int]:
    """MB on disk of each image the services use, by the image's name."""
    return {holder.image.name: holder.image.size_mb for spec in services.values() for holder in holders(spec)}
