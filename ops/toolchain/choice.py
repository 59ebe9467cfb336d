"""Which toolchain to take: what is there, what can be fetched, what has to be built.

Plugins of both kinds are never mixed: a stack's providers are all official or all built here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ops.toolchain.cache import home
from ops.toolchain.pins import (
    BUILT_FROM,
    MINIMUM_PULUMI,
    PLUGINS,
    Origin,
    PluginMode,
    ToolchainError,
    newer_or_same,
    parse_version,
)
from ops.toolchain.release import release_directory


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
    plugins = frozenset(sdk) if installed_plugins(sdk, environ) else frozenset[str]()
    fetched = release_directory().is_dir()
    found = shutil.which("pulumi", path=path)
    if found is None:
        return Seen(plugins=plugins, fetched=fetched), None
    beside = Path(found).resolve().parent / "pulumi-language-python"
    host = shutil.which("pulumi-language-python", path=path) is not None or os.access(beside, os.X_OK)
    return Seen(cli=_version_of(Path(found)), language_host=host, plugins=plugins, fetched=fetched), Path(found)


def installed_plugins(sdk: Mapping[str, str], environ: Mapping[str, str]) -> Path | None:
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
