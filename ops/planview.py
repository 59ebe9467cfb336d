"""The plan as a person reads it (a table) and as a program does (an object). Needs no engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ops.console import KitError
from stack import catalog, images, plan, settings, targets
from stack.derive import forward_auth
from stack.model import Access, ImagePin, ImageSource, Publish, ResourceLimits, Target, Zone, standin_in
from stack.plan import Plan, PlannedContainer, PlannedService, image_reference
from stack.planning.budget import Use, card_need, models_need, models_room, unknown_models, use_of
from stack.planning.resolve import holders

BAR = 30  # characters
FOOTPRINTS = "bench/footprints"  # one file per target, written by bench/footprint.py
GAP = "  "
ELLIPSIS = "…"
HEADINGS = ("service", "why", "idle", "memory", "cpu", "zones", "reached at")
RIGHT = frozenset({"idle", "memory", "cpu"})
# Which columns give way in a narrow terminal, in this order, and to how many characters.
SHRINK = (("why", 16), ("reached at", 24), ("zones", 8), ("why", 8))

WHO: Mapping[Access, str] = {
    Access.PUBLIC: "open",
    Access.APP: "login",
    Access.SSO: "login",
    Access.ADMIN: "admins",
    Access.MACHINE: "keys",
}


def load_plan(root: Path, stack: str, overrides: Mapping[str, object] = MappingProxyType({})) -> Plan:
    """The plan of a stack from its files alone. SpecError with every problem when it cannot be planned."""
    services = catalog.discover()
    decided = settings.from_files(
        root, stack, catalog.provided_keys(services), overrides, profiles=catalog.profiles(services)
    )
    return plan.build(decided, targets.profile(decided), services)


# ------------------------------------------------------------------------------------------------------ table


def table(
    resolved: Plan, width: int = 120, *, bars: bool = True, measured: Mapping[str, Footprint] = MappingProxyType({})
) -> str:
    """The plan in at most `width` columns: what runs, why, what it costs, where it is reached.

    bars: drawn, for a terminal; otherwise the figures alone. measured: what services take idle, by name.
    """
    rows = [_row(resolved, service, measured) for service in resolved.services]
    lines = [_headline(resolved), ""]
    lines += [f"{GAP}{line}" for line in _columns([HEADINGS, *rows], width - len(GAP))]
    lines += [f"{GAP}{line}" for line in left_out(resolved)]
    lines += ["", *(f"{GAP}{line}" for line in _budget(resolved, width - len(GAP), bars=bars))]
    lines += [f"{GAP}{line}" for line in _measured_note(resolved, measured)]
    for text in (emulation(resolved), standins(resolved)):
        lines += ["", f"{GAP}{text}"] if text else []
    if resolved.settings.down:
        lines += ["", f"{GAP}The stack is down: none of this runs. Volumes, secrets and users are kept."]
    return "\n".join(lines) + "\n"


def _headline(resolved: Plan) -> str:
    host = resolved.host
    ready, used = image_counts(resolved)
    if resolved.settings.images is ImageSource.AIRGAP:
        source = f"images built locally, {ready} of {used} ready"
    else:
        source = f"images from the registry, {ready} of {used} locked"
    name = resolved.stack if resolved.stack == host.target else f"{resolved.stack} ({host.target})"
    gigabytes = round(host.memory_mb / 1024, 1)
    machine = [name, " and ".join(sorted(host.arches)), f"{gigabytes:g} GB", f"{host.cpus:g} CPUs"]
    return " · ".join([*machine, *(["GPU"] if host.gpu else []), source])


def _row(resolved: Plan, service: PlannedService, measured: Mapping[str, Footprint]) -> tuple[str, ...]:
    if service.retired:
        return (service.name, "retired, data kept", "", "-", "-", "-", "-")
    known = measured.get(service.name)
    return (
        service.name,
        ", ".join(service.why),
        f"{known.idle_mb:,.0f} of" if known else "",
        f"{service.memory_mb:,} MB",
        f"{service.cpus:.1f}",
        " ".join(_zones(service.containers)),
        ", ".join(_reached_at(resolved, service)) or "-",
    )


def left_out(resolved: Plan) -> list[str]:
    """What is missing: services, because of where images come from, and the way to routes that need a login."""
    source = resolved.settings.images
    lines = [f"{name} is left out: with images: {source}, {reason}" for name, reason in resolved.left_out.items()]
    if forward_auth.provider(resolved) is None:
        for owned in forward_auth.guarded(resolved):
            host = resolved.url(owned.item).removeprefix("https://")
            lines.append(f"{host} stays shut: it needs a login, and no service of this plan asks for one")
    return lines


def _reached_at(resolved: Plan, service: PlannedService) -> Iterable[str]:
    for route in service.spec.routes:
        who = " or ".join(f"{role}s" for role in route.roles) or WHO[route.access]
        yield f"{resolved.url(route).removeprefix('https://')} ({who})"
    ports: dict[str, list[str]] = {}
    for publish in _published(service):
        address = "127.0.0.1" if publish.loopback_only else resolved.settings.bind_address
        ports.setdefault(address, []).append(str(publish.external(resolved.settings)))
    for address, numbers in ports.items():
        yield f"{f'[{address}]' if ':' in address else address}:{'/'.join(numbers)}"


def _published(service: PlannedService) -> Iterable[Publish]:
    return (publish for container in service.containers for publish in container.spec.publish)


def _zones(containers: Iterable[PlannedContainer]) -> list[str]:
    used = {zone for container in containers for zone in container.spec.zones}
    return [zone.value for zone in Zone if zone in used]


def standins(resolved: Plan) -> str:
    """Which images are stand-ins, and for what; "" where every server is the real one."""
    found: list[str] = []
    for pin in used_images(resolved):
        if name := standin_in(image_reference(resolved.settings, pin)[0]):
            found.append(f"{name} runs in place of {pin.repository}")
    return f"{', '.join(found)}: a stand-in proves nothing about the real server" if found else ""


def retired(resolved: Plan) -> str:
    """Whose data is kept although nothing of it runs; "" where there is none."""
    names = [service.name for service in resolved.services if service.retired]
    return f"not selected, so nothing of it runs; data and secrets are kept: {', '.join(names)}" if names else ""


def moved(resolved: Plan, before: Mapping[str, Any]) -> list[str]:
    """What other values than `before` mean for what is there already. before: values by key, as they were last."""
    found: list[str] = []
    for service in resolved.running:
        for choice in service.spec.choices:
            was = before.get(choice.key)  # None: the service did not run then, so there is nothing to move
            now = choice.read(resolved.settings)
            if was is not None and was != now and choice.moved:
                found.append(f"{choice.key} {was} -> {now}: {choice.moved}")
    return found


def emulation(resolved: Plan) -> str:
    """That this is not the machine the plan is for, and what is cut because of it; "" where it is."""
    if not resolved.host.emulated:
        return ""
    cut = [
        f"{container.host_name} {container.declared.cpus:g} -> {container.limits.cpus:g} CPUs"
        + (f", not on cores {container.declared.cpuset}" if container.declared.cpuset else "")
        for service in resolved.services
        for container in service.containers
        if container.emulated
    ]
    what = "; ".join(cut) or "no limit had to be cut"
    return (
        f"emulated: {resolved.host.target} on {resolved.host.cpus:g} CPUs. {what}. Figures of speed mean nothing here."
    )


def _budget(resolved: Plan, width: int, *, bars: bool) -> list[str]:
    """Memory in all and by zone, and disk, each against what there is."""
    host, use = resolved.host, use_of_plan(resolved)
    used, given = _memory(resolved)
    rows: list[tuple[str, int, str]] = [("memory", used, f"{used:,} of {given:,} MB")]
    rows += [(f"  {zone}", size, f"{size:,} MB") for zone, size in use.by_zone.items()]
    if use.kept:
        rows.append(("  kept", use.kept, f"{use.kept:,} MB for monitoring"))
    names = max(len(name) for name, _, _ in rows)
    bar = min(BAR, width - names - 2 * len(GAP) - max(len(text) for _, _, text in rows))
    lines: list[str] = []
    for name, size, text in rows:
        # What takes something is seen, and what is not quite full does not look it.
        filled = min(bar if size >= given else bar - 1, max(round(bar * size / given), 1)) if bars and bar > 0 else 0
        empty = bar - filled if name == "memory" else 0
        drawn = f"{'█' * filled}{'░' * empty}".ljust(bar) + GAP if bars and bar > 0 else ""
        lines.append(f"{name.ljust(names)}{GAP}{drawn}{text}")
    parts = [f"images {use.images:,}", f"their next versions {use.images:,}"]
    parts += [f"models {use.models:,}"] if use.models else []
    disk = f"{'disk'.ljust(names)}{GAP}{use.disk:,} of {host.disk_gb * 1024:,} MB"
    detailed = f"{disk}: {', '.join(parts)}"
    lines += [f"{name.ljust(names)}{GAP}{text}" for name, text in _models(resolved)]
    return [*lines, detailed if len(detailed) <= width else disk]


def _models(resolved: Plan) -> Iterable[tuple[str, str]]:
    """What models take of the memory for them, and of the graphics card, when as many are held as may be."""
    settings, host = resolved.settings, resolved.host
    specs = [service.spec for service in resolved.services if not service.retired and service.spec.model_memory]
    for spec in specs:
        needed, room = models_need(settings, host, spec), models_room(settings, host, spec)
        unknown = unknown_models(settings, spec)
        notes = ["at once, by their names"] if needed else []
        notes += ["they take turns"] if needed > room else []
        notes += [f"of unknown size: {', '.join(unknown)}"] if unknown else []
        yield "models", f"{needed:,} of {room:,} MB {', '.join(notes)}" if needed else ", ".join(notes)
        if card := card_need(settings, host, spec):
            given = settings.gpu_memory_mb
            turns = ", they take turns" if given and card > given else ""
            yield "card", f"{card:,} of {given:,} MB{turns}" if given else f"{card:,} MB, of what gpuMemoryMb may say"


def use_of_plan(resolved: Plan) -> Use:
    """What the services that are not retired take of the host."""
    specs = [service.spec for service in resolved.services if not service.retired]
    return use_of(resolved.settings, resolved.host, specs)


def _memory(resolved: Plan) -> tuple[int, int]:
    """MB that the containers may take in all with what is kept for monitoring, and MB there are for them."""
    return use_of_plan(resolved).memory, resolved.host.memory_mb - resolved.host.reserve_mb


# --------------------------------------------------------------------------------------------------- measured


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a service takes when nobody uses it, as bench/footprint.py measured it on a target."""

    idle_mb: float
    version: str
    date: str
    images: str


def footprints(root: Path, target: Target) -> dict[str, Footprint]:
    """What was measured on a target, by service; nothing where nobody has measured. KitError for a broken file."""
    path = root / FOOTPRINTS / f"{target}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): Footprint(
                idle_mb=float(item["idle_mb"]),
                version=str(item["version"]),
                date=str(item["date"]),
                images=str(item["images"]),
            )
            for name, item in document["services"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = f"measure again: python3 -m bench.footprint; or take it back: git checkout {FOOTPRINTS}"
        raise KitError(f"{path} cannot be read ({error!r}).", fix) from None


def _measured_note(resolved: Plan, measured: Mapping[str, Footprint]) -> Iterable[str]:
    known = {name: item for service in resolved.services if (item := measured.get(name := service.name))}
    if known:
        oldest = min(item.date for item in known.values())
        total = sum(item.idle_mb for item in known.values())
        built = "; with images built here" if any(item.images == ImageSource.AIRGAP for item in known.values()) else ""
        count = f"{len(known)} of {len(resolved.services)} services"
        yield f"idle  {total:,.0f} MB measured for {count}, since {oldest}{built}"


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    empty = {index for index, name in enumerate(HEADINGS) if name == "idle" and not any(row[index] for row in rows[1:])}
    rows = [tuple(cell for index, cell in enumerate(row) if index not in empty) for row in rows]
    widths = {name: max(len(row[index]) for row in rows) for index, name in enumerate(rows[0])}
    for name, least in SHRINK:
        over = sum(widths.values()) + len(GAP) * (len(widths) - 1) - width
        widths[name] -= max(0, min(over, widths[name] - least))
    lines: list[str] = []
    for row in rows:
        cells: list[str] = []
        for text, (name, room) in zip(row, widths.items(), strict=True):
            short = text if len(text) <= room else text[: room - 1].rstrip(" ,") + ELLIPSIS
            cells.append(short.rjust(room) if name in RIGHT else short.ljust(room))
        lines.append(GAP.join(cells).rstrip())
    return lines


def used_images(resolved: Plan) -> list[ImagePin]:
    """Every image of the plan's containers and jobs, and the one that delivers their files, by name."""
    services = [service.spec for service in resolved.services if not service.retired]
    pins = {holder.image.name: holder.image for spec in services for holder in holders(spec)}
    pins[images.TOOLS.name] = images.TOOLS
    return [pins[name] for name in sorted(pins)]


def image_counts(resolved: Plan) -> tuple[int, int]:
    """How many images are locked to a digest, or built where they are built locally; and how many there are."""
    pins = used_images(resolved)
    if resolved.settings.images is ImageSource.AIRGAP:
        return sum(pin.name in resolved.settings.airgap_images for pin in pins), len(pins)
    references = {image_reference(resolved.settings, pin)[0] for pin in pins}
    return sum("@" in reference for reference in references), len(references)


# ----------------------------------------------------------------------------------------------------- object


def as_json(resolved: Plan, measured: Mapping[str, Footprint] = MappingProxyType({})) -> dict[str, Any]:
    """The plan as an object of plain values, in start order, the same for the same plan."""
    host, use = resolved.host, use_of_plan(resolved)
    used, given = _memory(resolved)
    ready, count = image_counts(resolved)
    return {
        "stack": resolved.stack,
        "target": host.target.value,
        "domain": resolved.settings.domain,
        "down": resolved.settings.down,
        "profiles": list(resolved.settings.profiles),
        "host": {
            "arches": sorted(arch.value for arch in host.arches),
            "docker_host": host.docker_host,
            "memory_mb": host.memory_mb,
            "reserve_mb": host.reserve_mb,
            "cpus": host.cpus,
            "disk_gb": host.disk_gb,
            "gpu": host.gpu,
            "page_size": host.page_size,
            "monitoring_mb": host.observe_mb,
            "emulated": host.emulated,
        },
        "images": resolved.settings.images.value,
        "images_used": count,
        "images_ready": ready,
        "memory": {
            "used_mb": used - use.kept,
            "available_mb": given - use.kept,
            "free_mb": given - used,
            "by_zone": {zone.value: size for zone, size in use.by_zone.items()},
            "kept_for_monitoring_mb": use.kept,
        },
        "disk": {
            "images_mb": use.images,
            "next_images_mb": use.images,
            "models_mb": use.models,
            "available_mb": host.disk_gb * 1024,
        },
        "models": list(resolved.settings.models),
        "card": {
            "models_mb": sum(card_need(resolved.settings, host, service.spec) for service in resolved.services),
            "available_mb": resolved.settings.gpu_memory_mb,
        },
        "services": [_service(resolved, service, measured) for service in resolved.services],
        "left_out": dict(resolved.left_out),
    }


def _service(resolved: Plan, service: PlannedService, measured: Mapping[str, Footprint]) -> dict[str, Any]:
    known = measured.get(service.name)
    return {
        "name": service.name,
        "summary": service.spec.summary,
        "why": _why(service),
        "retired": service.retired,
        "image": service.containers[0].image if service.containers else None,
        "memory_mb": service.memory_mb,
        **({"measured": asdict(known)} if known else {}),
        "cpus": service.cpus,
        "zones": _zones(service.containers),
        "starts_after": list(service.starts_after),
        "routes": [
            {
                "name": route.name,
                "host": resolved.host_name(route),
                "url": resolved.url(route),
                "access": route.access.value,
            }
            for route in service.spec.routes
            if not service.retired
        ],
        "publishes": [publish.external(resolved.settings) for publish in _published(service)],
        "containers": [_container(container) for container in service.containers],
        "jobs": [job.name for job in service.spec.jobs if not service.retired],
        "volumes": [volume.name for volume in service.spec.volumes],
        "databases": [database.name for database in service.spec.databases if not service.retired],
        "proofs": [proof.title for proof in service.spec.proofs if not service.retired],
    }


def _why(service: PlannedService) -> str:
    if service.retired or service.why[0].startswith("profile ") or service.why == ("named",):
        return ", ".join(service.why)
    return f"needed by {', '.join(service.why)}"


def _container(container: PlannedContainer) -> dict[str, Any]:
    limits: ResourceLimits = container.limits
    return {
        "name": container.docker_name,
        "image": container.image,
        "local_image": container.local_image,
        "standin": bool(standin_in(container.image)),
        "memory_mb": limits.memory_mb,
        "cpus": limits.cpus,
        "gpu": limits.gpu,
        "zones": _zones([container]),
    }
