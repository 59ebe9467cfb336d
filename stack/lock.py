"""images.lock.json: what each image's tag stood for when it was locked. Pure but for reading the file.

    {"registry": {"docker.io/library/redis:8.2.9":
                    {"digest": "sha256:...", "arches": ["amd64", "arm64"], "locked": "2026-11-21"}},
     "built":    {"redis": ["0123456789ab"]}}

`registry`: the digest of the index of all architectures, so that one lock serves a Pi and a server. `built`: of an
image that is built here the lock is the hash of its recipe's content, one per architecture. `./kit images lock` writes
the file into the clone, to be committed; docs/adr/0010-image-locks.md says why there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from stack.model import Arch, ImageLock, Problem, SpecError

FILE = "images.lock.json"
_TAGGED = re.compile(r"[a-z0-9][a-z0-9._:/-]*:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_CONTENT = re.compile(r"[0-9a-f]{12}")
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})?")
_WRITE_ANEW = "take it back from git, or write it anew: ./kit images lock"


@dataclass(frozen=True, kw_only=True)
class Locks:
    """registry: repository:tag -> lock. built: name of a locally built image -> the content hashes it may have."""

    registry: Mapping[str, ImageLock] = field(default_factory=lambda: MappingProxyType({}))
    built: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))


def read(root: Path) -> Locks:
    """The locks of a clone; none where it has no such file. SpecError with everything that is wrong in it."""
    path = root / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Locks()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(Problem(where=FILE, what=str(error), fix=_WRITE_ANEW)) from None
    return parse(text)


def parse(text: str) -> Locks:
    """The locks of a file's text. SpecError with everything that is wrong in it."""
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise _unreadable(Problem(where=FILE, what=f"is no JSON: {error}", fix=_WRITE_ANEW)) from None
    problems: list[Problem] = []
    top = _object(document, FILE, problems)
    registry: dict[str, ImageLock] = {}
    for tagged, value in _object(top.get("registry", {}), f"{FILE} registry", problems).items():
        entry = _object(value, f"{FILE} {tagged}", problems)
        try:
            name, found = parse_registry(f"{tagged}={entry.get('digest', '')},{_texts(entry.get('arches', []))}")
            registry[name] = ImageLock(digest=found.digest, arches=found.arches, locked=_day(entry.get("locked", "")))
        except ValueError as error:
            problems.append(Problem(where=f"{FILE} {tagged}", what=str(error), fix=_WRITE_ANEW))
    built: dict[str, frozenset[str]] = {}
    for name, value in _object(top.get("built", {}), f"{FILE} built", problems).items():
        try:
            built[name] = parse_built(f"{name}={_texts(value)}")[1]
        except ValueError as error:
            problems.append(Problem(where=f"{FILE} {name}", what=str(error), fix=_WRITE_ANEW))
    for name in sorted(set(top) - {"registry", "built"}):
        fix = f"it holds registry and built, and nothing else: {_WRITE_ANEW}"
        problems.append(Problem(where=f"{FILE} {name}", what="is unknown", fix=fix))
    if problems:
        raise _unreadable(*problems)
    return Locks(registry=MappingProxyType(registry), built=MappingProxyType(built))


def render(locks: Locks) -> str:
    """The file's text, the same for the same locks."""
    document = {
        "registry": {
            tagged: {"digest": item.digest, "arches": sorted(item.arches), "locked": item.locked}
            for tagged, item in sorted(locks.registry.items())
        },
        "built": {name: sorted(hashes) for name, hashes in sorted(locks.built.items())},
    }
    return json.dumps(document, indent=2) + "\n"


def parse_registry(text: str) -> tuple[str, ImageLock]:
    """repository:tag=sha256:...,amd64,arm64 as it stands in the configuration. ValueError with what is wrong."""
    tagged, _, rest = text.partition("=")
    digest, *arches = rest.split(",")
    if not _TAGGED.fullmatch(tagged) or tagged.endswith(":latest"):
        raise ValueError("is no repository:tag, such as docker.io/library/redis:8.2.9")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("has no digest, which is sha256: and 64 hexadecimal digits")
    known = {arch.value for arch in Arch}
    if not arches or set(arches) - known:
        raise ValueError(f"names no architectures after its digest; known are {', '.join(sorted(known))}")
    return tagged, ImageLock(digest=digest, arches=frozenset(map(Arch, arches)))


def format_registry(tagged: str, item: ImageLock) -> str:
    """The inverse of parse_registry."""
    return f"{tagged}={item.digest},{','.join(sorted(item.arches))}"


def parse_built(text: str) -> tuple[str, frozenset[str]]:
    """name=hash,hash as it stands in the configuration. ValueError with what is wrong."""
    name, _, rest = text.partition("=")
    hashes = rest.split(",")
    if not _NAME.fullmatch(name) or not all(map(_CONTENT.fullmatch, hashes)):
        raise ValueError("is not name=hash,hash with hashes of 12 hexadecimal digits")
    return name, frozenset(hashes)


def _object(value: object, where: str, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(value, dict):
        return {str(key): item for key, item in cast("dict[object, Any]", value).items()}
    problems.append(Problem(where=where, what="is no object", fix=_WRITE_ANEW))
    return {}


def _texts(value: object) -> str:
    if not isinstance(value, list):
        raise ValueError("holds no list where one belongs")
    return ",".join(map(str, cast("list[object]", value)))


def _day(value: object) -> str:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError('"locked" is no day, such as 2026-11-21')
    return value


def _unreadable(*problems: Problem) -> SpecError:
    return SpecError(f"{FILE} cannot be read", problems)
