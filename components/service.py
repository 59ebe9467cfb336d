"""A long-running container that is healthy before anything that needs it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_docker as docker

from components.common import (
    REPLACE_ON,
    After,
    Attachment,
    Done,
    VolumeMount,
    child,
    cpus,
    duration,
    environment,
    given,
    hardening,
    labels,
    mounts,
    networking,
)


@dataclass(frozen=True, kw_only=True)
class PublishedPort:
    """A TCP port of the container on an address of the host."""

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
    """Hard limits, in MB and CPUs. No swap. shm_mb 0 is the engine's default.

    pids only becomes a label (aikit.pids): the provider has no argument for it, and `ulimit nproc` counts what the
    same user id runs on the whole host. Who runs the engine sets it (`docker update --pids-limit`); the provider
    leaves it alone. Without that the memory limit, to which kernel stacks are charged, is what stops a fork bomb.
    """

    memory_mb: int
    cpus: float
    pids: int = 256
    cpuset: str = ""
    gpu: bool = False
    shm_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class ServiceArgs:
    """tmpfs: path -> MB. capabilities in the CAP_ form. restart_digest: FileDelivery's, a change replaces.

    stop_grace_s: how long it may take to stop before it is killed. wait_s: how long it may take to become healthy
    before the deployment fails.
    """

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


def tmpfs_options(size_mb: int, user: str) -> str:
    """For a tmpfs that `user` (uid:gid) can write to, also after the engine started the container again.

    runc 1.1 gives it then the mode of the folder that the first start made for it, 0755: its owner has to be the user.
    """
    uid, _, gid = user.partition(":")
    return f"size={size_mb}m,mode=1777,uid={uid},gid={gid}"


class Service(pulumi.ComponentResource):
    """`.done` is the healthy container; `.container_name` its name with the dependency in it."""

    done: Done
    container_name: pulumi.Output[str]
    container_id: pulumi.Output[str]

    def __init__(self, name: str, args: ServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Service", name, None, opts)
        limits = args.limits
        marks: dict[str, pulumi.Input[str]] = {
            **args.labels,
            "aikit.pids": str(limits.pids),
            "aikit.given": given(
                entrypoint=args.entrypoint, command=args.command, env=args.env, shm_size=limits.shm_mb
            ),
        }
        if args.restart_digest is not None:
            marks["aikit.files"] = args.restart_digest
        container = docker.Container(
            name,
            name=args.container_name,
            image=args.image,
            user=args.user,
            entrypoints=list(args.entrypoint) or None,
            command=list(args.command) or None,
            envs=environment(args.env) or None,
            mounts=mounts(args.mounts) or None,
            **networking(args.networks),
            ports=[
                docker.ContainerPortArgs(internal=port.internal, external=port.external, ip=port.ip, protocol="tcp")
                for port in sorted(args.publish, key=lambda port: port.internal)
            ]
            or None,
            **hardening(args.capabilities, read_only=args.read_only),
            tmpfs={path: tmpfs_options(size, args.user) for path, size in sorted(args.tmpfs.items())} or None,
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", *args.health.argv],
                interval=duration(args.health.interval_s),
                timeout=duration(args.health.timeout_s),
                start_period=duration(args.health.start_period_s),
                retries=args.health.retries,
            ),
            wait=True,
            wait_timeout=args.wait_s,
            memory=limits.memory_mb,
            memory_swap=limits.memory_mb,
            cpus=cpus(limits.cpus),
            cpu_shares=max(2, round(limits.cpus * 1024)),
            cpu_set=limits.cpuset or None,
            shm_size=limits.shm_mb or None,
            gpus="all" if limits.gpu else None,
            must_run=True,
            restart="unless-stopped",
            # The provider's own stop looks at the first, the engine's (a reboot) at the second; both default to less
            # than a database needs, the provider's to nothing at all.
            destroy_grace_seconds=args.stop_grace_s,
            stop_timeout=args.stop_grace_s,
            labels=labels(marks),
            opts=child(
                self,
                args.after,
                delete_before_replace=True,
                replace_on_changes=REPLACE_ON,
                # A second on top for each side: the provider's own limit is the one that should speak.
                custom_timeouts=pulumi.CustomTimeouts(
                    create=f"{args.wait_s + 60}s", delete=f"{args.stop_grace_s + 60}s"
                ),
            ),
        )
        self.container_name = container.name
        self.container_id = container.id
        self.done = container.id.apply(lambda _: container)
        self.register_outputs({"container_name": self.container_name})
