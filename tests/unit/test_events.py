"""Pulumi's event log, as it is written, becomes few and calm words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ops.deploying import ProgressTracker, changes
from ops.events import Failure, Follower, clean, short

URN = "urn:pulumi:dev::ai-kit::aikit:docker:Service$docker:index/container:Container::kit-dev-web"


class Recorder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def begin(self, key: str, text: str) -> None:
        self.seen.append(f"begin {text}")

    def end(self, key: str, *, ok: bool) -> None:
        self.seen.append(f"end {ok}")


def step(event: str, operation: str, urn: str = URN, kind: str = "docker:index/container:Container") -> str:
    return json.dumps({event: {"metadata": {"op": operation, "urn": urn, "type": kind}}})


def diagnostic(severity: str, message: str, urn: str = URN, **more: Any) -> str:
    return json.dumps({"diagnosticEvent": {"severity": severity, "message": message, "urn": urn, **more}})


def follow(*lines: str) -> tuple[Follower, Recorder]:
    recorder = Recorder()
    follower = Follower(recorder, "kit-dev-")
    for line in lines:
        follower.feed(line)
    return follower, recorder


def test_a_container_begins_and_ends() -> None:
    follower, recorder = follow(step("resourcePreEvent", "create"), step("resOutputsEvent", "create"))
    assert recorder.seen == ["begin web: starting", "end True"]
    assert follower.digest.touched == {"web": "create"}


def test_a_failed_one_ends_badly() -> None:
    assert follow(step("resourcePreEvent", "create"), step("resOpFailedEvent", "create"))[1].seen[-1] == "end False"


def test_what_stays_the_same_is_not_shown() -> None:
    _, recorder = follow(step("resourcePreEvent", "same"), step("resOutputsEvent", "same"))
    assert recorder.seen == []


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"unknownEvent": {}}', '{"sequence": 1}'])
def test_what_is_no_event_is_passed_over(line: str) -> None:
    assert follow(line)[1].seen == []


def test_the_summary_counts_changes() -> None:
    follower, _ = follow(json.dumps({"summaryEvent": {"resourceChanges": {"same": 40, "create": 2, "delete": 1}}}))
    assert follower.digest.changed == 3
    assert changes(follower.digest.changes) == "2 created, 1 removed"


def test_nothing_to_change() -> None:
    follower, _ = follow(json.dumps({"summaryEvent": {"resourceChanges": {"same": 40}}}))
    assert follower.digest.changed == 0
    assert follower.digest.finished


def test_errors_keep_what_was_said_and_lose_the_noise() -> None:
    follower, _ = follow(
        diagnostic("error", "<{%fg 1%}>port is already allocated<{%reset%}>\n"),
        diagnostic("error", "update failed", urn=""),
        diagnostic("warning", "old"),
        diagnostic("info#err", "chatter"),
    )
    (failure,) = follower.digest.failures
    assert failure == Failure(name="web", kind="docker:index/container:Container", text="port is already allocated")
    assert follower.digest.warnings == ["old"]


def test_a_traceback_becomes_its_message() -> None:
    text = (
        "Program failed with an unhandled exception:\nTraceback (most recent call last):\n"
        '  File "x.py", line 1, in <module>\n    raise JobFailed("no")\n'
        "components.job.JobFailedError: job models ended with 1:\n  no such model\n"
    )
    assert clean(text) == "job models ended with 1:\n  no such model"


def test_long_errors_keep_their_first_and_last_lines() -> None:
    text = short(Failure(name="web", kind="", text="\n".join(f"line {n}" for n in range(30))))
    assert text.startswith("web: line 0")
    assert text.endswith("line 29")
    assert "..." in text
    assert len(text.splitlines()) == 8


class Line:
    """Stands for a Progress and its step."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.noted = ""

    def line(self, text: str) -> None:
        self.lines.append(text)

    def note(self, text: str) -> None:
        self.noted = text


def test_only_what_took_longer_than_two_seconds_has_a_line() -> None:
    now, shown = [0.0], Line()
    tracker = ProgressTracker(shown, shown, clock=lambda: now[0])  # type: ignore[arg-type]
    tracker.begin("a", "web: starting")
    tracker.begin("b", "db: starting")
    now[0] = 1.0
    tracker.end("a", ok=True)
    assert shown.lines == []
    now[0] = 12.0
    tracker.job_says({"models": "pulling 40%"})
    assert shown.noted == "db 12 s, models: pulling 40%"
    tracker.end("b", ok=True)
    assert [line.strip() for line in shown.lines] == ["✓ db (12 s)"]
    tracker.end("never begun", ok=True)
