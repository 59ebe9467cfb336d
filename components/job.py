"""One-shot containers whose failure fails the deployment, and which then run again on the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.common import After, Attachment, Content, Done, VolumeMount


@dataclass(frozen=True, kw_only=True)
class JobArgs:
    """Runs once, and again when anything here changes or when it failed the last time.

    `files` are uploaded to `files_dir`/<name>, owned by the user, and are treated as secret. `triggers` are
    further inputs: a change runs the job again; only their HMAC under `digest_key` is written down. pid_of: name of a
    container whose processes it shares. root_capabilities: the job runs as root with exactly these.
    """

    container_name: str
    image: pulumi.Input[str]
    user: str
    command: Sequence[str]
    entrypoint: Sequence[str] = ()
    env: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    files: Sequence[Content] = ()
    files_dir: str = "/run/kit"
    mounts: Sequence[VolumeMount] = ()
    networks: Sequence[Attachment] = ()
    triggers: Sequence[pulumi.Input[str]] = ()
    digest_key: pulumi.Input[str] | None = None
    capabilities: Sequence[str] = ()
    pid_of: pulumi.Input[str] | None = None
    memory_mb: int = 256
    timeout_s: int = 300
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    after: After = ()


class Job(pulumi.ComponentResource):
    """`.done` goes into `after` of whatever needs the job's effect."""

    done: Done

    def __init__(self, name: str, args: JobArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Job", name, None, opts)
        raise NotImplementedError
