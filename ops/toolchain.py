"""The tools a deployment needs: the Pulumi CLI, its Python language host, four provider plugins.

In this order: what is on PATH and new enough; Pulumi's official release, checked by SHA-256; built here from
package registries (airgap/toolchain/). What was chosen is written down and kept until it disappears, the
wanted versions change, or `python3 -m ops.toolchain --again` asks for a new look: a network that fails for a
moment must not change the providers under a running stack.

Standard library only: this runs before anything is installed. docs/toolchain.md explains the choices.
"""

from __future__ import annotations

import argparse
import atexit
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ops.console import KitError
from ops.paths import ROOT, cache_home, private_directory, state_home
from ops.progress import Progress, Step

PluginMode = Literal["official", "airgap"]
Origin = Literal["path", "release", "built"]

PLUGINS = ("docker", "keycloak", "random", "tls")

# The oldest CLI that deployments were run with here. Older ones are passed over, not upgraded.
MINIMUM_PULUMI = "3.255.0"

# What `airgap/toolchain/cli` builds; a test compares it with that module's go.mod.
BUILT_PULUMI = "3.256.0"

# The official release that is fetched where its host answers. The checksums were recorded from a public script
# that pins the same release; they could not be compared with the release itself when this was written. If one is
# wrong, the download is refused and the next source is tried: it cannot be installed by mistake.
RELEASE = "3.255.0"
RELEASE_SHA256: Mapping[str, str] = {
    "linux-x64": "cf559568e2c32f7fae56ea3de8ae5fa48973ba8c5aa9dd2b3dc0c8898fe50dba",
    "linux-arm64": "699fbc6ea848d997e9b3645487f108d27b1b55ec807c7576406131e6e080f0e3",
}
RELEASE_URL = "https://get.pulumi.com/releases/sdk"
# A host that does not answer within this time counts as absent: most air-gapped networks drop, not refuse.
PROBE_SECONDS = 3.0
PLUGIN_INSTALL_SECONDS = 300.0

COMPOSE = "2.40.3"

# The one module whose checksum the public checksum database does not carry; the committed go.sum has it.
_UNLISTED_MODULE = "github.com/terraform-providers/terraform-provider-random"
_SOURCES = ROOT / "airgap" / "toolchain"
_ARCHES = {"x86_64": ("amd64", "x64"), "aarch64": ("arm64", "arm64"), "arm64": ("arm64", "arm64")}
_LOG_TAIL = 15


BUILT_FROM = "BUILT-FROM.txt"  # beside whatever was built or fetched here: of what, by what


class ToolchainError(KitError):
    """The toolchain cannot be had; the message says what was tried and what to do."""


@dataclass(frozen=True)
class Toolchain:
    """A usable Pulumi. `env` is what must be set, on top of the caller's environment, to run `pulumi`."""

    pulumi: Path
    version: str
    plugin_mode: PluginMode
    origin: Origin
    env: dict[str, str]

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """`base` (default: this process's environment) with `env` on top."""
        return {**(os.environ if base is None else base), **self.env}


# ------------------------------------------------------------------------------------------------------ decision


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is there already, before anything is downloaded or built."""

    cli: str | None = None
    language_host: bool = False
    plugins: frozenset[str] = frozenset()
    """Official plugins that are installed at exactly the version the SDK asks for."""
    fetched: bool = False
    """Whether an earlier run has fetched the official release."""

    @property
    def cli_usable(self) -> bool:
        return self.cli is not None and newer_or_same(self.cli, MINIMUM_PULUMI) and self.language_host


@dataclass(frozen=True)
class Choice:
    """Where the CLI (with its language host) and the plugins come from."""

    origin: Origin
    plugins: PluginMode


def release_matters(seen: Seen, wanted: frozenset[str], forced: Origin | None = None) -> bool:
    """Whether it is worth asking if the release host answers."""
    if forced == "built":
        return False
    have_cli = seen.fetched if forced == "release" else seen.cli_usable or seen.fetched
    return not (have_cli and wanted <= seen.plugins)


def decide(seen: Seen, wanted: frozenset[str], *, release: bool, forced: Origin | None = None) -> Choice:
    """The order of sources. `release`: the release host answers and has an archive for this machine.

    Plugins of both kinds are never mixed: a stack's providers are all official or all built here.
    """
    if forced == "path" and not seen.cli_usable:
        raise ToolchainError(
            "AIKIT_TOOLCHAIN=path, but PATH has no usable Pulumi: "
            + (f"it is {seen.cli}, {MINIMUM_PULUMI} or newer is needed" if seen.cli else "there is none")
            + ("." if seen.language_host or not seen.cli else ", and pulumi-language-python is missing."),
            "unset AIKIT_TOOLCHAIN, or install Pulumi",
        )
    if forced == "release" and not (release or seen.fetched):
        raise ToolchainError(
            "AIKIT_TOOLCHAIN=release, but Pulumi's release host does not answer or has nothing for this machine.",
            "unset AIKIT_TOOLCHAIN to build Pulumi from package registries",
        )
    if forced == "built":
        return Choice("built", "airgap")
    plugins: PluginMode = "official" if release or wanted <= seen.plugins else "airgap"
    if forced:
        return Choice(forced, plugins)
    if seen.cli_usable:
        return Choice("path", plugins)
    return Choice("release" if release or seen.fetched else "built", plugins)


def parse_version(text: str) -> tuple[int, int, int]:
    """`v3.256.0-beta` -> (3, 256, 0)."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not match:
        raise ValueError(f"not a version: {text!r}")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def newer_or_same(version: str, minimum: str) -> bool:
    return parse_version(version) >= parse_version(minimum)


# ------------------------------------------------------------------------------------------------- looking around


def sdk_versions(python: Path | str | None = None) -> dict[str, str]:
    """Plugin -> version that the SDKs installed for `python` (default: this one) ask for."""
    script = (
        "import json,sys,pathlib;"
        "print(json.dumps([p.read_text() for d in sys.path if d"
        " for p in pathlib.Path(d).glob('pulumi_*/pulumi-plugin.json')]))"
    )
    if python is None:
        texts = [f.read_text("utf-8") for d in sys.path if d for f in Path(d).glob("pulumi_*/pulumi-plugin.json")]
    else:
        result = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
        texts = cast(list[str], json.loads(result.stdout))
    found: dict[str, str] = {}
    for text in texts:
        about = cast(dict[str, Any], json.loads(text))
        if about.get("name") in PLUGINS and about.get("version"):
            found.setdefault(str(about["name"]), str(about["version"]).removeprefix("v"))
    missing = [name for name in PLUGINS if name not in found]
    if missing:
        raise ToolchainError(
            f"the Python packages {', '.join('pulumi-' + name for name in missing)} are not installed"
            f" for {python or sys.executable}.",
            "pip install -r requirements.txt",
        )
    return {name: found[name] for name in PLUGINS}


def look_around(sdk: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Seen, Path | None]:
    """What PATH and the user's plugin directory hold, and where the CLI is."""
    path = environ.get("PATH", os.defpath)
    plugins = frozenset(sdk) if _plugin_home(sdk, environ) else frozenset[str]()
    fetched = _release_directory().is_dir()
    found = shutil.which("pulumi", path=path)
    if found is None:
        return Seen(plugins=plugins, fetched=fetched), None
    beside = Path(found).resolve().parent / "pulumi-language-python"
    host = shutil.which("pulumi-language-python", path=path) is not None or os.access(beside, os.X_OK)
    return Seen(cli=_version_of(Path(found)), language_host=host, plugins=plugins, fetched=fetched), Path(found)


def _plugin_home(sdk: Mapping[str, str], environ: Mapping[str, str]) -> Path | None:
    """The user's PULUMI_HOME, or the one for official plugins fetched earlier: whichever has all of them.

    Plugins that were built here say so in a file beside them, and are not official wherever PULUMI_HOME points.
    """
    for candidate in (Path(environ.get("PULUMI_HOME") or Path.home() / ".pulumi"), home() / "home"):
        plugins = [candidate / "plugins" / f"resource-{name}-v{version}" for name, version in sdk.items()]
        if all(plugin.is_dir() and not (plugin / BUILT_FROM).exists() for plugin in plugins):
            return candidate
    return None


def _version_of(pulumi: Path) -> str | None:
    try:
        result = subprocess.run(
            [str(pulumi), "version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
        )
        return ".".join(map(str, parse_version(result.stdout)))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _arch() -> tuple[str, str]:
    """This machine as Go names it and as Pulumi's releases do."""
    try:
        return _ARCHES[platform.machine()]
    except KeyError:
        raise ToolchainError(
            f"no toolchain is known for a {platform.machine()} machine.", "amd64 and arm64 are supported"
        ) from None


# -------------------------------------------------------------------------------------------------- official release


def probe(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether `url` answers with success within `seconds`, looking its name up included."""
    answer: list[bool] = []

    def ask() -> None:
        # Whatever goes wrong (a name, a proxy, TLS, a refusal) means the same here: not to be had.
        with suppress(OSError, ValueError, urllib.error.URLError):
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - a fixed https address or a test's
            with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310
                answer.append(response.status == 200)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer == [True]


def _release_directory() -> Path:
    return home() / f"release-{RELEASE}"


def _archive(platform_name: str) -> str:
    return f"pulumi-v{RELEASE}-{platform_name}.tar.gz"


def fetch_release(
    target: Path,
    step: Step,
    *,
    url: str = RELEASE_URL,
    platform_name: str | None = None,
    pins: Mapping[str, str] = RELEASE_SHA256,
) -> None:
    """Put the official release's programs into the directory `target`, which must not exist.

    The archive must match the pinned checksum; where none is pinned, the one that the release publishes beside
    it. The second only shows that the download is complete, not who made it.
    """
    platform_name = platform_name or f"linux-{_arch()[1]}"
    name = _archive(platform_name)
    expected = pins.get(platform_name) or _published_checksum(url, name)
    work = _fresh(target.with_name(f".new-{target.name}"))
    archive = work / name
    digest = _download(f"{url}/{name}", archive, step)
    if digest != expected:
        shutil.rmtree(work)
        raise ToolchainError(
            f"{name} has SHA-256 {digest}, expected {expected}: it is not installed.",
            "try again; if it stays so, somebody changed the file: tell us, and use AIKIT_TOOLCHAIN=built",
        )
    with tarfile.open(archive) as opened:
        for member in opened:
            # The archive holds one directory with programs: nothing else is wanted, links least of all.
            if member.isfile() and Path(member.name).name.startswith("pulumi"):
                source = opened.extractfile(member)
                if source is not None:
                    program = work / Path(member.name).name
                    with program.open("wb") as out:
                        shutil.copyfileobj(source, out)
                    program.chmod(0o755)
    archive.unlink()
    if not (work / "pulumi").is_file() or not (work / "pulumi-language-python").is_file():
        shutil.rmtree(work)
        raise ToolchainError(f"{name} holds no pulumi and pulumi-language-python.")
    (work / BUILT_FROM).write_text(f"Pulumi's official release {name}, SHA-256 {digest}\n", encoding="utf-8")
    _publish(work, target)


def _published_checksum(url: str, name: str) -> str:
    address = f"{url}/pulumi-{RELEASE}-checksums.txt"
    try:
        with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310
            lines = response.read(1 << 20).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise ToolchainError(f"{address}: {error}") from error
    for line in lines:
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*") == name and re.fullmatch(r"[0-9a-f]{64}", words[0]):
            return words[0]
    raise ToolchainError(f"{address} does not list {name}: it is not installed.")


def _download(address: str, file: Path, step: Step) -> str:
    """Save `address` to `file`; its SHA-256."""
    digest = hashlib.sha256()
    received = 0
    try:
        with urllib.request.urlopen(address, timeout=30) as response, file.open("wb") as out:  # noqa: S310
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(1 << 18):
                digest.update(block)
                out.write(block)
                received += len(block)
                step.note(f"{received >> 20} of {total >> 20} MB" if total else f"{received >> 20} MB")
    except OSError as error:
        raise ToolchainError(f"{address}: {error}") from error
    if total and received != total:
        raise ToolchainError(f"{address} ended after {received} of {total} bytes.")
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ cache


def home() -> Path:
    """Where everything this module makes lives; may be deleted at any time."""
    return cache_home() / "toolchain"


def source_hash(*parts: Path, extra: str = "") -> str:
    """What a build is cached by: every file below `parts`, their names, `extra`, and the machine's kind."""
    digest = hashlib.sha256(f"{extra}\n{_arch()[0]}\n".encode())
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


def _fresh(directory: Path) -> Path:
    """An empty directory; what an interrupted run left there goes."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _publish(work: Path, target: Path) -> None:
    """Make `work` visible as `target` in one step: nobody ever sees half of it."""
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)


# --------------------------------------------------------------------------------------------------------- building


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

    Returns its standard output's lines when `keep_stdout`. ToolchainError with the log's path and last lines when
    it fails. Interrupted, it takes the command and its children down with it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
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
        raise ToolchainError(
            f"{step.title} failed: {' '.join(command[:3])} … ended with {code}.",
            "\n".join([*lines[-_LOG_TAIL:], f"the whole log: {log}"]),
        )
    return [line.rstrip("\n") for line in kept]


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
        for file in sorted(_SOURCES.glob("*/go.mod"))
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
        apt_install(["golang-go"], progress, log=home() / "log" / "apt.log")
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
    module = f"golang.org/toolchain@v0.0.1-go{needed}.linux-{_arch()[0]}"
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


def apt_install(packages: Sequence[str], progress: Progress, *, log: Path) -> None:
    """Install Debian packages as root."""
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


class _Part:
    """One Go module of airgap/toolchain/ and what is built from it."""

    def __init__(self, go: Go, name: str, packages: Sequence[str]) -> None:
        self.go = go
        self.directory = _SOURCES / name
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
            for package, file, flags in outputs:
                command = [
                    self.go.program,
                    "build",
                    "-v",
                    "-o",
                    str(file),
                    "-ldflags",
                    f"-s -w {flags}".strip(),
                    package,
                ]
                run_logged(_nice(command), log=self.log, step=step, cwd=self.directory, env=self.go.env, note=counter)


_CLI_PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
_CLI_FLAGS = f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{BUILT_PULUMI}"


def _cli_directory() -> Path:
    return home() / f"cli-{source_hash(_SOURCES / 'cli', extra=_CLI_FLAGS)}"


def _programs(cli: Path) -> Path:
    """The CLI with the language host beside it, where the engine takes it for its own and does not warn.

    A directory of its own: a change in the language host must not rebuild the CLI.
    """
    target = home() / f"bin-{source_hash(_SOURCES / 'pulumi-language-python', extra=cli.name)}"
    if not target.is_dir():
        work = _fresh(home() / f".new-{target.name}")
        os.link(cli / "pulumi", work / "pulumi")
        shutil.copy(cli / BUILT_FROM, work)
        host = work / "pulumi-language-python"
        shutil.copy(_SOURCES / "pulumi-language-python", host)
        host.chmod(0o755)  # an unpacked archive of the sources may have lost it
        _publish(work, target)
    return target


def _plugins_directory(sdk: Mapping[str, str]) -> Path:
    """A PULUMI_HOME that holds the plugins built here."""
    return home() / f"plugins-{source_hash(_SOURCES / 'providers', extra=json.dumps(dict(sdk), sort_keys=True))}"


def _build(progress: Progress, sdk: Mapping[str, str], *, cli: bool, plugins: bool) -> tuple[Path, Path]:
    """Build what is missing; where the CLI and the plugins are then.

    Compiling keeps every core busy, so one comes after the other; the plugins' sources are fetched beside the CLI's.
    """
    cli_directory, plugins_directory = _cli_directory(), _plugins_directory(sdk)
    cli = cli and not cli_directory.is_dir()
    plugins = plugins and not plugins_directory.is_dir()
    if not cli and not plugins:
        return cli_directory, plugins_directory
    go = ensure_go(progress)
    failures: list[BaseException] = []
    provider_packages = [f"./pulumi-resource-{name}" for name in PLUGINS]
    providers = _Part(go, "providers", provider_packages)

    def fetch_providers() -> None:
        try:
            providers.download(progress, "the provider plugins")
        except BaseException as error:
            failures.append(error)

    fetching = threading.Thread(target=fetch_providers, daemon=True) if plugins else None
    if fetching is not None:
        fetching.start()
    if cli:
        part = _Part(go, "cli", [_CLI_PACKAGE])
        part.download(progress, "the Pulumi CLI")
        work = _fresh(home() / f".new-{cli_directory.name}")
        part.build(progress, "the Pulumi CLI", [(_CLI_PACKAGE, work / "pulumi", _CLI_FLAGS)])
        _note(work, go, "cli", f"Pulumi {BUILT_PULUMI}")
        _publish(work, cli_directory)
    if fetching is not None:
        fetching.join()
        if failures:
            raise failures[0]
        work = _fresh(home() / f".new-{plugins_directory.name}")
        outputs: list[tuple[str, Path, str]] = []
        for name in PLUGINS:
            directory = work / "plugins" / f"resource-{name}-v{sdk[name]}"
            directory.mkdir(parents=True)
            program = directory / f"pulumi-resource-{name}"
            outputs.append((f"./pulumi-resource-{name}", program, f"-X main.version={sdk[name]}"))
        providers.build(progress, "the provider plugins", outputs)
        for name in PLUGINS:
            _note(
                work / "plugins" / f"resource-{name}-v{sdk[name]}",
                go,
                "providers",
                f"not the official plugin {sdk[name]}: it stands in for it (see docs/toolchain.md)",
            )
        _publish(work, plugins_directory)
    _prune(go)
    return cli_directory, plugins_directory


def _prune(go: Go) -> None:
    """Give the disk space back, except to developers who will build again soon."""
    if os.environ.get("AIKIT_KEEP_GO_CACHE"):
        return
    for cache in go.prune:
        shutil.rmtree(cache, ignore_errors=True)
        with suppress(OSError):
            cache.parent.rmdir()


def _note(directory: Path, go: Go, module: str, what: str) -> None:
    """Say, beside the programs, what they were built from."""
    text = (_SOURCES / module / "go.mod").read_text(encoding="utf-8")
    modules = re.findall(r"^(?:require )?\s*(\S+ v\S+|\S+ => \S+ v\S+)$", text, re.MULTILINE)
    lines = [what, f"built {time.strftime('%F')} with Go {go.version} from airgap/toolchain/{module}", *modules]
    (directory / BUILT_FROM).write_text("\n".join(lines) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- ensure


def _forced(environ: Mapping[str, str]) -> Origin | None:
    value = environ.get("AIKIT_TOOLCHAIN", "")
    if value in ("", "path", "release", "built"):
        return cast(Origin, value) if value else None
    raise ToolchainError(f"AIKIT_TOOLCHAIN is {value!r}; it may be path, release or built.")


def _key(sdk: Mapping[str, str], forced: Origin | None) -> str:
    wanted = json.dumps([sorted(sdk.items()), forced, MINIMUM_PULUMI, RELEASE])
    return source_hash(_SOURCES / "cli", _SOURCES / "providers", _SOURCES / "pulumi-language-python", extra=wanted)


def _stamp() -> Path:
    """Beside the stacks' state, not in the cache: deleting the cache must not change a stack's providers."""
    return state_home() / "toolchain.json"


def _mode_before() -> object:
    try:
        return json.loads(_stamp().read_text(encoding="utf-8"))["toolchain"]["plugin_mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_downgrade(before: object, now: Choice) -> None:
    """Official providers have run on this machine's stacks; the ones built here are older."""
    if before == "official" and now.plugins == "airgap":
        raise ToolchainError(
            "this machine's stacks were made with the official Pulumi plugins, and those cannot be fetched now.",
            "Run it again when the network is back. For stacks you can afford to lose, AIKIT_TOOLCHAIN=built\n"
            "takes older plugins that are built here.",
        )


def current(sdk: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Toolchain | None:
    """What an earlier `ensure` chose, if it is still there and still what is wanted. Takes milliseconds."""
    environ = os.environ if environ is None else environ
    try:
        stamp = cast(dict[str, Any], json.loads(_stamp().read_text(encoding="utf-8")))
        chosen = cast(dict[str, Any], stamp["toolchain"])
        pulumi = Path(chosen["pulumi"])
        status = pulumi.stat()
        same = stamp["key"] == _key(sdk, _forced(environ)) and stamp["pulumi"] == [status.st_size, status.st_mtime_ns]
        if not same or not all(Path(needed).exists() for needed in stamp["needs"]):
            return None
        env = _environment(pulumi, chosen["plugin_mode"], stamp["home"], environ)
        return Toolchain(pulumi, chosen["version"], chosen["plugin_mode"], chosen["origin"], env)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _environment(pulumi: Path, mode: PluginMode, pulumi_home: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    ours = str(pulumi.parent)
    rest = [entry for entry in environ.get("PATH", os.defpath).split(os.pathsep) if entry != ours]
    env = {
        "PATH": os.pathsep.join([ours, *rest]),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # Formatting an output into a string is a mistake; this makes the mistake visible instead of deployed.
        "PULUMI_ERROR_OUTPUT_STRING": "1",
    }
    if pulumi_home:
        env["PULUMI_HOME"] = pulumi_home
    if mode == "airgap":
        env["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "true"
    return env


def ensure(
    progress: Progress,
    sdk: Mapping[str, str],
    *,
    environ: Mapping[str, str] | None = None,
    again: bool = False,
    release_url: str | None = None,
) -> Toolchain:
    """The toolchain for SDKs of these versions (plugin -> version, from `sdk_versions`), made if it is missing.

    Raises ToolchainError with what to do. AIKIT_TOOLCHAIN=path, release or built forces a source.
    """
    environ = os.environ if environ is None else environ
    if not again and (ready := current(sdk, environ)):
        return ready
    release_url = release_url or environ.get("AIKIT_PULUMI_RELEASES") or RELEASE_URL
    with locked(progress):
        if not again and (ready := current(sdk, environ)):
            return ready
        forced = _forced(environ)
        seen, on_path = look_around(sdk, environ)
        wanted = frozenset(sdk)
        release = False
        platform_name = f"linux-{_arch()[1]}"
        if release_matters(seen, wanted, forced):
            with progress.step("looking for Pulumi's official release") as step:
                release = probe(f"{release_url}/{_archive(platform_name)}")
                step.note("found" if release else "not reachable")
        choice = decide(seen, wanted, release=release, forced=forced)
        before = _mode_before()
        if not again and forced is None:
            _refuse_downgrade(before, choice)
        toolchain, pulumi_home, needs = _prepare(progress, choice, sdk, seen, on_path, environ, release_url)
        status = toolchain.pulumi.stat()
        stamp = {
            "key": _key(sdk, forced),
            "toolchain": {**asdict(toolchain), "pulumi": str(toolchain.pulumi), "env": None},
            "home": pulumi_home,
            "needs": [str(path) for path in needs],
            "pulumi": [status.st_size, status.st_mtime_ns],
        }
        private_directory(_stamp().parent)
        temporary = _stamp().with_suffix(".new")
        temporary.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        temporary.replace(_stamp())
        return toolchain


def _prepare(
    progress: Progress,
    choice: Choice,
    sdk: Mapping[str, str],
    seen: Seen,
    on_path: Path | None,
    environ: Mapping[str, str],
    release_url: str,
) -> tuple[Toolchain, str | None, list[Path]]:
    """Carry a choice out; falls back to building where the official way fails half-way."""
    forced = _forced(environ)
    origin, mode = choice.origin, choice.plugins
    pulumi, version = home(), ""
    if origin == "release":
        target = _release_directory()
        try:
            if not target.is_dir():
                with progress.step(f"downloading Pulumi {RELEASE}") as step:
                    fetch_release(target, step, url=release_url)
            pulumi, version = target / "pulumi", RELEASE
        except ToolchainError as error:
            if forced == "release":
                raise
            progress.line(f"! {error.what} Building Pulumi instead.")
            origin = "built"
    elif origin == "path":
        if on_path is None or seen.cli is None:
            raise ToolchainError("PATH has no usable Pulumi.")
        pulumi, version = on_path, seen.cli
    if origin == "built":
        built, _ = _build(progress, sdk, cli=True, plugins=mode == "airgap")
        pulumi, version = _programs(built) / "pulumi", BUILT_PULUMI
    pulumi_home: str | None = None
    needs: list[Path] = [pulumi]
    found = _plugin_home(sdk, environ)
    if mode == "official" and found is not None:
        pulumi_home = str(found) if found == home() / "home" else None
    elif mode == "official":
        pulumi_home = str(home() / "home")
        env = {**environ, **_environment(pulumi, mode, pulumi_home, environ)}
        try:
            _install_official_plugins(progress, pulumi, sdk, env)
        except ToolchainError as error:
            if forced == "release":
                raise
            _refuse_downgrade(_mode_before(), Choice(origin, "airgap"))
            progress.line(f"! {error.what} Building the plugins instead.")
            mode = "airgap"
    if mode == "airgap":
        _, built = _build(progress, sdk, cli=False, plugins=True)
        pulumi_home = str(built)
    plugin_home = Path(pulumi_home) if pulumi_home else found
    if plugin_home:
        needs += [plugin_home / "plugins" / f"resource-{name}-v{version}" for name, version in sdk.items()]
    env = _environment(pulumi, mode, pulumi_home, environ)
    return Toolchain(pulumi, version, mode, origin, env), pulumi_home, needs


def _install_official_plugins(progress: Progress, pulumi: Path, sdk: Mapping[str, str], env: Mapping[str, str]) -> None:
    for name, version in sdk.items():
        with progress.step(f"downloading the {name} plugin {version}"):
            try:
                result = subprocess.run(
                    [str(pulumi), "plugin", "install", "resource", name, f"v{version}"],
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=PLUGIN_INSTALL_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise ToolchainError(f"the {name} plugin did not arrive in {PLUGIN_INSTALL_SECONDS:.0f} s.") from None
            if result.returncode != 0:
                last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
                raise ToolchainError(f"the {name} plugin {version} could not be installed: {last}")


def ensure_compose(progress: Progress) -> Path:
    """Docker Compose, built from its Go module, for side-by-side measurements (bench/)."""
    target = home() / f"compose-{source_hash(_SOURCES / 'compose')}"
    if target.is_dir():
        return target / "docker-compose"
    with locked(progress):
        if not target.is_dir():
            go = ensure_go(progress)
            package = "github.com/docker/compose/v2/cmd"
            part = _Part(go, "compose", [package])
            part.download(progress, "Docker Compose")
            work = _fresh(home() / f".new-{target.name}")
            flags = f"-X github.com/docker/compose/v2/internal.Version=v{COMPOSE}"
            part.build(progress, "Docker Compose", [(package, work / "docker-compose", flags)])
            _note(work, go, "compose", f"Docker Compose {COMPOSE}")
            _publish(work, target)
            _prune(go)
    return target / "docker-compose"


# -------------------------------------------------------------------------------------------------------- from a shell


def write_capabilities(progress: Progress) -> Path:
    """Regenerate airgap/toolchain/capabilities.json from the schemas of the providers built here."""
    go = ensure_go(progress)
    part = _Part(go, "providers", ["./dump-schema"])
    part.download(progress, "the provider plugins")
    with progress.step("reading the providers' schemas") as step:
        lines = run_logged(
            [go.program, "run", "./dump-schema"],
            log=part.log,
            step=step,
            cwd=part.directory,
            env=go.env,
            keep_stdout=True,
        )
    dumped = cast(dict[str, dict[str, dict[str, list[str]]]], json.loads("\n".join(lines)))
    file = _SOURCES / "capabilities.json"
    file.write_text(capabilities_text(dumped), encoding="utf-8")
    return file


def capabilities_text(dumped: Mapping[str, Mapping[str, Mapping[str, list[str]]]]) -> str:
    """{plugin: {token: [accepted properties]}}, one token per line so that a change is easy to read."""
    blocks: list[str] = []
    for plugin in sorted(dumped):
        tokens = [
            f"  {json.dumps(token)}: {json.dumps(dumped[plugin][token]['inputs'])}" for token in sorted(dumped[plugin])
        ]
        blocks.append(f" {json.dumps(plugin)}: {{\n" + ",\n".join(tokens) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry for people who want the toolchain without ./kit."""
    parser = argparse.ArgumentParser(prog="python3 -m ops.toolchain", description="Find, fetch or build Pulumi.")
    parser.add_argument("--python", help="the Python whose SDKs say which plugins are wanted (default: .venv or this)")
    parser.add_argument("--again", action="store_true", help="look around anew instead of keeping the earlier choice")
    parser.add_argument("--env", action="store_true", help="print export lines for a shell")
    parser.add_argument("--compose", action="store_true", help="build Docker Compose as well (for bench/)")
    parser.add_argument("--capabilities", action="store_true", help="regenerate airgap/toolchain/capabilities.json")
    options = parser.parse_args(arguments)
    progress = Progress()
    venv = ROOT / ".venv" / "bin" / "python"
    python = options.python or (str(venv) if venv.exists() else sys.executable)
    try:
        if options.capabilities:
            print(write_capabilities(progress))
            return 0
        sdk = sdk_versions(python)
        toolchain = ensure(progress, sdk, again=options.again)
        if options.compose:
            print(ensure_compose(progress))
    except ToolchainError as error:
        print(error.render(), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("stopped; run it again to go on from here", file=sys.stderr)
        return 130
    if options.env:
        for name, value in toolchain.env.items():
            print(f"export {name}='{value}'")
        return 0
    print(f"Pulumi {toolchain.version} ({toolchain.origin}): {toolchain.pulumi}")
    print(f"plugins ({toolchain.plugin_mode}): " + ", ".join(f"{name} {version}" for name, version in sdk.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
