"""How many webhooks a stack with n8n answers a second, with 1, 2 and all of its workers.

    .venv/bin/python -m bench.n8n STACK [-n CALLS] [-c AT_A_TIME]

Needs a stack that is up with the profile automation and, to compare, n8nWorkers: 4. The workflow is the proof's: a
webhook, a Code node (which runs in a task runner), its result as the answer; every call goes through the front door.
Workers that should not take part are stopped meanwhile and started again. What was made is removed afterwards.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from bench.measure import header
from ops import prove
from ops.engine import DockerApi
from ops.progress import Progress
from ops.session import Session
from stack.outputs import StackOutputs
from stack.plan import PlannedContainer
from stack.proofs import n8n

COUNTS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack")
    parser.add_argument("-n", type=int, default=400, metavar="CALLS")
    parser.add_argument("-c", type=int, default=16, metavar="AT_A_TIME")
    arguments = parser.parse_args()
    session = Session(arguments.stack)
    plan, outputs = session.plan(), StackOutputs.from_dict(session.outputs(session.ready_pulumi()))
    print(header(f"webhooks through the front door: {arguments.n} calls, {arguments.c} at a time"))
    run = prove._Run(outputs, plan, prove.Steps(Progress(io.StringIO(), tty=False, environ={})))  # pyright: ignore[reportPrivateUsage]
    context = prove._Context(run, "n8n")  # pyright: ignore[reportPrivateUsage]
    engine = DockerApi(plan.settings.docker_host)
    everybody = plan.service("n8n").containers
    workers = [c for c in everybody if c.spec.name.startswith("worker-")]
    path = f"{context.prefix}bench"
    try:
        n8n.make(context, path)
        for count in [count for count in COUNTS if count <= len(workers)]:
            _only(engine, workers, count)
            measure(run, context.url("n8n"), path, 2 * arguments.c, arguments.c)  # warm
            print(f"  {count} workers: {measure(run, context.url('n8n'), path, arguments.n, arguments.c)}", flush=True)
    finally:
        _only(engine, workers, len(workers))
        n8n.cleanup(context)
        run.close()


def measure(run: prove._Run, url: str, path: str, calls: int, at_a_time: int) -> str:  # pyright: ignore[reportPrivateUsage]
    """Calls a second, and the 50th and 95th percentile of one call in milliseconds."""
    browsers = [run.stranger() for _ in range(at_a_time)]
    begin = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        share = [calls // at_a_time] * at_a_time
        taken = sorted(t for part in pool.map(lambda b, n: _calls(b, url, path, n), browsers, share) for t in part)
    seconds = time.monotonic() - begin
    middle, slow = taken[len(taken) // 2], taken[int(len(taken) * 0.95)]
    return f"{len(taken) / seconds:.1f}/s, {1000 * middle:.0f} ms (95 %: {1000 * slow:.0f} ms)"


def _calls(browser: httpx.Client, url: str, path: str, count: int) -> list[float]:
    taken: list[float] = []
    for _ in range(count):
        begin = time.monotonic()
        question: dict[str, object] = {"a": 6, "b": 7, "word": "x"}
        answer = browser.post(f"{url}/webhook/{path}", json=question, timeout=120)
        if answer.status_code != 200 or answer.json()["product"] != 42:
            raise RuntimeError(f"answered {answer.status_code}: {answer.text[:200]}")
        taken.append(time.monotonic() - begin)
    return taken


def _only(engine: DockerApi, workers: Sequence[PlannedContainer], count: int) -> None:
    """So many workers run, and are healthy."""
    for number, worker in enumerate(workers):
        verb = "start" if number < count else "stop?t=40"
        try:
            engine.post(f"/containers/{worker.docker_name}/{verb}", timeout=60)
        except Exception as refused:  # 304: it is so already
            if getattr(refused, "status", 0) != 304:
                raise
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        states = [engine.get(f"/containers/{worker.docker_name}/json")["State"] for worker in workers[:count]]
        if all(state["Health"]["Status"] == "healthy" for state in states):
            return
        time.sleep(1)
    raise RuntimeError("the workers do not get healthy")


if __name__ == "__main__":
    main()
