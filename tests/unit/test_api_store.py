"""Keys and usage of the unified API, on real SQLite files."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FILES = Path(__file__).resolve().parents[2] / "stack/services/files/litellm"
HOSTILE = "a'b\"c$d${e}\\f`g h#i%j;--é€😀/*"


def load() -> ModuleType:
    """The module as LiteLLM's process has it: by its file, outside of any package."""
    spec = importlib.util.spec_from_file_location("kit_store", FILES / "kit_store.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["kit_store"] = module
    spec.loader.exec_module(module)
    return module


kit = load()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator:  # pyright: ignore[reportMissingTypeArgument]
    (tmp_path / "copy").mkdir()
    made = kit.Store(tmp_path / "api.sqlite", copy=tmp_path / "copy/api.sqlite", now=clock)
    made.remember("ann", "Ann")
    yield made
    made.close()


def test_a_key_opens_until_it_is_ended(store) -> None:
    key, text = store.make_key("ann", "laptop", 90, None)
    assert text.startswith("sk-kit-") and len(text) == len("sk-kit-") + 43
    assert store.find(text) == key and key.name == "Ann"
    assert store.find(text[:-1]) is None and store.find(text + "x") is None and store.find("") is None
    assert store.end_key("ann", key.id) and not store.end_key("ann", key.id)
    assert store.find(text) is None and store.keys("ann") == []


def test_a_key_opens_until_its_last_day(store, clock: Clock) -> None:
    key, text = store.make_key("ann", "laptop", 2, 5)
    clock.now = key.ends - 1
    assert store.find(text).rate == 5
    clock.now = key.ends
    assert store.find(text) is None and store.keys("ann") == []


def test_nobody_ends_the_key_of_somebody_else(store) -> None:
    store.remember("bob", "Bob")
    key, text = store.make_key("ann", "laptop", 90, None)
    assert not store.end_key("bob", key.id) and store.find(text)


def test_the_file_holds_no_key(store, tmp_path: Path) -> None:
    _, text = store.make_key("ann", "laptop", 90, None)
    store.snapshot()
    for path in [*tmp_path.glob("*"), *(tmp_path / "copy").glob("*")]:
        if path.is_file():
            assert text.encode() not in path.read_bytes() and text[7:].encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("label", "days", "rate"),
    [("", 1, None), ("  ", 1, None), ("x" * 61, 1, None), ("a\x00b", 1, None), ("a\u202eb", 1, None)]
    + [("x", 0, None), ("x", 367, None), ("x", 1, 0), ("x", 1, -3), ("x", 1, 100_001)],
)
def test_what_cannot_be_is_refused(store, label: str, days: int, rate: int | None) -> None:
    with pytest.raises(kit.RefusedError):
        store.make_key("ann", label, days, rate)
    assert store.keys("ann") == []


def test_nobody_fills_the_file_with_keys(store) -> None:
    for _ in range(kit.MOST_KEYS):
        store.make_key("ann", "x", 1, None)
    with pytest.raises(kit.RefusedError, match="end one first"):
        store.make_key("ann", "x", 1, None)


def test_a_stranger_gets_no_key(store) -> None:
    with pytest.raises(kit.RefusedError):
        store.make_key("nobody", "x", 1, None)


def test_hostile_names_and_models_are_only_text(store) -> None:
    store.remember(HOSTILE, HOSTILE)
    key, text = store.make_key(HOSTILE, HOSTILE, 1, None)
    store.count(HOSTILE, key.id, HOSTILE, requests=1)
    assert store.find(text).label == HOSTILE and store.usage(HOSTILE)[0]["model"] == HOSTILE
    assert store.forget(HOSTILE) and store.usage(None) == [] and store.find(text) is None


def test_usage_adds_up_by_day_person_and_model(store, clock: Clock) -> None:
    store.remember("bob", "Bob")
    for _ in range(2):
        store.count("ann", "k1", "m", requests=1, prompt_tokens=10, completion_tokens=3)
    store.count("ann", "k2", "m", requests=1, cached=1)
    store.count("bob", "", "m", limited=1)
    clock.now += kit.DAY
    store.count("ann", "", "n", failed=1)
    ann = store.usage("ann")
    assert [(row["model"], row["requests"], row["cached"], row["prompt_tokens"]) for row in ann] == [
        ("n", 0, 0, 0),
        ("m", 3, 1, 20),
    ]
    assert {row["name"] for row in store.usage(None)} == {"Ann", "Bob"}
    assert [row["model"] for row in store.usage("ann", days=1)] == ["n"]
    assert [(row["name"], row["model"], row["completion_tokens"]) for row in store.totals()] == [
        *(("Ann", "m", 6), ("Ann", "n", 0), ("Bob", "m", 0)),
    ]
    with pytest.raises(TypeError):
        store.count("ann", "", "m", spent=1)


def test_when_a_key_was_used_is_known(store, clock: Clock) -> None:
    key, _ = store.make_key("ann", "laptop", 90, None)
    assert key.used is None
    clock.now += 7
    store.count("ann", key.id, "m", requests=1)
    assert store.keys("ann")[0].used == int(clock.now)


def test_it_starts_again_from_its_copy(store, tmp_path: Path, clock: Clock) -> None:
    _, text = store.make_key("ann", "laptop", 90, None)
    store.snapshot()
    store.close()
    for path in tmp_path.glob("api.sqlite*"):
        path.unlink()
    again = kit.Store(tmp_path / "api.sqlite", copy=tmp_path / "copy/api.sqlite", now=clock)
    assert again.find(text) and again.people() == [{"sub": "ann", "name": "Ann", "keys": 1}]
    again.close()


def test_a_copy_is_whole_while_it_is_written_to(store, tmp_path: Path) -> None:
    store.snapshot()
    for number in range(50):
        store.count("ann", "", f"m{number}", requests=1)
        store.snapshot()
        with sqlite3.connect(tmp_path / "copy/api.sqlite") as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert copy.execute("SELECT count(*) FROM usage").fetchone() == (number + 1,)
        copy.close()


def test_a_failed_change_leaves_nothing(store) -> None:
    with pytest.raises(sqlite3.Error), store._change() as db:
        db.execute("DELETE FROM people")
        db.execute("INSERT INTO nowhere VALUES (1)")
    assert len(store.people()) == 1
