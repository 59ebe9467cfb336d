"""Recipes: one folder per image, read from its ``recipe.json``, every problem reported at once."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, cast

from stack.model import STANDIN

ROOT = Path(__file__).resolve().parent
REPOSITORY = "aikit.local/airgap"
# Part of every content hash: raise it when build.py changes what the same folder builds into.
BUILD_FORMAT = "4"

Kind = Literal["docker", "mmdebstrap"]
SourceKind = Literal["debian", "go", "maven", "npm", "pypi", "own"]
_KINDS: tuple[Kind, ...] = ("docker", "mmdebstrap")
_SOURCE_KINDS: tuple[SourceKind, ...] = ("debian", "go", "maven", "npm", "pypi", "own")
_ARCHES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")


class RecipeError(ValueError):
    """Every problem of the recipes read, one per line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a part of the image comes from. ``version`` says "as served" where the archive decides."""

    kind: SourceKind
    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What of an official image this one keeps. The machine-read part is checked on the built image."""

    of: str
    """The official image whose contract is kept; empty when the image stands for none."""
    user: str
    """The image's own user, as ``docker inspect`` shows it; empty is root."""
    also_as: str | None
    """Another ``uid:gid`` it runs as with no capability and a read-only root."""
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: Mapping[str, str]
    ports: tuple[str, ...]
    volumes: tuple[str, ...]
    workdir: str
    stop_signal: str
    programs: tuple[str, ...]
    """Found on PATH."""
    files: tuple[str, ...]
    """Paths that exist."""
    keeps: tuple[str, ...]
    better: tuple[str, ...]
    not_kept: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image: ``bases`` maps a Dockerfile's build argument to the recipe it starts FROM."""

    name: str
    title: str
    version: str
    kind: Kind
    purpose: str
    folder: Path
    sources: tuple[Source, ...]
    contract: Contract | None
    bases: Mapping[str, str] = field(default_factory=dict[str, str])
    args: Mapping[str, str] = field(default_factory=dict[str, str])
    packages: tuple[str, ...] = ()
    """Debian packages whose served versions go into the label aikit.packages."""
    cache: bool = False
    """Keep the built image as a compressed file: for those that load much faster than they build."""
    suite: str = ""
    include: tuple[str, ...] = ()
    standin_for: str = ""
    """The real server that it stands in for and why it cannot be had; empty for a real one."""

    @property
    def is_base(self) -> bool:
        return self.kind == "mmdebstrap"

    @property
    def pin(self) -> str:
        """The name that stack/images.py has for what this image is or stands in for."""
        return self.name.removeprefix(STANDIN)


class _Reader:
    """Typed access to one JSON object; problems are collected, not raised."""

    def __init__(self, where: str, data: Mapping[str, object], problems: list[str]) -> None:
        self.where = where
        self.data = data
        self.problems = problems
        self.read: set[str] = set()

    def _get(self, key: str, default: object) -> object:
        self.read.add(key)
        if key in self.data:
            return self.data[key]
        if default is None:
            self.problems.append(f"{self.where}: {key!r} is missing")
            return ""
        return default

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if isinstance(value, str):
            return value
        self.problems.append(f"{self.where}: {key!r} must be a string")
        return ""

    def flag(self, key: str) -> bool:
        value = self._get(key, False)
        if isinstance(value, bool):
            return value
        self.problems.append(f"{self.where}: {key!r} must be true or false")
        return False

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        value = self._get(key, None if required else [])
        if isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value)):
            return tuple(cast("list[str]", value))
        self.problems.append(f"{self.where}: {key!r} must be a list of strings")
        return ()

    def mapping(self, key: str) -> dict[str, str]:
        value = self._get(key, {})
        if isinstance(value, dict) and all(isinstance(item, str) for item in cast("dict[str, object]", value).values()):
            return cast("dict[str, str]", value)
        self.problems.append(f"{self.where}: {key!r} must be an object of strings")
        return {}

    def objects(self, key: str) -> list[dict[str, object]]:
        value = self._get(key, [])
        if isinstance(value, list) and all(isinstance(item, dict) for item in cast("list[object]", value)):
            return cast("list[dict[str, object]]", value)
        self.problems.append(f"{self.where}: {key!r} must be a list of objects")
        return []

    def child(self, key: str) -> _Reader | None:
        self.read.add(key)
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.problems.append(f"{self.where}: {key!r} must be an object")
            return None
        return _Reader(f"{self.where}: {key}", cast("dict[str, object]", value), self.problems)

    def finish(self) -> None:
        self.problems.extend(f"{self.where}: unknown key {key!r}" for key in sorted(set(self.data) - self.read))


def _contract(reader: _Reader) -> Contract:
    contract = Contract(
        of=reader.text("of"),
        user=reader.text("user"),
        also_as=reader.text("also_as", "") or None,
        entrypoint=reader.texts("entrypoint"),
        cmd=reader.texts("cmd"),
        env=reader.mapping("env"),
        ports=reader.texts("ports"),
        volumes=reader.texts("volumes"),
        workdir=reader.text("workdir", ""),
        stop_signal=reader.text("stop_signal", ""),
        programs=reader.texts("programs", required=True),
        files=reader.texts("files", required=True),
        keeps=reader.texts("keeps", required=True),
        better=reader.texts("better"),
        not_kept=reader.texts("not_kept", required=True),
    )
    reader.finish()
    return contract


def load(folder: Path) -> Recipe:
    """Read one recipe. Raises RecipeError with every problem of its file."""
    problems: list[str] = []
    path = folder / "recipe.json"
    where = f"{folder.name}/recipe.json"
    try:
        raw: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError([f"{where}: {error}"]) from error
    if not isinstance(raw, dict):
        raise RecipeError([f"{where}: must hold an object"])
    reader = _Reader(where, cast("dict[str, object]", raw), problems)

    kind = reader.text("kind")
    if kind not in _KINDS:
        problems.append(f"{where}: kind {kind!r} is not one of {', '.join(_KINDS)}")
    sources: list[Source] = []
    for number, item in enumerate(reader.objects("sources")):
        source = _Reader(f"{where}: sources[{number}]", item, problems)
        source_kind = source.text("kind")
        if source_kind not in _SOURCE_KINDS:
            problems.append(f"{source.where}: kind {source_kind!r} is not one of {', '.join(_SOURCE_KINDS)}")
        sources.append(
            Source(
                kind=cast("SourceKind", source_kind),
                name=source.text("name"),
                version=source.text("version"),
            )
        )
        source.finish()
    contract_reader = reader.child("contract")
    recipe = Recipe(
        name=reader.text("name"),
        title=reader.text("title"),
        version=reader.text("version"),
        kind=cast("Kind", kind),
        purpose=reader.text("purpose"),
        folder=folder,
        sources=tuple(sources),
        contract=_contract(contract_reader) if contract_reader else None,
        bases=reader.mapping("bases"),
        args=reader.mapping("args"),
        packages=reader.texts("packages"),
        cache=reader.flag("cache"),
        suite=reader.text("suite", ""),
        include=reader.texts("include"),
        standin_for=reader.text("standin_for", ""),
    )
    reader.finish()
    if recipe.name != folder.name:
        problems.append(f"{where}: name {recipe.name!r} is not the folder's name")
    if not _NAME.fullmatch(recipe.name):
        problems.append(f"{where}: name {recipe.name!r} must be lower-case words joined by '-'")
    if recipe.name.startswith(STANDIN) != bool(recipe.standin_for):
        problems.append(f"{where}: a name begins with {STANDIN!r} if, and only if, 'standin_for' says what for and why")
    if not _VERSION.fullmatch(recipe.version):
        problems.append(f"{where}: version {recipe.version!r} cannot be part of an image tag")
    if recipe.is_base and not recipe.suite:
        problems.append(f"{where}: an mmdebstrap recipe needs a suite")
    if not recipe.is_base and recipe.contract is None:
        problems.append(f"{where}: 'contract' is missing")
    if not recipe.is_base and not (folder / "Dockerfile").is_file():
        problems.append(f"{where}: there is no Dockerfile beside it")
    if not recipe.is_base and not recipe.bases:
        problems.append(f"{where}: 'bases' is missing: it names the recipe the Dockerfile starts FROM")
    if problems:
        raise RecipeError(problems)
    return recipe


@cache
def recipes(root: Path = ROOT) -> tuple[Recipe, ...]:
    """Every recipe below ``root``, bases before what stands on them. Raises RecipeError."""
    problems: list[str] = []
    found: dict[str, Recipe] = {}
    for path in sorted(root.glob("*/recipe.json")):
        try:
            found[path.parent.name] = load(path.parent)
        except RecipeError as error:
            problems.extend(error.problems)
    ordered: list[Recipe] = []
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in done:
            return
        if name in trail:
            problems.append(f"{name}/recipe.json: stands on itself: {' -> '.join((*trail, name))}")
            return
        for base in found[name].bases.values():
            if base in found:
                visit(base, (*trail, name))
            elif not problems:
                problems.append(f"{name}/recipe.json: there is no recipe {base!r} to stand on")
        done.add(name)
        ordered.append(found[name])

    for name in found:
        visit(name, ())
        if found[name].standin_for and found[name].pin in found:
            problems.append(f"{name}/recipe.json: stands in for {found[name].pin}, which has a recipe of its own")
    if problems:
        raise RecipeError(problems)
    return tuple(ordered)


def by_name(root: Path = ROOT) -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in recipes(root)}


def by_pin(root: Path = ROOT) -> dict[str, Recipe]:
    """The recipes of images, by the name that stack/images.py has for each: a stand-in under the real one's."""
    return {recipe.pin: recipe for recipe in recipes(root) if not recipe.is_base}


def host_arch() -> str:
    """The architecture in Debian's and Docker's spelling."""
    machine = platform.machine()
    return _ARCHES.get(machine, machine)


def files_of(recipe: Recipe) -> list[Path]:
    """The files that make the image, sorted, relative to the folder."""
    return sorted(
        path.relative_to(recipe.folder)
        for path in recipe.folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def content_hash(recipe: Recipe, arch: str | None = None) -> str:
    """Hash of all files in the folder (content and executable bit), of the recipes it stands on, and of
    the architecture. What the archives serve on the day is not part of it: the image's manifest records it."""
    digest = hashlib.sha256()
    known = by_name(recipe.folder.parent)

    def add(*parts: str | bytes) -> None:
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)

    add(BUILD_FORMAT, arch or host_arch(), recipe.name)
    for argument, base in sorted(recipe.bases.items()):
        add("base", argument, content_hash(known[base], arch))
    for path in files_of(recipe):
        full = recipe.folder / path
        add(
            "file",
            path.as_posix(),
            "x" if full.stat().st_mode & 0o100 else "-",
            full.read_bytes(),
        )
    return digest.hexdigest()


def reference(recipe: Recipe, arch: str | None = None) -> str:
    """Our name for the image: never an official image's."""
    return f"{REPOSITORY}/{recipe.name}:{recipe.version}-{content_hash(recipe, arch)[:12]}"
