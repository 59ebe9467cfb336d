"""What is built here of package registries: CLI, language host, provider plugins, Docker Compose, gitleaks."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ops.commands import run_logged
from ops.progress import Progress
from ops.toolchain.cache import fresh, home, locked, publish, source_hash
from ops.toolchain.golang import Part, ensure_go, note_origin, prune
from ops.toolchain.pins import BUILT_FROM, BUILT_PULUMI, COMPOSE, GITLEAKS, PLUGINS, SOURCES

_CLI_PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
_CLI_FLAGS = f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{BUILT_PULUMI}"


def _cli_directory() -> Path:
    return home() / f"cli-{source_hash(SOURCES / 'cli', extra=_CLI_FLAGS)}"


def programs(cli: Path) -> Path:
    """The CLI with the language host beside it, where the engine takes it for its own and does not warn.

    A directory of its own: a change in the language host must not rebuild the CLI.
    """
    target = home() / f"bin-{source_hash(SOURCES / 'pulumi-language-python', extra=cli.name)}"
    if not target.is_dir():
        work = fresh(home() / f".new-{target.name}")
        os.link(cli / "pulumi", work / "pulumi")
        shutil.copy(cli / BUILT_FROM, work)
        host = work / "pulumi-language-python"
        shutil.copy(SOURCES / "pulumi-language-python", host)
        host.chmod(0o755)  # an unpacked archive of the sources may have lost it
        publish(work, target)
    return target


def _plugins_directory(sdk: Mapping[str, str]) -> Path:
    """A PULUMI_HOME that holds the plugins built here."""
    return home() / f"plugins-{source_hash(SOURCES / 'providers', extra=json.dumps(dict(sdk), sort_keys=True))}"


def build_pulumi(progress: Progress, sdk: Mapping[str, str], *, cli: bool, plugins: bool) -> tuple[Path, Path]:
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
    providers = Part(go, "providers", provider_packages)

    def fetch_providers() -> None:
        try:
            providers.download(progress, "the provider plugins")
        except BaseException as error:
            failures.append(error)

    fetching = threading.Thread(target=fetch_providers, daemon=True) if plugins else None
    if fetching is not None:
        fetching.start()
    if cli:
        part = Part(go, "cli", [_CLI_PACKAGE])
        part.download(progress, "the Pulumi CLI")
        work = fresh(home() / f".new-{cli_directory.name}")
        part.build(progress, "the Pulumi CLI", [(_CLI_PACKAGE, work / "pulumi", _CLI_FLAGS)])
        note_origin(work, go, "cli", f"Pulumi {BUILT_PULUMI}")
        publish(work, cli_directory)
    if fetching is not None:
        fetching.join()
        if failures:
            raise failures[0]
        work = fresh(home() / f".new-{plugins_directory.name}")
        outputs: list[tuple[str, Path, str]] = []
        for name in PLUGINS:
            directory = work / "plugins" / f"resource-{name}-v{sdk[name]}"
            directory.mkdir(parents=True)
            program = directory / f"pulumi-resource-{name}"
            outputs.append((f"./pulumi-resource-{name}", program, f"-X main.version={sdk[name]}"))
        providers.build(progress, "the provider plugins", outputs)
        for name in PLUGINS:
            note_origin(
                work / "plugins" / f"resource-{name}-v{sdk[name]}",
                go,
                "providers",
                f"not the official plugin {sdk[name]}: it stands in for it (see docs/toolchain.md)",
                plugin=name,
            )
        publish(work, plugins_directory)
    prune(go)
    return cli_directory, plugins_directory


def ensure_compose(progress: Progress) -> Path:
    """Docker Compose, built from its Go module, for side-by-side measurements (bench/)."""
    module = "github.com/docker/compose/v2"
    flags = f"-X {module}/internal.Version=v{COMPOSE}"
    return _tool(progress, "compose", f"{module}/cmd", "docker-compose", flags, f"Docker Compose {COMPOSE}")


def ensure_gitleaks(progress: Progress) -> Path:
    """gitleaks, built from its Go module: for the hook that keeps secrets out of commits, and for the tests."""
    module = "github.com/zricethezav/gitleaks/v8"
    flags = f"-X {module}/version.Version={GITLEAKS}"
    return _tool(progress, "gitleaks", module, "gitleaks", flags, f"gitleaks {GITLEAKS}")


def _tool(progress: Progress, name: str, package: str, program: str, flags: str, origin: str) -> Path:
    """A program of a Go module in SOURCES/<name>, built once for what stands there. origin: its title and version."""
    target = home() / f"{name}-{source_hash(SOURCES / name)}"
    if target.is_dir():
        return target / program
    title = origin.rpartition(" ")[0]
    with locked(progress):
        if not target.is_dir():
            go = ensure_go(progress)
            part = Part(go, name, [package])
            part.download(progress, title)
            work = fresh(home() / f".new-{target.name}")
            part.build(progress, title, [(package, work / program, flags)])
            note_origin(work, go, name, origin)
            publish(work, target)
            prune(go)
    return target / program


def write_capabilities(progress: Progress) -> Path:
    """Regenerate airgap/toolchain/capabilities.json from the schemas of the providers built here."""
    go = ensure_go(progress)
    part = Part(go, "providers", ["./dump-schema"])
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
    file = SOURCES / "capabilities.json"
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
