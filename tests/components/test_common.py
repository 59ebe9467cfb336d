"""The spellings that do not diff, and digests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies

from components import capabilities, common


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (5, "5s"), (59, "59s"), (60, "1m0s"), (90, "1m30s"), (300, "5m0s"), (3600, "1h0m0s"), (3725, "1h2m5s")],
)
def test_durations_are_written_as_go_reads_them_back(seconds: int, text: str) -> None:
    assert common.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.1, "0.1"), (0.25, "0.25"), (0.5, "0.5"), (1, "1.0"), (1.5, "1.5"), (2, "2.0"), (10, "10."), (10.5, "10.5")],
)
def test_cpus_are_written_as_the_provider_reads_them_back(count: float, text: str) -> None:
    assert common.cpus(count) == text


@pytest.mark.parametrize("count", [0.05, 20.05])
def test_cpus_that_are_read_back_as_others_are_refused(count: float) -> None:
    with pytest.raises(ValueError, match="tenths"):
        common.cpus(count)


@given(strategies.lists(strategies.text(), max_size=4), strategies.lists(strategies.text(), max_size=4))
def test_a_digest_tells_apart_what_differs(one: list[str], other: list[str]) -> None:
    assert (common.keyed_digest("key", one) == common.keyed_digest("key", other)) == (one == other)


def test_a_digest_depends_on_its_key() -> None:
    assert common.keyed_digest("a", ["x"]) != common.keyed_digest("b", ["x"])


@given(strategies.text())
def test_encoded_keeps_every_byte(text: str) -> None:
    import base64

    assert base64.b64decode(common.encoded(text)) == text.encode("utf-8")


TOKEN = "docker:index/container:Container"


class TestCapabilities:
    def test_without_a_file_everything_is_supported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(capabilities.VARIABLE, raising=False)
        assert capabilities.supported(TOKEN, {"new_thing": 1}) == {"new_thing": 1}

    def test_what_the_plugin_does_not_know_is_left_out_and_remembered(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "capabilities.json"
        file.write_text(json.dumps({"docker": {TOKEN: ["old", "nested", "nested.oldThing"]}}), encoding="utf-8")
        monkeypatch.setenv(capabilities.VARIABLE, str(file))
        assert capabilities.supported(TOKEN, {"old": 1, "new_thing": 2}) == {"old": 1}
        nested = capabilities.supported(TOKEN, {"old_thing": 1, "new_thing": 2}, under="nested")
        assert nested == {"old_thing": 1}
        assert {(TOKEN, "newThing"), (TOKEN, "nested.newThing")} <= capabilities.dropped()
        assert capabilities.supported("other:index/x:X", {"a": 1}) == {"a": 1}
