"""What each service of a running stack takes when nobody uses it: the figures that ./kit plan shows beside the limits.

    .venv/bin/python -m bench.footprint [STACK] [--minutes N] [--only SERVICE ...]
    .venv/bin/python -m bench.footprint [STACK] --profiles    # measures nothing: sums what is known, by profile

The figure is the anonymous memory of the container's cgroup (the page cache goes when somebody needs it, so it is left
out), the median of a sample every five seconds over N minutes, summed over a service's containers. It is written to
bench/footprints/<target>.json with the day, the version and where the image came from; other services' figures stay.
Bring the stack up, let it come to rest, and leave it alone meanwhile: the job that loads models, say, must be over.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ops.console import KitError
from ops.engine import DockerApi
from ops.enginestate import look
from ops.paths import ROOT
from ops.planview import FOOTPRINTS, footprints, load_plan
from ops.session import Session
from stack.catalog import discover, profiles
from stack.model import SpecError
from stack.plan import Plan

EVERY_S = 5.0
MIB = 2**20
VERSION_LABEL = "org.opencontainers.image.version"


def cgroup_of(text: str, root: Path = Path("/sys/fs/cgroup")) -> Path:
    """Where the memory of a process is accounted, from its /proc/<pid>/cgroup. ValueError when it is nowhere."""
    unified = ""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):  # version 1, or both side by side
            return root / "memory" / path.lstrip("/") / "memory.stat"
        if not controllers:
            unified = path
    if not unified:
        raise ValueError("no memory cgroup")
    return root / unified.lstrip("/") / "memory.stat"


def anonymous_mb(stat: str) -> float:
    """MB of anonymous memory in a memory.stat: `anon` of version 2, `total_rss` of version 1."""
    found = dict(line.split() for line in stat.splitlines() if line)
    for name in ("anon", "total_rss"):
        if name in found:
            return int(found[name]) / MIB
    raise ValueError("memory.stat names neither anon nor total_rss")


def medians(samples: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each container, over the samples in which it was there."""
    series: dict[str, list[float]] = {}
    for sample in samples:
        for name, size in sample.items():
            series.setdefault(name, []).append(size)
    return {name: round(statistics.median(values), 1) for name, values in sorted(series.items())}


def merged(document: Mapping[str, Any], target: str, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The file's new content: what was measured now in place of what was, all else kept, by name."""
    services = {**document.get("services", {}), **measured}
    return {"target": target, "services": {name: services[name] for name in sorted(services)}}


class Watched:
    """The planned containers of a stack on this machine's engine, and where their memory is accounted."""

    def __init__(self, docker: DockerApi, plan: Plan, only: frozenset[str]) -> None:
        planned = {item.docker_name: service.name for service in plan.running for item in service.containers}
        self.service: dict[str, str] = {}
        self.version: dict[str, str] = {}
        self.image: dict[str, str] = {}
        self._stat: dict[str, Path] = {}
        for container in look(docker.get, plan.stack).containers:
            service = planned.get(container.name)
            if service is None or (only and service not in only):
                continue  # a job's, or not asked for
            if container.state != "running" or container.health not in ("healthy", ""):
                raise KitError(f"{container.name} is {container.status}.", "Measure a stack that is well and at rest.")
            detail = docker.get(f"/containers/{container.id}/json")
            image = docker.get(f"/images/{detail['Image']}/json")
            labels = (image.get("Config") or {}).get("Labels") or {}
            self.service[container.name] = service
            self.image[container.name] = str(detail["Config"]["Image"])
            tag = self.image[container.name].partition("@")[0].rpartition(":")[2]
            self.version[container.name] = str(labels.get(VERSION_LABEL) or tag)
            self._stat[container.name] = cgroup_of(Path(f"/proc/{detail['State']['Pid']}/cgroup").read_text())

    def sample(self) -> dict[str, float]:
        return {name: anonymous_mb(path.read_text()) for name, path in self._stat.items()}


def watch(
    sample: Callable[[], Mapping[str, float]],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Mapping[str, float]]:
    """A sample at once and then every five seconds, for so long."""
    found: list[Mapping[str, float]] = []
    end = clock() + seconds
    while True:
        found.append(sample())
        if clock() + EVERY_S > end:
            return found
        sleep(EVERY_S)


def by_service(
    watched: Watched, found: Mapping[str, float], *, images: str, minutes: float, samples: int, prefix: str
) -> dict[str, dict[str, Any]]:
    """What was measured, as it stands in the file."""
    result: dict[str, dict[str, Any]] = {}
    for name, size in found.items():
        service = watched.service[name]
        entry = result.setdefault(
            service,
            {
                "idle_mb": 0.0,
                "containers": {},
                "version": "",
                "images": images,
                "date": datetime.now(UTC).date().isoformat(),
                "minutes": minutes,
                "samples": samples,
            },
        )
        entry["containers"][name.removeprefix(prefix)] = size
        entry["idle_mb"] = round(entry["idle_mb"] + size, 1)
        if name.removeprefix(prefix) == service or not entry["version"]:  # the main container's
            entry["version"] = watched.version[name]
    return result


def by_profile(stack: str) -> Iterator[str]:
    """A line for each profile alone, with all that it needs: MB idle, and which services nobody has measured."""
    for profile in profiles(discover()):
        # Room for anything: the sum is asked for, not whether it fits.
        try:
            plan = load_plan(ROOT, stack, {"profiles": [profile], "memoryMb": 2**20})
        except SpecError as error:
            yield f"  {profile:<12} not planned: {'; '.join(problem.where for problem in error.problems)}"
            continue
        known = footprints(ROOT, plan.host.target)
        names = [service.name for service in plan.running if service.containers]
        unknown = [name for name in names if name not in known]
        idle = sum(known[name].idle_mb for name in names if name in known)
        yield f"  {profile:<12} {idle:7.0f} MB  {', '.join(name for name in names if name in known)}" + (
            f"; not measured: {', '.join(unknown)}" if unknown else ""
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.footprint", description=__doc__)
    parser.add_argument("stack", nargs="?", default="dev")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to watch (%(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="SERVICE", help="only this one; repeatable")
    parser.add_argument("--profiles", action="store_true", help="what is known, summed for each profile")
    arguments = parser.parse_args()
    if arguments.profiles:
        print(*by_profile(arguments.stack), sep="\n")
        return
    session = Session(arguments.stack)
    plan = session.plan()
    if session.docker_host:
        raise SystemExit("the stack is on another machine: measure there, where its cgroups are")
    if plan.host.emulated:
        raise SystemExit(f"this machine only stands in for {plan.host.target}: its figures would be none of its own")
    watched = Watched(session.docker, plan, frozenset(arguments.only))
    if not watched.service:
        raise SystemExit(f"nothing of stack {session.stack} runs: ./kit up {session.stack}")
    print(f"{len(watched.service)} containers, {arguments.minutes:g} minutes", flush=True)
    samples = watch(watched.sample, arguments.minutes * 60)
    found = medians(samples)
    measured = by_service(
        watched,
        found,
        images=session.chosen_images or "registry",
        minutes=arguments.minutes,
        samples=len(samples),
        prefix=session.prefix,
    )
    path = ROOT / FOOTPRINTS / f"{plan.host.target}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(merged(known, str(plan.host.target), measured), indent=2) + "\n", encoding="utf-8")
    for name, entry in sorted(measured.items()):
        limit = plan.service(name).memory_mb
        print(f"  {name:<20} {entry['idle_mb']:8.1f} of {limit:,} MB   {entry['version']}")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        raise SystemExit(error.render()) from None
