"""Looks for known secrets where none may be: docker inspect, labels, arguments, logs, the plain part of the state."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

from tests.live.pulumi_project import docker, inspect

SHORTEST = 8  # shorter ones turn up by chance


@dataclass(frozen=True)
class Leak:
    """A secret (by its name, never its value) and where it was found."""

    secret: str
    where: str
    form: str

    def __str__(self) -> str:
        return f"{self.secret} ({self.form}) in {self.where}"


def forms(value: str) -> Mapping[str, str]:
    """Every way in which the value may be written down."""
    data = value.encode("utf-8")
    found = {
        "plain": value,
        "base64": base64.b64encode(data).decode().rstrip("="),
        "base64url": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "url": quote(value, safe=""),
        "form": quote_plus(value),
        "json": json.dumps(value)[1:-1],
        "json unicode": json.dumps(value, ensure_ascii=False)[1:-1],
        "hex": data.hex(),
        "reversed quotes": value.replace("'", "'\\''"),
    }
    # In the middle of a larger text base64 looks different: leave out what depends on the neighbours.
    for shift in (1, 2):
        inner = base64.b64encode(b"\0" * shift + data).decode().rstrip("=")
        found[f"base64 +{shift}"] = inner[4 : -4 if len(inner) > 16 else None]
    return {form: text for form, text in found.items() if len(text) >= SHORTEST}


def leaks_in(text: str, where: str, secrets: Mapping[str, str]) -> list[Leak]:
    """The secrets that occur in the text, in whatever form. The text may itself be JSON."""
    found: list[Leak] = []
    for name, value in secrets.items():
        for form, written in forms(value).items():
            escaped = json.dumps(written)[1:-1]
            if written in text or escaped in text:
                found.append(Leak(secret=name, where=where, form=form))
                break
    return found


def find_leaks(
    secrets: Mapping[str, str], *, state: Mapping[str, Any] | None, containers: Sequence[str], logs: bool = True
) -> list[Leak]:
    """Leaks in an exported state (without --show-secrets) and in everything docker tells about the containers.

    secrets: name -> value. Multi-line values (keys, certificates) are looked for line by line too.
    """
    known = dict(_lines(secrets))
    found: list[Leak] = []
    if state is not None:
        for resource in state["deployment"].get("resources", []):
            found += leaks_in(json.dumps(resource, ensure_ascii=False), f"state of {resource['urn']}", known)
        rest = {key: value for key, value in state["deployment"].items() if key != "resources"}
        found += leaks_in(json.dumps(rest, ensure_ascii=False), "state", known)
    for described in inspect(containers):
        name = described["Name"].lstrip("/")
        for part, content in described.items():
            places = content.items() if part == "Config" and isinstance(content, dict) else [(part, content)]
            for place, value in places:
                found += leaks_in(json.dumps(value, ensure_ascii=False), f"{place} of {name}", known)
        if logs:
            found += leaks_in(docker("logs", name, check=False), f"log of {name}", known)
    return found


def _lines(secrets: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, value in secrets.items():
        yield name, value
        lines = [line for line in value.splitlines() if len(line) >= 24 and not line.startswith("-----")]
        if len(lines) > 1:
            yield from ((f"{name} line {number}", line) for number, line in enumerate(lines, 1))
