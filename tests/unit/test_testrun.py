"""./kit test: the order of layers, and what is missing for the live one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import testrun


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    for layer in ("unit", "live", "golden", "property", "empty", "components"):
        (tmp_path / "tests" / layer).mkdir(parents=True)
        if layer != "empty":
            (tmp_path / "tests" / layer / "test_it.py").touch()
    return tmp_path / "tests"


def test_the_live_layer_comes_last(tests: Path) -> None:
    assert testrun.layers(tests) == [
        "tests/components", "tests/golden", "tests/property", "tests/unit", "tests/live",
    ]  # fmt: skip


def test_every_layer_of_the_project_is_run() -> None:
    directory = testrun.ROOT / "tests"
    found = {f"tests/{path.relative_to(directory).parts[0]}" for path in directory.glob("*/**/test_*.py")}
    assert found <= set(testrun.layers(directory))


@pytest.mark.parametrize(
    ("rest", "chosen"),
    [((), False), (("-k", "plan"), False), (("tests/unit",), True), (("tests/unit/test_cli.py::test_x", "-x"), True)],
)
def test_tests_that_were_named_are_the_only_ones(rest: tuple[str, ...], chosen: bool) -> None:
    assert testrun.names_tests(rest) is chosen


def test_missing_programs_name_their_packages() -> None:
    missing = testrun.missing_programs(lambda program: None if program == "chromedriver" else f"/usr/bin/{program}")
    assert missing == {"chromedriver": "chromium-driver"}


def test_fast_leaves_the_live_layer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    seen: list[list[str]] = []
    monkeypatch.setattr(testrun, "pytest", lambda arguments: seen.append(list(arguments)) or 0)
    assert testrun.run(argparse.Namespace(fast=True, rest=["-k", "plan"])) == 0
    assert seen == [["-m", "not live", "-k", "plan"]]
