"""What the chosen services take of the host: memory, processors, graphics card, disk. With the cheapest ways out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from stack.model import ContainerSpec, HostProfile, Problem, ServiceSpec, Zone
from stack.planning import models
from stack.planning.limits import cores, limits_of, memory_of
from stack.planning.resolve import Selection, at, holders, resolve
from stack.settings import Settings
from stack.words import listed, mb

INDENT = "\n      "
STEP_MB = 64  # what suggested limits are rounded up to
WAYS = 2  # how many ways out a refusal names, beside a larger machine
MAX_SWAPS = 3  # in one way out
MAX_TRIED = 24  # swaps that are combined, the largest


# ------------------------------------------------------------------------------------------------------- sums


@dataclass(frozen=True, kw_only=True)
class Use:
    """What services take of a host, in MB. `kept`: what is kept for monitoring and not taken by it."""

    by_zone: Mapping[Zone, int]
    kept: int
    images: int
    models: int

    @property
    def memory(self) -> int:
        """At the limits, with what is kept for monitoring."""
        return sum(self.by_zone.values()) + self.kept

    @property
    def disk(self) -> int:
        """Images twice, because an upgrade needs the next ones beside them, and models once."""
        return 2 * self.images + self.models


def counted_in(spec: ServiceSpec, container: ContainerSpec) -> Zone:
    """The zone whose share of the memory a container takes."""
    return spec.counted_in or next((zone for zone in Zone if zone in container.zones), Zone.MANAGE)


def memory_by_zone(settings: Settings, host: HostProfile, services: Iterable[ServiceSpec]) -> dict[Zone, int]:
    """MB at their limits, by zone, in the zones' order; zones that take nothing are left out."""
    found = dict.fromkeys(Zone, 0)
    for spec in services:
        for container in spec.containers:
            limits = limits_of(settings, host, spec, container)
            found[counted_in(spec, container)] += limits.memory_mb if limits else 0
    return {zone: size for zone, size in found.items() if size}


def use_of(settings: Settings, host: HostProfile, services: Iterable[ServiceSpec]) -> Use:
    """What services take of a host."""
    chosen = {spec.name: spec for spec in services}
    zones = memory_by_zone(settings, host, chosen.values())
    return Use(
        by_zone=zones,
        kept=max(0, host.observe_mb - zones.get(Zone.OBSERVE, 0)) if host.observe_mb > 1 else 0,
        images=sum(image_sizes(chosen).values()),
        models=sum(found.weights_mb for spec in chosen.values() for found in models_of(settings, spec)),
    )


def image_sizes(services: Mapping[str, ServiceSpec]) -> dict[str, int]:
    """MB on disk of each image the services use, by the image's name."""
    return {holder.image.name: holder.image.size_mb for spec in services.values() for holder in holders(spec)}


def models_of(settings: Settings, spec: ServiceSpec) -> tuple[models.Model, ...]:
    """The models a service holds, those whose names say nothing about their size left out."""
    names = spec.model_memory.models(settings) if spec.model_memory else ()
    return tuple(found for found in map(models.of, names) if found)


def unknown_models(settings: Settings, spec: ServiceSpec) -> tuple[str, ...]:
    """The models whose size nobody can tell from their names."""
    names = spec.model_memory.models(settings) if spec.model_memory else ()
    return tuple(name for name in names if models.of(name) is None)


def models_need(settings: Settings, host: HostProfile, spec: ServiceSpec, at_once: int | None = None) -> int:
    """MB that a service needs to hold its largest models, `at_once` of them or as many as it is told to; 0 without."""
    memory = spec.model_memory
    if memory is None:
        return 0
    context, bits = memory.context.get(host.target, 0), memory.cache_bits.get(host.target, 16)
    sizes = sorted((found.memory_mb(context, bits) for found in models_of(settings, spec)), reverse=True)
    return memory.own_mb + sum(sizes[: at_once or memory.loaded.get(host.target, 1)]) if sizes else 0


def models_room(settings: Settings, host: HostProfile, spec: ServiceSpec) -> int:
    """MB in which a service holds its models: the limit of the container that does; 0 where there is none."""
    memory = spec.model_memory
    container = next((item for item in spec.containers if memory and item.name == memory.container), None)
    limits = limits_of(settings, host, spec, container) if container else None
    return limits.memory_mb if limits else 0


# ------------------------------------------------------------------------------------------------------ checks


def memory(selection: Selection) -> Iterator[Problem]:
    """All containers at their limits must fit what the system leaves, with what is kept for monitoring."""
    settings, host = selection.settings, selection.host
    use, given = use_of(settings, host, selection.chosen.values()), host.memory_mb - host.reserve_mb
    if use.memory <= given:
        return
    sizes = {name: memory_of(settings, host, spec) for name, spec in selection.chosen.items()}
    if use.kept:
        sizes["kept for monitoring"] = use.kept
    what = f"{mb(use.memory)} wanted, {mb(given)} to give ({host.memory_mb:,} less {host.reserve_mb:,} for the system)"
    larger = [f"memoryMb: {use.memory + host.reserve_mb} if the machine has it"]
    ways = [*ways_out(selection, lambda it: it.memory, given), *larger]
    yield Problem(where="memory", what=what, fix=_shares(sizes) + f"{INDENT}would fit: {' or '.join(ways)}")


def monitoring(selection: Selection) -> Iterator[Problem]:
    """Monitoring stays within what is kept for it."""
    settings, host = selection.settings, selection.host
    wanted = use_of(settings, host, selection.chosen.values()).by_zone.get(Zone.OBSERVE, 0)
    if host.observe_mb > 1 and wanted > host.observe_mb:
        chosen = selection.chosen.items()
        sizes = {name: memory_by_zone(settings, host, [spec]).get(Zone.OBSERVE, 0) for name, spec in chosen}
        fix = (
            f"{_shares({name: size for name, size in sizes.items() if size})}{INDENT}lower a limit, leave one out, or "
        )
        what = f"{mb(wanted)} wanted, {mb(host.observe_mb)} kept for it on {host.target}"
        yield Problem(where="monitoring", what=what, fix=f"{fix}monitoringMb: {wanted} if there is room")


def held_models(selection: Selection) -> Iterator[Problem]:
    """Each model must fit the memory in which they are held. Those that do not fit together take turns in it."""
    settings, host = selection.settings, selection.host
    for spec in selection.chosen.values():
        declared = spec.model_memory
        if declared is None:
            continue
        container = next((item for item in spec.containers if item.name == declared.container), None)
        if container is None:
            fix = f"name one of {listed(item.name for item in spec.containers)}"
            what = f"there is no container {declared.container}"
            yield Problem(where=at(spec, "model_memory"), what=what, fix=fix)
            continue
        room, needed = models_room(settings, host, spec), models_need(settings, host, spec, at_once=1)
        if room and needed > room:  # without limits: reported with the container
            yield _too_large(selection, spec, needed, room, "modelMemoryMb")


def _too_large(selection: Selection, spec: ServiceSpec, needed: int, given: int, key: str) -> Problem:
    settings, host = selection.settings, selection.host
    assert spec.model_memory is not None  # noqa: S101 - only asked of services that hold models
    context, bits = spec.model_memory.context.get(host.target, 0), spec.model_memory.cache_bits.get(host.target, 16)
    sizes = {found.name: found.memory_mb(context, bits) for found in models_of(settings, spec)}
    need = models_need if key == "modelMemoryMb" else card_need
    fits = (swap for swap in _model_swaps(selection, spec) if need(swap.change(settings), host, spec, 1) <= given)
    ways = [swap.model for swap in fits][:WAYS]
    ways.append(f"{key}: {_rounded(needed)} if the machine has it")
    place = "for" if key == "modelMemoryMb" else "on the card of"
    what = f"{mb(needed)} needed for the largest, {mb(given)} there {place} {spec.name} on {host.target} (by its name)"
    return Problem(where="models", what=what, fix=f"{_shares(sizes)}{INDENT}would fit: {' or '.join(ways)}")


def processors(selection: Selection) -> Iterator[Problem]:
    """No container may be promised more processors than there are. Their sum may be more: they share."""
    settings, host = selection.settings, selection.host
    for spec in selection.chosen.values():
        for container in spec.containers:
            limits = limits_of(settings, host, spec, container)
            where = at(spec, container.name, "limits", host.target)
            if limits and limits.cpus > host.cpus:
                yield Problem(
                    where=where,
                    what=f"{limits.cpus:g} CPUs wanted, {host.cpus:g} there",
                    fix=f"set cpus to what the machine has, lower the limit to {host.cpus:g}, or only try this plan "
                    "here: emulate: true",
                )
            try:
                highest = max(cores(limits.cpuset), default=-1) if limits else -1
            except ValueError as error:
                yield Problem(where=where, what=f"cpuset: {error}", fix='write cores as "1-3" or "0,2"')
                continue
            if highest >= host.cpus:
                fix = f"cores are counted from 0 to {host.cpus - 1:g}: pin it to those, or only try this: emulate: true"
                yield Problem(where=where, what=f"pinned to core {highest} of {host.cpus:g}", fix=fix)


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


def card_memory(selection: Selection) -> Iterator[Problem]:
    """Each model must fit the card, where its memory is said: else a part of it would run on the CPUs."""
    settings, host = selection.settings, selection.host
    given = settings.gpu_memory_mb
    if given is None:
        return
    if not host.gpu:
        fix = f"take it out, or plan for a target with a card: {host.target} has none"
        yield Problem(where="gpuMemoryMb", what=f"{given:,}", fix=fix)
        return
    for spec in selection.chosen.values():
        needed = card_need(settings, host, spec, at_once=1)
        if needed > given:
            yield _too_large(selection, spec, needed, given, "gpuMemoryMb")


def card_need(settings: Settings, host: HostProfile, spec: ServiceSpec, at_once: int | None = None) -> int:
    """MB of a graphics card that a service's models take, as models_need counts them; 0 for one that has no card."""
    memory = spec.model_memory
    on_card = any(item.name == memory.container and host.target in item.limits and item.limits[host.target].gpu
                  for item in spec.containers) if memory else False  # fmt: skip
    needed = models_need(settings, host, spec, at_once) if on_card else 0
    return needed - memory.own_mb if memory and needed else 0


def disk(selection: Selection) -> Iterator[Problem]:
    """Images must fit the disk twice, an upgrade needs the next ones beside them; models once."""
    settings, host = selection.settings, selection.host
    use, given = use_of(settings, host, selection.chosen.values()), host.disk_gb * 1024
    if use.disk <= given:
        return
    sizes = image_sizes(selection.chosen)
    sizes |= {found.name: found.weights_mb for spec in selection.chosen.values() for found in models_of(settings, spec)}
    needed = f"{mb(2 * use.images)} for the images and their next versions"
    needed += f" and {mb(use.models)} for models" if use.models else ""
    ways = [*ways_out(selection, lambda it: it.disk, given), f"diskGb: {-(-use.disk // 1024)} if the machine has it"]
    fix = f"{_shares(sizes)}{INDENT}would fit: {' or '.join(ways)}"
    yield Problem(where="disk", what=f"{needed}, {mb(given)} there", fix=fix)


def alternatives(selection: Selection) -> Iterator[Problem]:
    """A lighter service that is offered must be one."""
    for spec in selection.chosen.values():
        for item in spec.alternatives:
            if item.service not in selection.catalog or item.service == spec.name:
                fix = f"name another service: {listed(set(selection.catalog) - {spec.name})}"
                where = at(spec, "alternatives")
                yield Problem(where=where, what=f'"{item.service}" cannot stand in for {spec.name}', fix=fix)


# ------------------------------------------------------------------------------------------------- the way out


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One thing the operator may change. `rank`: what is missed then, less for a lower one. `subject`: of what.

    `model`: of a smaller model, that alone, without the memory that is then enough.
    """

    rank: int
    subject: str
    text: str
    model: str = ""
    change: Callable[[Settings], Settings]


def ways_out(selection: Selection, measure: Callable[[Use], int], given: int) -> list[str]:
    """The cheapest sets of swaps with which it fits: as few as possible, then what is missed least."""
    before = measure(use_of(selection.settings, selection.host, selection.chosen.values()))
    savings = [(swap, saved) for swap in _swaps(selection) if (saved := _saved(selection, [swap], measure)) > 0]
    savings.sort(key=lambda item: -item[1])
    tried = savings[:MAX_TRIED]
    for count in range(1, MAX_SWAPS + 1):
        found: list[tuple[int, int, str]] = []
        for group in combinations(tried, count):
            swaps = [swap for swap, _ in group]
            if len({swap.subject for swap in swaps}) < count:
                continue
            # What two save together is at most the sum, unless each keeps the other's needs: then both are tried alone.
            if count > 2 and sum(saved for _, saved in group) < before - given:
                continue
            saved = _saved(selection, swaps, measure)
            if saved >= before - given:
                text = " with ".join(swap.text for swap in swaps)
                found.append((sum(swap.rank for swap in swaps), saved, f"{text} (saves {saved:,})"))
        if found:
            return [text for _, _, text in sorted(found)[:WAYS]]
    return _many_swaps(selection, [swap for swap, _ in savings], measure, before - given)


def _many_swaps(selection: Selection, swaps: Iterable[Swap], measure: Callable[[Use], int], excess: int) -> list[str]:
    """The largest swaps together until it fits, where a few are not enough; nothing where all are not."""
    taken: list[Swap] = []
    saved = 0
    for swap in swaps:
        if saved >= excess:
            break
        if swap.subject not in {item.subject for item in taken}:
            more = _saved(selection, [*taken, swap], measure)
            if more > saved:
                taken, saved = [*taken, swap], more
    text = " with ".join(swap.text for swap in taken)
    return [f"{text} (saves {saved:,})"] if saved >= excess else []


def _swaps(selection: Selection) -> Iterator[Swap]:
    settings = selection.settings
    if use_of(settings, selection.host, selection.chosen.values()).kept:
        text = "monitoringMb: 1, without room for monitoring"
        yield Swap(rank=2, subject="monitoring", text=text, change=_without_monitoring)
    for spec in selection.chosen.values():
        if spec.model_memory is not None:
            yield from _tight(selection, spec)
            yield from _model_swaps(selection, spec)
        for item in spec.alternatives:
            yield Swap(
                rank=2,
                subject=spec.name,
                text=f"{item.service} instead of {spec.name}, without {item.loss}: services: [{item.service}], "
                f"without: [{spec.name}]",
                change=_instead(spec.name, item.service),
            )
        if spec.name not in settings.services:
            text = f"without: [{spec.name}]"
            yield Swap(rank=3, subject=spec.name, text=text, change=_without(spec.name))
        else:
            text = f"services without {spec.name}"
            yield Swap(rank=3, subject=spec.name, text=text, change=_unnamed(spec.name))


def _tight(selection: Selection, spec: ServiceSpec) -> Iterator[Swap]:
    """No more memory for the models than they need, where all of them are known."""
    needed = models_need(selection.settings, selection.host, spec)
    if needed and not unknown_models(selection.settings, spec):
        room = _rounded(needed)
        yield Swap(rank=0, subject="models", text=f"modelMemoryMb: {room}", change=_with_room(room))


def _model_swaps(selection: Selection, spec: ServiceSpec) -> Iterator[Swap]:
    """One model smaller, the nearest sizes first, with the memory that is enough then."""
    settings = selection.settings
    assert spec.model_memory is not None  # noqa: S101 - only asked of services that hold models
    names = spec.model_memory.models(settings)
    known = sorted((found for name in names if (found := models.of(name))), key=lambda it: -it.weights_mb)
    for model in known:
        for other in models.smaller(model.name):
            changed = _with_model(settings, names, model.name, other)
            if changed is None or other in names:
                continue
            # Those that take turns already go on doing so.
            room = min(
                _rounded(models_need(changed, selection.host, spec)), models_room(settings, selection.host, spec)
            )
            yield Swap(
                rank=1,
                subject="models",
                text=f"{other} instead of {model.name}, modelMemoryMb: {room}",
                model=f"{other} instead of {model.name}",
                change=_replaced(names, model.name, other, room),
            )


def _with_model(settings: Settings, names: tuple[str, ...], old: str, new: str) -> Settings | None:
    """The settings with one model for another; None for one that embeds, whose vectors are stored already."""
    chats = settings.models or tuple(name for name in names if not _embeds(name))
    if old not in chats or _embeds(old):
        return None
    return replace(settings, models=tuple(new if name == old else name for name in chats))


def _embeds(name: str) -> bool:
    found = models.of(name)
    return found is not None and found.embeds


def _replaced(names: tuple[str, ...], old: str, new: str, room: int) -> Callable[[Settings], Settings]:
    return lambda settings: replace(_with_model(settings, names, old, new) or settings, model_memory_mb=room)


def _with_room(room: int) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, model_memory_mb=room)


def _without_monitoring(settings: Settings) -> Settings:
    return replace(settings, monitoring_mb=1)


def _without(name: str) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, without=(*settings.without, name))


def _unnamed(name: str) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, services=tuple(item for item in settings.services if item != name))


def _instead(name: str, other: str) -> Callable[[Settings], Settings]:
    def change(settings: Settings) -> Settings:
        kept = tuple(item for item in settings.services if item not in (name, other))
        return replace(settings, services=(*kept, other), without=(*settings.without, name))

    return change


def _saved(selection: Selection, swaps: Iterable[Swap], measure: Callable[[Use], int]) -> int:
    """MB that swaps save together; 0 where the services could not be chosen then, or nothing would run."""
    settings, host = selection.settings, selection.host
    before = measure(use_of(settings, host, selection.chosen.values()))
    for swap in swaps:
        settings = swap.change(settings)
    if settings.monitoring_mb != selection.settings.monitoring_mb:
        host = replace(host, observe_mb=settings.monitoring_mb or host.observe_mb)
    after = selection
    if (settings.services, settings.without) != (selection.settings.services, selection.settings.without):
        after = resolve(settings, host, selection.catalog.values())
        if len(after.problems) > len(selection.problems) or not after.chosen:
            return 0
    return max(0, before - measure(use_of(settings, host, after.chosen.values())))


def _rounded(size: int) -> int:
    return -(-size // STEP_MB) * STEP_MB


def _shares(sizes: Mapping[str, int]) -> str:
    """Who takes what, the largest first."""
    return " · ".join(f"{name} {size:,}" for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
