"""What the benchmarks share: a clock that watches the engine from outside, clean-up, medians, a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ops.engine import DockerApi
from ops.enginestate import STACK_LABEL, EngineState, look

POLL_S = 0.1


@dataclass
class Series:
    """One figure over several runs, in seconds unless the name says otherwise."""

    name: str
    values: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        spread = f"{min(self.values):8.2f} {self.median:8.2f} {max(self.values):8.2f}"
        return f"  {self.name:<44} {spread}   n={len(self.values)}"


def header(title: str) -> str:
    """What was measured on what."""
    load = os.getloadavg()[0]
    return f"{title}\n{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start"


def table(series: Sequence[Series]) -> str:
    """min, median, max of each."""
    head = f"  {'seconds':<44} {'min':>8} {'median':>8} {'max':>8}"
    return "\n".join([head, *(one.row() for one in series if one.values)])


def ratios(name: str, a: Series, b: Series) -> Series:
    """a/b pair by pair: what survives a machine whose speed drifts."""
    return Series(name, [x / y for x, y in zip(a.values, b.values, strict=True)])


def all_ready(engine: EngineState, healthy: frozenset[str], succeeded: frozenset[str]) -> bool:
    """Whether every container of the first set is healthy and every one of the second ended with 0."""
    seen = {container.name: container for container in engine.containers}
    return all(name in seen and seen[name].health == "healthy" for name in healthy) and all(
        name in seen and seen[name].status.startswith("Exited (0)") for name in succeeded
    )


@dataclass(frozen=True)
class Timed:
    """to_ready: until the engine showed everything ready. total: until the command came back."""

    to_ready: float
    total: float


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    directory: Path,
    stack: str,
    ready: Callable[[EngineState], bool],
    log: Path,
) -> Timed:
    """Run the command and watch the engine meanwhile. RuntimeError with the log's name when it fails."""
    docker = DockerApi()
    reached: float | None = None
    with log.open("ab") as out:
        start = time.monotonic()
        process = subprocess.Popen(
            command, env=dict(env), cwd=directory, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
        while process.poll() is None:
            if reached is None and ready(look(docker.get, stack)):
                reached = time.monotonic() - start
            time.sleep(POLL_S)
    total = time.monotonic() - start
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])} ... failed with {process.returncode}: see {log}")
    while reached is None:
        if ready(look(docker.get, stack)):
            reached = time.monotonic() - start
        elif time.monotonic() - start > total + 120:
            raise RuntimeError(f"not everything became ready: see {log}")
        time.sleep(POLL_S)
    return Timed(to_ready=reached, total=total)


def sweep(stack: str) -> None:
    """Remove every container, network and volume that carries the benchmark stack's label, whoever made it."""
    if not stack.startswith("bench"):
        raise ValueError(f"{stack} is no stack of a benchmark")
    docker = DockerApi()
    query = urllib.parse.quote(json.dumps({"label": [f"{STACK_LABEL}={stack}"]}))
    for container in docker.get(f"/containers/json?all=1&filters={query}"):
        docker.delete(f"/containers/{container['Id']}?force=1&v=1")
    state = look(docker.get, stack)
    for network in state.networks:
        docker.delete(f"/networks/{network}")
    prefix = f"kit-{stack}-"
    for volume in [*state.volumes, *(name for name in state.all_volumes if name.startswith(prefix))]:
        if volume in look(docker.get, stack).all_volumes:
            docker.delete(f"/volumes/{volume}?force=1")


@contextmanager
def swept(stack: str) -> Iterator[None]:
    """Nothing of the stack before, and nothing after, however it ends."""
    sweep(stack)
    try:
        yield
    finally:
        sweep(stack)
