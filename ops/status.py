"""./kit status: what runs, healthy or not, since when, with how much memory, and where to reach it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from ops import authority, certificates, console, planview
from ops.console import KitError
from ops.enginestate import JOB_KIND, KIND_LABEL, EngineState, RunningContainer, look
from ops.session import Session
from stack.plan import Plan

NOT_HEALTHY = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """A planned container as it is. state: "missing" when there is none. since: "" when it does not run."""

    service: str
    container: str
    state: str
    health: str
    since: str
    memory_mb: int | None
    limit_mb: int
    urls: tuple[str, ...]

    @property
    def fine(self) -> bool:
        return self.state == "running" and self.health in ("healthy", "")


def rows(plan: Plan, engine: EngineState, memory: Mapping[str, int]) -> list[Row]:
    """One row per planned container, in start order."""
    found = {container.name: container for container in engine.containers}
    result: list[Row] = []
    for service in plan.running:
        urls = tuple(plan.url(route) for route in service.spec.routes)
        for index, planned in enumerate(service.containers):
            container = found.get(planned.docker_name)
            result.append(
                Row(
                    service=service.name,
                    container=planned.docker_name,
                    state=container.state if container else "missing",
                    health=container.health if container else "",
                    since=since(container) if container else "",
                    memory_mb=memory.get(planned.docker_name),
                    limit_mb=planned.limits.memory_mb,
                    urls=urls if index == 0 else (),
                )
            )
    return result


def since(container: RunningContainer) -> str:
    """How long it has been running, in the engine's words: "Up About a minute (healthy)" -> "about a minute"."""
    match = re.match(r"Up ([^(]+)", container.status)
    return match.group(1).strip().replace("About", "about").replace("Less", "less") if match else ""


def leftovers(plan: Plan, engine: EngineState) -> list[str]:
    """Containers of the stack that the plan does not have: not yet brought up to date."""
    planned = {container.docker_name for service in plan.running for container in service.containers}
    return sorted(
        container.name
        for container in engine.containers
        if container.name not in planned and container.labels.get(KIND_LABEL) == "service"
    )


def table(found: Iterable[Row]) -> list[str]:
    """The rows for a person."""
    lines: list[tuple[str, ...]] = [("", "service", "container", "state", "health", "since", "memory", "url")]
    for row in found:
        symbol = console.OK if row.fine else console.WARN if row.health == "starting" else console.FAIL
        memory = f"{row.memory_mb:,} of {row.limit_mb:,} MB" if row.memory_mb is not None else "-"
        lines.append(
            (
                symbol,
                row.service,
                row.container,
                row.state,
                row.health or "-",
                row.since or "-",
                memory,
                " ".join(row.urls),
            )
        )
    text = console.table(lines, right=frozenset({6}))
    return [text[0], *(console.mark(line[0]) + line[1:] for line in text[1:])]


def memory_of(session: Session, containers: Iterable[RunningContainer]) -> dict[str, int]:
    """MB in use, without what the kernel can drop, by container name."""
    running = [container for container in containers if container.state == "running"]

    def ask(container: RunningContainer) -> tuple[str, int]:
        stats = session.docker.get(f"/containers/{container.id}/stats?stream=false&one-shot=true")
        usage = stats.get("memory_stats") or {}
        detail = usage.get("stats") or {}
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        return container.name, max(0, int(usage.get("usage", 0)) - int(cache)) // 2**20

    if not running:
        return {}
    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(pool.map(ask, running))


def run(arguments: argparse.Namespace) -> int:
    """0 when everything planned runs and is healthy, 3 otherwise."""
    session = Session(arguments.stack)
    if arguments.show_login:
        return show_login(session)
    from ops.facts import engine_facts

    facts, trouble = engine_facts(session)
    if facts is None:
        raise KitError(*trouble, code=NOT_HEALTHY)
    plan = session.plan()
    engine = look(session.docker.get, session.stack)
    services = [c for c in engine.containers if c.labels.get(KIND_LABEL) != JOB_KIND]
    found = rows(plan, engine, memory_of(session, services))
    fine = bool(found) and all(row.fine for row in found)
    front = certificates.shown(plan)
    if arguments.json:
        document = {
            "stack": session.stack,
            "healthy": fine,
            "emulated": plan.host.emulated,
            "containers": [asdict(row) for row in found],
            "data_volumes": engine.data_volumes,
            "certificate": {"days": round(front.days, 1), "ends": front.ends.isoformat(), "signed_by": front.signed_by}
            if front
            else None,
        }
        console.say(json.dumps(document, indent=2))
        return 0 if fine else NOT_HEALTHY
    name = "" if session.stack == "dev" else f" {session.stack}"
    if not services:
        kept = f" Its data is kept in {len(engine.data_volumes)} volumes." if engine.data_volumes else ""
        console.say(f"Nothing of stack {session.stack} runs.{kept} Start it: ./kit up{name}")
        return NOT_HEALTHY
    for line in table(found):
        console.say(line)
    if text := planview.emulation(plan):
        console.warn(text)
    for line in authority.overlap(session, plan):
        console.note(line)
    noted, warned = certificates.lines(plan, front)
    for line in noted:
        console.note(line)
    for line in warned:
        console.warn(line)
    for extra in leftovers(plan, engine):
        console.warn(f"{extra} is no longer planned: ./kit up{name} removes it")
    if not fine:
        console.say()
        console.say(f"Not everything is well: ./kit up{name} repairs what is missing or stopped.")
    return 0 if fine else NOT_HEALTHY


def show_login(session: Session) -> int:
    """Print the first user's name and password, and the keys that are handed out: only ever because somebody asked."""
    outputs = session.outputs(session.ready_pulumi())
    console.say(f"user      {outputs.get('adminUser')}")
    console.say(f"password  {outputs.get('adminPassword')}")
    for name, value in sorted((outputs.get("keys") or {}).items()):
        console.say(f"key       {name}  {value}")
    return 0
