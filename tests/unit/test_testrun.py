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
    assert testrun.run(argparse.Namespace(fast=True, rest=["-s"])) == 0
    assert seen == [["-m", "not live", *testrun.side_by_side([]), "-k", "plan"], ["-m", "not live", "-s"]]


@pytest.mark.parametrize(
    ("line", "closing"),
    [
        ("== 3 passed in 0.52s ==", True),
        ("1117 passed, 3 skipped, 104 deselected in 62.76s (0:01:02)", True),
        ("\x1b[31m=== 1 failed, 2 passed in 1.00s ===\x1b[0m", True),
        ("no tests ran in 0.01s", True),
        ("tests/unit/test_x.py ... [100%]", False),
        ("took 3 passed tests", False),
    ],
)
def test_the_closing_line_is_known(line: str, closing: bool) -> None:
    assert testrun.is_closing(line) is closing


def test_the_closing_line_comes_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import atexit, sys\natexit.register(lambda: sys.stderr.write('late noise\\n'))\ndef test_it(): pass\n"
    )
    monkeypatch.setattr(testrun, "ROOT", tmp_path)
    assert testrun.pytest(["-q", "test_it.py"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("1 passed in")
    assert "late noise" in lines


@pytest.mark.parametrize(("marker", "outcome"), [("@pytest.mark.live\n", "1 failed"), ("", "1 skipped")])
def test_in_ci_a_live_test_may_not_skip(
    marker: str, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n\n{marker}def test_it():\n    pytest.skip('no chromium')\n")
    testrun.pytest(
        ["-q", "-p", "tests.live.noskip", "--live", str(file), f"--confcutdir={testrun.ROOT}", "-p", "tests.conftest"]
    )
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(outcome)
