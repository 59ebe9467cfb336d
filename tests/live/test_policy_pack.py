"""The policy pack with the real engine: it refuses a container that is open, and lets a closed one pass."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.live.kitclone import ROOT
from tests.live.pulumi_project import Project

pytestmark = pytest.mark.live

PACK = ROOT / "policy"

PROGRAM = """
import pulumi_docker as docker
image = docker.RemoteImage("image", name="registry.example/thing:1")
docker.Container(
    "thing",
    name="kit-x-thing",
    image=image.image_id,  # which no preview knows
    user="1000:1000",
    read_only=READ_ONLY,
    capabilities=docker.ContainerCapabilitiesArgs(drops=["ALL"]),
    security_opts=["no-new-privileges:true"],
    memory=64, memory_swap=64, cpus="1.0", cpu_shares=1024,
    healthcheck=docker.ContainerHealthcheckArgs(tests=["CMD", "true"]),
    log_driver="json-file", log_opts={"max-size": "10m", "max-file": "3"},
    network_mode="none",
    mounts=MOUNTS,
    labels=[
        docker.ContainerLabelArgs(label=f"aikit.{key}", value=value)
        for key, value in {"stack": "x", "service": "thing", "kind": "service", "pids": "64"}.items()
    ],
)
docker.Network("data", name="kit-x-data", driver="bridge", internal=INTERNAL)
"""
CLOSED = "READ_ONLY, MOUNTS, INTERNAL = True, None, True\n"
OPEN = """READ_ONLY, INTERNAL = False, False
import pulumi_docker
MOUNTS = [pulumi_docker.ContainerMountArgs(type="bind", source="/var/run/docker.sock", target="/s")]
"""


@pytest.fixture(scope="module")
def pack() -> Path:
    """The pack, with the environment that its page has people make."""
    python = ROOT / ".venv.policy" / "bin" / "python"
    there = python.exists()
    if there:
        done = subprocess.run([str(python), "-c", "import pulumi_policy"], capture_output=True, check=False)
        there = done.returncode == 0
    if not there:
        venv.create(ROOT / ".venv.policy", with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(PACK / "requirements.txt")]
        subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return PACK


def test_the_pack_refuses_what_is_open_and_lets_the_rest_pass(project: Project, pack: Path) -> None:
    project.program = CLOSED + PROGRAM
    closed = project.preview("--policy-pack", str(pack))
    assert closed.ok, closed
    project.program = OPEN + PROGRAM
    refused = project.preview("--policy-pack", str(pack))
    assert not refused.ok, refused
    for rule in ("read-only-root", "volumes", "zones"):
        assert rule in refused.text, refused
    assert "/var/run/docker.sock" in refused.text
    assert "non-root" not in refused.text
