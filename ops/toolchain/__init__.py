"""The tools a deployment needs: the Pulumi CLI, its Python language host, four provider plugins.

In this order: what is on PATH and new enough; Pulumi's official release, checked by SHA-256; built here from
package registries (airgap/toolchain/). What was chosen is written down and kept until it disappears, the
wanted versions change, or `python3 -m ops.toolchain --again` asks for a new look: a network that fails for a
moment must not change the providers under a running stack.

Standard library only: this runs before anything is installed. docs/toolchain.md explains the choices.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ops.paths import private_directory, state_home
from ops.progress import Progress
from ops.toolchain.build import build_pulumi, ensure_compose, ensure_gitleaks, programs
from ops.toolchain.cache import arch, home, locked, source_hash
from ops.toolchain.choice import Choice, Seen, decide, installed_plugins, look_around, release_matters, sdk_versions
from ops.toolchain.pins import (
    BUILT_PULUMI,
    MINIMUM_PULUMI,
    PLUGIN_INSTALL_SECONDS,
    RELEASE,
    RELEASE_URL,
    SOURCES,
    Origin,
    PluginMode,
    ToolchainError,
)
from ops.toolchain.release import archive_name, fetch_release, probe, release_directory

__all__ = ["Toolchain", "ToolchainError", "current", "ensure", "ensure_compose", "ensure_gitleaks", "sdk_versions"]


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


def _forced(environ: Mapping[str, str]) -> Origin | None:
    value = environ.get("AIKIT_TOOLCHAIN", "")
    if value in ("", "path", "release", "built"):
        return cast(Origin, value) if value else None
    raise ToolchainError(f"AIKIT_TOOLCHAIN is {value!r}; it may be path, release or built.")


def _key(sdk: Mapping[str, str], forced: Origin | None) -> str:
    wanted = json.dumps([sorted(sdk.items()), forced, MINIMUM_PULUMI, RELEASE])
    return source_hash(SOURCES / "cli", SOURCES / "providers", SOURCES / "pulumi-language-python", extra=wanted)


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
        platform_name = f"linux-{arch()[1]}"
        if release_matters(seen, wanted, forced):
            with progress.step("looking for Pulumi's official release") as step:
                release = probe(f"{release_url}/{archive_name(platform_name)}")
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
        target = release_directory()
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
        built, _ = build_pulumi(progress, sdk, cli=True, plugins=mode == "airgap")
        pulumi, version = programs(built) / "pulumi", BUILT_PULUMI
    pulumi_home: str | None = None
    needs: list[Path] = [pulumi]
    found = installed_plugins(sdk, environ)
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
        _, built = build_pulumi(progress, sdk, cli=False, plugins=True)
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
