"""Named volumes: those that hold data, and those that hold what can be delivered again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, kw_only=True)
class VolumeArgs:
    """protect: refuse to delete it (data). keep: forget it instead of deleting it when it leaves the program."""

    volume_name: str
    labels: Mapping[str, str]
    protect: bool = True
    keep: bool = False


class DataVolume(pulumi.ComponentResource):
    """A named volume. With protect=False also for configuration that is delivered again."""

    volume: pulumi.Resource
    volume_name: pulumi.Output[str]

    def __init__(self, name: str, args: VolumeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:DataVolume", name, None, opts)
        raise NotImplementedError
