"""How many networks the engine can still make, from what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.subnets import count, routes_of


def networks(*subnets: str) -> list[dict[str, Any]]:
    """As GET /networks lists them: those without addresses too."""
    made = [{"Name": f"n{number}", "IPAM": {"Config": [{"Subnet": each}]}} for number, each in enumerate(subnets)]
    return [*made, {"Name": "host", "IPAM": {"Config": None}}, {"Name": "none", "IPAM": {"Config": []}}]


def test_an_engine_that_was_told_nothing_has_31() -> None:
    found = count({"DefaultAddressPools": None}, networks("172.17.0.0/16"))
    assert (found.total, found.free) == (31, 30)
    assert found.networks == {"n0", "host", "none"}


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        ((), 31),
        (("10.0.0.0/8",), 31),  # in none of the pools
        (("172.20.0.0/16", "172.20.5.0/24"), 30),  # two in one range
        (("192.168.16.0/20",), 30),
        (("192.168.10.0/23", "192.168.12.0/30"), 30),
        (("192.168.0.0/19",), 29),  # one over two ranges
        (("172.16.0.0/12", "192.168.0.0/16"), 0),
        (("fd00::/64",), 31),
    ],
)
def test_whoever_has_a_part_of_a_range_takes_it(taken: tuple[str, ...], free: int) -> None:
    assert count({}, networks(*taken)).free == free
    assert count({}, [], taken).free == free


def test_the_pools_of_the_configuration_count_alone() -> None:
    info = {"DefaultAddressPools": [{"Base": "10.201.0.0/16", "Size": 24}, {"Base": "fd00::/48", "Size": 64}]}
    found = count(info, networks("172.17.0.0/16", "10.201.0.0/24", "10.201.7.0/24"))
    assert (found.total, found.free) == (256, 254)
    assert count({"DefaultAddressPools": [{"Base": "10.0.0.0/24", "Size": 16}]}, []).total == 0


@given(
    st.lists(
        st.sampled_from([f"172.{n}.0.0/16" for n in range(17, 32)] + [f"192.168.{n * 16}.0/20" for n in range(16)])
    )
)
def test_each_of_the_engines_own_takes_one(taken: list[str]) -> None:
    assert count({}, networks(*taken)).free == 31 - len(set(taken))


def test_routes_are_read_but_for_the_way_to_everywhere(tmp_path: Path) -> None:
    """As Linux writes them: hexadecimal, the lowest byte first."""
    table = tmp_path / "route"
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    rows = [
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
    ]
    table.write_text(head + "\n".join(rows) + "\n", encoding="ascii")
    assert routes_of(table) == ("192.168.1.0/24",)
    assert count({}, [], routes_of(table)).free == 30
    assert routes_of(tmp_path / "none") == ()
