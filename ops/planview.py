"""The plan as a person reads it (a table) and as a program does (an object). Needs no engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stack import catalog, images, plan, settings, targets
from stack.model import Access, ImagePin, ImageSource, Publish, ResourceLimits, Zone
from stack.plan import Plan, PlannedContainer, PlannedService
from stack.planning.resolve import holders

BAR = 30  # characters
GAP = "  "
ELLIPSIS = "…"
HEADINGS = ("service", "why", "memory", "cpu", "zones", "reached at")
RIGHT = frozenset({"memory", "cpu"})
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
    decided = settings.from_files(root, stack, catalog.provided_keys(services), overrides)
    return plan.build(decided, targets.profile(decided), services)


# ------------------------------------------------------------------------------------------------------ table


def table(resolved: Plan, width: int = 120) -> str:
    """The plan in at most `width` columns: what runs, why, what it costs, where it is reached."""
    rows = [_row(resolved, service) for service in resolved.services]
    lines = [_headline(resolved), ""]
    lines += [f"{GAP}{line}" for line in _columns([HEADINGS, *rows], width - len(GAP))]
    lines += ["", f"{GAP}{_memory_line(resolved)}"]
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
    machine = [name, " and ".join(sorted(host.arches)), f"{host.memory_mb / 1024:g} GB", f"{host.cpus:g} CPUs"]
    return " · ".join([*machine, *(["GPU"] if host.gpu else []), source])


def _row(resolved: Plan, service: PlannedService) -> tuple[str, ...]:
    if service.retired:
        return (service.name, "retired, data kept", "-", "-", "-", "-")
    return (
        service.name,
        ", ".join(service.why),
        f"{service.memory_mb:,} MB",
        f"{service.cpus:.1f}",
        " ".join(_zones(service.containers)),
        ", ".join(_reached_at(resolved, service)) or "-",
    )


def _reached_at(resolved: Plan, service: PlannedService) -> Iterable[str]:
    for route in service.spec.routes:
        yield f"{resolved.url(route).removeprefix('https://')} ({WHO[route.access]})"
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


def _memory_line(resolved: Plan) -> str:
    used, given = _memory(resolved)
    filled = min(BAR, round(BAR * used / given))
    return f"memory  {'█' * filled}{'░' * (BAR - filled)}  {used:,} of {given:,} MB"


def _memory(resolved: Plan) -> tuple[int, int]:
    """MB that the containers may take in all, and MB there are for them."""
    used = sum(service.memory_mb for service in resolved.services)
    return used, resolved.host.memory_mb - resolved.host.reserve_mb


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    widths = {name: max(len(row[index]) for row in rows) for index, name in enumerate(HEADINGS)}
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
    references = {pin.reference for pin in pins}
    return sum("@" in reference for reference in references), len(references)


# ----------------------------------------------------------------------------------------------------- object


def as_json(resolved: Plan) -> dict[str, Any]:
    """The plan as an object of plain values, in start order, the same for the same plan."""
    host = resolved.host
    used, given = _memory(resolved)
    ready, count = image_counts(resolved)
    return {
        "stack": resolved.stack,
        "target": host.target.value,
        "domain": resolved.settings.domain,
        "down": resolved.settings.down,
        "profiles": [profile.value for profile in resolved.settings.profiles],
        "host": {
            "arches": sorted(arch.value for arch in host.arches),
            "docker_host": host.docker_host,
            "memory_mb": host.memory_mb,
            "reserve_mb": host.reserve_mb,
            "cpus": host.cpus,
            "disk_gb": host.disk_gb,
            "gpu": host.gpu,
            "page_size": host.page_size,
        },
        "images": resolved.settings.images.value,
        "images_used": count,
        "images_ready": ready,
        "memory": {"used_mb": used, "available_mb": given, "free_mb": given - used},
        "models": list(resolved.settings.models),
        "services": [_service(resolved, service) for service in resolved.services],
    }


def _service(resolved: Plan, service: PlannedService) -> dict[str, Any]:
    return {
        "name": service.name,
        "summary": service.spec.summary,
        "why": _why(service),
        "retired": service.retired,
        "image": service.containers[0].image if service.containers else None,
        "memory_mb": service.memory_mb,
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
    if service.retired or service.why[0].startswith("profile "):
        return ", ".join(service.why)
    return f"needed by {', '.join(service.why)}"


def _container(container: PlannedContainer) -> dict[str, Any]:
    limits: ResourceLimits = container.limits
    return {
        "name": container.docker_name,
        "image": container.image,
        "local_image": container.local_image,
        "memory_mb": limits.memory_mb,
        "cpus": limits.cpus,
        "gpu": limits.gpu,
        "zones": _zones([container]),
    }
