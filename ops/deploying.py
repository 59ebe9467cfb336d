"""`pulumi up` with calm progress: a line for whatever took longer than two seconds, short errors, the rest in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ops import console
from ops.console import KitError
from ops.engine import DockerApi, EngineError
from ops.enginestate import JOB_KIND, KIND_LABEL, look
from ops.events import Digest, Follower, short
from ops.progress import Progress, Step, duration
from ops.pulumirun import PARALLEL, Pulumi
from ops.session import Session
from stack.plan import docker_prefix

WORTH_A_LINE_S = 2.0
LOOK_AT_JOBS_S = 3.0


class ProgressTracker:
    """Shows the events of an update on one step, and a line for each thing that took a while."""

    def __init__(self, progress: Progress, step: Step, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._step = step
        self._clock = clock
        self._running: dict[str, tuple[str, float]] = {}
        self._said: dict[str, str] = {}  # what running jobs say, by name

    def begin(self, key: str, text: str) -> None:
        self._running[key] = (text, self._clock())
        self.show()

    def end(self, key: str, *, ok: bool) -> None:
        text, started = self._running.pop(key, ("", 0.0))
        took = self._clock() - started
        if text and (took >= WORTH_A_LINE_S or not ok):
            name = text.split(":")[0]
            symbol = console.mark(console.OK if ok else console.FAIL)
            self._progress.line(f"  {symbol} {name} ({duration(took)})")
        self.show()

    def news(self, name: str, line: str) -> None:
        """Something a long job did: worth a line of its own."""
        self._progress.line(f"  {console.mark(console.NOTE)} {name}: {line}")

    def job_says(self, said: dict[str, str]) -> None:
        """The last line of the log of every running job."""
        self._said = said
        self.show()

    def show(self) -> None:
        """The slowest first: they are what one waits for."""
        now = self._clock()
        slow = sorted((started, text.split(":")[0]) for text, started in self._running.values())
        names = [f"{name} {duration(now - started)}" for started, name in slow if now - started >= WORTH_A_LINE_S][:4]
        names += [f"{name}: {text}" for name, text in sorted(self._said.items())]
        self._step.note(", ".join(names))


class JobWatcher:
    """Follows the logs of the stack's jobs: a first pull of a model takes minutes, and the state tells nothing.

    Any container that calls itself a job. Its last line stands in the progress. A line that is not indented is news
    and, once the job has run for a while, gets a line of its own on the screen.
    """

    def __init__(
        self, docker: DockerApi, stack: str, tracker: ProgressTracker, look_every_s: float = LOOK_AT_JOBS_S
    ) -> None:
        self._docker = docker
        self._stack = stack
        self._prefix = docker_prefix(stack)
        self._tracker = tracker
        self._every = look_every_s
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self._followed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._find()
            except EngineError:
                continue  # progress is a courtesy: the update itself tells what is wrong

    def _find(self) -> None:
        for container in look(self._docker.get, self._stack).containers:
            job = container.labels.get(KIND_LABEL) == JOB_KIND
            if job and container.state == "running" and container.id not in self._followed:
                self._followed.add(container.id)
                name = container.name.removeprefix(self._prefix)
                threading.Thread(target=self._follow, args=(container.id, name), daemon=True).start()

    def _follow(self, container: str, name: str) -> None:
        """Ends with the container. The engine hands over what was said before we looked as well."""
        started, rest = time.monotonic(), ""
        try:
            for text in self._docker.stream_logs(container):
                *lines, rest = (rest + text.replace("\r", "\n")).split("\n")
                for line in filter(str.strip, lines):
                    if not self._stop.is_set():
                        self._hear(name, line.rstrip(), time.monotonic() - started)
        except EngineError:
            return
        finally:
            self._hear(name, "", 0)

    def _hear(self, name: str, line: str, after_s: float) -> None:
        with self._lock:
            self._said.pop(name, None)
            if line:
                self._said[name] = line.strip()[:60]
            said = dict(self._said)
        if line and not line[0].isspace() and after_s >= WORTH_A_LINE_S:
            self._tracker.news(name, line)
        self._tracker.job_says(said)


def update(session: Session, pulumi: Pulumi, progress: Progress, log: Path, title: str, *more: str) -> Digest:
    """Bring the stack to its configuration. KitError with what failed and where to read more. more: flags of `up`."""
    with progress.step(title) as step:
        tracker = ProgressTracker(progress, step)
        follower = Follower(tracker, session.prefix)
        with JobWatcher(session.docker, session.stack, tracker):
            code = pulumi.follow(
                "up",
                "--yes",
                "--skip-preview",
                "--suppress-outputs",
                "--parallel",
                PARALLEL,
                *more,
                log=log,
                feed=follower.feed,
            )
        if code != 0:
            step.note("")
            raise failed(follower.digest, log, session.stack)
    return follower.digest


def changes(counts: Mapping[str, int]) -> str:
    """'12 created, 1 updated' of an update's counts."""
    words = {"create": "created", "update": "updated", "delete": "removed", "replace": "replaced"}
    parts = [f"{counts[key]} {word}" for key, word in words.items() if counts.get(key)]
    return ", ".join(parts) or "changed"


def failed(digest: Digest, log: Path, stack: str) -> KitError:
    """What a person has to know about a failed update: each resource once, and what was said about it."""
    said: dict[str, list[str]] = {}
    for failure in digest.failures:
        texts = said.setdefault(failure.name, [])
        if (text := short(failure)) not in texts:
            texts.append(text)
    lines = [f"  {text}" for texts in said.values() for text in texts]
    if not lines:
        tail = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        lines = [f"  {line}" for line in tail[-6:]]
    fix = f"Everything: {log}\nWhat is up stays up; once it is mended, ./kit up {stack} goes on from here."
    return KitError("\n".join([f"{len(said) or 1} failed:", *lines]), fix)
