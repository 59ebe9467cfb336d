"""The process limit is set where it differs, and nowhere else."""

from __future__ import annotations

from typing import Any, cast

from ops import pids
from ops.engine import DockerApi


class Engine:
    """Answers what `look` and `apply` ask, and notes what it is told."""

    def __init__(self, limits: dict[str, int | None], labels: dict[str, str], state: str = "running") -> None:
        self.limits = limits
        self.labels = labels
        self.state = state
        self.told: list[tuple[str, object]] = []

    def get(self, path: str) -> Any:
        if path.startswith("/containers/json"):
            return [
                {"Id": name, "Names": [f"/{name}"], "State": self.state, "Labels": self.labels} for name in self.limits
            ]
        if path.startswith("/containers/"):
            return {"HostConfig": {"PidsLimit": self.limits[path.split("/")[2]]}}
        return {} if path == "/volumes" else []

    def post(self, path: str, body: object = None) -> Any:
        self.told.append((path, body))


def told(engine: Engine) -> list[tuple[str, object]]:
    pids.apply(cast(DockerApi, engine), "dev")
    return engine.told


def test_a_missing_limit_is_set() -> None:
    engine = Engine({"a": None, "b": 0}, {"aikit.pids": "64"})
    assert told(engine) == [("/containers/a/update", {"PidsLimit": 64}), ("/containers/b/update", {"PidsLimit": 64})]


def test_a_limit_that_is_right_is_left_alone() -> None:
    assert told(Engine({"a": 64}, {"aikit.pids": "64"})) == []


def test_jobs_ask_for_none() -> None:
    assert told(Engine({"a": None}, {})) == []


def test_what_does_not_run_cannot_be_told() -> None:
    assert told(Engine({"a": None}, {"aikit.pids": "64"}, state="exited")) == []
