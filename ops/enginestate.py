"""What the Docker engine has of a stack, and how that differs from what Pulumi's state says. The comparison is pure."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

STACK_LABEL = "aikit.stack"
KIND_LABEL = "aikit.kind"
SERVICE_LABEL = "aikit.service"
DATA_KIND = "volume"  # the kind of the volumes that hold people's data
JOB_KIND = "job"

Get = Callable[[str], Any]
"""GET of the engine's API: a path with its query -> parsed JSON."""


@dataclass(frozen=True, kw_only=True)
class RunningContainer:
    """A container as the engine lists it. `health` is "" where it has no health check."""

    id: str
    name: str
    state: str
    health: str
    created: int
    status: str
    labels: Mapping[str, str]
    networks: frozenset[str] = frozenset()  # ids


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """Everything that carries the stack's label. `all_networks`: the ids of every network of the engine."""

    containers: tuple[RunningContainer, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)  # id -> name
    volumes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # name -> labels
    all_networks: frozenset[str] = frozenset()
    all_volumes: frozenset[str] = frozenset()

    @property
    def data_volumes(self) -> list[str]:
        return sorted(name for name, labels in self.volumes.items() if labels.get(KIND_LABEL) == DATA_KIND)

    @property
    def empty(self) -> bool:
        return not (self.containers or self.networks or self.volumes)


@dataclass(frozen=True, kw_only=True)
class StateResource:
    """A Docker resource in Pulumi's state."""

    urn: str
    kind: str  # container, network, volume
    id: str
    name: str
    labels: Mapping[str, str]
    must_run: bool = True
    volumes: frozenset[str] = frozenset()  # names of the volumes it mounts

    @property
    def job(self) -> bool:
        return self.kind == "container" and (not self.must_run or self.labels.get(KIND_LABEL) == JOB_KIND)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What has to be done before `up` so that it sees the truth.

    refresh: URNs whose state is wrong. remove_*: ids of what an interrupted run left, or what cannot work any more.
    lost: data volumes that the state has and the host has not.
    """

    refresh: tuple[str, ...] = ()
    remove_containers: tuple[tuple[str, str], ...] = ()  # id, name
    remove_networks: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.refresh or self.remove_containers or self.remove_networks or self.lost)


def look(get: Get, stack: str) -> EngineState:
    """Everything of a stack on its engine: four requests."""
    query = urllib.parse.quote(json.dumps({"label": [f"{STACK_LABEL}={stack}"]}))
    networks = cast(list[dict[str, Any]], get("/networks"))
    volumes = cast(list[dict[str, Any]], (get("/volumes") or {}).get("Volumes") or [])
    return EngineState(
        containers=tuple(_container(raw) for raw in get(f"/containers/json?all=1&filters={query}")),
        networks={n["Id"]: n["Name"] for n in networks if (n.get("Labels") or {}).get(STACK_LABEL) == stack},
        volumes={
            v["Name"]: v.get("Labels") or {} for v in volumes if (v.get("Labels") or {}).get(STACK_LABEL) == stack
        },
        all_networks=frozenset(n["Id"] for n in networks),
        all_volumes=frozenset(v["Name"] for v in volumes),
    )


def _container(raw: Mapping[str, Any]) -> RunningContainer:
    status = str(raw.get("Status", ""))
    health = re.search(r"\((?:health: )?(healthy|unhealthy|starting)\)", status)
    attached = ((raw.get("NetworkSettings") or {}).get("Networks") or {}).values()
    return RunningContainer(
        id=raw["Id"],
        name=(raw.get("Names") or ["/?"])[0].lstrip("/"),
        state=str(raw.get("State", "")),
        health=health.group(1) if health else "",
        created=int(raw.get("Created", 0)),
        status=status,
        labels=raw.get("Labels") or {},
        networks=frozenset(network["NetworkID"] for network in attached if network.get("NetworkID")),
    )


def docker_resources(deployment: Mapping[str, Any]) -> tuple[StateResource, ...]:
    """The containers, networks and volumes of an exported deployment."""
    kinds = {
        "docker:index/container:Container": "container",
        "docker:index/network:Network": "network",
        "docker:index/volume:Volume": "volume",
    }
    return tuple(
        _resource(raw, kinds[raw["type"]])
        for raw in deployment.get("resources") or []
        if raw.get("type") in kinds and raw.get("id") and not raw.get("delete") and not raw.get("external")
    )


def _resource(raw: Mapping[str, Any], kind: str) -> StateResource:
    inputs = cast(Mapping[str, Any], raw.get("inputs") or {})
    outputs = cast(Mapping[str, Any], raw.get("outputs") or {})
    mounts = [*_mappings(inputs.get("mounts")), *_mappings(inputs.get("volumes"))]
    return StateResource(
        urn=raw["urn"],
        kind=kind,
        id=raw["id"],
        name=str(inputs.get("name") or outputs.get("name") or ""),
        labels={str(item.get("label")): str(item.get("value")) for item in _mappings(inputs.get("labels"))},
        must_run=inputs.get("mustRun") is not False,
        volumes=frozenset(str(mount.get("source") or mount.get("volumeName") or "") for mount in mounts) - {""},
    )


def _mappings(value: object) -> Iterable[Mapping[str, Any]]:
    """The mappings in a list; encrypted or missing values count as none."""
    return [item for item in cast(list[Any], value) if isinstance(item, dict)] if isinstance(value, list) else []


def compare(state: Iterable[StateResource], engine: EngineState) -> Damage:
    """What is wrong with the state or in the engine."""
    resources = tuple(state)
    containers = {container.id: container for container in engine.containers}
    gone_volumes = {r.name: r for r in resources if r.kind == "volume" and r.name not in engine.all_volumes}
    lost = sorted(name for name, r in gone_volumes.items() if r.labels.get(KIND_LABEL, DATA_KIND) == DATA_KIND)
    refresh: list[str] = [resource.urn for name, resource in gone_volumes.items() if name not in lost]
    reasons: list[str] = [f"{name} is gone" for name in sorted(gone_volumes) if name not in lost]
    remove: dict[str, str] = {}
    for resource in resources:
        if resource.kind == "network" and resource.id not in engine.all_networks:
            refresh.append(resource.urn)
            reasons.append(f"network {resource.name} is gone")
        elif resource.kind == "container":
            why = _wrong_container(resource, containers.get(resource.id), engine, frozenset(gone_volumes))
            if why:
                refresh.append(resource.urn)
                reasons.append(f"{resource.name} {why}")
                # One that could not be started again as it is, or was filled from a volume that is new now.
                if resource.id in containers and why != "is stopped":
                    remove[resource.id] = resource.name
    # What its jobs found right may not hold for what stands in its volumes now: they look again before it starts.
    wrong = set(refresh)
    services = {
        r.labels.get(SERVICE_LABEL) for r in resources if r.urn in wrong and r.kind == "container" and not r.job
    }
    for resource in resources:
        if resource.job and resource.urn not in wrong and resource.labels.get(SERVICE_LABEL) in services - {None}:
            refresh.append(resource.urn)
            if resource.id in containers:
                remove[resource.id] = resource.name
    known = {resource.id for resource in resources}
    for container in engine.containers:
        if container.id not in known:
            remove[container.id] = container.name
            reasons.append(f"{container.name} was left by an interrupted run")
    orphans = {id_: name for id_, name in engine.networks.items() if id_ not in known}
    reasons += [f"network {name} was left by an interrupted run" for name in sorted(orphans.values())]
    return Damage(
        refresh=tuple(refresh),
        remove_containers=tuple(sorted(remove.items(), key=lambda item: item[1])),
        remove_networks=tuple(sorted(orphans.items(), key=lambda item: item[1])),
        lost=tuple(lost),
        reasons=tuple(reasons),
    )


def _wrong_container(
    resource: StateResource, found: RunningContainer | None, engine: EngineState, gone_volumes: frozenset[str]
) -> str:
    """Why a container of the state has to be looked at again, "" for no reason."""
    if found is None:
        return "is gone"
    if resource.volumes & gone_volumes:
        return f"uses {sorted(resource.volumes & gone_volumes)[0]}, which is gone"
    if not resource.job and found.networks - engine.all_networks:
        return "hangs on a network that is gone"
    if not resource.job and found.state == "restarting":
        return "starts over and over"
    if not resource.job and found.state != "running":
        return "is stopped"
    return ""


def foreign(state: Iterable[StateResource], engine: EngineState) -> str:
    """Why this state cannot be the one of what is on the host, "" when it may be."""
    if any(True for _ in state):
        return ""
    running = [container.name for container in engine.containers if container.state == "running"]
    if running:
        return f"{running[0]} and {len(running) - 1} more run here" if len(running) > 1 else f"{running[0]} runs here"
    if engine.data_volumes:
        return f"the data of {engine.data_volumes[0]} is on this host"
    return ""
