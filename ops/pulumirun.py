"""Running the Pulumi CLI: on the stack's merged configuration, outside of the terminal's process group.

Ctrl-C reaches ./kit alone, which asks Pulumi once to stop: it ends the steps in progress, writes the state and gives
the lock back. A second Ctrl-C kills it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import yaml

from ops import console
from ops.console import KitError
from ops.stackstate import SALT, Document, Lock, StackState, is_stale, process_alive

PARALLEL = "64"  # starting 20 containers: 14-17 s by default, 9 s with 64 (docs/adr/)
INTERRUPTED = 130


class Pulumi:
    """The CLI for one stack."""

    def __init__(self, program: Path, environment: Mapping[str, str], state: StackState) -> None:
        self.program = str(program)
        self.environment = dict(environment)
        self.state = state

    # ------------------------------------------------------------------------------------------- short commands

    def run(self, *arguments: str, directory: Path | None = None, check: bool = True) -> str:
        """A command's standard output. KitError with what it said when it fails."""
        result = self.command(*arguments, directory=directory)
        if check and result.returncode != 0:
            raise failure(arguments, result.stderr or result.stdout)
        return result.stdout

    def command(
        self, *arguments: str, directory: Path | None = None, said: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command, however it ends. said: what it reads from its standard input."""
        return subprocess.run(
            [self.program, *arguments, "--non-interactive"],
            cwd=directory or self.state.root,
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            check=False,
            process_group=0,
        )

    def export(self) -> dict[str, Any]:
        """The stack's deployment as Pulumi exports it, secrets encrypted."""
        text = self.run("stack", "export", "--stack", self.state.stack)
        return cast(dict[str, Any], json.loads(text).get("deployment") or {})

    def import_(self, deployment: Mapping[str, Any]) -> None:
        """Replace the stack's deployment."""
        with tempfile.TemporaryDirectory(dir=self.state.directory) as directory:
            file = Path(directory) / "state.json"
            file.write_text(json.dumps({"version": 3, "deployment": deployment}), encoding="utf-8")
            self.run("stack", "import", "--stack", self.state.stack, "--file", str(file))

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets readable. Never print them."""
        text = self.run("stack", "output", "--json", "--show-secrets", "--stack", self.state.stack)
        return cast(dict[str, Any], json.loads(text))

    def known(self) -> bool:
        """Whether the backend has the stack."""
        exists = self.state.exists()
        if exists is not None:
            return exists
        listed = json.loads(self.run("stack", "ls", "--json", "--project", self.state.project))
        return any(entry["name"].rsplit("/", 1)[-1] == self.state.stack for entry in listed)

    def initialise(self) -> str:
        """Make the stack in the backend; the salt of its secrets.

        `stack init` writes the salt beside Pulumi.yaml, so it is run beside a copy of it.
        """
        with tempfile.TemporaryDirectory(dir=self.state.directory) as directory:
            written = self.state.bare_project(Path(directory))
            self.run("stack", "init", self.state.stack, "--no-select", directory=Path(directory))
            document = yaml.safe_load(written.read_text(encoding="utf-8")) if written.exists() else None
        return str((document or {}).get(SALT, ""))

    def recorded_salt(self) -> str | None:
        """The salt that the state was written with; None for other secrets providers."""
        provider = self.export().get("secrets_providers") or {}
        return (provider.get("state") or {}).get("salt") if provider.get("type") == "passphrase" else None

    def passphrase_fits(self, document: Document) -> bool:
        """Whether the passphrase opens this configuration's salt. Costs half a second, changes nothing."""
        with self.state.scratch_config({SALT: document[SALT]}) as path:
            target = ["--config-file", str(path), "--stack", self.state.stack]
            result = self.command("config", "set", "--secret", "check", "x", *target)
        if result.returncode == 0:
            return True
        if "incorrect passphrase" in result.stderr:
            return False
        raise failure(("config", "set"), result.stderr)

    # ----------------------------------------------------------------------------------------- long commands

    def arguments(self, *command: str) -> list[str]:
        """A command on this stack with the merged configuration."""
        return [self.program, *command, "--stack", self.state.stack, "--config-file", str(self.state.config_file)]

    def through(self, *command: str) -> int:
        """Run a command whose output goes straight to the person; its exit code."""
        process = subprocess.Popen(
            [*self.arguments(*command), "--non-interactive", *_colour()],
            cwd=self.state.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        return self._wait(process, lambda: None)

    def follow(self, *command: str, log: Path, feed: Callable[[str], None]) -> int:
        """Run a command, its output into `log`, every line of its event log into `feed`; its exit code."""
        events = log.with_suffix(".events.jsonl")
        events.unlink(missing_ok=True)
        environment = {**self.environment, "PULUMI_DEBUG_COMMANDS": "true"}  # without it, older CLIs hide --event-log
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self.arguments(*command), "--non-interactive", "--color", "never", "--event-log", str(events)],
                cwd=self.state.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        tail = Tail(events)

        def read() -> None:
            for line in tail.lines():
                feed(line)

        code = self._wait(process, read)
        read()
        return code

    def _wait(self, process: subprocess.Popen[bytes], between: Callable[[], None]) -> int:
        """Wait for it, calling `between` ten times a second, and pass on what should end it."""
        with _forwarding(process) as asked:
            while process.poll() is None:
                between()
                time.sleep(0.1)
        if asked():
            raise InterruptedRunError(killed=process.returncode == -signal.SIGKILL)
        return process.returncode


class InterruptedRunError(KitError):
    """Somebody pressed Ctrl-C while Pulumi worked."""

    def __init__(self, *, killed: bool) -> None:
        self.killed = killed
        what = "killed; the stack's lock may still be there." if killed else "stopped; the state is complete."
        fix = "Run the same command again to go on" + (": it clears up first." if killed else ".")
        super().__init__(what, fix, code=INTERRUPTED)


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[Callable[[], bool]]:
    """Pass SIGINT, SIGTERM and SIGHUP on to a process: the first as a request, the second as a kill."""
    count = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if process.poll() is not None:
            return
        if count == 1:
            console.say()
            console.warn("stopping: the steps in progress end first. Ctrl-C again kills them")
            process.send_signal(signal.SIGINT)
        else:
            # Plugins have process groups of their own; without their engine some of them would work on.
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield lambda: count > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def descendants(pid: int) -> list[int]:
    """All processes below one, by /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything; the parent is the second field after it.
            parent = int(file.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


class Tail:
    """The complete lines that were added to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(new)
        *complete, self._rest = (self._rest + new).split(b"\n")
        return [line.decode("utf-8", errors="replace") for line in complete if line]


def failure(arguments: Sequence[str], said: str) -> KitError:
    """What Pulumi said about a failed command, as short as it gets."""
    lines = [line.removeprefix("error: ") for line in said.splitlines() if line.strip()]
    return KitError(
        f"pulumi {' '.join(arguments[:2])} failed: {lines[0] if lines else 'no message'}", "\n".join(lines[1:5])
    )


def wrong_passphrase(state: StackState) -> tuple[str, str]:
    """What to say, in one line each."""
    what = f"the passphrase in {state.passphrase_source()} does not open the secrets of stack {state.stack}."
    if state.own_passphrase:
        return what, "Put the file back that the stack was made with, or set PULUMI_CONFIG_PASSPHRASE."
    return what, f"Unset it to use {state.home / 'passphrase'}, or set the one that the stack was made with."


def clear_stale_locks(state: StackState) -> list[str]:
    """Take away what killed runs of this host left behind; what was done, for the person.

    KitError when somebody else, or a run that still works, holds the stack.
    """
    notes: list[str] = []
    for lock in state.locks():
        if not abandoned(lock):
            raise KitError(*held(lock))
        lock.path.unlink(missing_ok=True)
        Path(f"{lock.path}.attrs").unlink(missing_ok=True)
        notes.append(f"the lock of a run that ended was removed (process {lock.pid}, since {lock.timestamp})")
    return notes


def abandoned(lock: Lock) -> bool:
    """Whether nobody holds that any more: a run of this host that has ended left it."""
    return is_stale(lock, socket.gethostname(), process_alive(lock.pid))


def held(lock: Lock) -> tuple[str, str]:
    """What to say about a stack that is in use."""
    what = f"is in use by {lock.username}@{lock.hostname} (process {lock.pid}) since {lock.timestamp}"
    stop = f", or stop it: kill -INT {lock.pid}" if lock.hostname == socket.gethostname() else ""
    return f"the stack {what}.", f"Wait for it to end{stop}. If nothing of it runs any more: rm {lock.path}"


def _colour() -> list[str]:
    return [] if console.colourful(sys.stdout) else ["--color", "never"]
