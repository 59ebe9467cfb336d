"""The machine: an explicit Docker provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components.common import child

LOCAL_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """Credentials for one image registry."""

    address: str
    username: pulumi.Input[str]
    password: pulumi.Input[str]


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """docker_host: None for the local socket, or ssh://user@host, or any other engine URL.

    ssh_opts: options for `ssh`, such as a ControlMaster that spares sshd the many connections.
    """

    docker_host: str | None = None
    registries: Sequence[RegistryLogin] = ()
    ssh_opts: Sequence[str] = ()


class Host(pulumi.ComponentResource):
    """`.provider` for every Docker resource of the stack."""

    provider: docker.Provider

    def __init__(self, name: str, args: HostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Host", name, None, opts)
        self.provider = docker.Provider(
            name,
            # Both spelled out: DOCKER_HOST and DOCKER_CONTEXT of whoever runs the program must not pick the machine.
            host=args.docker_host or LOCAL_SOCKET,
            context="",
            ssh_opts=list(args.ssh_opts) or None,
            registry_auth=[
                docker.ProviderRegistryAuthArgs(
                    address=login.address, username=login.username, password=pulumi.Output.secret(login.password)
                )
                for login in args.registries
            ]
            or None,
            opts=child(self),
        )
        self.register_outputs({})
