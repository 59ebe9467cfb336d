"""Pulumi's official release: whether its host answers, and fetching it by its checksum."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ops.progress import Step
from ops.toolchain.cache import arch, fresh, home, publish
from ops.toolchain.pins import BUILT_FROM, PROBE_SECONDS, RELEASE, RELEASE_SHA256, RELEASE_URL, ToolchainError


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


def release_directory() -> Path:
    return home() / f"release-{RELEASE}"


def archive_name(platform_name: str) -> str:
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
    platform_name = platform_name or f"linux-{arch()[1]}"
    name = archive_name(platform_name)
    expected = pins.get(platform_name) or _published_checksum(url, name)
    work = fresh(target.with_name(f".new-{target.name}"))
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
    publish(work, target)


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
