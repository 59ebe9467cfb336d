"""The toolchain's cache: keyed by content, changed by one run at a time, published whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.paths import cache_home
from ops.progress import Progress
from ops.toolchain.pins import ToolchainError

_ARCHES = {"x86_64": ("amd64", "x64"), "aarch64": ("arm64", "arm64"), "arm64": ("arm64", "arm64")}


def arch() -> tuple[str, str]:
    """This machine as Go names it and as Pulumi's releases do."""
    try:
        return _ARCHES[platform.machine()]
    except KeyError:
        raise ToolchainError(
            f"no toolchain is known for a {platform.machine()} machine.", "amd64 and arm64 are supported"
        ) from None


def home() -> Path:
    """Where everything this module makes lives; may be deleted at any time."""
    return cache_home() / "toolchain"


def source_hash(*parts: Path, extra: str = "") -> str:
    """What a build is cached by: every file below `parts`, their names, `extra`, and the machine's kind."""
    digest = hashlib.sha256(f"{extra}\n{arch()[0]}\n".encode())
    for part in parts:
        files = [part] if part.is_file() else sorted(f for f in part.rglob("*") if f.is_file())
        for file in files:
            if file.name.endswith(".pyc"):
                continue
            content = file.read_bytes()
            digest.update(f"{file.relative_to(part.parent)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


@contextmanager
def locked(progress: Progress | None = None) -> Iterator[None]:
    """One run at a time changes the cache. The lock goes away with its process, however that ends."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with (progress or Progress()).step("waiting for another run that prepares the toolchain"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fresh(directory: Path) -> Path:
    """An empty directory; what an interrupted run left there goes."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def publish(work: Path, target: Path) -> None:
    """Make `work` visible as `target` in one step: nobody ever sees half of it."""
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
