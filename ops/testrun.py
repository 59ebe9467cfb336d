"""./kit test: what the tests need, then all of them in one run of pytest, so that its closing line counts them all."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ops import console, engine, toolchain
from ops.commands import apt_install
from ops.paths import ROOT
from ops.progress import Progress

# Programs of the live tests and the Debian packages that bring them.
PROGRAMS: dict[str, str] = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "git": "git",
    "nc": "netcat-openbsd",
}


def run(arguments: argparse.Namespace) -> int:
    """pytest's exit code."""
    rest: list[str] = arguments.rest
    if arguments.fast:
        return pytest(["-m", "not live", *side_by_side(rest), *rest])
    progress = Progress()
    install_programs(progress)
    started = engine.ensure(progress)
    try:
        toolchain.ensure(progress, toolchain.sdk_versions())
        strict = ["-p", "tests.live.noskip"] if os.environ.get("CI") == "true" else []
        what = rest if names_tests(rest) else [*rest, *layers(ROOT / "tests")]
        return pytest([*strict, "--live", *side_by_side(rest), *what])
    finally:
        if started is not None:
            started.stop()


def side_by_side(rest: Sequence[str]) -> list[str]:
    """Two files of tests at a time, in their order: the live ones mostly wait for servers to start.

    Not more: each live file has a stack of its own, and an engine's addresses do for about five with their networks.
    Not at all where somebody wants to see or hold what runs (-s, --pdb), or says how many (-n).
    """
    own = any(word in ("-s", "--pdb", "--trace") or word.startswith(("-n", "--numprocesses")) for word in rest)
    return [] if own else ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


def layers(tests: Path) -> list[str]:
    """The directories of tests, the live layer last: what is cheap and exact speaks first."""
    found = sorted(path for path in tests.iterdir() if path.is_dir() and any(path.glob("**/test_*.py")))
    return [f"tests/{path.name}" for path in sorted(found, key=lambda path: (path.name == "live", path.name))]


def names_tests(rest: Iterable[str]) -> bool:
    """Whether somebody chose tests by path, so that no others are added."""
    return any((ROOT / word.split("::")[0]).exists() for word in rest if not word.startswith("-"))


def pytest(arguments: Sequence[str]) -> int:
    """Run pytest in this environment. Its closing line comes last, whatever is written while it ends."""
    colour = ["--color=yes"] if console.colourful(sys.stdout) else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *colour, *arguments]
    sys.stdout.flush()
    closing, after = "", False
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            console.say(line.rstrip("\n"))
            closing, after = (line.rstrip("\n"), False) if is_closing(line) else (closing, bool(closing))
    if after:
        console.say(closing)
    return process.returncode


def is_closing(line: str) -> bool:
    """Whether this is how pytest ends: "12 passed, 3 skipped in 0.52s", with or without its frame."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip("= \n")
    return re.fullmatch(r"(no tests ran|\d+ \w+(, \d+ \w+)*) in [\d.]+s( \(.*\))?", plain) is not None


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
    apt_install(packages, progress)
