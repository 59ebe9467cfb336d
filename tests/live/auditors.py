"""Programs by others that judge what is up: each in a virtual environment of its own, made once per version."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from ops.paths import cache_home


def installed(requirement: str, program: str) -> Path:
    """The program of a Python package, such as "kcwarden==0.18.1". AssertionError with pip's words if there is none."""
    home = cache_home() / requirement.replace("==", "-")
    path = home / "bin" / program
    if not path.exists():
        venv.create(home, with_pip=True, clear=True)
        install = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", requirement]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{requirement} cannot be installed: {done.stderr[-500:]}")
    return path
