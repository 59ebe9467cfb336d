"""Long commands whose output goes to a log, and Debian's packages installed with one.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ops.console import KitError
from ops.paths import private_directory, state_home
from ops.progress import Progress, Step

_LOG_TAIL = 15


class CommandError(KitError):
    """A command failed; the message has its last lines and its log."""


_running: set[subprocess.Popen[str]] = set()


def _stop(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


@atexit.register
def _stop_running() -> None:
    """An interrupted run leaves no compiler behind, whichever thread had started it."""
    for process in list(_running):
        _stop(process)


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    step: Step,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    note: Callable[[str], str | None] | None = None,
    keep_stdout: bool = False,
) -> list[str]:
    """Run a long command: its output goes to `log`, `note(line)` may give what to show beside the step.

    Returns its standard output's lines when `keep_stdout`. CommandError with the log's path and last lines when
    it fails. Interrupted, it takes the command and its children down with it.
    """
    private_directory(log.parent)
    started = time.strftime("%F %T")
    kept: list[str] = []
    with log.open("a", encoding="utf-8", errors="replace") as out:
        out.write(f"\n# {started} {' '.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if keep_stdout else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _running.add(process)
        try:
            reader: threading.Thread | None = None
            stream = process.stderr if keep_stdout else process.stdout
            if keep_stdout:
                reader = threading.Thread(target=lambda: kept.extend(process.stdout or ()), daemon=True)
                reader.start()
            for line in stream or ():
                out.write(line)
                if note is not None and (text := note(line.rstrip())):
                    step.note(text)
            code = process.wait()
            if reader is not None:
                reader.join()
        except BaseException:
            _stop(process)
            process.wait()
            raise
        finally:
            _running.discard(process)
    if code != 0:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise CommandError(
            f"{step.title} failed: {' '.join(command[:3])} … ended with {code}.",
            "\n".join([*lines[-_LOG_TAIL:], f"the whole log: {log}"]),
        )
    return [line.rstrip("\n") for line in kept]


def apt_install(packages: Sequence[str], progress: Progress) -> None:
    """Install Debian packages as root."""
    log = state_home() / "logs" / "apt.log"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with progress.step(f"installing {', '.join(packages)}") as step:
        # Another program may hold dpkg's lock for a while, on a fresh machine the unattended upgrades.
        wait = ["-o", "DPkg::Lock::Timeout=300"]
        run_logged(["apt-get", "update", "-q"], log=log, step=step, env=env, note=_apt_note)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *wait, *packages]
        run_logged(install, log=log, step=step, env=env, note=_apt_note)


def _apt_note(line: str) -> str | None:
    words = line.split()
    return " ".join(words[:3]) if words[:1] in (["Unpacking"], ["Selecting"], ["Setting"]) else None
