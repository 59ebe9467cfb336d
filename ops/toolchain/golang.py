"""Go: finding one that is new enough, and building the programs of one Go module with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ops.commands import apt_install, run_logged
from ops.progress import Progress, Step
from ops.toolchain.cache import arch, fresh, home
from ops.toolchain.pins import BUILT_FROM, SOURCES, ToolchainError, newer_or_same, parse_version

# The one module whose checksum the public checksum database does not carry; the committed go.sum has it.
_UNLISTED_MODULE = "github.com/terraform-providers/terraform-provider-random"


@dataclass(frozen=True)
class Go:
    """A Go that can build our modules, with the environment to call it with."""

    program: str
    version: str
    env: dict[str, str]
    prune: tuple[Path, ...]
    """Caches that are ours alone, gigabytes large, and of no use once the build is done."""


def go_needed() -> str:
    """The newest version that one of our modules' go.mod asks for."""
    versions = [
        match[1]
        for file in sorted(SOURCES.glob("*/go.mod"))
        if (match := re.search(r"^go (\d+\.\d+(?:\.\d+)?)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    ]
    return max(versions, key=parse_version)


def ensure_go(progress: Progress) -> Go:
    """Go, new enough: from PATH or the usual places, as root on Debian and its kin from the distribution.

    A Go that is too old fetches the one that is needed as a module, which its own tool verifies.
    """
    needed = go_needed()
    program, version = _find_go()
    if program is None and os.geteuid() == 0 and shutil.which("apt-get"):
        apt_install(["golang-go"], progress)
        program, version = _find_go()
    if program is None or version is None:
        raise ToolchainError(
            f"Go is missing: Pulumi and its plugins are built with it (version {needed}, fetched by any Go).",
            "sudo apt-get update && sudo apt-get install -y golang-go"
            if shutil.which("apt-get")
            else f"install Go {needed} or newer and put it on PATH",
        )
    env = {
        **os.environ,
        "CGO_ENABLED": "0",  # a fresh machine has no C compiler, and the programs then run anywhere
        "GOFLAGS": "-mod=readonly -trimpath -modcacherw",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "GONOSUMDB": ",".join(filter(None, [os.environ.get("GONOSUMDB"), _UNLISTED_MODULE])),
    }
    prune: list[Path] = []
    for variable, ours in (("GOMODCACHE", home() / "go" / "modules"), ("GOCACHE", home() / "go" / "build")):
        # Somebody who uses Go has these already, and would want them used; everybody else gets them back.
        theirs = subprocess.run([program, "env", variable], capture_output=True, text=True, check=False).stdout.strip()
        if not theirs or not Path(theirs).is_dir() or variable == "GOCACHE":
            env[variable] = str(ours)
            prune.append(ours)
    if not newer_or_same(version, needed):
        if parse_version(version) >= (1, 21, 0):
            env["GOTOOLCHAIN"] = f"go{needed}"
        else:
            program = _go_as_module(program, needed, env, progress)
        version = needed
    return Go(program, version, env, tuple(prune))


def _find_go() -> tuple[str | None, str | None]:
    best: tuple[str | None, str | None] = (None, None)
    candidates = [shutil.which("go"), "/usr/local/go/bin/go", *map(str, sorted(Path("/usr/lib").glob("go-*/bin/go")))]
    for candidate in candidates:
        if candidate is None or not os.access(candidate, os.X_OK):
            continue
        result = subprocess.run(
            [candidate, "version"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )
        match = re.search(r"go(\d+\.\d+(?:\.\d+)?)", result.stdout)
        if match and (best[1] is None or parse_version(match[1]) > parse_version(best[1])):
            best = (candidate, match[1])
    return best


def _go_as_module(old: str, needed: str, env: Mapping[str, str], progress: Progress) -> str:
    """Go before 1.21 cannot switch by itself, but can download the module that newer ones would switch to."""
    module = f"golang.org/toolchain@v0.0.1-go{needed}.linux-{arch()[0]}"
    with progress.step(f"downloading Go {needed}") as step:
        lines = run_logged(
            [old, "mod", "download", "-json", module],
            log=home() / "log" / "go.log",
            step=step,
            cwd=Path("/"),
            env={**env, "GOFLAGS": "-modcacherw"},
            keep_stdout=True,
        )
    root = Path(cast(dict[str, str], json.loads("\n".join(lines)))["Dir"])
    # Modules carry no permissions: what the toolchain runs has to be made executable.
    for program in [*(root / "bin").iterdir(), *(root / "pkg" / "tool").rglob("*")]:
        if program.is_file():
            program.chmod(0o755)
    return str(root / "bin" / "go")


class _Packages:
    """Counts what `go build -v` reports against the number of packages there are."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def __call__(self, line: str) -> str | None:
        if re.fullmatch(r"[\w.\-/~+]+", line):
            self.done += 1
            return f"{min(self.done, self.total)} of at most {self.total} packages"
        return None


def _downloading(line: str) -> str | None:
    return f"{line.split()[2]}" if line.startswith("go: downloading ") and len(line.split()) > 2 else None


def _nice(command: list[str]) -> list[str]:
    return ["nice", "-n", "10", *command] if shutil.which("nice") else command


class Part:
    """One Go module of airgap/toolchain/ and what is built from it."""

    def __init__(self, go: Go, name: str, packages: Sequence[str]) -> None:
        self.go = go
        self.directory = SOURCES / name
        self.packages = list(packages)
        self.log = home() / "log" / f"{name}.log"
        self.total = 0

    def download(self, progress: Progress, what: str) -> None:
        """Fetch what the packages need and nothing else, by listing them."""
        with progress.step(f"downloading the sources of {what}") as step:
            listed = run_logged(
                [self.go.program, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", *self.packages],
                log=self.log,
                step=step,
                cwd=self.directory,
                env=self.go.env,
                note=_downloading,
                keep_stdout=True,
            )
        # The standard library is compiled as well: about 250 packages.
        self.total = len([line for line in listed if line]) + 250

    def build(self, progress: Progress, what: str, outputs: Sequence[tuple[str, Path, str]]) -> None:
        """`outputs`: package, file, linker flags. One command each: the linker's flags differ."""
        counter = _Packages(self.total)
        with progress.step(f"building {what}") as step:
            changed = self._changed(step)
            for package, file, flags in outputs:
                command = [
                    self.go.program,
                    "build",
                    "-v",
                    "-o",
                    str(file),
                    "-ldflags",
                    f"-s -w {flags}".strip(),
                    *changed,
                    package,
                ]
                run_logged(_nice(command), log=self.log, step=step, cwd=self.directory, env=self.go.env, note=counter)

    def _changed(self, step: Step) -> list[str]:
        """Flags by which Go takes our copy of a module where changes.json changes a line of it.

        The copy is made of the module whose checksum was verified; go.mod in the clone stays as it is.
        """
        work = fresh(home() / f".changed-{self.directory.name}")
        wanted = changes(self.directory.name)
        if not wanted:
            return []
        for name in ("go.mod", "go.sum"):
            shutil.copy(self.directory / name, work)

        def go(*arguments: str) -> list[str]:
            command = [self.go.program, *arguments]
            return run_logged(command, log=self.log, step=step, cwd=self.directory, env=self.go.env, keep_stdout=True)

        for module in sorted({change["module"] for change in wanted}):
            copy = work / module.rpartition("/")[2]
            shutil.copytree(go("list", "-m", "-f", "{{.Dir}}", module)[0], copy)
            for change in wanted:
                if change["module"] == module:
                    _change(copy / change["file"], change, self.directory.name)
            go("mod", "edit", f"-replace={module}={copy}", str(work / "go.mod"))
        return [f"-modfile={work / 'go.mod'}"]


def _change(file: Path, change: Mapping[str, str], module: str) -> None:
    text = file.read_text(encoding="utf-8")
    if text.count(change["from"]) != 1:
        raise ToolchainError(
            f"{change['module']} no longer has the line that {module}/changes.json changes: {change['from']}",
            "see whether the change is still wanted, and adapt or remove it",
        )
    file.chmod(0o644)  # modules may be read-only
    file.write_text(text.replace(change["from"], change["to"]), encoding="utf-8")


def changes(module: str) -> list[dict[str, str]]:
    """The lines that are built otherwise than upstream wrote them: plugin, module, file, from, to, why."""
    file = SOURCES / module / "changes.json"
    return cast(list[dict[str, str]], json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []


def prune(go: Go) -> None:
    """Give the disk space back, except to developers who will build again soon."""
    if os.environ.get("AIKIT_KEEP_GO_CACHE"):
        return
    for cache in go.prune:
        shutil.rmtree(cache, ignore_errors=True)
        with suppress(OSError):
            cache.parent.rmdir()


def note_origin(directory: Path, go: Go, module: str, what: str, plugin: str = "") -> None:
    """Say, beside the programs, what they were built from, and what was changed in it."""
    text = (SOURCES / module / "go.mod").read_text(encoding="utf-8")
    modules = re.findall(r"^(?:require )?\s*(\S+ v\S+|\S+ => \S+ v\S+)$", text, re.MULTILINE)
    changed = [f"changed: {each['file']}: {each['why']}" for each in changes(module) if each["plugin"] == plugin]
    lines = [
        what,
        *changed,
        f"built {time.strftime('%F')} with Go {go.version} from airgap/toolchain/{module}",
        *modules,
    ]
    (directory / BUILT_FROM).write_text("\n".join(lines) + "\n", encoding="utf-8")
