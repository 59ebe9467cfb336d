"""The zones: which have a way out, who may reach whom, which never meet in one container."""

from __future__ import annotations

import itertools

import pytest

from stack.model import Zone
from stack.zones import NEVER_TOGETHER, ZONES, badly_joined, may_reach, shared

EDGE, APP, DATA, OBSERVE, MANAGE, EGRESS = Zone.EDGE, Zone.APP, Zone.DATA, Zone.OBSERVE, Zone.MANAGE, Zone.EGRESS
EVERY_SET = [
    frozenset(chosen) for size in range(1, len(Zone) + 1) for chosen in itertools.combinations(list(Zone), size)
]


def test_every_zone_is_specified_under_its_own_name() -> None:
    assert list(ZONES) == list(Zone)
    assert all(spec.zone is zone and spec.summary for zone, spec in ZONES.items())


def test_only_the_edge_and_the_way_out_are_not_internal() -> None:
    assert {zone for zone, spec in ZONES.items() if not spec.internal} == {EDGE, EGRESS}


def test_only_on_the_way_out_members_do_not_reach_each_other() -> None:
    assert {zone for zone, spec in ZONES.items() if spec.isolated} == {EGRESS}


def test_nothing_reaches_itself_by_declaration() -> None:
    assert all(zone not in spec.reachable_from for zone, spec in ZONES.items())


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ({EDGE}, {APP}, True),
        ({EDGE}, {DATA}, False),
        ({APP}, {DATA}, True),
        ({DATA}, {APP}, False),
        ({APP}, {EGRESS}, True),
        ({DATA}, {EGRESS}, False),
        ({OBSERVE}, {DATA}, True),
        ({APP}, {MANAGE}, False),
        ({DATA}, {DATA}, True),
        ({EDGE, APP}, {DATA}, True),
    ],
)
def test_who_may_reach_whom(source: set[Zone], target: set[Zone], expected: bool) -> None:
    assert may_reach(source, target) is expected


def test_a_way_out_is_no_place_to_meet() -> None:
    assert shared({APP, EGRESS}, {EGRESS, DATA}) == frozenset()
    assert shared({APP, DATA}, {DATA}) == {DATA}


@pytest.mark.parametrize(
    "zones", [{EDGE, APP}, {APP, DATA}, {APP, EGRESS}, {APP, DATA, EGRESS}, {EDGE, APP, MANAGE}, {DATA}]
)
def test_what_may_be_joined(zones: set[Zone]) -> None:
    assert badly_joined(zones) is None


@pytest.mark.parametrize(("zones", "pair"), [({DATA, EGRESS}, {DATA, EGRESS}), ({EDGE, APP, DATA}, {EDGE, DATA})])
def test_what_may_not_be_joined(zones: set[Zone], pair: set[Zone]) -> None:
    assert set(badly_joined(zones) or ()) == pair


@pytest.mark.parametrize("zones", EVERY_SET, ids=lambda zones: "+".join(sorted(zones)))
def test_of_every_set_of_zones(zones: frozenset[Zone]) -> None:
    """No answer depends on the order; whoever never meets is refused; one zone alone is always fine."""
    answers = {badly_joined(order) for order in itertools.permutations(zones)}
    assert len(answers) == 1
    if len(zones) == 1:
        assert answers == {None}
    if any(pair <= zones for pair in NEVER_TOGETHER):
        assert answers != {None}


def test_the_front_door_and_the_data_never_meet() -> None:
    assert all(badly_joined(zones) for zones in EVERY_SET if {EDGE, DATA} <= zones)
