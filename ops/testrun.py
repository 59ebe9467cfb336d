"""./kit test: what the tests need, then all of them in one run of pytest, so that its closing line counts them all."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ops import console, engine, toolchain
from ops.paths import ROOT, private_directory, state_home
from ops.progress import Progress

# Programs of the live tests and the Debian packages that bring them.
PROGRAMS: dict[str, str] = {"chromium": "chromium", "chromedriver": "chromium-driver", "git": "git"}


def run(arguments: argparse.Namespace) -> int:
    """pytest's exit code."""
    rest: list[str] = arguments.rest
    if arguments.fast:
        return pytest(["-m", "not live", *rest])
    progress = Progress()
    install_programs(progress)
    started = engine.ensure(progress)
    try:
        toolchain.ensure(progress, toolchain.sdk_versions())
        return pytest(["--live", *(rest if names_tests(rest) else [*rest, *layers(ROOT / "tests")])])
    finally:
        if started is not None:
            started.stop()


def layers(tests: Path) -> list[str]:
    """The directories of tests, the live layer last: what is cheap and exact speaks first."""
    found = sorted(path for path in tests.iterdir() if path.is_dir() and any(path.glob("**/test_*.py")))
    return [f"tests/{path.name}" for path in sorted(found, key=lambda path: (path.name == "live", path.name))]


def names_tests(rest: Iterable[str]) -> bool:
    """Whether somebody chose tests by path, so that no others are added."""
    return any((ROOT / word.split("::")[0]).exists() for word in rest if not word.startswith("-"))


def pytest(arguments: Sequence[str]) -> int:
    """Run pytest in this environment, its output untouched."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    sys.stdout.flush()
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def missing_programs(which: Callable[[str], str | None] = shutil.which) -> dict[str, str]:
    """Programs that are not on PATH, with the packages that bring them."""
    return {program: package for program, package in PROGRAMS.items() if which(program) is None}


def install_programs(progress: Progress) -> None:
    """As root on Debian and its kin, install what is missing; otherwise say how. The tests that need it skip then."""
    missing = missing_programs()
    if not missing:
        return
    packages = sorted(set(missing.values()))
    command = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        console.warn(
            f"{', '.join(missing)} missing: the tests that need it are skipped. To have them: sudo sh -c '{command}'"
        )
        return
    toolchain.apt_install(packages, progress, log=private_directory(state_home() / "logs") / "apt.log")
