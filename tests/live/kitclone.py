"""A clone of this project in a directory of its own, with a stack of its own, for tests that run ./kit in it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ops import enginestate
from ops.engine import DockerApi
from ops.enginestate import EngineState, RunningContainer
from ops.pulumirun import descendants

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did: exit code, both outputs as a person sees them, and its time."""

    code: int
    text: str
    seconds: float


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


@dataclass
class Clone:
    """What somebody has after `git clone`: the files git has or would take, committed, and nothing else.

    state_home: XDG_STATE_HOME of its commands; caches are the machine's. `log`: where outputs are kept.
    """

    directory: Path
    state_home: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    count: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.log.mkdir(parents=True, exist_ok=True)
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard", at=ROOT)
        for name in filter(None, listed.split("\0")):
            source, target = ROOT / name, self.directory / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        if (ROOT / ".venv").exists():
            (self.directory / ".venv").symlink_to(ROOT / ".venv")
        self._git("init", "-q")
        self.commit()

    def _git(self, *arguments: str, at: Path | None = None) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=at or self.directory, check=True, capture_output=True, text=True).stdout

    def commit(self) -> None:
        """Everything that git does not ignore is part of the clone now."""
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", "state of the test")

    def dirt(self) -> str:
        """What `git status` sees: "" while the clone is clean."""
        return self._git("status", "--porcelain")

    def write_stack(self, name: str, **config: Any) -> None:
        """The stack's file, committed."""
        document = {"config": {"ai-kit:target": "dev"} | {f"ai-kit:{key}": value for key, value in config.items()}}
        (self.directory / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        self.commit()

    def variables(self, **more: str) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state_home), "NO_COLOR": "1", **self.environment, **more}

    def kill_when(self, stack: str, container: str, moment: str) -> bool:
        """Run up, and kill it with all it started when that happens to a container; whether it came to that."""
        filters = ["--filter", f"container={container}", "--filter", f"event={moment}"]
        events = subprocess.Popen(
            ["docker", "events", *filters, "--format", "{{.Action}}"], stdout=subprocess.PIPE, text=True
        )
        happened = threading.Event()

        def watch() -> None:
            assert events.stdout
            if events.stdout.readline():
                happened.set()

        threading.Thread(target=watch, daemon=True).start()
        process = subprocess.Popen(
            ["./kit", "up", stack, "--no-prove"],
            cwd=self.directory,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            while process.poll() is None and not happened.wait(0.01):
                pass
            if process.poll() is not None:
                return False
            for pid in [*descendants(process.pid), process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(timeout=30)
            return True
        finally:
            events.kill()
            events.wait()

    def kit(self, *arguments: str, timeout: float = 900, **more: str) -> Outcome:
        """Run ./kit, nobody at the keyboard; its output is kept."""
        with self.running(*arguments, **more) as process:
            started = time.monotonic()
            try:
                text, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                text = process.communicate(timeout=120)[0] + f"\n[not done after {timeout} s]"
            outcome = Outcome(code=process.returncode, text=text, seconds=time.monotonic() - started)
        self.keep(arguments, outcome)
        return outcome

    @contextmanager
    def running(self, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
        """./kit while it runs, for those who interrupt it."""
        process = subprocess.Popen(
            ["./kit", *arguments],
            cwd=self.directory,
            env=self.variables(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        try:
            yield process
        finally:
            if process.poll() is None:  # killed, ./kit would leave its Pulumi behind
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=120)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGINT)
                    process.wait(timeout=30)

    def keep(self, arguments: Sequence[str], outcome: Outcome) -> None:
        """A command's output, beside the other artifacts."""
        self.count += 1
        name = "-".join(word.strip("-") for word in arguments[:3]).replace("/", "-")
        head = f"$ ./kit {' '.join(arguments)}\n"
        tail = f"\n[exit code {outcome.code}, {outcome.seconds:.1f} s]\n"
        (self.log / f"{self.count:02d}-{name}.log").write_text(head + outcome.text + tail, encoding="utf-8")

    def pulumi(self, *arguments: str, timeout: float = 300, unset: str = "") -> Outcome:
        """Plain Pulumi, with the toolchain and the state that ./kit uses; `unset`: without this variable."""
        from ops.session import Session

        os_state = os.environ.get("XDG_STATE_HOME")
        os.environ["XDG_STATE_HOME"] = str(self.state_home)
        try:
            pulumi = Session("dev", self.directory).ready_pulumi()
        finally:
            if os_state is None:
                del os.environ["XDG_STATE_HOME"]
            else:
                os.environ["XDG_STATE_HOME"] = os_state
        started = time.monotonic()
        result = subprocess.run(
            [pulumi.program, *arguments, "--non-interactive", "--color", "never"],
            cwd=self.directory,
            env={name: value for name, value in pulumi.environment.items() if name != unset},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        outcome = Outcome(
            code=result.returncode, text=result.stdout + result.stderr, seconds=time.monotonic() - started
        )
        self.keep(["pulumi", *arguments], outcome)
        return outcome


def engine_of(stack: str) -> EngineState:
    """What carries the stack's label."""
    return enginestate.look(DockerApi().get, stack)


def container(stack: str, service: str) -> RunningContainer:
    """A running container of a stack; the test fails when there is none."""
    name = f"kit-{stack}-{service}"
    found = [item for item in engine_of(stack).containers if item.name == name]
    assert found, f"there is no {name}"
    return found[0]


def kill(item: RunningContainer) -> None:
    """As a crash does it: `docker kill` would switch the restart policy off."""
    pid = DockerApi().get(f"/containers/{item.id}/json")["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)


def wait_until_healthy(stack: str, service: str, seconds: float = 120) -> RunningContainer:
    """Wait for a container to be healthy again."""
    deadline = time.monotonic() + seconds
    while (item := container(stack, service)).health != "healthy":
        assert time.monotonic() < deadline, f"{item.name} is {item.status}"
        time.sleep(1)
    return item
