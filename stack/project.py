"""Reads Pulumi.yaml and Pulumi.<stack>.yaml as Pulumi does, without Pulumi."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from stack.model import Problem, SpecError
from stack.words import listed

PROJECT_FILE = "Pulumi.yaml"
ENCRYPTED = "[encrypted]"  # stands for a value that only the engine can read


def stacks(root: Path) -> tuple[str, ...]:
    """The stacks that have a file, by name."""
    return tuple(sorted(path.name.split(".")[1] for path in root.glob("Pulumi.*.yaml")))


def schema(root: Path) -> Mapping[str, Mapping[str, Any]]:
    """The `config` block of Pulumi.yaml: each key's type, default and description."""
    return _mapping(read(root / PROJECT_FILE), "config", PROJECT_FILE)


def stack_config(root: Path, stack: str) -> tuple[dict[str, object], frozenset[str]]:
    """The project's own keys of a stack, defaults included, and which of them are encrypted."""
    path = root / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        fix = f"Stacks: {listed(stacks(root))}. To make one, copy the nearest: cp Pulumi.dev.yaml {path.name}"
        raise SpecError(f"There is no stack {stack!r}", (Problem(where=path.name, what="is not there", fix=fix),))
    project = read(root / PROJECT_FILE)
    namespace = f"{project.get('name')}:"
    keys = _mapping(project, "config", PROJECT_FILE)
    values: dict[str, object] = {name: entry["default"] for name, entry in keys.items() if "default" in entry}
    encrypted: set[str] = set()
    for name, value in _mapping(read(path), "config", path.name).items():
        if ":" in name and not name.startswith(namespace):
            continue  # another program's or a provider's
        short = name.removeprefix(namespace)
        if isinstance(value, dict) and set(cast("dict[str, object]", value)) == {"secure"}:
            encrypted.add(short)
            values[short] = ENCRYPTED
        else:
            values[short] = value
    return values, frozenset(encrypted)


def _mapping(document: Mapping[str, Any], name: str, file: str) -> dict[str, Any]:
    found = document.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _unreadable(file, f"{name} is no mapping", "write one key per line, indented, with its value")
    return {str(key): value for key, value in cast("dict[object, Any]", found).items()}


def read(path: Path) -> Mapping[str, Any]:
    """A YAML mapping as Pulumi reads it, {} for an empty file. SpecError when it is missing, no YAML or no mapping."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise _unreadable(path.name, "is not there", f"expected in {path.parent}: restore it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unreadable(path.name, _first_fault(error), "correct the line and run this again") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _unreadable(path.name, "is no mapping of keys to values", "start again from another stack's file")
    return cast("dict[str, Any]", document)


def parse(text: str) -> Any:
    """A YAML text as Pulumi reads it. yaml.YAMLError when it is none."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _unreadable(file: str, what: str, fix: str) -> SpecError:
    return SpecError(f"{file} cannot be read", (Problem(where=file, what=what, fix=fix),))


def _first_fault(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem or 'is no YAML'}"
    return " ".join(str(error).split())


_FastLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):
    """YAML as Pulumi reads it (1.2): `yes` and `on` are text, and a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# Each tag, how its values look, and the characters they begin with ("" is the empty value).
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
):
    _resolver = re.compile(f"(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _resolver, _first)  # pyright: ignore[reportUnknownMemberType]
