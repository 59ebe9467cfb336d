"""A Docker network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    """internal: Docker gives it no way out."""

    network_name: str
    internal: bool
    labels: Mapping[str, str]


class Network(pulumi.ComponentResource):
    """A bridge network. Pass `.network_name` on, never the literal: the edge is what orders a replacement."""

    network_name: pulumi.Output[str]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Network", name, None, opts)
        raise NotImplementedError
