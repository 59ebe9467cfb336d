"""Fixtures of the live layer: the toolchain, locally built images, throw-away Pulumi projects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.live.pulumi_project import Project

ROOT = Path(__file__).resolve().parents[2]
CAPABILITIES = ROOT / "airgap" / "toolchain" / "capabilities.json"


@pytest.fixture(scope="session")
def toolchain() -> Iterator[Mapping[str, str]]:
    """Environment in which `pulumi` with language host and plugins runs: PATH's if it has all, else ./kit's."""
    changes = {"AIKIT_PYTHON": os.environ.get("AIKIT_PYTHON", sys.executable)}
    if not (shutil.which("pulumi") and shutil.which("pulumi-language-python")):
        from ops import toolchain
        from ops.progress import Progress

        changes |= toolchain.ensure(Progress(), toolchain.sdk_versions()).env
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield changes
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@pytest.fixture(scope="session")
def images() -> Callable[[str], str]:
    """images("tools") is the reference of a locally built image. AIKIT_TEST_IMAGES: a JSON file of them."""
    known: dict[str, str] = {}
    if path := os.environ.get("AIKIT_TEST_IMAGES"):
        known.update(json.loads(Path(path).read_text(encoding="utf-8")))

    def reference(name: str) -> str:
        if name not in known or not _present(known[name]):
            from airgap import images

            known[name] = images.ensure([name])[name].reference
        return known[name]

    return reference


@pytest.fixture
def project(tmp_path: Path, toolchain: Mapping[str, str]) -> Iterator[Project]:
    """A project of its own; everything it made is gone afterwards."""
    made = Project(tmp_path / "project", environment=_airgap())
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory: pytest.TempPathFactory, toolchain: Mapping[str, str]) -> Iterator[Project]:
    """The same for all tests of a module, where making it takes long."""
    made = Project(tmp_path_factory.mktemp("project"), environment=_airgap())
    try:
        yield made
    finally:
        made.remove()


def _airgap() -> dict[str, str]:
    """The capability file, where the plugins are those built here."""
    official = os.environ.get("AIKIT_OFFICIAL_PLUGINS")
    return {"AIKIT_PLUGIN_CAPABILITIES": str(CAPABILITIES)} if CAPABILITIES.exists() and not official else {}


def _present(reference: str) -> bool:
    done = subprocess.run(["docker", "image", "inspect", reference], capture_output=True, check=False)
    return done.returncode == 0
