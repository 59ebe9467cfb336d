"""How many webhooks a stack with n8n answers a second, with all of its workers and with fewer.

    .venv/bin/python -m bench.webhooks STACK [-n CALLS] [-c AT_A_TIME] [--workers 4,2,1]

Needs a stack that is up with the profile automation and n8nWorkers as large as the largest count. The workflow is the
proof's: a webhook, a Code node (which runs in a task runner), its result as the answer; every call goes through the
front door. Workers that should not take part are stopped meanwhile and started again. What was made is removed
afterwards. A call without an answer after a minute is counted, not hidden.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from bench.measure import header
from ops import prove
from ops.engine import DockerApi
from ops.session import Session
from stack.outputs import StackOutputs
from stack.plan import PlannedContainer
from stack.proofs import n8n

PATIENCE_S = 60
WORKER = "worker-"


@dataclass(frozen=True)
class Answered:
    """seconds: of each answered call. lost: calls that nobody answered. wall: seconds for all of them."""

    seconds: tuple[float, ...]
    lost: int
    wall: float

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        middle, slow = (1000 * ordered[int(len(ordered) * part)] for part in (0.5, 0.95))
        said = f"{len(ordered) / self.wall:6.1f}/s, median {middle:5.0f} ms, 95 % {slow:5.0f} ms"
        return f"{said}, {self.lost} without an answer" if self.lost else said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack")
    parser.add_argument("-n", type=int, default=400, metavar="CALLS")
    parser.add_argument("-c", type=int, default=16, metavar="AT_A_TIME")
    parser.add_argument("--workers", default="4,2,1", help="counts to compare (4,2,1)")
    arguments = parser.parse_args()
    session = Session(arguments.stack)
    plan, outputs = session.plan(), StackOutputs.from_dict(session.outputs(session.ready_pulumi()))
    engine = DockerApi(plan.settings.docker_host)
    workers = [each for each in plan.service("n8n").containers if each.spec.name.startswith(WORKER)]
    print(header(f"webhooks through the front door: {arguments.n} calls, {arguments.c} at a time"))
    with prove.acting(outputs, plan, "n8n") as context:
        path = f"{context.prefix}bench"
        url = f"{context.url(n8n.ROUTE)}/webhook/{path}"
        try:
            n8n.make(context, path)
            for count in [int(number) for number in arguments.workers.split(",")]:
                if count > len(workers):
                    print(f"  {count} workers: the stack has {len(workers)} (n8nWorkers)")
                    continue
                _only(engine, workers, count)
                browsers = [context.stranger() for _ in range(arguments.c)]
                measure(browsers, url, 2 * arguments.c)  # warm
                print(f"  {count} workers: {measure(browsers, url, arguments.n)}", flush=True)
        finally:
            _only(engine, workers, len(workers))
            n8n.cleanup(context)


def measure(browsers: Sequence[httpx.Client], url: str, calls: int) -> Answered:
    """The calls, shared among the browsers, one at a time in each."""
    share = [calls // len(browsers)] * len(browsers)
    begin = time.monotonic()
    with ThreadPoolExecutor(len(browsers)) as pool:
        parts = list(pool.map(lambda browser, count: _calls(browser, url, count), browsers, share))
    taken = tuple(seconds for part in parts for seconds in part if seconds is not None)
    return Answered(taken, sum(part.count(None) for part in parts), time.monotonic() - begin)


def _calls(browser: httpx.Client, url: str, count: int) -> list[float | None]:
    taken: list[float | None] = []
    for number in range(count):
        begin = time.monotonic()
        question: dict[str, object] = {"a": 6, "b": number, "word": "x"}
        try:
            answer = browser.post(url, json=question, timeout=PATIENCE_S)
        except httpx.TimeoutException:
            taken.append(None)
            continue
        if answer.status_code != 200 or answer.json()["product"] != 6 * number:
            raise RuntimeError(f"answered {answer.status_code}: {answer.text[:200]}")
        taken.append(time.monotonic() - begin)
    return taken


def _only(engine: DockerApi, workers: Sequence[PlannedContainer], count: int) -> None:
    """So many workers run, and are healthy."""
    states = [engine.get(f"/containers/{worker.docker_name}/json")["State"] for worker in workers]
    for number, (worker, state) in enumerate(zip(workers, states, strict=True)):
        if state["Running"] != (number < count):
            engine.post(f"/containers/{worker.docker_name}/{'start' if number < count else 'stop?t=40'}", timeout=60)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        states = [engine.get(f"/containers/{worker.docker_name}/json")["State"] for worker in workers[:count]]
        if all(state["Health"]["Status"] == "healthy" for state in states):
            return
        time.sleep(1)
    raise RuntimeError("the workers do not get healthy")


if __name__ == "__main__":
    main()
