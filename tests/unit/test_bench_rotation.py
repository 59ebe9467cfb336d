"""The gap that bench.rotation reports."""

from __future__ import annotations

import pytest

from bench.rotation import Asked


@pytest.mark.parametrize(
    ("seen", "gap"),
    [
        ([(0.1, True), (3.0, True)], 0.0),  # slow is no gap
        ([(1.0, True), (1.1, False), (1.5, False), (2.5, True), (2.6, True)], 1.5),
        ([(1.0, True), (1.1, False), (4.0, False)], 3.0),  # never came back
        ([(0.5, False), (1.0, True), (1.1, False), (1.3, True)], 1.0),
        ([(0.2, False), (0.9, False)], 0.9),
    ],
)
def test_the_longest_time_without_an_answer(seen: list[tuple[float, bool]], gap: float) -> None:
    assert Asked("https://x", seen).gap() == pytest.approx(gap)  # pyright: ignore[reportUnknownMemberType]
