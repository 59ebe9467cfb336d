"""The Python environment ./kit runs in: made when missing, made again when the requirements changed.

Standard library only: this runs before anything is installed. A virtual environment cannot be moved, so it is
built in place, and a stamp written last says that it is complete and for which requirements.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.console import KitError
from ops.paths import ROOT
from ops.progress import Progress, Step

REQUIREMENTS = ROOT / "requirements.txt"
STAMP = "ai-kit.stamp"


def location() -> Path:
    """.venv in the clone, or where AIKIT_VENV says (for several clones that share one)."""
    chosen = os.environ.get("AIKIT_VENV")
    return Path(chosen) if chosen else ROOT / ".venv"


def fingerprint(requirements: bytes, version: tuple[int, int]) -> str:
    """What a stamp holds: changes with the requirements and with Python's minor version."""
    return hashlib.sha256(b"%d.%d\n" % version + requirements).hexdigest()


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def complete(venv: Path, requirements: bytes) -> bool:
    """Whether the environment is finished and made for these requirements, by its own Python's version."""
    try:
        stamp = (venv / STAMP).read_text(encoding="ascii").split()
        version = tuple(int(part) for part in stamp[0].split("."))
    except (OSError, ValueError, IndexError):
        return False
    # A system upgrade can take the interpreter away below the environment: then it is made again.
    return (
        len(version) == 2
        and len(stamp) == 2
        and stamp[1] == fingerprint(requirements, (version[0], version[1]))
        and os.access(python_of(venv), os.X_OK)
    )


def ensure() -> Path:
    """The environment's Python. Makes the environment when it is missing, half made or out of date."""
    venv = location()
    requirements = REQUIREMENTS.read_bytes()
    if complete(venv, requirements):
        return python_of(venv)
    with _alone(venv):
        if not complete(venv, requirements):  # another ./kit may have made it while we waited
            make(venv, requirements)
    return python_of(venv)


@contextmanager
def _alone(venv: Path) -> Iterator[None]:
    """One maker at a time. The lock is on the directory above, so it leaves no file behind."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(venv.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make(venv: Path, requirements: bytes) -> None:
    """Build the environment in place, the stamp last."""
    if not os.access(venv.parent, os.W_OK):
        raise KitError(
            f"cannot write {venv.parent}, where the Python environment goes.",
            "Choose another place with AIKIT_VENV=/some/directory ./kit ...",
        )
    progress = Progress()
    _need_ensurepip(progress)
    version = (sys.version_info.major, sys.version_info.minor)
    with progress.step("making the Python environment") as step:
        if venv.exists() and not venv.is_symlink():
            shutil.rmtree(venv)
        _run([sys.executable, "-m", "venv", str(venv)], step, "the Python environment could not be made")
        pip = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        _run(
            [*pip, "--progress-bar", "off", "--require-hashes", "-r", str(REQUIREMENTS)],
            step,
            "the Python packages could not be installed",
        )
        stamp = f"{version[0]}.{version[1]} {fingerprint(requirements, version)}\n"
        (venv / STAMP).write_text(stamp, encoding="ascii")


def package_of(line: str) -> str | None:
    """The package a line of pip's output is about."""
    words = line.split()
    return words[1].split("==")[0] if len(words) > 1 and words[0] == "Collecting" else None


def _run(command: list[str], step: Step, failure: str) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    lines: list[str] = []
    if process.stdout is not None:
        for line in process.stdout:
            lines.append(line.rstrip())
            if package := package_of(line):
                step.note(package)
    if process.wait() != 0:
        tail = [line for line in lines if line.strip()][-4:]
        raise KitError(
            f"{failure} ({' '.join(command[:4])} ... ended with {process.returncode}).",
            "\n".join(
                [*tail, "pip's own settings apply (pip config list). Run ./kit again when it can reach its index."]
            ),
        )


def _need_ensurepip(progress: Progress) -> None:
    """Debian and Ubuntu ship venv in a package of its own: install it as root, otherwise say how."""
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        return
    package = "python3-venv"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise KitError(
            "this Python cannot make virtual environments (the module ensurepip is missing).",
            f"sudo apt-get update && sudo apt-get install -y {package}\nthen run ./kit again.",
        )
    from ops.commands import apt_install

    apt_install([package], progress)
