"""The machines: what each target is, and what settings change about it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from stack.model import Arch, HostProfile, SpecError, Target
from stack.targets import TARGETS, profile
from tests import factories as make


def test_every_target_is_a_machine_with_room_for_services() -> None:
    assert set(TARGETS) == set(Target)
    for target, host in TARGETS.items():
        assert host.target is target
        assert host.arches
        assert 0 < host.reserve_mb < host.memory_mb
        assert host.cpus >= 1
        assert host.page_size in (4096, 16384)


def test_what_the_targets_are_for() -> None:
    assert TARGETS[Target.DEV].arches == frozenset(Arch)
    assert TARGETS[Target.PI].arches == {Arch.ARM64}
    assert TARGETS[Target.PI].page_size == 16384
    assert [target for target, host in TARGETS.items() if host.gpu] == [Target.GPU]


def test_unsaid_is_as_the_target_says() -> None:
    assert profile(make.settings(target=Target.PI)) == TARGETS[Target.PI]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_mb", 16384),
        ("reserve_mb", 512),
        ("cpus", 8),
        ("disk_gb", 100),
        ("docker_host", "ssh://pi@raspberry.local"),
    ],
)
def test_each_setting_changes_one_thing(name: str, value: object) -> None:
    base, changed = TARGETS[Target.DEV], profile(make.settings(**{name: value}))
    different = [item.name for item in fields(HostProfile) if getattr(base, item.name) != getattr(changed, item.name)]
    assert different == [name]
    assert getattr(changed, name) == value


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"memory_mb": 1024}, "memoryMb"),
        ({"reserve_mb": 8192}, "reserveMb"),
        ({"memory_mb": 600, "reserve_mb": 600}, "reserveMb"),
    ],
)
def test_a_reserve_of_everything_is_refused(changes: dict[str, int], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        profile(make.settings(**changes))
    assert [problem.where for problem in caught.value.problems] == [where]
    assert str(caught.value).startswith("Pulumi.dev.yaml cannot be planned: 1 problem\n")
