"""One gate for arguments that came after the oldest provider plugin we run with.

Where the plugins were built from package registries they are older than the SDKs and refuse arguments they do
not know. `AIKIT_PLUGIN_CAPABILITIES` then names a JSON file {plugin: {token: [property names]}}, nested ones with
dots (airgap/toolchain/capabilities.json); without it the official plugins are in use and everything is supported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

VARIABLE = "AIKIT_PLUGIN_CAPABILITIES"

_dropped: set[tuple[str, str]] = set()


def supported(token: str, arguments: Mapping[str, Any], *, under: str = "") -> dict[str, Any]:
    """The arguments (snake_case, as the SDK takes them) that the plugin of resource `token` knows.

    `under`: path of the nested object they belong to ("securityDefenses.bruteForceDetection"). A token that the
    file does not list is taken to know everything: the gate only ever removes what it was told is missing.
    """
    known = _known(os.environ.get(VARIABLE, "")).get(token)
    if known is None:
        return dict(arguments)
    prefix = f"{under}." if under else ""
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        path = prefix + camel(name)
        if path in known:
            kept[name] = value
        else:
            _dropped.add((token, path))
    return kept


def exists(token: str) -> bool:
    """Whether the plugin has this resource. A plugin that the file does not list is taken to have everything."""
    listed = _known(os.environ.get(VARIABLE, ""))
    plugin = token.split(":", 1)[0]
    return token in listed or not any(each.startswith(f"{plugin}:") for each in listed)


def dropped() -> frozenset[tuple[str, str]]:
    """(token, property) of everything this process left out: what only the official plugin proves."""
    return frozenset(_dropped)


def camel(name: str) -> str:
    """snake_case -> camelCase, as the plugins spell it."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


@cache
def _known(path: str) -> Mapping[str, frozenset[str]]:
    if not path:
        return {}
    read = cast(dict[str, dict[str, list[str]]], json.loads(Path(path).read_text(encoding="utf-8")))
    return {token: frozenset(known) for tokens in read.values() for token, known in tokens.items()}
