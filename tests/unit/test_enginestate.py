"""What is wrong between Pulumi's state and the engine: every kind of damage, and that volumes are never removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ops.enginestate import (
    EngineState,
    RunningContainer,
    StateResource,
    compare,
    docker_resources,
    foreign,
    look,
)

WEB = StateResource(
    urn="urn:web", kind="container", id="c1", name="kit-dev-web", labels={"aikit.kind": "service"},
    volumes=frozenset({"kit-dev-web-config", "kit-dev-web-data"}),
)  # fmt: skip
JOB = StateResource(urn="urn:job", kind="container", id="j1", name="kit-dev-web-init", labels={}, must_run=False)
NET = StateResource(urn="urn:net", kind="network", id="n1", name="kit-dev-app", labels={})
DATA = StateResource(
    urn="urn:data", kind="volume", id="kit-dev-web-data", name="kit-dev-web-data", labels={"aikit.kind": "volume"}
)
CONFIG = replace(DATA, urn="urn:config", name="kit-dev-web-config", labels={"aikit.kind": "config"})
STATE = (WEB, JOB, NET, DATA, CONFIG)

RUNNING = RunningContainer(
    id="c1", name="kit-dev-web", state="running", health="healthy", created=0, status="Up", labels={},
    networks=frozenset({"n1"}),
)  # fmt: skip
ENDED = RunningContainer(
    id="j1", name="kit-dev-web-init", state="exited", health="", created=0, status="Exited", labels={}
)
ENGINE = EngineState(
    containers=(RUNNING, ENDED),
    networks={"n1": "kit-dev-app"},
    volumes={DATA.name: {"aikit.kind": "volume"}, CONFIG.name: {}},
    all_networks=frozenset({"n1", "bridge"}),
    all_volumes=frozenset({DATA.name, CONFIG.name, "somebody-elses"}),
)


def test_nothing_is_wrong() -> None:
    assert not compare(STATE, ENGINE)


@pytest.mark.parametrize(
    ("engine", "refresh", "removed"),
    [
        pytest.param(replace(ENGINE, containers=(ENDED,)), ["urn:web"], [], id="container removed"),
        pytest.param(
            replace(ENGINE, containers=(replace(RUNNING, state="exited"), ENDED)), ["urn:web"], [], id="stopped"
        ),
        pytest.param(
            replace(ENGINE, containers=(replace(RUNNING, state="restarting"), ENDED)),
            ["urn:web"],
            ["kit-dev-web"],
            id="it starts over and over",
        ),
        pytest.param(replace(ENGINE, containers=(RUNNING,)), ["urn:job"], [], id="a job removed"),
        pytest.param(
            replace(ENGINE, networks={}, all_networks=frozenset({"bridge"})),
            ["urn:web", "urn:net"],
            ["kit-dev-web"],
            id="network removed, its container hangs in the air",
        ),
        pytest.param(
            replace(ENGINE, all_volumes=frozenset({DATA.name})),
            ["urn:config", "urn:web"],
            ["kit-dev-web"],
            id="delivered files removed",
        ),
    ],
)
def test_what_is_gone_is_looked_at_again(engine: EngineState, refresh: list[str], removed: list[str]) -> None:
    damage = compare(STATE, engine)
    assert sorted(damage.refresh) == sorted(refresh)
    assert [name for _, name in damage.remove_containers] == removed
    assert not damage.lost
    assert bool(damage.reasons) is bool(refresh)


@pytest.mark.parametrize("state", ["gone", "exited", "restarting"])
def test_a_services_jobs_look_again_before_it_starts_again(state: str) -> None:
    """What they found right may not hold for what is in its volumes now. Those of other services are left alone."""
    mine = {"aikit.service": "web", "aikit.kind": "service"}
    job = replace(JOB, labels={"aikit.service": "web", "aikit.kind": "job"})
    other = replace(JOB, urn="urn:other", id="j2", name="kit-dev-x-init", labels={"aikit.service": "x"})
    engine = replace(
        ENGINE,
        containers=(
            *(() if state == "gone" else (replace(RUNNING, state=state),)),
            ENDED,
            replace(ENDED, id="j2", name="kit-dev-x-init"),
        ),
    )
    damage = compare((replace(WEB, labels=mine), job, other, NET, DATA, CONFIG), engine)
    assert set(damage.refresh) == {"urn:web", "urn:job"}
    assert ("j1", "kit-dev-web-init") in damage.remove_containers
    assert not [name for _, name in damage.remove_containers if name == "kit-dev-x-init"]


def test_a_job_that_is_gone_takes_no_other_with_it() -> None:
    job = replace(JOB, labels={"aikit.service": "web", "aikit.kind": "job"})
    second = replace(job, urn="urn:second", id="j2")
    engine = replace(ENGINE, containers=(RUNNING, ENDED))
    assert compare((WEB, job, second, NET, DATA, CONFIG), engine).refresh == ("urn:second",)


def test_what_an_interrupted_run_left_is_removed() -> None:
    damage = compare(
        STATE,
        replace(
            ENGINE,
            containers=(RUNNING, ENDED, replace(RUNNING, id="c9", name="kit-dev-new")),
            networks={"n1": "kit-dev-app", "n9": "kit-dev-app"},
            all_networks=frozenset({"n1", "n9"}),
        ),
    )
    assert damage.remove_containers == (("c9", "kit-dev-new"),)
    assert damage.remove_networks == (("n9", "kit-dev-app"),)
    assert not damage.refresh


def test_lost_data_is_said_and_never_refreshed_away() -> None:
    damage = compare(STATE, replace(ENGINE, all_volumes=frozenset({CONFIG.name})))
    assert damage.lost == (DATA.name,)
    assert "urn:data" not in damage.refresh


def test_no_volume_is_ever_removed() -> None:
    assert not any("volume" in field for field in compare(STATE, ENGINE).__dataclass_fields__ if "remove" in field)


@pytest.mark.parametrize(
    ("state", "engine", "why"),
    [
        ((), EngineState(), ""),
        (STATE, ENGINE, ""),
        ((), ENGINE, "kit-dev-web runs here"),
        ((), replace(ENGINE, containers=()), "the data of kit-dev-web-data is on this host"),
        ((DATA,), replace(ENGINE, containers=()), ""),
    ],
)
def test_a_state_that_knows_nothing_of_what_runs_is_another_ones(
    state: tuple[StateResource, ...], engine: EngineState, why: str
) -> None:
    assert foreign(state, engine) == why


# ------------------------------------------------------------------------------------------------------- parsing


def test_reading_the_engine() -> None:
    label = {"aikit.stack": "dev"}
    answers: Mapping[str, Any] = {
        "/networks": [{"Id": "n1", "Name": "kit-dev-app", "Labels": label}, {"Id": "n2", "Name": "x", "Labels": None}],
        "/volumes": {"Volumes": [{"Name": "v", "Labels": label}, {"Name": "w", "Labels": {"aikit.stack": "pi"}}]},
        "/containers/json": [
            {
                "Id": "c1",
                "Names": ["/kit-dev-web"],
                "State": "running",
                "Status": "Up 2 minutes (health: starting)",
                "Created": 7,
                "Labels": label,
                "NetworkSettings": {"Networks": {"kit-dev-app": {"NetworkID": "n1"}}},
            }
        ],
    }
    found = look(lambda path: answers[path.split("?")[0]], "dev")
    assert found.networks == {"n1": "kit-dev-app"}
    assert list(found.volumes) == ["v"]
    assert found.all_volumes == {"v", "w"}
    assert found.containers[0].health == "starting"
    assert found.containers[0].networks == {"n1"}


def test_an_engine_without_volumes_says_null() -> None:
    empty = look(lambda path: {"Volumes": None} if path == "/volumes" else [], "dev")
    assert empty.empty


def test_reading_the_state() -> None:
    secret = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "..."}
    deployment = {
        "resources": [
            {"type": "pulumi:pulumi:Stack", "urn": "urn:stack"},
            {
                "type": "docker:index/container:Container",
                "urn": "urn:c",
                "id": "c1",
                "inputs": {
                    "name": "kit-dev-web",
                    "mustRun": False,
                    "labels": [{"label": "aikit.kind", "value": "job"}],
                    "volumes": [{"volumeName": "v1"}],
                    "mounts": [{"source": "v2"}],
                },
            },
            {
                "type": "docker:index/volume:Volume",
                "urn": "urn:v",
                "id": "v1",
                "inputs": {"name": "v1", "labels": secret},
            },
            {"type": "docker:index/container:Container", "urn": "urn:gone", "id": "c2", "delete": True},
        ]
    }
    container, volume = docker_resources(deployment)
    assert container.job
    assert container.volumes == {"v1", "v2"}
    assert volume.labels == {}
    assert docker_resources({}) == ()
