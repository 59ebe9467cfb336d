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

from ops.stackstate import StackState
from stack import rotation
from stack.model import Generated
from stack.plan import Plan, SecretKey

KIND = "random:index/randomPassword:RandomPassword"


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
    made: dict[str, datetime | None] = {}
    for resource in deployment.get("resources") or ():
        if resource.get("type") == KIND and not resource.get("delete"):
            made[str(resource["urn"]).rsplit("::", 1)[-1]] = _time(resource.get("created"))
    found: dict[SecretKey, Held] = {}
    for secret in plan.secrets:
        if not isinstance(secret.source, Generated):
            continue
        first = rotation.resource_name(secret.key.owner, secret.key.name)
        pattern = re.compile(rf"{re.escape(first)}(?:-g([1-9][0-9]*))?")
        numbers = {int(match[1] or 1): name for name in made if (match := pattern.fullmatch(name))}
        if numbers:
            newest = max(numbers)
            found[secret.key] = Held(newest, made[numbers[newest]])
    return found


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None


def backwards(plan: Plan, deployment: Mapping[str, Any]) -> tuple[Any, ...]:
    """A problem for each secret that the plan would take back to a generation before the state's."""
    recorded = {str(key): item.generation for key, item in held(plan, deployment).items()}
    return rotation.backwards(recorded, {str(secret.key): secret.generation for secret in plan.secrets})
