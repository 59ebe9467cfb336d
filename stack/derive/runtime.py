"""Plan -> exactly what each container and job is made of. deploy.py and derive/compose.py only carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stack.model import Encoding, ResourceLimits, Zone
from stack.plan import SecretKey


@dataclass(frozen=True)
class SecretPiece:
    """A secret in the middle of a text, written in `encoding`."""

    key: SecretKey
    encoding: Encoding = Encoding.RAW


@dataclass(frozen=True)
class CaPiece:
    """The stack's CA certificate, PEM: public, but known only once it is made."""


@dataclass(frozen=True)
class LeafPiece:
    """Private key and chain for all host names, PEM: secret."""


Piece = str | SecretPiece | CaPiece | LeafPiece
Text = tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class FilePlan:
    """A file for CONFIG_DIR/<name>. restarts: a change of it replaces the container."""

    name: str
    text: Text
    mode: str
    restarts: bool


@dataclass(frozen=True, kw_only=True)
class MountPlan:
    """A named volume (its Docker name) in a container."""

    volume: str
    path: str
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class OwnershipPlan:
    """Who the top directory of a volume belongs to (uid:gid) and its mode, set before the container starts."""

    volume: str
    owner: str
    mode: str


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """A zone's network (its Docker name) and the names the container has there."""

    zone: Zone
    network: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PublishPlan:
    internal: int
    external: int
    ip: str


@dataclass(frozen=True, kw_only=True)
class HealthPlan:
    """The Docker health check: argv and seconds."""

    argv: tuple[str, ...]
    interval_s: int
    timeout_s: int
    retries: int
    start_period_s: int


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """A long-running container, decided to the last argument. `config_volume` is "" when it has no files."""

    service: str
    name: str
    image: str
    local_image: bool
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    files: tuple[FilePlan, ...]
    config_volume: str
    mounts: tuple[MountPlan, ...]
    ownership: tuple[OwnershipPlan, ...]
    networks: tuple[NetworkPlan, ...]
    publish: tuple[PublishPlan, ...]
    health: HealthPlan
    limits: ResourceLimits
    read_only: bool
    tmpfs: Mapping[str, int]
    capabilities: tuple[str, ...]
    labels: Mapping[str, str]
    stop_grace_s: int
    wait_s: int
    after: tuple[str, ...]  # docker names of containers (healthy) and jobs (succeeded) that come first
    reload: tuple[str, ...]  # command of the reload job, empty when a change restarts


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """A one-shot container, decided to the last argument. It runs again when anything of it changes."""

    service: str
    name: str
    image: str
    local_image: bool
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    files: tuple[FilePlan, ...]
    mounts: tuple[MountPlan, ...]
    networks: tuple[NetworkPlan, ...]
    memory_mb: int
    timeout_s: int
    labels: Mapping[str, str]
    after: tuple[str, ...]
    triggers: tuple[Text, ...]
    pid_of: str  # docker name of the container whose processes it shares, "" for none


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """All of a plan's networks, volumes, containers and jobs, in an order in which each comes after its needs."""

    networks: tuple[tuple[str, bool, Mapping[str, str]], ...]  # docker name, internal, labels
    volumes: tuple[tuple[str, Mapping[str, str]], ...]  # data volumes (kept): docker name, labels
    containers: tuple[ContainerPlan, ...]
    jobs: tuple[JobPlan, ...]
