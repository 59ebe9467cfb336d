"""The machine: an explicit Docker provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

LOCAL_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """Credentials for one image registry."""

    address: str
    username: pulumi.Input[str]
    password: pulumi.Input[str]


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """docker_host: None for the local socket, or ssh://user@host, or any other engine URL."""

    docker_host: str | None = None
    registries: Sequence[RegistryLogin] = ()
    ssh_opts: Sequence[str] = ()


class Host(pulumi.ComponentResource):
    """`.provider` for every Docker resource of the stack."""

    provider: docker.Provider

    def __init__(self, name: str, args: HostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Host", name, None, opts)
        raise NotImplementedError
