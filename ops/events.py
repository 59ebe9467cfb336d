"""Pulumi's engine events -> what a person wants to know: what started, what is done, what failed and why.

Pure: fed with the lines of `--event-log`, it calls a Tracker and counts. A line shows only for the kinds of resources
that take time and mean something to a person.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

KINDS: Mapping[str, str] = {
    "docker:index/container:Container": "container",
    "docker:index/remoteImage:RemoteImage": "image",
    "keycloak:index/realm:Realm": "realm",
}
_VERBS: Mapping[str, str] = {
    "create": "starting",
    "create-replacement": "starting",
    "update": "updating",
    "delete": "removing",
    "delete-replaced": "removing",
    "replace": "replacing",
    "refresh": "looking at",
}
_UNCHANGED = frozenset({"same", "read", "refresh"})
_COLOURS = re.compile(r"<\{%[^%]*%\}>|\x1b\[[0-9;]*m")
_ECHOES = ("update failed", "one or more", "preview failed", "resource registration failed")


class Tracker(Protocol):
    """Who shows progress: a task begins, and ends well or not."""

    def begin(self, key: str, text: str) -> None: ...

    def end(self, key: str, *, ok: bool) -> None: ...


@dataclass
class Failure:
    """Something that failed: which resource, and what the engine or provider said."""

    name: str
    kind: str
    text: str


@dataclass
class Digest:
    """What an update did so far."""

    changes: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    touched: dict[str, str] = field(default_factory=dict)  # logical name -> last operation that changed it
    finished: bool = False

    @property
    def changed(self) -> int:
        """How many resources were not left as they were."""
        return sum(count for operation, count in self.changes.items() if operation not in _UNCHANGED)


class Follower:
    """Reads events one line at a time."""

    def __init__(self, tracker: Tracker, prefix: str = "") -> None:
        self._tracker = tracker
        self._prefix = prefix  # taken off resource names: kit-<stack>-
        self.digest = Digest()

    def feed(self, line: str) -> None:
        """One line of the event log. A line that is none is ignored: the log may end in the middle of one."""
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        event = cast(dict[str, Any], event)
        if started := event.get("resourcePreEvent"):
            self._started(started["metadata"])
        elif ended := event.get("resOutputsEvent"):
            self._ended(ended["metadata"], ok=True)
        elif failed := event.get("resOpFailedEvent"):
            self._ended(failed["metadata"], ok=False)
        elif diagnostic := event.get("diagnosticEvent"):
            self._diagnostic(diagnostic)
        elif summary := event.get("summaryEvent"):
            self.digest.changes = {key: int(value) for key, value in (summary.get("resourceChanges") or {}).items()}
            self.digest.finished = True

    def _started(self, step: Mapping[str, Any]) -> None:
        operation, kind = step["op"], KINDS.get(step["type"])
        if kind and operation in _VERBS:
            self._tracker.begin(f"{operation} {step['urn']}", f"{self.name_of(step['urn'])}: {_VERBS[operation]}")

    def _ended(self, step: Mapping[str, Any], *, ok: bool) -> None:
        operation = step["op"]
        if operation not in _UNCHANGED:
            self.digest.touched[self.name_of(step["urn"])] = operation
        if step["type"] in KINDS and operation in _VERBS:
            self._tracker.end(f"{operation} {step['urn']}", ok=ok)

    def _diagnostic(self, diagnostic: Mapping[str, Any]) -> None:
        text = clean(str(diagnostic.get("message", "")))
        severity = diagnostic.get("severity", "")
        if not text or diagnostic.get("ephemeral"):
            return
        if severity == "warning":
            self.digest.warnings.append(text)
        elif severity == "error" and not text.startswith(_ECHOES):
            urn = str(diagnostic.get("urn") or "")
            kind = urn.split("::")[2].split("$")[-1] if urn.count("::") >= 3 else ""
            self.digest.failures.append(Failure(name=self.name_of(urn) if urn else "", kind=kind, text=text))

    def name_of(self, urn: str) -> str:
        """The logical name, without what every name of the stack starts with."""
        return urn.rsplit("::", 1)[-1].removeprefix(self._prefix)


def clean(text: str) -> str:
    """A diagnostic without colours and without the tracebacks of the program's own calls."""
    lines = [line.rstrip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    if any(line.lstrip().startswith("Traceback (most recent call last)") for line in lines):
        # The last line that starts an exception holds the message; what follows it belongs to it.
        starts = [
            i for i, line in enumerate(lines) if re.match(r"\s*[\w.]*(Error|Exception|Failure|Failed)\b.*:", line)
        ]
        if starts:
            lines = [re.sub(r"^\s*[\w.]+: ", "", lines[starts[-1]], count=1), *lines[starts[-1] + 1 :]]
    return "\n".join(lines)


def short(failure: Failure, lines: int = 8) -> str:
    """A failure for the screen: its name and the last lines of what was said."""
    text = failure.text.splitlines()
    kept = text if len(text) <= lines else [text[0], "...", *text[-(lines - 2) :]]
    head = f"{failure.name}: " if failure.name else ""
    return head + "\n      ".join(kept)
