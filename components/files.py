"""Files for a read-only, capability-less, non-root container: delivered to a named volume by a one-shot job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.common import After, Content, Done


@dataclass(frozen=True, kw_only=True)
class DeliveredFile(Content):
    """restarts: a change of it replaces the container; otherwise it is reloaded."""

    restarts: bool = True


@dataclass(frozen=True, kw_only=True)
class Ownership:
    """Who the top directory of a volume belongs to (uid:gid), and its mode. What is inside stays as it is."""

    volume: pulumi.Input[str]
    owner: str
    mode: str


@dataclass(frozen=True, kw_only=True)
class FileDeliveryArgs:
    """image: has a BusyBox-like sh. volume_name: None when there are no files, only owners to set.

    uid_gid owns every file. digest_key: the stack's DigestKey, so that change markers tell nothing about a weak
    secret.
    """

    container_name: str
    image: pulumi.Input[str]
    volume_name: pulumi.Input[str] | None
    uid_gid: str
    files: Sequence[DeliveredFile]
    digest_key: pulumi.Input[str]
    ownership: Sequence[Ownership] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    after: After = ()


class FileDelivery(pulumi.ComponentResource):
    """`.restart_digest` and `.reload_digest` change with the files; neither is secret nor says anything about them."""

    restart_digest: pulumi.Output[str]
    reload_digest: pulumi.Output[str]
    done: Done

    def __init__(self, name: str, args: FileDeliveryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:FileDelivery", name, None, opts)
        raise NotImplementedError
