"""Named volumes: those that hold data, and those that hold what can be delivered again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components.common import child


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
        volume = docker.Volume(
            name,
            name=args.volume_name,
            driver="local",
            labels=[docker.VolumeLabelArgs(label=key, value=args.labels[key]) for key in sorted(args.labels)],
            # Every property of a volume replaces it, data and all: a label must never do that.
            opts=child(
                self,
                protect=args.protect,
                retain_on_delete=args.keep,
                delete_before_replace=True,
                ignore_changes=["labels", "driver_opts"],
            ),
        )
        self.volume = volume
        self.volume_name = volume.name
        self.register_outputs({"volume_name": self.volume_name})
