"""Where things live: the clone is read, everything written goes under the user's state and cache directories."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _home(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification ignores relative paths, so that a stray value cannot write into the current directory.
    base = Path(value) if os.path.isabs(value) else Path.home() / fallback
    return base / "ai-kit"


def state_home() -> Path:
    """What must not be lost: the stacks' state, the passphrase, choices and logs."""
    return _home("XDG_STATE_HOME", ".local/state")


def cache_home() -> Path:
    """What can be made again: the toolchain and build results."""
    return _home("XDG_CACHE_HOME", ".cache")


def private_directory(path: Path) -> Path:
    """The directory, it and what is missing above it made with mode 0700."""
    for directory in reversed([path, *path.parents]):
        directory.mkdir(mode=0o700, exist_ok=True)
    return path
