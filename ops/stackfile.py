"""Changes one list in the operator's stack file and nothing else: comments, order and style stay as they wrote them.

The file is edited as text, at the places where the YAML parser found the list; then it is read again and must say
exactly what was meant. Where that cannot be, nothing is written and the operator is told what to write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from ops.console import KitError
from ops.stackstate import write_atomically
from stack import project


class EditError(ValueError):
    """The text cannot be changed safely."""


def save_list(path: Path, project_name: str, key: str, items: Sequence[str]) -> None:
    """Make `key` of the project in a stack file exactly this list. KitError with what to write when it cannot be."""
    path = path.resolve()  # a link stays one
    text = path.read_text(encoding="utf-8")
    try:
        changed = with_list(text, project_name, key, items)
    except (EditError, yaml.YAMLError) as error:
        lines = "\n".join([f"{project_name}:{key}:", *(f"  - {item}" for item in items)])
        raise KitError(f"{path.name} was not changed: {error}.", f"Write into it, under config:\n{lines}") from error
    mode = path.stat().st_mode & 0o777
    write_atomically(path, changed)
    path.chmod(mode)


def save_items(
    path: Path, project_name: str, key: str, *, same: Callable[[str], str], items: Mapping[str, str]
) -> None:
    """Write these items into a list of a stack file: in the place of the one that `same` names alike, or at the end.

    KitError with what to write when it cannot be done.
    """
    path = path.resolve()
    text = path.read_text(encoding="utf-8")
    try:
        changed = with_items(text, project_name, key, same=same, items=items)
    except (EditError, yaml.YAMLError) as error:
        lines = "\n".join([f"{project_name}:{key}:", *(f"  - {item}" for item in items.values())])
        raise KitError(f"{path.name} was not changed: {error}.", f"Write into it, under config:\n{lines}") from error
    mode = path.stat().st_mode & 0o777
    write_atomically(path, changed)
    path.chmod(mode)


def with_items(text: str, project_name: str, key: str, *, same: Callable[[str], str], items: Mapping[str, str]) -> str:
    """The text with each item (by the name that `same` gives it) in its list. EditError when in doubt."""
    node = _find(text, (f"{project_name}:{key}", key))
    meant: list[str] = []
    todo = dict(items)
    for entry in reversed(node.value if node is not None else []):
        if not isinstance(entry, yaml.ScalarNode):
            raise EditError("the list holds more than names")
        said = str(entry.value)
        if (name := same(said)) in todo:
            said = todo.pop(name)
            text = text[: entry.start_mark.index] + _scalar(said) + text[entry.end_mark.index :]
        meant.insert(0, said)
    return with_list(text, project_name, key, [*meant, *(items[name] for name in items if name in todo)])


def with_list(text: str, project_name: str, key: str, items: Sequence[str]) -> str:
    """The text with `key` being `items`. Items that stay keep their lines and comments. EditError when in doubt."""
    before = _load(text)
    node = _find(text, (f"{project_name}:{key}", key))
    changed = _replaced(text, node, items) if node is not None else _added(text, f"{project_name}:{key}", items)
    after = _load(changed)
    if after != _meant(before, project_name, key, items):
        raise EditError(f"the list {key} stands there in a way that this does not know")
    return changed


def _load(text: str) -> dict[str, Any]:
    document = project.parse(text)
    if not isinstance(document, dict):
        raise EditError("it is no mapping")
    return cast(dict[str, Any], document)


def _meant(before: Mapping[str, Any], project_name: str, key: str, items: Sequence[str]) -> dict[str, Any]:
    config = dict(cast(Mapping[str, Any], before.get("config") or {}))
    name = key if key in config else f"{project_name}:{key}"
    config[name] = list(items)
    return {**before, "config": config}


def _find(text: str, names: tuple[str, ...]) -> yaml.SequenceNode | None:
    """The list's node; None where the key is missing. EditError when its value is no list."""
    config = _value(yaml.compose(text, Loader=yaml.SafeLoader), "config")
    for name in names:
        node = _value(config, name)
        if isinstance(node, yaml.SequenceNode):
            return node
        if node is not None:
            raise EditError(f"{name} is no list there")
    return None


def _value(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return value
    return None


def _scalar(item: str) -> str:
    """As it has to be written to be read as this text."""
    try:
        plain = project.parse(item) == item
    except yaml.YAMLError:
        plain = False
    return item if plain else f"'{item}'"


def _replaced(text: str, node: yaml.SequenceNode, items: Sequence[str]) -> str:
    if node.flow_style:
        flow = ", ".join(_scalar(item) for item in items)
        if "#" in text[node.start_mark.index : node.end_mark.index]:
            raise EditError("the list has comments between its brackets")
        return text[: node.start_mark.index] + f"[{flow}]" + text[node.end_mark.index :]
    lines = text.splitlines(keepends=True)
    entries = {str(item.value): item for item in node.value}
    if len(entries) != len(node.value) or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        raise EditError("the list holds more than names")
    if not items:
        raise EditError("a list without items would mean the defaults")
    kept = [item for item in items if item in entries]
    if kept != [name for name in entries if name in kept]:
        raise EditError("the order would change")
    dash = lines[node.value[0].start_mark.line]
    indent = dash[: len(dash) - len(dash.lstrip())]
    gone = {item.start_mark.line for name, item in entries.items() if name not in items}
    last = node.value[-1].start_mark.line
    new = [f"{indent}- {_scalar(item)}\n" for item in items if item not in entries]
    result: list[str] = []
    for number, line in enumerate(lines):
        if number not in gone:
            result.append(line if line.endswith("\n") else f"{line}\n")
        if number == last:
            result += new
    return "".join(result)


def _added(text: str, name: str, items: Sequence[str]) -> str:
    """A new key at the end of `config`, indented as its first key is."""
    config = _value(yaml.compose(text, Loader=yaml.SafeLoader), "config")
    if not isinstance(config, yaml.MappingNode) or config.flow_style or not config.value:
        raise EditError("it has no block of keys under config")
    indent = " " * config.value[0][0].start_mark.column
    lines = [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]
    # A block ends where the next begins: step back over blank lines and comments between them.
    end = min(config.end_mark.line + (config.end_mark.column > 0), len(lines))
    while end > 0 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    new = [f"{indent}{name}:\n", *(f"{indent}  - {_scalar(item)}\n" for item in items)]
    return "".join([*lines[:end], *new, *lines[end:]])
