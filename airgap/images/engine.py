"""The Docker engine, through its command line, and the few host programs a build needs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

# Program -> Debian package that brings it.
HOST_PROGRAMS = {"docker": "docker.io", "mmdebstrap": "mmdebstrap", "zstd": "zstd"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class EngineError(RuntimeError):
    """The engine, or a program that is needed to use it, said no. The message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Present:
    """An image the engine holds under one of our references."""

    reference: str
    image_id: str
    recipe_hash: str


def docker() -> str:
    found = shutil.which("docker")
    if found is None:
        raise EngineError("the docker command is missing: apt-get install docker.io")
    return found


def run(arguments: Sequence[str], *, stdin: bytes | None = None) -> str:
    """Run ``docker ARGUMENTS`` and return its standard output. Raises EngineError with its last words."""
    command = [docker(), *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if result.returncode != 0:
        words = result.stderr.decode(errors="replace").strip() or f"exit {result.returncode}"
        raise EngineError(f"docker {shlex.join(arguments[:2])}: {words}")
    return result.stdout.decode(errors="replace")


def build_environment() -> dict[str, str]:
    """The classic builder: it is in every engine since 20.10 and needs no plugin."""
    return {**os.environ, "DOCKER_BUILDKIT": "0"}


def arch() -> str:
    """The engine's architecture, which is also the proof that it answers."""
    try:
        return run(["version", "--format", "{{.Server.Arch}}"]).strip()
    except EngineError as error:
        raise EngineError(f"the Docker engine does not answer: {error}") from error


def present(references: Sequence[str]) -> dict[str, Present]:
    """Those of ``references`` the engine holds, in one call."""
    if not references:
        return {}
    result = subprocess.run([docker(), "image", "inspect", *references], capture_output=True, check=False)
    if result.returncode != 0 and b"o such image" not in result.stderr:
        raise EngineError(f"the Docker engine does not answer: {result.stderr.decode(errors='replace').strip()}")
    found: dict[str, Present] = {}
    for item in cast("list[dict[str, object]]", json.loads(result.stdout or b"[]")):
        config = cast("dict[str, object]", item.get("Config") or {})
        labels = cast("dict[str, str]", config.get("Labels") or {})
        for tag in cast("list[str]", item.get("RepoTags") or []):
            if tag in references:
                found[tag] = Present(
                    reference=tag,
                    image_id=str(item["Id"]),
                    recipe_hash=labels.get("aikit.recipe-hash", ""),
                )
    return found


def need_host_programs(*, debian_archive: bool) -> list[str]:
    """Install what is missing, as root on Debian and its kin; otherwise raise with the exact command.

    Returns the packages that were installed."""
    missing = [package for program, package in HOST_PROGRAMS.items() if shutil.which(program) is None]
    if debian_archive and not _KEYRING.exists():
        missing.append("debian-archive-keyring")
    if not missing:
        return []
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if shutil.which("apt-get") is None:
        raise EngineError(f"these programs are missing: {', '.join(missing)} (their names as Debian packages)")
    if os.geteuid() != 0:
        raise EngineError(f"some programs are missing. Run: sudo apt-get update && sudo {shlex.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "-qq"], command):
        result = subprocess.run(step, env=environment, capture_output=True, check=False)
        if result.returncode != 0:
            words = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()[-5:]
            raise EngineError("\n".join([f"{shlex.join(step)} failed:", *words]))
    return missing


def ca_bundle() -> Path:
    """The machine's certificate authorities, for builder stages: SSL_CERT_FILE or the system's default."""
    defaults = ssl.get_default_verify_paths()
    candidates = (
        os.environ.get("SSL_CERT_FILE"),
        "/etc/ssl/certs/ca-certificates.crt",
        defaults.cafile,
        "/etc/pki/tls/certs/ca-bundle.crt",
    )
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise EngineError(
        "no bundle of certificate authorities was found: apt-get install ca-certificates, or set SSL_CERT_FILE"
    )
