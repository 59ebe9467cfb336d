"""A Docker network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components.common import child


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    """internal: Docker gives it no way out. isolated: its members do not reach each other over it."""

    network_name: str
    internal: bool
    labels: Mapping[str, str]
    isolated: bool = False


class Network(pulumi.ComponentResource):
    """A bridge network. Pass `.network_name` on, never the literal: the edge is what orders a replacement."""

    network_name: pulumi.Output[str]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Network", name, None, opts)
        network = docker.Network(
            name,
            name=args.network_name,
            driver="bridge",
            internal=args.internal,
            options={"com.docker.network.bridge.enable_icc": "false"} if args.isolated else None,
            labels=[docker.NetworkLabelArgs(label=key, value=args.labels[key]) for key in sorted(args.labels)],
            # A network cannot go while containers are on it: replacing one takes its containers down first, which is
            # not worth a label.
            opts=child(self, delete_before_replace=True, ignore_changes=["labels"]),
        )
        self.network_name = network.name
        self.register_outputs({"network_name": self.network_name})
