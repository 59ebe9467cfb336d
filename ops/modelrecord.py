"""Which version each model was, last time anybody looked: a name alone does not say what answers under it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from ops import console
from ops.console import KitError
from ops.modelserver import Model, server_of
from ops.paths import private_directory
from ops.session import Session
from ops.stackstate import StackState, write_atomically
from stack.derive import models
from stack.derive.queue import queued_service
from stack.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """digest: the full one. size in bytes. since: when this version was first seen under the name, ISO 8601."""

    digest: str
    size: int
    since: str

    @property
    def version(self) -> str:
        return self.digest[:12]


def file_of(state: StackState) -> Path:
    return state.directory / "models.json"


def read(state: StackState) -> dict[str, Recorded]:
    """What is recorded, by name; nothing before the first time. KitError when the file is damaged."""
    path = file_of(state)
    try:
        raw = cast(Mapping[str, Any], json.loads(path.read_text(encoding="utf-8")))
        return {name: Recorded(**entry) for name, entry in raw["models"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"{path} cannot be read ({error}).", f"It only records versions: rm {path}") from error


def updated(
    before: Mapping[str, Recorded], found: Iterable[Model], wanted: Iterable[str], now: str
) -> tuple[dict[str, Recorded], list[str]]:
    """The record after a look at the server, and which names stand for another version than before."""
    result: dict[str, Recorded] = {}
    moved: list[str] = []
    there = {model.name: model for model in found if not models.kept(model.name)}
    for name, model in there.items():
        old = before.get(name)
        same = old is not None and old.digest == model.digest
        result[name] = Recorded(digest=model.digest, size=model.size, since=old.since if old and same else now)
        if old is not None and not same:
            moved.append(f"{name} is {model.version} now; it was {old.version} since {old.since[:10]}")
    # What is in the list and not there stays recorded: a server that lost its volume is to be compared with it.
    for name in map(models.tagged, wanted):
        if name not in result and name in before:
            result[name] = before[name]
    return result, moved


def remember(session: Session, plan: Plan, found: Iterable[Model]) -> list[str]:
    """Write down what is there; what changed since the last time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = read(session.state)
    after, moved = updated(before, found, models.all_of(plan.settings), now)
    if after != before:
        private_directory(session.state.directory)
        document = {"models": {name: asdict(entry) for name, entry in sorted(after.items())}}
        write_atomically(file_of(session.state), json.dumps(document, indent=2) + "\n")
    return moved


def has_models(plan: Plan) -> bool:
    """Whether the stack runs a model server."""
    try:
        return queued_service(plan) in plan.running
    except LookupError:
        return False


def after_up(session: Session, plan: Plan) -> None:
    """Record the models once the stack is up. Never a reason for `up` to fail."""
    try:
        for change in remember(session, plan, server_of(session, plan).models()):
            console.note(change)
    except KitError as error:
        console.warn(f"the versions of the models were not recorded: {error.what}")
