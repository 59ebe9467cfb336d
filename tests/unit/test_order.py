"""The order of registration: dependencies first, and the longest chain before shorter ones."""

from __future__ import annotations

from graphlib import CycleError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.derive.order import critical_first


def test_what_most_waits_for_comes_first() -> None:
    needs = {"alone": [], "cache": [], "database": [], "job": ["database"], "login": ["job"], "page": ["cache", "job"]}
    assert critical_first(needs) == ["database", "cache", "job", "alone", "login", "page"]


def test_a_circle_is_an_error() -> None:
    with pytest.raises(CycleError):
        critical_first({"a": ["b"], "b": ["a"]})


@given(st.lists(st.sets(st.integers(0, 30)), max_size=30))
def test_every_name_once_and_after_its_needs(drawn: list[set[int]]) -> None:
    needs = {str(name): [str(need) for need in sorted(wanted) if need < name] for name, wanted in enumerate(drawn)}
    ordered = critical_first(needs)
    assert sorted(ordered) == sorted(needs)
    place = {name: index for index, name in enumerate(ordered)}
    assert all(place[need] < place[name] for name, wanted in needs.items() for need in wanted)
