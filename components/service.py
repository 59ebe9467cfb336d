"""A long-running container that is healthy before anything that needs it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.common import After, Attachment, Done, VolumeMount


@dataclass(frozen=True, kw_only=True)
class PublishedPort:
    internal: int
    external: int
    ip: str


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The Docker health check: argv (no shell unless it says so) and seconds."""

    argv: Sequence[str]
    interval_s: int = 2
    timeout_s: int = 5
    retries: int = 5
    start_period_s: int = 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Hard limits, in MB and CPUs. No swap. shm_mb 0 is the engine's default."""

    memory_mb: int
    cpus: float
    cpuset: str = ""
    gpu: bool = False
    shm_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class ServiceArgs:
    """tmpfs: path -> MB. capabilities in the CAP_ form. restart_digest: FileDelivery's."""

    container_name: str
    image: pulumi.Input[str]
    user: str
    health: Probe
    limits: Limits
    networks: Sequence[Attachment]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    mounts: Sequence[VolumeMount] = ()
    publish: Sequence[PublishedPort] = ()
    read_only: bool = True
    tmpfs: Mapping[str, int] = field(default_factory=dict[str, int])
    capabilities: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    restart_digest: pulumi.Input[str] | None = None
    stop_grace_s: int = 10
    wait_s: int = 300
    after: After = ()


class Service(pulumi.ComponentResource):
    """`.done` is the healthy container; `.container_name` its name with the dependency in it."""

    done: Done
    container_name: pulumi.Output[str]
    container_id: pulumi.Output[str]

    def __init__(self, name: str, args: ServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Service", name, None, opts)
        raise NotImplementedError
