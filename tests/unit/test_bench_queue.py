"""The figures of the queue benchmark: a measure that cannot fail would prove nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.page import named
from bench.queue import idle_share, jain, served


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_fairness_lies_between_one_for_all_and_all_for_one(counts: list[int]) -> None:
    assert 1 / len(counts) - 1e-9 <= jain(counts) <= 1 + 1e-9


def test_fairness_of_known_shares() -> None:
    assert jain([3, 3, 3, 3]) == 1
    assert jain([8, 0, 0, 0, 0, 0, 0, 0]) == pytest.approx(1 / 8)
    assert jain([4, 4, 4, 4, 4, 4, 4, 0]) < 0.95
    assert jain([0, 0]) == 0


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([("a", 0, 1), ("a", 1, 2)], 0),
        ([("a", 0, 1), ("a", 2, 3)], 1 / 3),
        ([("a", 0, 1.01), ("a", 0.99, 2)], 0),
        ([("a", 0, 2), ("b", 0, 1)], 1 / 4),
        ([("a", 0, 1)], None),
        ([], None),
    ],
)
def test_idle_is_what_the_servers_were_not_asked_for(
    intervals: list[tuple[str, float, float]], expected: float | None
) -> None:
    found = idle_share(intervals)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_the_queues_log_says_when_a_question_was_with_a_model() -> None:
    line = (
        "2026-01-01T00:00:10.500000000Z 10.0.0.2 queue inference/ollama 100/2000/1/300/2500 200 163 ---- 1/1/0/3 "
        "host=x POST /api/generate"
    )
    lines = [
        line,
        line.replace(" 200 163", " 503 163"),
        line.replace("inference/ollama", "listing/ollama"),
        "2026-01-01T00:00:00.000000000Z [NOTICE] something else",
    ]
    ((server, start, end),) = served(lines, "inference", 0)
    assert server == "ollama" and end - start == pytest.approx(0.4)
    assert served(lines, "inference", end) == []


def test_a_page_names_its_parts_on_its_own_host() -> None:
    page = (
        '<link rel="stylesheet" href="/a.css"><script src="b.js"></script><img src="https://else.where/x.png">'
        '<link href="/a.css"><script>import("/c.js")</script>'
    )
    assert named(page, "https://chat.kit:8443/") == [
        "https://chat.kit:8443/a.css",
        "https://chat.kit:8443/b.js",
        "https://chat.kit:8443/c.js",
    ]
