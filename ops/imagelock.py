"""Locks images to digests: what a tag stands for on first use, whether what is locked can still be had.

The clone's images.lock.json says what everybody uses; what a first `up` found stands in the stack's state until
somebody writes that file. docs/adr/0010-image-locks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from ops import source
from ops.registry import Client, Found, MissingError, RegistryError, split
from stack.model import Arch, ImageLock, ImagePin

MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What registries said, by repository:tag. unknown: why nothing is known. missing: those that have no such tag."""

    found: Mapping[str, Found] = field(default_factory=dict[str, Found])
    unknown: Mapping[str, str] = field(default_factory=dict[str, str])
    missing: frozenset[str] = frozenset()


def ask(pins: Iterable[ImagePin], *, created: bool = False, client: Client | None = None) -> Answers:
    """What each pin's tag stands for now. Registries that answer nothing are asked once, not once per image."""
    client = client or Client()
    wanted = {pin.tagged: pin for pin in pins}
    silent = _silent(pin.repository for pin in wanted.values())
    found: dict[str, Found] = {}
    unknown: dict[str, str] = {}
    missing: set[str] = set()

    def one(pin: ImagePin) -> None:
        host = split(pin.repository)[0]
        if host in silent:
            unknown[pin.tagged] = f"{host} did not answer"
            return
        try:
            found[pin.tagged] = client.find(pin.repository, pin.tag, created=created)
        except MissingError:
            missing.add(pin.tagged)
            unknown[pin.tagged] = f"{host} has no tag {pin.tag}"
        except RegistryError as error:
            unknown[pin.tagged] = f"{host} {error}"

    with ThreadPoolExecutor(max_workers=MAX_THREADS, thread_name_prefix="registry") as pool:
        list(pool.map(one, wanted.values()))
    return Answers(found=found, unknown=unknown, missing=frozenset(missing))


def _silent(repositories: Iterable[str]) -> frozenset[str]:
    """Registries that do not answer, found out within source.TIMEOUT_S for all of them."""
    hosts = {split(repository)[0] for repository in repositories}
    remote = sorted(host for host in hosts if not host.startswith(("localhost", "127.")))
    return frozenset(item.host for item in source.probe(remote) if not item.answers)


def lock_of(found: Found, today: date | None = None) -> ImageLock:
    """The lock of what was found. ValueError when it is for no architecture that we know."""
    arches = frozenset(Arch(arch) for arch in found.arches if arch in {known.value for known in Arch})
    if not arches:
        raise ValueError(f"is made for {', '.join(sorted(found.arches))} only")
    day = today or datetime.now(UTC).date()
    return ImageLock(digest=found.digest, arches=arches, locked=day.isoformat())


@dataclass(frozen=True, kw_only=True)
class FirstUse:
    """locks: of images that had none, by repository:tag. unlocked: those that stay without one, and why."""

    locks: Mapping[str, ImageLock]
    unlocked: Mapping[str, str]


def first_use(
    pins: Iterable[ImagePin],
    held: Iterable[Mapping[str, Any]],
    arch: str,
    *,
    client: Client | None = None,
    today: date | None = None,
) -> FirstUse:
    """Lock images that have no lock: to what the engine holds already, else to what the registry has now.

    held: the engine's images (/images/json), arch: its architecture. What it holds was pulled before: locking it
    changes nothing that runs.
    """
    images = list(held)
    locks: dict[str, ImageLock] = {}
    asked: list[ImagePin] = []
    for pin in pins:
        digest = held_digest(images, pin)
        if digest and arch in {known.value for known in Arch}:
            day = (today or datetime.now(UTC).date()).isoformat()
            locks[pin.tagged] = ImageLock(digest=digest, arches=frozenset({Arch(arch)}), locked=day)
        else:
            asked.append(pin)
    unlocked: dict[str, str] = {}
    if asked:
        answers = ask(asked, client=client)
        unlocked |= answers.unknown
        for tagged, found in answers.found.items():
            try:
                locks[tagged] = lock_of(found, today)
            except ValueError as error:
                unlocked[tagged] = str(error)
    return FirstUse(locks=locks, unlocked=unlocked)


def held_digest(images: Iterable[Mapping[str, Any]], pin: ImagePin) -> str:
    """The digest under which the engine holds a tag; "" when it holds none that came from there."""
    names = short_names(pin.repository)
    for image in images:
        if any(f"{name}:{pin.tag}" in (image.get("RepoTags") or []) for name in names):
            for text in image.get("RepoDigests") or []:
                name, _, digest = str(text).partition("@")
                if name in names and digest:
                    return digest
    return ""


def short_names(repository: str) -> tuple[str, ...]:
    """A repository as an engine may list it: Docker Hub's without their registry."""
    return tuple(dict.fromkeys((repository, repository.removeprefix("docker.io/").removeprefix("library/"))))


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A lock that cannot be kept: the registry answers, and has no such digest any more."""

    tagged: str
    digest: str
    registry: str


def gone(
    locked: Iterable[tuple[ImagePin, str]], held: Iterable[Mapping[str, Any]], *, client: Client | None = None
) -> tuple[Gone, ...]:
    """Which locked images (pin, digest) neither the engine holds nor their registry has. Silence is no answer."""
    client = client or Client()
    digests = {str(text) for image in held for text in image.get("RepoDigests") or []}
    wanted = [
        (pin, digest)
        for pin, digest in locked
        if not any(f"{name}@{digest}" in digests for name in short_names(pin.repository))
    ]
    silent = _silent(pin.repository for pin, _ in wanted)

    def one(item: tuple[ImagePin, str]) -> Gone | None:
        pin, digest = item
        host = split(pin.repository)[0]
        try:
            if host in silent or client.has(pin.repository, digest):
                return None
        except RegistryError:
            return None
        return Gone(tagged=pin.tagged, digest=digest, registry=host)

    with ThreadPoolExecutor(max_workers=MAX_THREADS, thread_name_prefix="registry") as pool:
        return tuple(found for found in pool.map(one, wanted) if found)
