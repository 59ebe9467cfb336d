"""State and configuration files: what wins, what is never written, whose lock it is."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ops.console import KitError
from ops.pulumirun import Tail, clear_stale_locks, descendants, failure
from ops.stackstate import (
    SALT,
    Choices,
    StackState,
    config_value,
    is_stale,
    merge,
    parse_lock,
    process_alive,
    write_atomically,
)
from stack.model import SpecError


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    root = tmp_path / "clone"
    root.mkdir()
    (root / "Pulumi.yaml").write_text("name: ai-kit\nruntime: python\n")
    (root / "Pulumi.dev.yaml").write_text("config:\n  ai-kit:target: dev\n")
    return root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "ai-kit"


def state(clone: Path, environment: dict[str, str] | None = None) -> StackState:
    return StackState(clone, "dev", environment or {})


# ------------------------------------------------------------------------------------------------------- merging


def test_merged_is_the_operators_file_plus_salt_and_choices() -> None:
    merged = merge(
        {"config": {"ai-kit:target": "pi"}, "environment": ["x"]},
        {},
        {"images": "airgap", "airgapImages": ["redis=ours/redis:8"]},
        project="ai-kit",
        salt="v1:new",
    )
    assert merged == {
        "environment": ["x"],
        SALT: "v1:new",
        "config": {
            "ai-kit:target": "pi",
            "ai-kit:images": "airgap",
            "ai-kit:airgapImages": ["redis=ours/redis:8"],
        },
    }


@pytest.mark.parametrize(
    ("operator", "previous", "made", "wins"),
    [
        ("own", "kept", "new", "own"),
        (None, "kept", "new", "kept"),
        (None, None, "new", "new"),
        (None, None, None, None),
    ],
)
def test_the_operators_salt_wins_then_the_kept_one(
    operator: str | None, previous: str | None, made: str | None, wins: str | None
) -> None:
    document = {SALT: operator} if operator else {}
    kept = {SALT: previous} if previous else {}
    assert merge(document, kept, {}, project="ai-kit", salt=made).get(SALT) == wins


def test_an_override_replaces_the_key_however_it_was_written() -> None:
    merged = merge({"config": {"images": "registry"}}, {}, {"images": "airgap"}, project="ai-kit")
    assert merged["config"] == {"ai-kit:images": "airgap"}


@given(
    st.dictionaries(st.sampled_from(["ai-kit:a", "ai-kit:b", "other:c"]), st.text() | st.integers() | st.booleans()),
    st.dictionaries(st.sampled_from(["a", "z"]), st.text()),
)
def test_merging_twice_changes_nothing_and_loses_nothing(config: dict[str, object], overrides: dict[str, str]) -> None:
    once = merge({"config": config}, {}, overrides, project="ai-kit", salt="s")
    assert merge({"config": config}, once, overrides, project="ai-kit") == once
    assert set(config) <= set(once["config"])
    assert all(once["config"][f"ai-kit:{key}"] == value for key, value in overrides.items())


def test_a_key_is_found_with_and_without_the_projects_name() -> None:
    assert config_value({"config": {"ai-kit:images": "airgap"}}, "ai-kit", "images") == "airgap"
    assert config_value({"config": {"images": "airgap"}}, "ai-kit", "images") == "airgap"
    assert config_value({}, "ai-kit", "images") is None


# --------------------------------------------------------------------------------------------------------- files


def test_nothing_is_written_into_the_clone(clone: Path, home: Path) -> None:
    before = sorted(clone.rglob("*"))
    it = state(clone)
    it.ensure()
    it.record(Choices(images="airgap", chosen_at="now", why="test"))
    it.write_config({"config": {}})
    assert sorted(clone.rglob("*")) == before
    assert it.choices() == Choices(images="airgap", chosen_at="now", why="test")
    assert it.merged_config() == {"config": {}}
    assert it.config_file.is_relative_to(home)


def test_only_the_owner_can_read_what_is_kept(clone: Path, home: Path) -> None:
    it = state(clone)
    it.ensure()
    it.write_config({})
    for path in [home, *home.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_passphrase_is_made_once(clone: Path, home: Path) -> None:
    state(clone).ensure()
    first = (home / "passphrase").read_text()
    state(clone).ensure()
    assert (home / "passphrase").read_text() == first
    assert len(first) >= 40


def test_a_lost_passphrase_is_not_replaced(clone: Path, home: Path) -> None:
    it = state(clone)
    it.ensure()
    assert it.checkpoint
    it.checkpoint.parent.mkdir(parents=True)
    it.checkpoint.write_text("{}")
    (home / "passphrase").unlink()
    with pytest.raises(KitError, match="passphrase is gone"):
        it.ensure()
    assert not (home / "passphrase").exists()


@pytest.mark.parametrize(
    ("environment", "url", "passphrase"),
    [
        ({}, "file://{home}/backend", "{home}/passphrase"),
        ({"PULUMI_BACKEND_URL": "s3://mine"}, "s3://mine", "{home}/passphrase"),
        ({"PULUMI_CONFIG_PASSPHRASE": ""}, "file://{home}/backend", None),
        ({"PULUMI_CONFIG_PASSPHRASE_FILE": "/p"}, "file://{home}/backend", "/p"),
    ],
)
def test_the_users_backend_and_passphrase_win(
    clone: Path, home: Path, environment: dict[str, str], url: str, passphrase: str | None
) -> None:
    result = state(clone, environment).environment({}, Path("/python"))
    assert result["PULUMI_BACKEND_URL"] == url.format(home=home)
    assert result.get("PULUMI_CONFIG_PASSPHRASE_FILE") == (passphrase.format(home=home) if passphrase else None)


def test_a_scratch_configuration_goes_away(clone: Path, home: Path) -> None:
    it = state(clone)
    it.ensure()
    with it.scratch_config({SALT: "x"}) as path:
        assert yaml.safe_load(path.read_text()) == {SALT: "x"}
    assert not path.exists()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomically(file, "one")
    write_atomically(file, "two")
    assert file.read_text() == "two"
    assert list(tmp_path.iterdir()) == [file]


def test_bad_yaml_says_where(clone: Path, home: Path) -> None:
    it = state(clone)
    it.stack_file.write_text("config:\n  a: b: c\n", encoding="utf-8")
    with pytest.raises(SpecError, match="line 2"):
        it.operator_config()


def test_words_stay_words(clone: Path, home: Path) -> None:
    """As Pulumi reads them: a `no` that became false in the merged copy would be another value."""
    it = state(clone)
    it.stack_file.write_text("config:\n  ai-kit:theme: no\n", encoding="utf-8")
    assert it.operator_config() == {"config": {"ai-kit:theme": "no"}}


def test_forgetting_a_stack_leaves_the_others(clone: Path, home: Path) -> None:
    it = state(clone)
    it.ensure()
    assert it.checkpoint
    it.checkpoint.parent.mkdir(parents=True)
    for name in ("dev.json", "dev.json.bak", "devel.json"):
        (it.checkpoint.parent / name).write_text("{}")
    backup = it.checkpoint.parents[2] / "backups" / "ai-kit" / "dev" / "dev.1.json"
    backup.parent.mkdir(parents=True)
    backup.write_text("{}")
    it.forget_checkpoint()
    it.forget()
    assert not backup.exists()
    assert [path.name for path in it.checkpoint.parent.iterdir()] == ["devel.json"]
    assert not it.directory.exists()


# --------------------------------------------------------------------------------------------------------- locks


def put_lock(it: StackState, **values: object) -> Path:
    assert it.backend_directory
    directory = it.backend_directory / ".pulumi" / "locks" / "organization" / "ai-kit" / "dev"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "1.json"
    lock = {"pid": 2**22 + 1, "username": "me", "hostname": os.uname().nodename, "timestamp": "2026-11-21T08:00:00Z"}
    path.write_text(json.dumps(lock | values))
    return path


def test_the_lock_of_a_run_that_ended_is_taken_away(clone: Path, home: Path) -> None:
    it = state(clone)
    path = put_lock(it)
    assert "removed" in clear_stale_locks(it)[0]
    assert not path.exists()


@pytest.mark.parametrize("values", [{"hostname": "another"}, {"pid": 1, "hostname": "another"}])
def test_somebody_elses_lock_is_left_alone(clone: Path, home: Path, values: dict[str, object]) -> None:
    it = state(clone)
    path = put_lock(it, **values)
    with pytest.raises(KitError) as caught:
        clear_stale_locks(it)
    assert "me@another" in caught.value.what
    assert "2026-11-21T08:00:00Z" in caught.value.what
    assert f"rm {path}" in caught.value.fix
    assert path.exists()


def test_whose_lock_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"pid": 5, "username": "u", "hostname": "h", "timestamp": "t"}))
    lock = parse_lock(path)
    assert lock
    assert is_stale(lock, "h", alive=False)
    assert not is_stale(lock, "h", alive=True)
    assert not is_stale(lock, "other", alive=False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"username": "u"}'])
def test_half_written_locks_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text(text)
    assert parse_lock(path) is None


def test_a_number_that_came_round_again_holds_no_lock() -> None:
    assert process_alive(os.getpid(), program=Path("/proc/self/comm").read_text().strip())
    assert not process_alive(os.getpid(), program="pulumi")


def test_a_process_that_nobody_waited_for_holds_no_lock() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
        assert process_alive(process.pid, program=name)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the table
        assert not process_alive(process.pid, program=name)


def test_everything_below_a_process_is_found() -> None:
    inner = "import time; print(1, flush=True); time.sleep(60)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        below = descendants(process.pid)
        for pid in [*below, process.pid]:
            os.kill(pid, signal.SIGKILL)
    assert len(below) == 1


# -------------------------------------------------------------------------------------------------------- events


def test_only_complete_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "events"
    tail = Tail(file)
    assert tail.lines() == []
    file.write_bytes(b"one\ntw")
    assert tail.lines() == ["one"]
    with file.open("ab") as more:
        more.write(b"o\nthree\n")
    assert tail.lines() == ["two", "three"]
    assert tail.lines() == []


def test_pulumis_errors_lose_their_prefix() -> None:
    error = failure(("stack", "export"), "error: no stack named 'dev' found\n\n  more\n")
    assert error.what == "pulumi stack export failed: no stack named 'dev' found"
