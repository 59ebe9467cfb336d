"""The Python environment: when it counts as complete, and that an unfinished one never does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ops import venv
from ops.console import KitError

VERSION = (sys.version_info.major, sys.version_info.minor)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A complete environment for the requirements b"one"."""
    place = tmp_path / ".venv"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    stamp(place, b"one")
    return place


def stamp(place: Path, requirements: bytes, version: tuple[int, int] = VERSION) -> None:
    text = f"{version[0]}.{version[1]} {venv.fingerprint(requirements, version)}\n"
    (place / venv.STAMP).write_text(text)


def test_a_complete_one_is_used(made: Path) -> None:
    assert venv.complete(made, b"one")


def test_other_requirements_make_it_stale(made: Path) -> None:
    assert not venv.complete(made, b"two")


def test_without_its_stamp_it_was_never_finished(made: Path) -> None:
    (made / venv.STAMP).unlink()
    assert not venv.complete(made, b"one")


@pytest.mark.parametrize("text", ["", "3.11", "x y", "3.11.4 abc", "\x00"])
def test_a_stamp_that_says_nothing_counts_as_none(made: Path, text: str) -> None:
    (made / venv.STAMP).write_text(text)
    assert not venv.complete(made, b"one")


def test_an_interpreter_that_went_away_makes_it_stale(made: Path) -> None:
    (made / "bin" / "python").unlink()
    (made / "bin" / "python").symlink_to("/nowhere/python3.10")
    assert not venv.complete(made, b"one")


def test_a_complete_one_is_not_made_again(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_bytes(b"one")
    monkeypatch.setenv("AIKIT_VENV", str(made))
    monkeypatch.setattr(venv, "REQUIREMENTS", requirements)
    monkeypatch.setattr(venv, "make", lambda *_: pytest.fail("made again"))
    assert venv.ensure() == made / "bin" / "python"


def test_a_failed_installation_leaves_no_stamp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(command: list[str], step: object, failure: str) -> None:
        if "pip" in command:
            raise KitError(failure)
        (tmp_path / "venv").mkdir()

    monkeypatch.setattr(venv, "_run", run)
    monkeypatch.setenv("AIKIT_VENV", str(tmp_path / "venv"))
    for _ in range(2):  # the second time over what the first one left
        with pytest.raises(KitError, match="could not be installed"):
            venv.ensure()
    assert not venv.complete(tmp_path / "venv", venv.REQUIREMENTS.read_bytes())


def test_a_failed_command_says_its_last_lines() -> None:
    class Step:
        def note(self, text: str) -> None:
            pass

    command = [sys.executable, "-c", "print('first'); print('no matching distribution'); raise SystemExit(3)"]
    with pytest.raises(KitError) as caught:
        venv._run(command, Step(), "it failed")  # type: ignore[arg-type]
    assert "ended with 3" in caught.value.what
    assert "no matching distribution" in caught.value.fix


def test_without_ensurepip_the_command_is_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(venv.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(venv.os, "geteuid", lambda: 1000)
    with pytest.raises(KitError) as caught:
        venv.make(tmp_path / "venv", b"")
    assert "apt-get install -y python3-venv" in caught.value.fix


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("Collecting pulumi==3.272.0 (from -r requirements.txt (line 4))", "pulumi"),
        ("  Downloading x.whl (1 kB)", None),
        ("", None),
        ("Collecting", None),
    ],
)
def test_what_pip_is_at(line: str, package: str | None) -> None:
    assert venv.package_of(line) == package


def test_every_requirement_is_pinned_and_hashed() -> None:
    text = venv.REQUIREMENTS.read_text(encoding="utf-8")
    blocks = text.replace("\\\n", " ").splitlines()
    pins = [line for line in blocks if line and not line.lstrip().startswith("#")]
    assert len(pins) > 20
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
    wanted = [line for line in (venv.ROOT / "requirements.in").read_text().splitlines() if line and line[0] != "#"]
    missing = [line for line in wanted if not any(pin.lower().startswith(f"{line.lower()} ") for pin in pins)]
    assert missing == [], "requirements.in changed: compile requirements.txt again"
