"""Which generation of each secret the state has, and since when: read from the state, which is kept nowhere else."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from ops.stackstate import StackState, write_atomically
from stack import rotation
from stack.model import Generated, Problem
from stack.plan import Plan, SecretKey

KIND = "random:index/randomPassword:RandomPassword"
KEY_KIND = "tls:index/privateKey:PrivateKey"


@dataclass(frozen=True)
class Held:
    """The newest generation of a secret in the state, and when it was made; None where the state does not say."""

    generation: int
    made: datetime | None


class Recorded:
    """The stack's last deployment, read again only when its file changed: it has half a megabyte."""

    def __init__(self, state: StackState) -> None:
        self._state = state
        self._read: tuple[tuple[Path, int, int], Mapping[str, Any]] | None = None

    @property
    def deployment(self) -> Mapping[str, Any]:
        """Of a file backend: {} where there is none, or where only Pulumi can tell."""
        checkpoint = self._state.checkpoint
        if checkpoint is None:
            return {}
        try:
            file = checkpoint if checkpoint.exists() else checkpoint.with_suffix(".json.gz")
            found = file.stat()
            stamp = (file, found.st_mtime_ns, found.st_size)
            if self._read is None or self._read[0] != stamp:
                self._read = (stamp, parsed(file))
            return self._read[1]
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return {}  # none yet, or one that Pulumi will complain about itself


def parsed(file: Path) -> Mapping[str, Any]:
    """What a checkpoint says, packed or not."""
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
    return cast("Mapping[str, Any]", json.loads(text)["checkpoint"].get("latest") or {})


def lasting(deployment: Mapping[str, Any]) -> frozenset[str]:
    """The names of what a service leaves behind: resources that may not be deleted, and every secret."""
    return frozenset(
        str(resource["urn"]).rsplit("::", 1)[-1]
        for resource in deployment.get("resources") or ()
        if resource.get("protect") or resource.get("type") == KIND
    )


def held(plan: Plan, deployment: Mapping[str, Any]) -> dict[SecretKey, Held]:
    """What a deployment has of the plan's secrets; those that were never made are missing."""
    found: dict[SecretKey, Held] = {}
    for key, numbers in _numbers(plan, deployment).items():
        newest = max(numbers)
        # How long the oldest CA is trusted beside another counts from when that other one was made.
        number = min(numbers) if key.name == rotation.OLDEST else newest
        found[key] = Held(number, numbers[newest])
    return found


def numbers(plan: Plan, deployment: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """All generations that a deployment has, "owner/name" -> numbers: what the program is told."""
    return {str(key): tuple(sorted(found)) for key, found in _numbers(plan, deployment).items()}


def _numbers(plan: Plan, deployment: Mapping[str, Any]) -> dict[SecretKey, dict[int, datetime | None]]:
    made: dict[str, dict[str, datetime | None]] = {KIND: {}, KEY_KIND: {}}
    for resource in deployment.get("resources") or ():
        if resource.get("type") in made and not resource.get("delete"):
            made[resource["type"]][str(resource["urn"]).rsplit("::", 1)[-1]] = _time(resource.get("created"))
    patterns: list[tuple[SecretKey, str, str]] = []
    for secret in plan.secrets:
        if isinstance(secret.source, Generated):
            first = re.escape(rotation.resource_name(secret.key.owner, secret.key.name))
            patterns.append((secret.key, KIND, rf"{first}(?:-g([1-9][0-9]*))?"))
    for each in plan.certificates:
        name = rotation.LEAF if each.key.name == rotation.LEAF else rotation.CA
        patterns.append((each.key, KEY_KIND, rf"{name}(?:-g([1-9][0-9]*))?-key"))
    found: dict[SecretKey, dict[int, datetime | None]] = {}
    for key, kind, pattern in patterns:
        matches = ((re.fullmatch(pattern, name), at) for name, at in made[kind].items())
        if known := {int(match[1] or 1): at for match, at in matches if match}:
            found[key] = known
    return found


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None


def backwards(plan: Plan, deployment: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What cannot be, compared with the state: a number that goes back, a CA that is no longer trusted too early."""
    recorded = {str(key): item.generation for key, item in held(plan, deployment).items()}
    now = _wanted(plan)
    return (*rotation.backwards(recorded, now), *rotation.too_early(recorded, now))


def _wanted(plan: Plan) -> dict[str, int]:
    return {str(each.key): each.generation for each in (*plan.secrets, *plan.certificates)}


# ----------------------------------------------------------------------------------- what was begun and not ended


def begun(state: StackState) -> dict[str, int]:
    """The numbers that an `up` went for which has not gone through."""
    try:
        return {str(name): int(number) for name, number in json.loads(state.rotating.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def begin(state: StackState, plan: Plan, deployment: Mapping[str, Any]) -> None:
    """Write down which numbers this `up` raises, until one has gone through."""
    before = {str(key): item.generation for key, item in held(plan, deployment).items()}
    raised = {name: number for name, number in _wanted(plan).items() if 0 < before.get(name, 0) < number}
    if raised:
        write_atomically(state.rotating, json.dumps({**begun(state), **raised}))


def overtaken(state: StackState, plan: Plan) -> tuple[Problem, ...]:
    """Numbers that go on past a rotation that was cut short: of both, the server may have neither."""
    wanted = _wanted(plan)
    return tuple(
        Problem(
            where="rotation",
            what=f"{name}={wanted[name]}, and the rotation to {number} was cut short",
            fix=f"end that one first: write {name}={number}, ./kit up {plan.stack}; then {name}={wanted[name]}",
        )
        for name, number in sorted(begun(state).items())
        if wanted.get(name, 0) > number
    )
