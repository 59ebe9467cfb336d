"""What every layer of tests shares: goldens, the live marker, hypothesis's settings."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

ROOT = Path(__file__).resolve().parent.parent

# The same examples on every run, so that a red run is red again; HYPOTHESIS_PROFILE=explore looks for new ones.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
hypothesis_settings.register_profile("fast", max_examples=40, derandomize=True, **_COMMON)
hypothesis_settings.register_profile("explore", max_examples=400, print_blob=True, **_COMMON)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

_left_out = pytest.StashKey[int]()
_stood_in = pytest.StashKey[dict[str, set[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="run the live layer too: real engine, providers, servers")
    parser.addoption("--update-goldens", action="store_true", help="write the goldens instead of comparing with them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --live or a -m of one's own, only the fast layer runs."""
    live = [item for item in items if item.get_closest_marker("live")]
    if not live or config.getoption("--live") or config.getoption("-m"):
        return
    config.stash[_left_out] = len(live)
    config.hook.pytest_deselected(items=live)
    items[:] = [item for item in items if not item.get_closest_marker("live")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(_left_out, 0)
    if left_out:
        terminalreporter.write_line(f"Fast layer only: {left_out} live tests left out. All of it: ./kit test")
    for name, files in sorted(_standins(config).items()):
        where = ", ".join(sorted(files))
        terminalreporter.write_line(f"STAND-IN {name} ran in {where}: not proven for the real server")


def _standins(config: pytest.Config) -> dict[str, set[str]]:
    """The stand-ins that ran, with the files of the tests they ran in: in this process and in those beside it."""
    found = {name: set(files) for name, files in config.stash.get(_stood_in, {}).items()}
    trial = sys.modules.get("tests.live.trial")  # where no live test was collected, nothing stood in
    for name, files in trial.STANDINS.items() if trial else ():
        found.setdefault(name, set()).update(files)
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process beside the main one (-n) tells it what stood in for real servers."""
    told: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["standins"] = {name: sorted(files) for name, files in _standins(session.config).items()}


class _Beside:
    """What the main process hears of those beside it. A plugin: the hook is xdist's, which may be missing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        known = self._config.stash.setdefault(_stood_in, {})
        for name, files in getattr(node, "workeroutput", {}).get("standins", {}).items():
            known.setdefault(name, set()).update(files)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Beside(config))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's directory."""
    return ROOT


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(file, text): the text must be what the file, named from the project's top, holds.

    --update-goldens writes it.
    """

    def compare(name: str, text: str) -> None:
        path = ROOT / name
        if request.config.getoption("--update-goldens"):
            path.write_text(text, encoding="utf-8")
            return
        if not path.is_file():
            pytest.fail(f"{name} is not there: pytest --update-goldens", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            diff = difflib.unified_diff(expected.splitlines(), text.splitlines(), name, "now", lineterm="", n=2)
            report = "\n".join([*diff, "", "If this is meant: pytest --update-goldens, and commit the change."])
            pytest.fail(f"{name} differs:\n{report}", pytrace=False)

    return compare
