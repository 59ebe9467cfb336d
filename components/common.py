"""What several components share: the vocabulary of their arguments, and the exact spellings that do not diff."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pulumi
import pulumi_docker as docker

# `done` of a job or a service: resolves to the resource to depend on once that one has succeeded or is healthy.
# Goes into `after` of others. Unknown in a preview that will run the job, which delays nothing and replaces nothing.
Done = pulumi.Output[pulumi.Resource]
After = Sequence[pulumi.Input[pulumi.Resource]]

# A create that failed half-way (never became healthy, was interrupted) leaves a container and an "initialization
# error" in the state. The engine's own key for it, in replace_on_changes, makes the next `up` replace the container;
# without it that `up` sends an empty update and calls the unhealthy container fine.
FAILED_CREATE = "#initerror"

# The provider neither replaces the container for these nor passes them on when they change.
UNHANDLED_CHANGES = ("healthcheck", "tmpfs", "init", "cpu_period", "cpu_quota", "rm")

REPLACE_ON = [FAILED_CREATE, *UNHANDLED_CHANGES]


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


def merged(opts: pulumi.ResourceOptions | None, more: pulumi.ResourceOptions) -> pulumi.ResourceOptions:
    """The caller's options with ours on top."""
    return pulumi.ResourceOptions.merge(opts or pulumi.ResourceOptions(), more)


def child(parent: pulumi.Resource, after: After = (), **more: Any) -> pulumi.ResourceOptions:
    """Options of a component's child."""
    return pulumi.ResourceOptions(parent=parent, depends_on=list(after) or None, **more)


def labels(values: Mapping[str, pulumi.Input[str]]) -> list[docker.ContainerLabelArgs]:
    """Labels in a fixed order."""
    return [docker.ContainerLabelArgs(label=key, value=values[key]) for key in sorted(values)]


def environment(values: Mapping[str, pulumi.Input[str]]) -> list[pulumi.Input[str]]:
    """KEY=VALUE in a fixed order. Plain strings stay plain, so that a preview shows them."""
    return [_variable(key, values[key]) for key in sorted(values)]


def _variable(key: str, value: pulumi.Input[str]) -> pulumi.Input[str]:
    return f"{key}={value}" if isinstance(value, str) else pulumi.Output.concat(key, "=", value)


def mounts(values: Sequence[VolumeMount]) -> list[docker.ContainerMountArgs]:
    """`mounts` are read back by the provider, `volumes` are not: a missing mount shows after a refresh."""
    return [
        docker.ContainerMountArgs(type="volume", source=mount.volume, target=mount.path, read_only=mount.read_only)
        for mount in values
    ]


def networking(attachments: Sequence[Attachment]) -> dict[str, Any]:
    """The container's networks, and never the default bridge.

    With networks the mode stays "bridge", which is what the provider starts from and disconnects before the
    container starts; a network's own name there diffs. Without any the container has no network at all.
    """
    if not attachments:
        return {"network_mode": "none"}
    return {
        "network_mode": "bridge",
        "networks_advanced": [
            docker.ContainerNetworksAdvancedArgs(
                name=attachment.network, aliases=list(attachment.aliases) if attachment.aliases else None
            )
            for attachment in attachments
        ],
    }


def hardening(capabilities: Sequence[str], *, read_only: bool) -> dict[str, Any]:
    """cap_drop ALL, no-new-privileges, and log rotation: everybody's."""
    return {
        "capabilities": docker.ContainerCapabilitiesArgs(drops=["ALL"], adds=sorted(capabilities) or None),
        "security_opts": ["no-new-privileges:true"],
        "read_only": read_only,
        "log_driver": "json-file",
        "log_opts": {"max-file": "3", "max-size": "10m"},
    }


def given(**arguments: object) -> str:
    """Names of the arguments that are not empty, for a label.

    The provider keeps the old value of an optional argument that is left out (it is "computed"): the container
    would go on with a command that is no longer in the program. The label's change replaces it.
    """
    return " ".join(sorted(name for name, value in arguments.items() if value))


def duration(seconds: int) -> str:
    """Seconds as Go prints a duration ("90s" is read back as "1m30s", and would diff for ever)."""
    if seconds < 60:
        return f"{seconds}s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def cpus(count: float) -> str:
    """A number of CPUs as the provider reads it back ("1" as "1.0", but "10" as "10.").

    ValueError for the few numbers that it reads back as others: they would replace the container on every `up`.
    """
    text = f"{float(count):.9f}"
    read_back = f"{float(count):.1f}" if text.count("0") == 9 else text.rstrip("0")
    if Fraction(read_back.rstrip(".")) != Fraction(str(count)):
        raise ValueError(f"{count} CPUs cannot be set without a difference on every run: use tenths")
    return read_back


def encoded(text: str) -> str:
    """Base64: plain strings are normalized to Unicode NFC on the way to the provider, these bytes are not."""
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def keyed_digest(key: str, parts: Sequence[str]) -> str:
    """HMAC-SHA256 over parts, unambiguous about where each ends. 32 hex digits."""
    code = hmac.new(key.encode("utf-8"), digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8")
        code.update(len(data).to_bytes(8, "big") + data)
    return code.hexdigest()[:32]


def open_digest(key: pulumi.Input[str], parts: Sequence[pulumi.Input[str]]) -> pulumi.Output[str]:
    """keyed_digest of Outputs, not secret: without the key it says nothing about even a weak secret."""

    def digest(values: Sequence[str]) -> str:
        return keyed_digest(values[0], values[1:])

    return pulumi.Output.unsecret(pulumi.Output.all(key, *parts).apply(digest))
