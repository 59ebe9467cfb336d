"""Our reading of the CIS benchmark finds what is wrong: one container that passes, and one thing broken at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.live import cisdocker
from tests.live.cisdocker import Seen

GOOD: dict[str, Any] = {
    "Name": "/thing",
    "AppArmorProfile": "docker-default",
    "HostConfig": {
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "Privileged": False,
        "NetworkMode": "bridge",
        "Memory": 2**26,
        "MemorySwap": 2**26,
        "CpuShares": 1024,
        "NanoCpus": 10**9,
        "ReadonlyRootfs": True,
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "PidMode": "",
        "IpcMode": "private",
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupParent": "",
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": 64,
    },
    "NetworkSettings": {"Ports": {"5432/tcp": None}},
    "Mounts": [{"Type": "volume", "Name": "data", "Source": "/var/lib/docker/volumes/data/_data", "Propagation": ""}],
    "State": {"Health": {"Status": "healthy"}},
}
ENGINE = {"Swarm": {"LocalNodeState": "inactive"}}


def failing(item: dict[str, Any], **changes: Any) -> list[str]:
    seen = {"info": ENGINE, "containers": (item,), "processes": {"thing": frozenset({"thing"})}, "selinux": True}
    results = cisdocker.run(Seen(**{**seen, **changes}))
    assert len(results) == 26
    return [result.number for result in results if result.failed]


def broken(path: str, value: Any) -> dict[str, Any]:
    item = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    place = item
    for step in way:
        place = place[step]
    place[last] = value
    return item


def bind(source: str, propagation: str = "rprivate") -> list[dict[str, str]]:
    return [{"Type": "bind", "Source": source, "Propagation": propagation}]


def published(address: str, port: int) -> dict[str, Any]:
    return {"443/tcp": [{"HostIp": address, "HostPort": str(port)}]}


def test_what_is_closed_passes() -> None:
    assert failing(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "numbers"),
    [
        ("AppArmorProfile", "", ["5.2"]),
        ("AppArmorProfile", "unconfined", ["5.2"]),
        ("HostConfig.SecurityOpt", ["no-new-privileges:true", "label=disable"], ["5.3"]),
        ("HostConfig.CapAdd", ["CAP_NET_RAW"], ["5.4"]),
        ("HostConfig.CapDrop", None, ["5.4"]),
        ("HostConfig.Privileged", True, ["5.5"]),
        ("Mounts", bind("/etc"), ["5.6"]),
        ("Mounts", bind("/usr/share"), ["5.6"]),
        ("NetworkSettings.Ports", published("192.0.2.1", 443), ["5.8", "5.9"]),
        ("NetworkSettings.Ports", published("192.0.2.1", 8443), ["5.9"]),
        ("NetworkSettings.Ports", published("0.0.0.0", 8443), ["5.9", "5.14"]),
        ("HostConfig.NetworkMode", "host", ["5.10"]),
        ("HostConfig.Memory", 0, ["5.11"]),
        ("HostConfig.MemorySwap", -1, ["5.11"]),
        ("HostConfig.CpuShares", 0, ["5.12"]),
        ("HostConfig.ReadonlyRootfs", False, ["5.13"]),
        ("HostConfig.RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 9}, ["5.15"]),
        ("HostConfig.PidMode", "host", ["5.16"]),
        ("HostConfig.IpcMode", "host", ["5.17"]),
        ("Mounts", bind("/srv/x", "rshared"), ["5.20"]),
        ("HostConfig.UTSMode", "host", ["5.21"]),
        ("HostConfig.SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"], ["5.22"]),
        ("HostConfig.CgroupParent", "/mine", ["5.25"]),
        ("HostConfig.SecurityOpt", None, ["5.26"]),
        ("HostConfig.SecurityOpt", ["no-new-privileges:false"], ["5.26"]),
        ("State", {}, ["5.27"]),
        ("State.Health", {"Status": "unhealthy"}, ["5.27"]),
        ("HostConfig.PidsLimit", None, ["5.29"]),
        ("HostConfig.PidsLimit", -1, ["5.29"]),
        ("HostConfig.UsernsMode", "host", ["5.31"]),
        ("Mounts", bind("/run/docker.sock"), ["5.32"]),
    ],
)
def test_one_thing_that_is_open_fails_its_own_check(path: str, value: Any, numbers: list[str]) -> None:
    assert failing(broken(path, value)) == numbers


def test_what_is_not_the_containers_own() -> None:
    assert failing(GOOD, info={"Swarm": {"LocalNodeState": "active"}}) == ["5.1"]
    assert failing(GOOD, info={}) == ["5.1"]
    assert failing(GOOD, processes={"thing": frozenset({"thing", "sshd"})}) == ["5.7"]


def test_a_failure_without_a_reason_is_seen_in_the_report() -> None:
    results = cisdocker.run(
        Seen(info=ENGINE, containers=(broken("HostConfig.Privileged", True),), processes={}, selinux=False)
    )
    assert "thing: NO REASON" in cisdocker.report(results, {})
    assert "25 of 26 pass" in cisdocker.report(results, {"5.5": "none"})
