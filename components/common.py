"""What several components share: the vocabulary of their arguments, and the exact spellings that do not diff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_docker as docker

# `done` of a job or a service: resolves to the resource to depend on once that one has succeeded or is healthy.
# Goes into `after` of others. Unknown in a preview that will run the job, which delays nothing and replaces nothing.
Done = pulumi.Output[pulumi.Resource]
After = Sequence[pulumi.Input[pulumi.Resource]]


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A network and the names the container has there. Pass the Network's Output, not a literal."""

    network: pulumi.Input[str]
    aliases: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """A named volume in a container. Pass the volume's Output, not a literal."""

    volume: pulumi.Input[str]
    path: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file's text. name: relative, may have directories. mode: octal, as chmod takes it."""

    name: str
    content: pulumi.Input[str]
    mode: str = "0400"


def labels(values: Mapping[str, pulumi.Input[str]]) -> list[docker.ContainerLabelArgs]:
    """Labels in a fixed order."""
    return [docker.ContainerLabelArgs(label=key, value=values[key]) for key in sorted(values)]


def environment(values: Mapping[str, pulumi.Input[str]]) -> list[pulumi.Input[str]]:
    """KEY=VALUE in a fixed order."""
    return [pulumi.Output.concat(key, "=", values[key]) for key in sorted(values)]


def merged(opts: pulumi.ResourceOptions | None, **more: Any) -> pulumi.ResourceOptions:
    """The caller's options with ours on top."""
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(**more))
