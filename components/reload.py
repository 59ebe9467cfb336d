"""Has a running service read its files again, instead of replacing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.common import After, Done, VolumeMount
from components.job import Job, JobArgs


@dataclass(frozen=True, kw_only=True)
class ReloadArgs:
    """command: checks the delivered files, then signals the service, which is process 1 of what the job sees.

    It runs in the service's own image, as its user, in its process namespace, with no network. A check that fails
    fails the deployment and leaves the service running with what it had.
    """

    container_name: str
    target: pulumi.Input[str]
    image: pulumi.Input[str]
    user: str
    command: Sequence[str]
    reload_digest: pulumi.Input[str]
    digest_key: pulumi.Input[str]
    mounts: Sequence[VolumeMount] = ()
    memory_mb: int = 128
    timeout_s: int = 60
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    after: After = ()


class Reload(pulumi.ComponentResource):
    """Runs at the service's first start too, which checks the files once more and changes nothing."""

    done: Done

    def __init__(self, name: str, args: ReloadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Reload", name, None, opts)
        job = Job(
            name,
            JobArgs(
                container_name=args.container_name,
                image=args.image,
                user=args.user,
                command=args.command,
                mounts=args.mounts,
                pid_of=args.target,
                triggers=[args.reload_digest],
                digest_key=args.digest_key,
                memory_mb=args.memory_mb,
                timeout_s=args.timeout_s,
                labels={**args.labels, "aikit.kind": "reload"},
                after=args.after,
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.done = job.done
        self.register_outputs({})
