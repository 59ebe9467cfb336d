"""Several people asking at once: does the queue give each the same, lose nothing, and keep the models busy?

    .venv/bin/python -m bench.queue [STACK] [--clients N] [--seconds S] [--tokens T] [--model NAME]

Needs a stack that is up. The clients run in a container of their own beside the stack's services and ask as those do,
each as a person of its own and each again as soon as it has its answer. Three figures, and what they should be:

    fairness   Jain's index of the answers per person: (sum x)^2 / (n * sum x^2), 1 when all have the same. >= 0.95
    dropped    questions that got no complete answer: 0
    idle       share of the time, from the first question reaching the model to the last answer, in which no question
               was with it although some waited, by the queue's own clock (its log, in ms). <= 2 %
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.measure import header
from ops.engine import DockerApi
from ops.modelserver import container_of, service_of
from ops.session import Session
from stack.derive import models, runtime
from stack.derive.runtime import ContainerPlan
from stack.model import Zone
from stack.plan import Plan

FAIR, IDLE = 0.95, 0.02

PROGRAM = """
import json, sys, threading, time, urllib.error, urllib.request
url, model, clients, seconds, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
answers, until = [], time.monotonic() + seconds

def ask(client):
    options = {"num_predict": tokens, "temperature": 1, "seed": client}
    body = {"model": model, "prompt": f"Question of person {client}", "stream": False, "options": options}
    headers = {"Content-Type": "application/json", "X-OpenWebUI-User-Id": f"person-{client}"}
    begin = time.monotonic()
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            found = json.load(answer)
            tokens_made = found.get("eval_count", 0) if found.get("done") else 0
            status = answer.status
    except urllib.error.HTTPError as error:
        status, tokens_made = error.code, 0
    except OSError as error:
        status, tokens_made = 0, 0
    return {"client": client, "status": status, "tokens": tokens_made, "seconds": time.monotonic() - begin}

def person(client):
    while time.monotonic() < until:
        answers.append(ask(client))

ask(0)  # the model is loaded before anybody is timed
people = [threading.Thread(target=person, args=(number,)) for number in range(clients)]
begin = time.time()
for one in people: one.start()
for one in people: one.join()
print(json.dumps({"begin": begin, "answers": answers}))
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """answers: per person. idle: None when fewer than two questions reached a model."""

    answers: tuple[int, ...]
    dropped: int
    fairness: float
    idle: float | None
    tokens: int
    wall_s: float
    longest_s: float

    def row(self) -> str:
        idle = "-" if self.idle is None else f"{self.idle:.2%}"
        return (
            f"  fairness {self.fairness:.4f}   dropped {self.dropped}   idle {idle}   "
            f"{sum(self.answers)} answers, {self.tokens} tokens, {self.wall_s:.1f} s, longest {self.longest_s:.1f} s"
        )

    @property
    def good(self) -> bool:
        return self.fairness >= FAIR and self.dropped == 0 and self.idle is not None and self.idle <= IDLE


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index, 1/n to 1; 0 when nobody got anything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def idle_share(served: Iterable[tuple[str, float, float]]) -> float | None:
    """The part of the time between the first start and the last end in which servers had nothing; None without any.

    A server has one question at a time, so its busy time is the plain sum: the engine's time stamps are some
    milliseconds off, and only the first and the last of them count here.
    """
    found = list(served)
    if len(found) < 2:
        return None
    span = max(end for _, _, end in found) - min(start for _, start, _ in found)
    busy = sum(end - start for _, start, end in found)
    return max(0.0, 1 - busy / (span * len({server for server, _, _ in found}))) if span > 0 else None


def served(log: Iterable[str], backend: str, since: float) -> list[tuple[str, float, float]]:
    """When the queue had a question with a model: server, start, end, from its log with the engine's time stamps."""
    found: list[tuple[str, float, float]] = []
    pattern = re.compile(r"(\S+) \S+ \S+ (\w+)/(\S+) (-?\d+)/(-?\d+)/(-?\d+)/(-?\d+)/(-?\d+) (\d+) ")
    for line in log:
        match = pattern.match(line)
        if not match or match[2] != backend or match[9] != "200":
            continue
        end = datetime.fromisoformat(match[1][:26].rstrip("Z") + "+00:00").timestamp()
        read, waited, total = int(match[4]), int(match[5]), int(match[8])
        start = end - (total - read - waited) / 1000
        if start >= since:
            found.append((match[3], start, end))
    return found


def measure(docker: DockerApi, plan: Plan, *, clients: int, seconds: int, tokens: int, model: str) -> Figures:
    """Ask, and read the queue's log. RuntimeError with what was said when the clients could not run."""
    queue, port = container_of(service_of(plan), "queue")
    built = runtime.build(plan)
    network = next(network.name for network in built.networks if network.zone is Zone.APP)
    host = next(c.host_name for c in service_of(plan).containers if c.docker_name == queue)
    words = [f"http://{host}:{port}/api/generate", model, str(clients), str(seconds), str(tokens)]
    name = f"kit-{plan.stack}-askers"
    docker.remove_container(name, grace=0)
    labels = {"aikit.stack": plan.stack, "aikit.kind": "job"}
    body: dict[str, Any] = {
        "Image": _with_python(plan, built.containers).image,
        "Entrypoint": ["python3", "-c", PROGRAM],
        "Cmd": words,
        "User": "1000:1000",
        "Labels": labels,
        "HostConfig": {"NetworkMode": network, "CapDrop": ["ALL"], "ReadonlyRootfs": True, "Memory": 256 * 2**20},
    }
    try:
        docker.post(f"/containers/create?name={name}", body)
        docker.post(f"/containers/{name}/start")
        code = docker.post(f"/containers/{name}/wait", timeout=seconds + 900)["StatusCode"]
        said = docker.logs(name)
    finally:
        docker.remove_container(name, grace=0)
    if code != 0:
        raise RuntimeError(f"the askers ended with {code}:\n{said[-2000:]}")
    seen = json.loads(said.strip().splitlines()[-1])
    time.sleep(0.5)  # the last line of the queue's log
    lines = "".join(docker.stream_logs(queue, follow=False, timestamps=True)).splitlines()
    answers = seen["answers"]
    good = [answer for answer in answers if answer["status"] == 200 and answer["tokens"] > 0]
    counts = tuple(sum(1 for answer in good if answer["client"] == number) for number in range(clients))
    intervals = served(lines, "inference", seen["begin"])
    return Figures(
        answers=counts,
        dropped=len(answers) - len(good),
        fairness=jain(counts),
        idle=idle_share(intervals),
        tokens=sum(answer["tokens"] for answer in good),
        wall_s=max((end for *_, end in intervals), default=0) - min((start for _, start, _ in intervals), default=0),
        longest_s=max((answer["seconds"] for answer in answers), default=0.0),
    )


def _with_python(plan: Plan, containers: Iterable[ContainerPlan]) -> ContainerPlan:
    able = {
        container.docker_name
        for service in plan.services
        for container in service.containers
        if "python3" in container.spec.image.programs
    }
    for container in containers:
        if container.name in able:
            return container
    raise RuntimeError("no image of this stack has Python to ask with")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", nargs="?", default="dev")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    session = Session(arguments.stack)
    plan = session.plan()
    print(header(f"{arguments.clients} people at one queue, {arguments.seconds} s"))
    found = measure(
        session.docker,
        plan,
        clients=arguments.clients,
        seconds=arguments.seconds,
        tokens=arguments.tokens,
        model=arguments.model or models.chat(plan.settings)[0],
    )
    print(found.row())
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
